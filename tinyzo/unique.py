"""Objects of which there is one, such as an open file or a lock."""

from typing import NoReturn, SupportsIndex

from tinyzo.errors import UsageError


class Unique:
    """What is neither copied nor pickled, nor is anything that holds it."""

    def __reduce_ex__(self, protocol: SupportsIndex) -> NoReturn:
        """raises: UsageError, for `copy` and `pickle`, which both ask for this"""
        raise UsageError(
            "an open model, or a part of one, cannot be copied or pickled",
            "give its path instead, and load it there, in another process too",
        )
