"""Backpropagation, which tinyzo does without: the first-order baseline that it is compared with.

    reverse_mode.py    the gradient of every trained tensor, by a backward written for each verb
    adam.py            the steps that use it: Adam and SGD
"""
