"""Text to ids, by Hugging Face's `tokenizers` or by our own BPE: the same ids from both."""

import json
import os
import re
from collections.abc import Callable, Iterable
from dataclasses import astuple, dataclass
from pathlib import Path
from typing import NamedTuple, TypeVar

from tinyzo.errors import TokenizerError
from tinyzo.packages import optional
from tinyzo.parsing import JsonObject
from tinyzo.text.bpe import BYTE_OF, BytePairEncoder, Merges

Encode = Callable[[str], list[int]]
T = TypeVar("T")

_COPY = "a checkpoint needs its own tokenizer.json, or vocab.json with merges.txt: copy them again"
_ONLY = "tinyzo reads the byte-level BPE of RoBERTa, OPT and GPT-2, and no other tokenizer"
_SURROGATE = re.compile("[\ud800-\udfff]")


@dataclass(frozen=True)
class SpecialTokens:
    """The vocabulary items that a family of models gives a role."""

    bos: str
    pad: str
    eos: str
    unk: str
    mask: str | None


# What transformers takes for special. OPT's vocabulary has <s> and <mask> too, as plain text.
SPECIAL_TOKENS = {
    "roberta": SpecialTokens(bos="<s>", pad="<pad>", eos="</s>", unk="<unk>", mask="<mask>"),
    "opt": SpecialTokens(bos="</s>", pad="<pad>", eos="</s>", unk="</s>", mask=None),
}

# The settings of a tokenizer.json that change ids, and what each has to be: as the byte-level BPE
# of RoBERTa, OPT and GPT-2 has it. One left out is as here; null, "" and false are the same.
SETTINGS: dict[str, dict[str, str | bool]] = {
    "tokenizer": {"normalizer": False},
    "model": {
        "type": "BPE",
        "dropout": False,
        "byte_fallback": False,
        "ignore_merges": False,
        "continuing_subword_prefix": False,
        "end_of_word_suffix": False,
    },
    "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": False, "use_regex": True},
    "added_tokens": {"single_word": False, "rstrip": False},
}


class Vocabulary(NamedTuple):
    """A tokenizer's files as they were read, not yet checked.

    ids:      vocabulary item -> id
    merges:   pairs of items, the first learnt first
    specials: items cut out of a text before all else -> whether they swallow the white space on
              their left
    """

    ids: dict[str, int]
    merges: list[tuple[str, ...]]
    specials: dict[str, bool]


class Tokenizer:
    """The vocabulary of a checkpoint, with the same ids from either backend.

    backend: "tokenizers" or "bpe"
    """

    def __init__(
        self, ids: dict[str, int], special: SpecialTokens, encode: Encode, backend: str
    ) -> None:
        self._ids = ids
        self._encode = encode
        self.backend = backend
        self.vocab_size = len(ids)
        self.bos_id = self.token_id(special.bos)
        self.eos_id = self.token_id(special.eos)
        self.mask_id = None if special.mask is None else ids.get(special.mask)

    def encode(self, text: str) -> list[int]:
        """The ids of a text: specials in it are ids of their own, lone surrogates are U+FFFD."""
        return self._encode(_SURROGATE.sub("\ufffd", text))

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
            piece_of = {number: piece for piece, number in self._ids.items()}
            pieces = ", ".join(repr(piece_of[number]) for number in ids) or "none"
            message = f"label word {text!r} is {len(ids)} tokens: {pieces}"
            raise TokenizerError(message, "choose one of one token, with its space, as ' great'")
        return ids[0]


def load_tokenizer(directory: Path) -> Tokenizer:
    """The tokenizer of a checkpoint directory: tokenizer.json, else vocab.json with merges.txt.

    returns: a Tokenizer over `tokenizers`, or over our own BPE where that package is missing or
             the environment has TINYZO_NO_TOKENIZERS=1
    raises:  TokenizerError when files are missing, damaged, or not a byte-level BPE
    """
    special = _special_tokens(directory / "config.json")
    ids, pairs, specials = _read_vocabulary(directory, special)
    _check_ids(directory, ids)
    merges = _checked_merges(directory, ids, pairs)
    encode = optional(
        *("tokenizers", "our own BPE makes the same ids"),
        lambda: _package_encode(ids, merges, specials),
    )
    if encode is not None:
        return Tokenizer(ids, special, encode, "tokenizers")
    encode = BytePairEncoder(ids, merges, specials).encode
    return Tokenizer(ids, special, encode, "bpe")


def _special_tokens(config: Path) -> SpecialTokens:
    """The special tokens of the family that a config.json names; without one, RoBERTa's."""
    if config.is_file() and _load(config, _json_object).get("model_type") == "opt":
        return SPECIAL_TOKENS["opt"]
    return SPECIAL_TOKENS["roberta"]


def _read_vocabulary(directory: Path, special: SpecialTokens) -> Vocabulary:
    path = directory / "tokenizer.json"
    if path.is_file():
        return _load(path, _from_tokenizer_json)
    ids = _load(directory / "vocab.json", _json_object)
    merges = _load(directory / "merges.txt", _from_merges_txt)
    specials = {text: text == "<mask>" for text in astuple(special) if text in ids}
    return Vocabulary(ids, merges, specials)


def _load(path: Path, parse: Callable[[str], T]) -> T:
    """A file parsed; whatever its content makes the parser raise is a TokenizerError."""
    try:
        return parse(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        raise TokenizerError(f"cannot read {path}: {error!r}", _COPY) from error


def _json_object(text: str) -> JsonObject:
    return {**json.loads(text)}  # a TypeError for JSON that is no object


def _from_merges_txt(text: str) -> list[tuple[str, ...]]:
    lines = [line for line in text.split("\n") if line and not line.startswith("#version")]
    return [tuple(line.split(" ")) for line in lines]


def _from_tokenizer_json(text: str) -> Vocabulary:
    spec = _json_object(text)
    model = spec["model"]
    tokens = spec["added_tokens"]
    _check_settings("model", model)
    for token in tokens:
        _check_settings("added_tokens", token)
    _check_settings("pre_tokenizer", spec["pre_tokenizer"] or {"type": None})
    _check_settings("tokenizer", spec)
    ids = model["vocab"] | {str(token["content"]): token["id"] for token in tokens}
    merges = [_merge_of_json(merge) for merge in model["merges"]]
    specials = {str(token["content"]): bool(token.get("lstrip")) for token in tokens}
    return Vocabulary(ids, merges, specials)


def _merge_of_json(merge: str | Iterable[object]) -> tuple[str, ...]:
    """Older files have "t h", newer ones ["t", "h"]."""
    if isinstance(merge, str):
        return tuple(merge.split(" "))
    return tuple(map(str, merge))


def _check_settings(name: str, part: JsonObject) -> None:
    """Refuse a part of a tokenizer.json with a setting that would give other ids."""
    for key, wanted in SETTINGS[name].items():
        value = part.get(key, wanted)
        if (value or False) != wanted:
            raise TokenizerError(f"tokenizer.json: {name}.{key} is {value!r:.60}", _ONLY)


def _check_ids(directory: Path, ids: dict[str, int]) -> None:
    """Refuse a vocabulary whose ids have gaps, or whose items cannot spell every text."""
    count = len(ids)
    are_integers = {type(number) for number in ids.values()} == {int}
    if not are_integers or set(ids.values()) != set(range(count)):
        what = f"the ids of {count} vocabulary items are not 0 to {count - 1}, each once"
        raise _damaged(directory, what)
    missing = BYTE_OF.keys() - ids.keys()
    if missing:
        what = f"{len(missing)} of the 256 byte characters are not in the vocabulary"
        raise _damaged(directory, what)
    if "" in ids or _SURROGATE.search("".join(ids)):
        raise _damaged(directory, "a vocabulary item is empty or not Unicode text")


def _checked_merges(directory: Path, ids: dict[str, int], merges: list[tuple[str, ...]]) -> Merges:
    """The merges as pairs, each of two items that make a third."""
    pairs: Merges = []
    for merge in merges:
        if len(merge) != 2 or not {*merge, "".join(merge)} <= ids.keys():
            what = f"merge {' '.join(merge)!r} does not make a vocabulary item from two"
            raise _damaged(directory, what)
        pairs.append(merge)
    return pairs


def _damaged(directory: Path, what: str) -> TokenizerError:
    return TokenizerError(f"{directory}: {what}", _COPY)


def _package_encode(
    ids: dict[str, int], merges: Merges, specials: dict[str, bool]
) -> Encode | None:
    """`encode` by the `tokenizers` package; None where it is not wanted."""
    if os.environ.get("TINYZO_NO_TOKENIZERS", "0") not in ("", "0"):
        return None
    import tokenizers

    backend = tokenizers.Tokenizer(tokenizers.models.BPE(ids, merges))
    backend.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.add_special_tokens(
        [
            tokenizers.AddedToken(text, lstrip=strips, normalized=False)
            for text, strips in specials.items()
        ]
    )

    def encode(text: str) -> list[int]:
        ids: list[int] = backend.encode(text, add_special_tokens=False).ids
        return ids

    return encode
