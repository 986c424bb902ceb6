"""What a misspelt name most likely means."""

from collections.abc import Iterable
from difflib import get_close_matches


def closest(name: str, known: Iterable[str]) -> str | None:
    """The known name that a misspelt one most likely means, in any case; None if none is near."""
    by_lower = {each.lower(): each for each in known}
    for match in get_close_matches(name.lower(), by_lower, n=1):
        return by_lower[match]
    return None
