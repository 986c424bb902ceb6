"""Text to ids, by Hugging Face's `tokenizers` or by our own BPE: the same ids from both."""

from collections.abc import Callable, Sequence
from functools import cached_property
from pathlib import Path

from tinyzo.errors import TokenizerError
from tinyzo.packages import is_unwanted, optional
from tinyzo.text.bpe import BYTE_OF, BytePairEncoder
from tinyzo.text.vocabulary import SURROGATE, Vocabulary, read_vocabulary

Encode = Callable[[str], list[int]]


class Tokenizer:
    """The vocabulary of a checkpoint, with the same ids from either backend.

    backend: "tokenizers" or "bpe"
    """

    def __init__(self, vocabulary: Vocabulary, encode: Encode, backend: str) -> None:
        self._ids = vocabulary.ids
        self._encode = encode
        self.backend = backend
        self.vocab_size = len(self._ids)
        self.bos_id = self._ids[vocabulary.first]
        self.eos_id = self._ids[vocabulary.last]
        self.mask_id = None if vocabulary.mask is None else self._ids[vocabulary.mask]
        self._added = {token.content for token in vocabulary.added}
        self._special = {self.bos_id, self.eos_id, self.mask_id}

    def encode(self, text: str) -> list[int]:
        """The ids of a text: added tokens in it have their own, lone surrogates are U+FFFD."""
        return self._encode(SURROGATE.sub("\ufffd", text))

    def decode(self, ids: Sequence[int]) -> str:
        """The text of ids, without those that begin, end or mask one; U+FFFD for half a letter."""
        pieces = [self._pieces[number] for number in ids if number not in self._special]
        return b"".join(map(self._bytes_of, pieces)).decode(errors="replace")

    @cached_property
    def _pieces(self) -> dict[int, str]:
        return {number: piece for piece, number in self._ids.items()}

    def _bytes_of(self, piece: str) -> bytes:
        """The bytes that a vocabulary item spells; an added token is a text as it is."""
        if piece in self._added:
            return piece.encode()
        return bytes(BYTE_OF[character] for character in piece)

    def token_id(self, piece: str) -> int:
        """The id of a vocabulary item in the spelling of vocab.json, as "Ġgreat".

        raises: TokenizerError when there is no such item
        """
        if piece not in self._ids:
            message = f"the vocabulary of {self.vocab_size} items has no {piece!r}"
            raise TokenizerError(message, "are the tokenizer files this checkpoint's own?")
        return self._ids[piece]

    def word_id(self, text: str) -> int:
        """The single id of a label word, as " great".

        raises: TokenizerError when the text is not exactly one token
        """
        ids = self.encode(text)
        if len(ids) != 1:
            pieces = ", ".join(repr(self._pieces[number]) for number in ids) or "none"
            message = f"label word {text!r} is {len(ids)} tokens: {pieces}"
            raise TokenizerError(message, "choose one of one token, with its space, as ' great'")
        return ids[0]


def load_tokenizer(directory: Path) -> Tokenizer:
    """The tokenizer of a checkpoint directory: tokenizer.json, else vocab.json with merges.txt.

    returns: a Tokenizer over `tokenizers`, or over our own BPE where that package is missing or
             the environment has TINYZO_NO_TOKENIZERS=1
    raises:  TokenizerError when files are missing, damaged, or not a byte-level BPE
    """
    vocabulary = read_vocabulary(directory)
    encode = optional(
        *("tokenizers", "our own BPE makes the same ids"),
        lambda: _package_encode(vocabulary),
    )
    if encode is not None:
        return Tokenizer(vocabulary, encode, "tokenizers")
    ids, merges, added = vocabulary.ids, vocabulary.merges, vocabulary.added
    encode = BytePairEncoder(ids, merges, added, vocabulary.prefix_space).encode
    return Tokenizer(vocabulary, encode, "bpe")


def _package_encode(vocabulary: Vocabulary) -> Encode | None:
    """`encode` by the `tokenizers` package; None where it is not wanted."""
    if is_unwanted("tokenizers"):
        return None
    import tokenizers

    model = tokenizers.models.BPE(vocabulary.ids, vocabulary.merges)
    backend = tokenizers.Tokenizer(model)
    backend.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(vocabulary.prefix_space)
    backend.add_tokens([tokenizers.AddedToken(**one._asdict()) for one in vocabulary.added])

    def encode(text: str) -> list[int]:
        ids: list[int] = backend.encode(text, add_special_tokens=False).ids
        return ids

    return encode
