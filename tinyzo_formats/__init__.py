"""Readers of other libraries' formats, by the sources that tinyzo/checkpoints knows.

A package of its own, which is loaded when such a file is met: tinyzo reads and writes safetensors.
"""
