"""A view around another: what it does otherwise stands in its class, and all else behind it."""

from typing import Any

from tinyzo.engine.protocols import View


class Around:
    """The verbs of the view behind it, but for those that a subclass has of its own."""

    def __init__(self, view: View) -> None:
        self.view = view

    # Any: a verb of any view.
    def __getattr__(self, verb: str) -> Any:
        return getattr(self.view, verb)
