"""What tokenizer_config.json and special_tokens_map.json say that moves an id.

The measure is transformers, its fast tokenizers of 4.x and 5.x. What both read alike is read so.
What they read differently, or what tinyzo does not build, is refused by its name.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from tinyzo.errors import TokenizerError
from tinyzo.parsing import JsonObject
from tinyzo.text.bpe import WHITE_SPACE, AddedToken
from tinyzo.text.tokenizer_files import COPY, read_object_if_there

ONLY = "tinyzo reads the byte-level BPE of RoBERTa, OPT and GPT-2, and no other tokenizer"
AGREE = "let one file name what the model was trained with"

CONFIG = "tokenizer_config.json"
MAP = "special_tokens_map.json"
DECODER = "added_tokens_decoder"
MORE = ("additional_special_tokens", "extra_special_tokens")  # transformers 4's name, and 5's
ROLES = ("bos", "eos", "unk", "sep", "pad", "cls", "mask")  # in the order that new ids follow


class Family(NamedTuple):
    """How a family of models uses its vocabulary.

    classes:   the classes of transformers that read it, without "Fast"
    defaults:  role -> token, where the folder's settings name none
    published: the same where a folder has no settings at all
    first:     the role of the token that begins a text
    last:      the role of the one that ends it, or that would
    is_ended:  whether a text is ended
    """

    classes: tuple[str, ...]
    defaults: dict[str, str]
    published: dict[str, str]
    first: str
    last: str
    is_ended: bool


_ROBERTA = {"bos": "<s>", "eos": "</s>", "unk": "<unk>", "sep": "</s>", "pad": "<pad>"}
_ROBERTA_CLASSES = ("RobertaTokenizer", "BartTokenizer")
_ROBERTA |= {"cls": "<s>", "mask": "<mask>"}
_OPT = {"bos": "</s>", "eos": "</s>", "unk": "</s>", "pad": "<pad>"}
_GPT2 = dict.fromkeys(("bos", "eos", "unk"), "<|endoftext|>")
FAMILIES = {
    "roberta": Family(_ROBERTA_CLASSES, _ROBERTA, _ROBERTA, "cls", "sep", is_ended=True),
    "opt": Family(("GPT2Tokenizer",), _GPT2, _OPT, "bos", "eos", is_ended=False),
}
# Classes that take all from tokenizer.json, and no token by default.
GENERIC = ("PreTrainedTokenizer", "TokenizersBackend")

# Settings that change ids, and what each has to be. One left out is as here; null, "", [] and
# false are the same.
SETTINGS: dict[str, dict[str, object]] = {
    "tokenizer": {"normalizer": False},
    "model": {
        "type": "BPE",
        "dropout": False,
        "byte_fallback": False,
        "ignore_merges": False,
        "continuing_subword_prefix": False,
        "end_of_word_suffix": False,
    },
    "pre_tokenizer": {"type": "ByteLevel", "use_regex": True},
    "roberta": {
        "split_special_tokens": False,
        "from_slow": False,
        "auto_map": False,
        "fast_tokenizer_files": False,
        "tokenizer_file": False,
        "vocab_file": False,
        "merges_file": False,
    },
}
_THE_FOLDERS = "tinyzo reads the folder's own files: take it out if they are right"
_ENDS = "every text of OPT begins with its bos and has no end: say so if the model was trained so"
HINTS = {
    "split_special_tokens": "take it out: tinyzo reads a special token in a text as its id",
    "auto_map": "tinyzo runs no code of a model: take it out if the folder's own files are enough",
    "add_bos_token": _ENDS,
    "add_eos_token": _ENDS,
    **dict.fromkeys(("from_slow", "fast_tokenizer_files"), _THE_FOLDERS),
    **dict.fromkeys(("tokenizer_file", "vocab_file", "merges_file"), _THE_FOLDERS),
}
SETTINGS["opt"] = SETTINGS["roberta"] | {"add_bos_token": True, "add_eos_token": False}


class Settings(NamedTuple):
    """The settings of a folder.

    path:     tokenizer_config.json
    said:     by name, the map's over those of tokenizer_config.json
    family:   of the model
    kind:     the class of transformers, without "Fast"
    defaults: role -> token, for what `said` leaves out
    """

    path: Path
    said: JsonObject
    family: Family
    kind: str
    defaults: dict[str, str]


class Named(NamedTuple):
    """A token that a setting names; is_default: none does, and so its class."""

    token: AddedToken
    role: str = ""
    is_default: bool = False


def read_settings(directory: Path) -> Settings:
    """Read both files, and the family and class of the model.

    raises: TokenizerError for a setting that is not built
    """
    config = read_object_if_there(directory / CONFIG)
    special = read_object_if_there(directory / MAP)
    model = read_object_if_there(directory / "config.json") or {}
    name = "opt" if model.get("model_type") == "opt" else "roberta"
    family = FAMILIES[name]
    said = _said(directory, config or {}, special or {})
    check_settings(directory / CONFIG, name, said)
    kind = said.get("tokenizer_class") or model.get("tokenizer_class") or family.classes[0]
    kind = str(kind).removesuffix("Fast")
    if kind not in (*family.classes, *GENERIC):
        message = f"{directory}: tokenizer_class is {kind!r:.60}, not {family.classes[0]!r}"
        raise TokenizerError(message, ONLY)
    defaults = family.defaults
    if kind in GENERIC:
        defaults = {}
    elif config is special is None:
        defaults = family.published
    return Settings(directory / CONFIG, said, family, kind, defaults)


def _said(directory: Path, config: JsonObject, special: JsonObject) -> JsonObject:
    """Both files as one; beside added_tokens_decoder the map is not read."""
    if DECODER in config:
        return config
    for key in MORE:
        if config.get(key) and special.get(key) and config[key] != special[key]:
            raise TokenizerError(f"{directory / MAP}: {key} is not that of {CONFIG}", AGREE)
    return config | special


def check_settings(where: object, name: str, part: JsonObject) -> None:
    """Refuse a part of a file with a setting that would give other ids."""
    for key, wanted in SETTINGS[name].items():
        value = part.get(key, wanted)
        if (value or False) != wanted:
            raise TokenizerError(f"{where}: {key} is {value!r:.60}", HINTS.get(key, ONLY))


def named_tokens(settings: Settings, has_spec: bool) -> Iterator[Named]:
    """The tokens with a role, then the others that are special.

    has_spec: whether there is a tokenizer.json
    raises:   TokenizerError for one that only transformers 4 or only 5 reads, or what `token_of`
              raises
    """
    said = settings.said
    for role in ROLES:
        key = f"{role}_token"
        value = said.get(key, settings.defaults.get(role))
        if isinstance(value, str):
            yield Named(_by_class(settings, role, value, has_spec), role, key not in said)
        elif value is not None:
            yield Named(token_of(settings.path, {**value, "special": True}), role)
    yield from (Named(token) for token in _more(settings.path, said))


def _by_class(settings: Settings, role: str, text: str, has_spec: bool) -> AddedToken:
    """A token with a role as its class in transformers 4 makes it of a string."""
    is_roberta = settings.kind in FAMILIES["roberta"].classes
    if role == "mask":
        return AddedToken(text, lstrip=is_roberta)
    is_known = role in settings.family.published and settings.kind not in GENERIC
    return AddedToken(text, normalized=is_known and not has_spec)


def _more(path: Path, said: JsonObject) -> Iterator[AddedToken]:
    """The special tokens without a role."""
    for key, value in said.items():
        if key.endswith("_token") and isinstance(value, str | dict) and key[:-6] not in ROLES:
            message = f"{path}: {key} {value!r:.60} is read by transformers 5 and not by 4"
            raise TokenizerError(message, f"name it in {MORE[1]}")
    lists = [said[key] for key in MORE if said.get(key)]
    if len(lists) > 1:
        raise TokenizerError(f"{path}: both {MORE[0]} and {MORE[1]} are there", AGREE)
    for more in lists:
        for value in more.values() if isinstance(more, dict) else more:
            if isinstance(value, str):
                yield AddedToken(value)
            else:
                yield token_of(path, {**value, "special": True})


def token_of(path: Path, value: JsonObject) -> AddedToken:
    """An added token as transformers writes it.

    raises: TokenizerError for another shape, or for one that swallows the white space that it
            begins with, on which the tokenizers package panics
    """
    names = ("lstrip", "rstrip", "single_word")
    flags = {name: value.get(name, False) for name in names}
    flags["normalized"] = value.get("normalized", not value.get("special", False))
    text = value.get("content")
    if {type(flag) for flag in flags.values()} != {bool} or not isinstance(text, str):
        raise TokenizerError(f"{path}: an added token is {value!r:.200}", COPY)
    if flags["lstrip"] and text.startswith(tuple(WHITE_SPACE)):
        message = f"{path}: added token {text!r:.60} has lstrip and begins with white space itself"
        raise TokenizerError(message, "transformers fails on some texts so: take out its lstrip")
    return AddedToken(text, **flags)
