"""The vocabulary, merges and added tokens of a folder, as transformers 4 and 5 both read them."""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from tinyzo.errors import TokenizerError
from tinyzo.parsing import JsonObject
from tinyzo.text.bpe import BYTE_OF, AddedToken, Merges
from tinyzo.text.tokenizer_files import (
    COPY,
    read_merges,
    read_object,
    read_object_if_there,
    understand,
)
from tinyzo.text.tokenizer_settings import (
    CONFIG,
    DECODER,
    GENERIC,
    ONLY,
    Named,
    Settings,
    check_settings,
    named_tokens,
    read_settings,
    token_of,
)

ADDED = "added_tokens.json"
SPEC = "tokenizer.json"
SAVE = "load the folder with the transformers it was made with, and save it again"
MASK = "<mask>"  # as prompts write it
SURROGATE = re.compile("[\ud800-\udfff]")


@dataclass(frozen=True)
class Vocabulary:
    """What text to ids needs.

    ids:          vocabulary item -> id, 0 to len - 1
    merges:       pairs of items, the first learnt first
    added:        tokens that are cut out of a text before all else
    prefix_space: whether a stretch of text that begins without a space gets one
    first, last:  the items that begin and end a text
    mask:         the item that stands for a word; None where there is none
    """

    ids: dict[str, int]
    merges: Merges
    added: list[AddedToken]
    prefix_space: bool
    first: str
    last: str
    mask: str | None


class Declared(NamedTuple):
    """An added token with the id that a file gives it."""

    token: AddedToken
    id: int
    path: Path


def read_vocabulary(directory: Path) -> Vocabulary:
    """The tokenizer of a folder: tokenizer.json, else vocab.json with merges.txt.

    raises: TokenizerError when files are missing, damaged, not of a byte-level BPE, or read
            differently by transformers 4 and 5
    """
    settings = read_settings(directory)
    spec = read_object_if_there(directory / SPEC)
    ids, merges = _read_model(directory, spec, settings)
    declared = _declared(directory, spec, settings.said)
    named = understand(directory / CONFIG, lambda: list(named_tokens(settings, spec is not None)))
    _number(ids, declared)
    family = settings.family
    first = _end(directory, settings, named, ids, family.first)
    last = _end(directory, settings, named, ids, family.last)
    added = _combine(declared, named)
    for text in added:
        ids.setdefault(text, len(ids))
    if "" in ids or SURROGATE.search("".join(ids)):
        raise _damaged(directory, "a vocabulary item is empty or not Unicode text")
    if spec is not None:
        end = [ids[last]] if family.is_ended else []
        understand(directory / SPEC, lambda: _check_ends(directory / SPEC, spec, [ids[first]], end))
    mask = _mask(directory, settings, named, added)
    prefix_space = bool(settings.said.get("add_prefix_space"))
    return Vocabulary(ids, merges, list(added.values()), prefix_space, first, last, mask)


# -- what a text can be cut into -------------------------------------------------------


def _read_model(
    directory: Path, spec: JsonObject | None, settings: Settings
) -> tuple[dict[str, int], Merges]:
    """The vocabulary without what is added, and its merges."""
    pairs: Iterable[tuple[str, ...]]
    if spec is not None:
        path = merges = directory / SPEC
        ids, pairs = understand(path, lambda: _model_of_spec(path, spec, settings))
    elif settings.kind in GENERIC:
        raise TokenizerError(f"{directory}: no {SPEC}, which a {settings.kind}Fast needs", COPY)
    else:
        path, merges = directory / "vocab.json", directory / "merges.txt"
        ids, pairs = read_object(path), read_merges(merges)
    _check_ids(path, ids)
    return ids, _checked_merges(merges, ids, pairs)


def _model_of_spec(
    path: Path, spec: JsonObject, settings: Settings
) -> tuple[dict[str, int], list[tuple[str, ...]]]:
    model = spec["model"]
    before = spec["pre_tokenizer"] or {"type": None}
    check_settings(f"{path}: model", "model", model)
    check_settings(f"{path}: pre_tokenizer", "pre_tokenizer", before)
    check_settings(path, "tokenizer", spec)
    prefix_space = settings.said.get("add_prefix_space", False)
    if settings.kind in GENERIC and before.get("add_prefix_space", False) != prefix_space:
        message = f"{path}: add_prefix_space is not {prefix_space}, as in {CONFIG}"
        raise TokenizerError(message, "transformers 4 takes that one and 5 this: let them agree")
    return {**model["vocab"]}, [_merge_of_json(merge) for merge in model["merges"]]


def _merge_of_json(merge: str | Iterable[object]) -> tuple[str, ...]:
    """Older files have "t h", newer ones ["t", "h"]."""
    if isinstance(merge, str):
        return tuple(merge.split(" "))
    return tuple(map(str, merge))


def _check_ids(path: Path, ids: dict[str, int]) -> None:
    """Refuse a vocabulary whose ids have gaps, or whose items cannot spell every text."""
    count = len(ids)
    are_integers = {type(number) for number in ids.values()} == {int}
    if not are_integers or set(ids.values()) != set(range(count)):
        what = f"the ids of {count} vocabulary items are not 0 to {count - 1}, each once"
        raise _damaged(path, what)
    missing = BYTE_OF.keys() - ids.keys()
    if missing:
        what = f"{len(missing)} of the 256 byte characters are not in the vocabulary"
        raise _damaged(path, what)


def _checked_merges(path: Path, ids: dict[str, int], merges: Iterable[tuple[str, ...]]) -> Merges:
    """The merges as pairs, each there once, and of two items that make a third."""
    pairs: dict[tuple[str, str], None] = {}
    for merge in merges:
        if (
            len(merge) != 2
            or merge[0] not in ids
            or merge[1] not in ids
            or "".join(merge) not in ids
        ):
            what = f"merge {' '.join(merge)!r:.80} does not make a vocabulary item from two"
            raise _damaged(path, what)
        if merge in pairs:
            raise _damaged(path, f"merge {' '.join(merge)!r:.80} is there twice")
        pairs[merge] = None
    return list(pairs)


# -- what is cut out of it before ------------------------------------------------------


def _declared(directory: Path, spec: JsonObject | None, said: JsonObject) -> dict[str, Declared]:
    """text -> an added token with an id, in the order in which transformers adds them."""
    listed: dict[str, Declared] = {}
    if spec is not None:
        path = directory / SPEC
        listed = understand(path, lambda: _listed(path, spec["added_tokens"]))
    if DECODER not in said:
        path = directory / ADDED
        ids = read_object_if_there(path) or {}
        more = _by_text(
            Declared(AddedToken(text, normalized=True), ids[text], path) for text in ids
        )
        return listed | {text: more[text] for text in _by_id(more) if text not in listed}
    path = directory / CONFIG
    more = understand(path, lambda: _decoded(path, said[DECODER]))
    missing = ", ".join(map(repr, sorted(listed.keys() - more.keys())))
    if missing:
        raise TokenizerError(f"{path}: {DECODER} lacks {missing:.80} of {SPEC}", SAVE)
    return listed | _by_id(more)


def _listed(path: Path, tokens: list[JsonObject]) -> dict[str, Declared]:
    return _by_text(Declared(token_of(path, token), token["id"], path) for token in tokens)


def _decoded(path: Path, tokens: dict[str, JsonObject]) -> dict[str, Declared]:
    return _by_text(Declared(token_of(path, one), int(key), path) for key, one in tokens.items())


def _by_text(declared: Iterable[Declared]) -> dict[str, Declared]:
    found: dict[str, Declared] = {}
    for token, number, path in declared:
        text = token.content
        if type(number) is not int:
            raise _damaged(path, f"the id of {text!r:.60} is {number!r:.60}")
        if text in found:
            raise _damaged(path, f"added token {text!r:.60} is there twice")
        found[text] = Declared(token, number, path)
    return found


def _by_id(declared: dict[str, Declared]) -> dict[str, Declared]:
    return dict(sorted(declared.items(), key=lambda item: item[1].id))


def _number(ids: dict[str, int], declared: dict[str, Declared]) -> None:
    """Give added tokens their ids, which follow the vocabulary's, whatever the files say."""
    for text, (_, number, path) in declared.items():
        found = ids.setdefault(text, len(ids))
        if found != number:
            message = f"{path}: {text!r:.60} has id {number}; transformers gives {found}"
            raise TokenizerError(message, "a new token has the next id, a known one its own")


def _combine(declared: dict[str, Declared], named: list[Named]) -> dict[str, AddedToken]:
    """text -> the added token. How a file declares it counts more than how a setting names it."""
    added = {text: one.token for text, one in declared.items()}
    for token, role, is_default in named:
        earlier = declared.get(token.content)
        is_plain = earlier is not None and earlier.path.name == ADDED
        if earlier and (is_plain or is_default) and _strips(earlier.token) != _strips(token):
            message = f"{earlier.path}: {token.content!r:.60} as {role or 'special'} token"
            raise TokenizerError(f"{message} is read otherwise by transformers 4 than by 5", SAVE)
        if earlier is None or is_plain:
            added[token.content] = token
    return added


def _strips(token: AddedToken) -> tuple[bool, ...]:
    return token.lstrip, token.rstrip, token.single_word


# -- what begins and ends a text -------------------------------------------------------


def _end(
    directory: Path, settings: Settings, named: list[Named], ids: dict[str, int], role: str
) -> str:
    """The item with this role; transformers would add one that nobody named to the vocabulary."""
    published = settings.family.published[role]
    for token, its_role, is_default in named:
        if its_role == role and (token.content in ids or not is_default):
            return token.content
        if its_role == role:
            hint = f"name it in {CONFIG}: {role}_token is {published!r} as published"
            message = f"{directory}: the vocabulary of {len(ids)} items has no {token.content!r}"
            raise TokenizerError(message, hint)
    if published not in ids:
        raise _damaged(directory, f"the vocabulary of {len(ids)} items has no {published!r}")
    return published


def _mask(
    directory: Path, settings: Settings, named: list[Named], added: dict[str, AddedToken]
) -> str | None:
    """<mask>, where the family has one."""
    if "mask" not in settings.family.published:
        return None
    for token, role, _ in named:
        if role == "mask" and token.content != MASK:
            message = f"{directory}: mask_token is {token.content!r:.60}"
            raise TokenizerError(message, f"the prompts of tinyzo are written with {MASK}")
    return MASK if MASK in added else None


def _check_ends(path: Path, spec: JsonObject, begin: list[int], end: list[int]) -> None:
    """Refuse a tokenizer.json that puts other tokens around a text than tinyzo does; none is fine,
    since tinyzo puts them itself."""
    found = _ids_around(spec.get("post_processor"))
    if found not in (([], []), (begin, end)):
        message = f"{path}: post_processor puts {found[0]} and {found[1]} around a text"
        raise TokenizerError(message, f"tinyzo puts {begin} and {end}: {SAVE}")


def _ids_around(part: JsonObject | None) -> tuple[list[int], list[int]]:
    """The ids that a post-processor puts before and after a text."""
    begin: list[int] = []
    end: list[int] = []
    kind = part["type"] if part else "ByteLevel"
    if part is None or kind == "ByteLevel":
        pass
    elif kind in ("RobertaProcessing", "BertProcessing"):
        begin, end = [part["cls"][1]], [part["sep"][1]]
    elif kind == "Sequence":
        for inner in map(_ids_around, part["processors"]):
            begin, end = inner[0] + begin, end + inner[1]
    elif kind == "TemplateProcessing":
        side = begin
        for piece in part["single"]:
            if "Sequence" in piece:
                side = end
            else:
                side += part["special_tokens"][piece["SpecialToken"]["id"]]["ids"]
    else:
        raise TokenizerError(f"{SPEC}: post_processor.type is {kind!r:.60}", ONLY)
    return begin, end


def _damaged(path: Path, what: str) -> TokenizerError:
    return TokenizerError(f"{path}: {what}", COPY)
