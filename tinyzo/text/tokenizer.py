"""Text to ids: one face over Hugging Face's `tokenizers` and our own BPE."""

import json
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tinyzo.errors import TokenizerError
from tinyzo.parsing import read_toml
from tinyzo.text.bpe import BYTE_OF, BytePairEncoder, Merges

Encode = Callable[[str], list[int]]

_FACTS = read_toml(Path(__file__).with_suffix(".toml"))
_COPY = "a checkpoint needs its own tokenizer.json, or vocab.json with merges.txt: copy them again"
_ONLY = "tinyzo reads the byte-level BPE of RoBERTa, OPT and GPT-2, and no other tokenizer"
_SURROGATE = re.compile("[\ud800-\udfff]")


class Tokenizer:
    """The vocabulary of a checkpoint, with the same ids from either backend."""

    def __init__(self, ids: dict[str, int], roles: dict[str, str], encode: Encode, backend: str):
        self._ids, self._pieces, self._encode = ids, sorted(ids, key=ids.__getitem__), encode
        self.backend, self.vocab_size = backend, len(ids)
        self.bos_id, self.eos_id = self.token_id(roles["bos"]), self.token_id(roles["eos"])
        self.mask_id = ids.get(roles.get("mask"))

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
            pieces = ", ".join(repr(self._pieces[i]) for i in ids) or "none"
            message = f"label word {text!r} is {len(ids)} tokens: {pieces}"
            raise TokenizerError(message, "choose one of one token, with its space, as ' great'")
        return ids[0]


def load_tokenizer(directory: Path) -> Tokenizer:
    """The tokenizer of a checkpoint directory: tokenizer.json, else vocab.json with merges.txt.

    returns: a Tokenizer over `tokenizers`, or over our own BPE where that package is missing or
             the environment has TINYZO_NO_TOKENIZERS=1
    raises:  TokenizerError when files are missing, damaged, or not a byte-level BPE
    """
    config, path = directory / "config.json", directory / "tokenizer.json"
    settings = _load(config, lambda text: {**json.loads(text)}) if config.is_file() else {}
    roles = _FACTS["roles"]["opt" if settings.get("model_type") == "opt" else "roberta"]
    if path.is_file():
        ids, merges, specials = _load(path, _from_tokenizer_json)
    else:
        ids = _load(directory / "vocab.json", lambda text: {**json.loads(text)})
        lines = _load(directory / "merges.txt", lambda text: text.split("\n"))
        merges = [tuple(m.split(" ")) for m in lines if m and not m.startswith("#version")]
        specials = {text: text == "<mask>" for text in roles.values() if text in ids}
    _check(directory, ids, merges)
    own = os.environ.get("TINYZO_NO_TOKENIZERS", "0") not in ("", "0")
    if not own and (encode := _hf_encode(ids, merges, specials)):
        return Tokenizer(ids, roles, encode, "tokenizers")
    return Tokenizer(ids, roles, BytePairEncoder(ids, merges, specials).encode, "bpe")


def _load(path: Path, parse: Callable[[str], Any]) -> Any:
    try:
        return parse(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        raise TokenizerError(f"cannot read {path}: {error!r}", _COPY) from error


def _from_tokenizer_json(text: str) -> tuple[dict[str, int], Merges, dict[str, bool]]:
    spec = json.loads(text)
    model, tokens = spec["model"], spec["added_tokens"]
    parts = [("model", model), *(("added_tokens", token) for token in tokens)]
    parts += [("pre_tokenizer", spec["pre_tokenizer"] or {"type": None}), ("tokenizer", spec)]
    for name, part in parts:
        for key, wanted in _FACTS["settings"][name].items():
            if ((value := part.get(key, wanted)) or False) != wanted:
                raise TokenizerError(f"tokenizer.json: {name}.{key} is {value!r:.60}", _ONLY)
    ids = model["vocab"] | {str(token["content"]): token["id"] for token in tokens}
    pairs = (merge.split(" ") if isinstance(merge, str) else merge for merge in model["merges"])
    specials = {str(token["content"]): bool(token.get("lstrip")) for token in tokens}
    return ids, [tuple(map(str, pair)) for pair in pairs], specials


def _check(directory: Path, ids: dict[str, int], merges: Merges) -> None:
    wrong = (m for m in merges if len(m) != 2 or not {*m, "".join(m)} <= ids.keys())
    if {*map(type, ids.values())} != {int} or {*ids.values()} != {*range(len(ids))}:
        damage = f"the ids of {len(ids)} vocabulary items are not 0 to {len(ids) - 1}, each once"
    elif missing := BYTE_OF.keys() - ids.keys():
        damage = f"{len(missing)} of the 256 byte characters are not in the vocabulary"
    elif "" in ids or _SURROGATE.search("".join(ids)):
        damage = "a vocabulary item is empty or not Unicode text"
    elif merge := next(wrong, None):
        damage = f"merge {' '.join(merge)!r} does not make a vocabulary item from two"
    else:
        return
    raise TokenizerError(f"{directory}: {damage}", _COPY)


def _hf_encode(ids: dict[str, int], merges: Merges, specials: dict[str, bool]) -> Encode | None:
    try:
        import tokenizers
    except ImportError:
        return None
    backend = tokenizers.Tokenizer(tokenizers.models.BPE(ids, merges))
    backend.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    added = [tokenizers.AddedToken(t, lstrip=s, normalized=False) for t, s in specials.items()]
    backend.add_special_tokens(added)
    return lambda text: backend.encode(text, add_special_tokens=False).ids
