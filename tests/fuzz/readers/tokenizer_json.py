"""A tokenizer.json; where it is taken, both backends give the same ids."""

from __future__ import annotations

import json

from fuzz.backends import compare_folder
from fuzz.reader import Reader, place

from small_bpe import IDS, MERGES  # isort: skip (fuzz.backends has the path)
from tokenizer_folders import E1, SPECIALS, token, tokenizer_json  # isort: skip


def read(data: bytes) -> None:
    compare_folder(place("tokenizer_json/tokenizer.json", data).parent)


def file(*tokens: dict[str, object], **changes: object) -> bytes:
    """A small one: the bytes, a few merges, the special tokens."""
    ids = {piece: number for piece, number in IDS.items() if number < 270}
    merges = [list(pair) for pair in MERGES if "".join(pair) in ids]
    ids["<mask>"] = len(ids)
    added = [*SPECIALS, *tokens]
    for entry in added:
        ids.setdefault(str(entry["content"]), len(ids))
    listed = [{"id": ids[str(entry["content"])], **entry} for entry in added]
    spec = tokenizer_json(model__vocab=ids, model__merges=merges, added_tokens=listed, **changes)
    front = {"added_tokens": spec.pop("added_tokens")}  # where damage is not of the vocabulary
    return json.dumps(front | spec, ensure_ascii=False, separators=(",", ":")).encode()


READER = Reader(
    read,
    seeds=[
        file(),
        file(E1 | {"rstrip": True}, token("x ", single_word=True, lstrip=True, normalized=True)),
        file(token("é", normalized=True), token("the", special=False), post_processor=None),
    ],
    words=[
        b'"lstrip":true', b'"rstrip":true', b'"single_word":true', b'"normalized":true',
        b'"content":"<s>"', b'"content":" "', b'"content":"a"', b'"id":271', b'"type":"BPE"',
        b'"add_prefix_space":true', "Ġ".encode(), "\u3000".encode(), b"\\u0120", b"false",
    ],
)  # fmt: skip
