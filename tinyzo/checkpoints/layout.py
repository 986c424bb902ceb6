"""The names that tensors have in the files that people have."""

from typing import NamedTuple


class Layout(NamedTuple):
    """How one architecture's tensors are named in files.

    prefixes: what may stand where `base` should
    base: the prefix of the model's own names
    ties: a second name of a tensor -> the name it is tied to
    ignored: tensors that the model does not read
    """

    prefixes: tuple[str, ...]
    base: str
    ties: dict[str, str]
    ignored: tuple[str, ...]

    def canonical(self, name: str, known: set[str]) -> str:
        """The model's own name of a tensor in a file; an unknown one keeps the file's."""
        if name in known:
            return name
        for prefix in self.prefixes:
            own = self.base + name.removeprefix(prefix)
            if name.startswith(prefix) and own in known:
                return own
        return name
