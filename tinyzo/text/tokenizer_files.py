"""The files of a tokenizer as text, JSON and merges, when they are whole and not too large."""

import json
import os
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TypeVar

from tinyzo.errors import TokenizerError
from tinyzo.parsing import JsonObject, each_name_once
from tinyzo.system import read_file

T = TypeVar("T")

COPY = "a checkpoint needs its own tokenizer.json, or vocab.json with merges.txt: copy them again"
LARGEST = 64 << 20  # bytes of a file; RoBERTa's largest has 3 MB
PART = 72  # bytes that a string, a list or an object takes in Python, about
FREE = 64 << 20  # bytes that any file may take there
UTF_16 = (b"\xff\xfe", b"\xfe\xff")


def read_object(path: Path) -> JsonObject:
    """The object in a JSON file; no name may be in it twice.

    raises: TokenizerError when it cannot be read, is damaged, or would take too much memory
    """
    data = _read(path)
    _check_cost(path, data, (b"[", b"{", b",", b":"))
    try:
        value = json.loads(_text(path, data), object_pairs_hook=each_name_once)
    except (ValueError, RecursionError) as error:
        raise TokenizerError(f"{path}: its JSON is damaged: {error}", COPY) from None
    if not isinstance(value, dict):
        raise TokenizerError(f"{path}: not a JSON object", COPY)
    return value


def read_object_if_there(path: Path) -> JsonObject | None:
    """The same; None without such a file. A link to nothing is an error."""
    return read_object(path) if os.path.lexists(path) else None


def read_merges(path: Path) -> Iterable[tuple[str, ...]]:
    """The lines of a merges.txt, split at spaces.

    raises: TokenizerError when it cannot be read, or transformers 4 and 5 would read different
            lines of it
    """
    data = _read(path)
    _check_cost(path, data, (b"\n", b" "))
    lines = _text(path, data).replace("\r\n", "\n").split("\n")
    if not lines[0].startswith("#version"):
        hint = "transformers 4 skips the first line and 5 does not: put '#version: 0.2' above it"
        raise TokenizerError(f"{path}: the first line is not '#version: ...'", hint)
    if lines.pop():
        hint = "transformers 4 skips that line and 5 does not: end it if the file is whole"
        raise TokenizerError(f"{path}: the last line has no end", hint)
    texts = (line.rstrip() for line in lines if not line.startswith("#version"))
    return (tuple(text.split(" ")) for text in texts if text)


def understand(path: Path, parse: Callable[[], T]) -> T:
    """What `parse` returns; what values of another shape make it raise is a TokenizerError."""
    try:
        return parse()
    except (LookupError, TypeError, ValueError, AttributeError) as error:
        raise TokenizerError(f"cannot read {path}: {error!r}", COPY) from error


def _read(path: Path) -> bytes:
    data = read_file(path, TokenizerError, COPY, LARGEST + 1)
    if len(data) > LARGEST:
        message = f"{path}: over {LARGEST >> 20} MB, which no tokenizer has"
        raise TokenizerError(message, "is it another file by mistake?")
    return data


def _check_cost(path: Path, data: bytes, marks: Iterable[bytes]) -> None:
    """Refuse a file whose many small parts would take over ten times its size."""
    parts = sum(data.count(mark) for mark in marks) + data.count(b'"') // 2
    if parts * PART > max(FREE, 10 * len(data)):
        message = f"{path}: {parts:,} parts in {len(data):,} bytes would take too much memory"
        raise TokenizerError(message, COPY)


def _text(path: Path, data: bytes) -> str:
    """UTF-8, with or without a byte-order mark."""
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        place = f"byte {data[error.start]:#04x} at {error.start:,}"
        found = "UTF-16" if data.startswith(UTF_16) else f"not UTF-8: {place}"
        raise TokenizerError(f"{path}: the text is {found}", "save it as UTF-8") from None
