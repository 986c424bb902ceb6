"""Tokens to text as they come: letters when they are whole, up to a text that ends it."""

import codecs
from collections.abc import Sequence

from tinyzo.errors import UsageError
from tinyzo.text.tokenizer import Tokenizer


class Writing:
    """The text of one sequence's tokens.

    text: what they come to so far, up to the first of `stop`
    """

    def __init__(self, tokenizer: Tokenizer, stop: Sequence[str] = ()) -> None:
        """raises: UsageError for a stop that is empty"""
        if "" in stop:
            raise UsageError("a text that stops is empty", "leave it out, or give its letters")
        self.text = ""
        self._tokenizer = tokenizer
        self._stop = stop
        self._longest = max(map(len, stop), default=0)
        self._letters = codecs.getincrementaldecoder("utf-8")("replace")
        self._taken = 0  # letters that `take` has given
        self._is_done = False

    def add(self, token: int) -> bool:
        """Whether the text ends with this token, which may be in the middle of a stop's letters."""
        return self._write(self._letters.decode(self._tokenizer.bytes_of(token)))

    def finish(self) -> None:
        """No token follows: what is half a letter now stays one, as U+FFFD."""
        if not self._is_done:
            self._write(self._letters.decode(b"", final=True))
        self._is_done = True

    def take(self) -> str:
        """What is new and will stay: not what may be the beginning of a stop."""
        end = len(self.text) - (0 if self._is_done else self._held())
        new = self.text[self._taken : end]
        self._taken = max(self._taken, end)
        return new

    def _write(self, letters: str) -> bool:
        start = max(0, len(self.text) - self._longest + 1)  # a stop may have begun there
        self.text += letters
        places = [self.text.find(stop, start) for stop in self._stop]
        found = [place for place in places if place >= 0]
        if found:
            self.text = self.text[: min(found)]
            self._is_done = True
        return self._is_done

    def _held(self) -> int:
        """The letters at the end that a stop begins with."""
        sizes = range(min(self._longest - 1, len(self.text)), 0, -1)
        return next((n for n in sizes if self._may_stop(self.text[-n:])), 0)

    def _may_stop(self, end: str) -> bool:
        return any(stop.startswith(end) for stop in self._stop)
