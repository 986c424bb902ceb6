"""The tensors of an architecture: their shapes, and their names here and in people's files."""

from typing import NamedTuple

Parameter = tuple[str, tuple[int, ...]]  # a tensor's name and shape


def module(name: str, *shape: int) -> tuple[Parameter, Parameter]:
    """The weight and the bias of a linear, [out, in], or of a LayerNorm."""
    return (f"{name}.weight", shape), (f"{name}.bias", shape[:1])


class Layout(NamedTuple):
    """How the names in a file may differ from the model's own.

    prefixes: what may stand where `base` should
    base:     how the model's own names begin
    ties:     a second name of a tensor -> the name it is tied to
    ignored:  tensors that the model does not read
    """

    prefixes: tuple[str, ...]
    base: str
    ties: dict[str, str]
    ignored: tuple[str, ...]
