"""One of the other files of a tokenizer's folder; where it is taken, both backends agree."""

from __future__ import annotations

import json

from fuzz.backends import compare_folder
from fuzz.reader import Reader, place

from small_bpe import IDS, MERGES  # isort: skip (fuzz.backends has the path)
from tokenizer_folders import E1, PUBLISHED_MAP, decoder, token  # isort: skip

FEW = {piece: number for piece, number in IDS.items() if number < 270} | {"<mask>": 270}
PAIRS = [pair for pair in MERGES if "".join(pair) in FEW]
DECODED = decoder(E1 | {"rstrip": True}, token(" x", single_word=True))
FILES = {
    "vocab.json": json.dumps(FEW, ensure_ascii=False),
    "merges.txt": "\n".join(["#version: 0.2", *map(" ".join, PAIRS), ""]),
    "added_tokens.json": json.dumps({"<e1>": 271, " x": 272}),
    "special_tokens_map.json": json.dumps(PUBLISHED_MAP | {"additional_special_tokens": ["<e2>"]}),
    "tokenizer_config.json": json.dumps(
        {
            "added_tokens_decoder": {
                str(271 + place): entry for place, entry in enumerate(DECODED.values())
            },
            "add_prefix_space": True,
            "extra_special_tokens": ["<e2>"],
            "tokenizer_class": "RobertaTokenizer",
        }
    ),
    "config.json": '{"model_type": "opt"}',
}
NAMES = list(FILES)


def read(data: bytes) -> None:
    """The first byte says which file the rest is; the needed ones are right then."""
    name = NAMES[data[0] % len(NAMES)] if data else "vocab.json"
    folder = f"tokenizer_folder/{name}"
    if not (place(f"{folder}/.keep", b"").parent / "merges.txt").is_file():
        for needed in ("vocab.json", "merges.txt"):
            place(f"{folder}/{needed}", FILES[needed].encode())
    compare_folder(place(f"{folder}/{name}", data[1:]).parent)


READER = Reader(
    read,
    seeds=[bytes([48 + place]) + text.encode() for place, text in enumerate(FILES.values())],
    words=[
        b'"<e1>":271', b'"pad_token":', b'"mask_token":', b'"cls_token":', b'"add_prefix_space":',
        b'"<s>"', b'"lstrip":true', b'"additional_special_tokens":', b'"tokenizer_class":',
        b"#version", "Ġt he".encode(), b'"tokenizer_file":', b'"add_bos_token":',
    ],
)  # fmt: skip
