"""Exact derivatives: for forward gradients, and for the baseline that tinyzo is compared with.

    forward_mode.py    the loss and its derivatives along z, in one pass forward
    tape.py            arrays that remember what they were made of
    reverse_mode.py    backpropagation, layer by layer: the gradient of every trained tensor
    adam.py            the steps that use it: Adam and SGD

Nothing loads them before they are asked for.
"""
