"""A tokenizer of whole words, so that a test reads prompts as words."""

from __future__ import annotations

import re

from tinyzo.errors import TokenizerError


class Words:
    """A vocabulary that grows: one id for each word with the space before it. <mask> is 50."""

    bos_id, eos_id, mask_id = 1, 2, 50

    def __init__(self) -> None:
        self.ids = {"<mask>": self.mask_id}

    def encode(self, text: str) -> list[int]:
        pieces = re.findall(r" *<mask>|\n| ?[^\s\w<]| ?\w+| ", text)
        return [self._id(piece.replace(" <mask>", "<mask>")) for piece in pieces]

    def _id(self, piece: str) -> int:
        return self.ids.setdefault(piece, 100 + len(self.ids))

    def word_id(self, text: str) -> int:
        ids = self.encode(text)
        if len(ids) != 1:
            raise TokenizerError(f"label word {text!r} is {len(ids)} tokens", "choose another")
        return ids[0]

    def decode(self, ids: tuple[int, ...]) -> str:
        """The words with bars between them."""
        names = {value: key for key, value in self.ids.items()}
        names |= {0: "<0>", 1: "<s>", 2: "</s>"}
        return "|".join(names[i] for i in ids)
