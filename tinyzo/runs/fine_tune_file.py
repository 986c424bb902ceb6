"""The bytes of a fine-tune as a file: what some steps are over their base, and nothing else.

    start       "tinyzo-f", format, bytes of the head
    head        JSON: the base, the task, the method, the steps, the scores
    factors     f32: A of each adapter, where no seed makes it (start.py)
    decays      f64 [steps], where there are any
    seeds       u64 [steps, terms], where they do not follow from the run's seed
    terms       f64 [steps, terms]: the coefficients
    end         SHA-256 of all before it

Numbers are little-endian. Whatever is in such a file, reading it costs about its size in memory,
runs nothing and opens nothing.
"""

import hashlib
import json
import math
import re
import struct
from collections.abc import Sequence
from itertools import chain, pairwise
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from tinyzo.checkpoints.hub import place_of
from tinyzo.engine import noise
from tinyzo.errors import RunError
from tinyzo.models.model import MODELS
from tinyzo.parsing import JsonObject, is_natural, parse_json
from tinyzo.runs.places import is_name
from tinyzo.system import read_file

MAGIC = b"tinyzo-f"
FORMAT = 1
START = struct.Struct("<8sHI")
DIGEST = hashlib.sha256().digest_size
MOST_BYTES = 64 << 20
MOST_HEAD = 64 << 10
MOST_TERMS = 1 << 16  # of a step: 255 queries of 255 steps, and one more
MOST_STEPS = 1 << 32
LARGEST = float(np.finfo(np.float32).max)  # that a coefficient may be
COPY = "ask for the file again, or share the run once more"
EVALUATIONS = {"dev", "test", "test_zero_shot"}
SCORES = {"examples", "accuracy", "loss", "f1", "exact_match"}
# The fields of a head and their types.
FIELDS: dict[str, type] = {
    "tinyzo": str,
    "name": str,
    "family": str,
    "base": str,
    "data": str,
    "data_ships": bool,
    "settings": dict,
    "scores": dict,
    "z": str,
    "z_format": int,
    "steps": list,
    "terms": int,
    "decays": bool,
    "seeds": bool,
    "factors": int,
}


class Contents(NamedTuple):
    """A fine-tune as its file has it.

    head:    the fields of FIELDS, all of which have been checked but for the settings
    factors: f32[...], those of all adapters one after another
    decays:  f64[steps], zeros where there are none
    seeds:   u64[steps, terms]; None where the run's seed makes them
    terms:   f64[steps, terms]
    """

    head: JsonObject
    factors: NDArray[np.float32]
    decays: NDArray[np.float64]
    seeds: NDArray[np.uint64] | None
    terms: NDArray[np.float64]

    @property
    def numbers(self) -> list[int]:
        """The number of each step, from 0, by which a run took it."""
        ranges = (range(first - 1, last) for first, last in self.head["steps"])
        return list(chain.from_iterable(ranges))


def stretches(numbers: Sequence[int]) -> list[list[int]]:
    """Numbers, from 0, that rise, as [first, last] of each stretch without a gap, from 1."""
    found: list[list[int]] = []
    for number in numbers:
        if found and found[-1][1] == number:
            found[-1][1] = number + 1
        else:
            found.append([number + 1, number + 1])
    return found


def pack(contents: Contents) -> bytes:
    """The file; `contents.head` gets what follows from the other parts.

    raises: RunError for what would be refused when it is read
    """
    has_decays = bool(contents.decays.any())
    head = contents.head | {
        "z_format": noise.FORMAT,
        "terms": contents.terms.shape[1],
        "decays": has_decays,
        "seeds": contents.seeds is not None,
        "factors": contents.factors.nbytes,
    }
    text = json.dumps(head, ensure_ascii=False, separators=(",", ":")).encode()
    parts = [START.pack(MAGIC, FORMAT, len(text)), text, contents.factors.astype("<f4").tobytes()]
    if has_decays:
        parts.append(contents.decays.astype("<f8").tobytes())
    if contents.seeds is not None:
        parts.append(contents.seeds.astype("<u8").tobytes())
    parts.append(contents.terms.astype("<f8").tobytes())
    data = b"".join(parts)
    data += hashlib.sha256(data).digest()
    parse(data, Path("the fine-tune"))
    return data


def read(path: Path) -> Contents:
    """A file of a fine-tune.

    raises: RunError, or CheckpointError for a head that is no JSON, when any of it is wrong
    """
    hint = "name a file that tinyzo share wrote"
    return parse(read_file(path, RunError, hint, MOST_BYTES + 1, MAGIC), path)


def parse(data: bytes, path: Path) -> Contents:
    """The bytes of such a file. path: what errors name; raises as `read` does"""
    _check_whole(data, path)
    _, _, size = START.unpack_from(data)
    body = memoryview(data)[START.size : -DIGEST]
    if size > min(MOST_HEAD, len(body)):
        _refuse(path, f"it claims a head of {size} bytes")
    head = parse_json(bytes(body[:size]), path)
    _check_head(head, path)
    count = sum(last - first + 1 for first, last in head["steps"])
    terms = head["terms"]
    sizes = {
        "factors": head["factors"],
        "decays": 8 * count * head["decays"],
        "seeds": 8 * count * terms * head["seeds"],
        "terms": 8 * count * terms,
    }
    if size + sum(sizes.values()) != len(body):
        _refuse(path, f"{len(body) - size} bytes follow its head, which says {sum(sizes.values())}")
    raw = {}
    for name, length in sizes.items():
        raw[name] = body[size : size + length]
        size += length
    decays = np.frombuffer(raw["decays"], "<f8") if head["decays"] else np.zeros(count)
    seeds = np.frombuffer(raw["seeds"], "<u8").reshape(count, terms) if head["seeds"] else None
    coefficients = np.frombuffer(raw["terms"], "<f8").reshape(count, terms)
    found = Contents(head, np.frombuffer(raw["factors"], "<f4"), decays, seeds, coefficients)
    _check_numbers(found, path)
    return found


def _check_whole(data: bytes, path: Path) -> None:
    """raises: RunError for another kind of file, another format, or bytes that have changed"""
    if not data.startswith(MAGIC):
        raise RunError(f"{path}: not a fine-tune of tinyzo", "name a file that tinyzo share wrote")
    if len(data) > MOST_BYTES:
        _refuse(path, f"it has more than {MOST_BYTES} bytes", "no fine-tune of ours has so many")
    if len(data) < START.size + DIGEST:
        _refuse(path, f"it is truncated: it has {len(data)} bytes")
    _, version, _ = START.unpack_from(data)
    if version != FORMAT:
        hint = f"this tinyzo reads {FORMAT}: take a newer one, or {COPY}"
        _refuse(path, f"it is of format {version}", hint)
    if hashlib.sha256(memoryview(data)[:-DIGEST]).digest() != data[-DIGEST:]:
        _refuse(path, "it is not as it was written: its SHA-256 is another")


def _check_head(head: JsonObject, path: Path) -> None:
    """raises: RunError that names the first field that is missing, unknown or impossible"""
    if lacking := FIELDS.keys() - head.keys():
        _refuse(path, f"its head has no {min(lacking)}")
    for name, value in head.items():
        kind = FIELDS.get(name)
        if kind is None:
            _refuse(path, f"its head has an unknown field {name!r:.40}")
        if type(value) is not kind or not _is_possible(name, value):
            _refuse(path, f"its head has {name} = {value!r:.60}")
    if head["z_format"] != noise.FORMAT:
        hint = f"this tinyzo makes format {noise.FORMAT}: take a newer one"
        _refuse(path, f"its z is of format {head['z_format']}", hint)


def _is_possible(name: str, value: object) -> bool:
    """Whether a field of the right type has a value that it may have."""
    match name, value:
        case "family", str():
            return value in MODELS
        case "name", str():
            return is_name(value) and place_of(value) is not None
        case (("base" | "data"), str()):
            return bool(re.fullmatch("[0-9a-f]{64}", value))
        case "z", str():
            return value in noise.KINDS and value != "rounding"
        case "terms", int():
            return 1 <= value <= MOST_TERMS
        case "factors", int():
            return 0 <= value <= MOST_BYTES and value % 4 == 0
        case "steps", list():
            return all(map(_is_stretch, value)) and all(a[1] < b[0] for a, b in pairwise(value))
        case "scores", dict():
            return value.keys() <= EVALUATIONS and all(map(_is_score, value.values()))
    return True


def _is_stretch(value: object) -> bool:
    match value:
        case [first, last] if is_natural(first) and is_natural(last):
            return 1 <= first <= last < MOST_STEPS
    return False


def _is_score(value: object) -> bool:
    """Whether this is an evaluation: numbers by name."""
    if not isinstance(value, dict) or not value.keys() <= SCORES:
        return False
    numbers = [each for each in value.values() if each is not None]
    return all(type(n) in (int, float) and math.isfinite(n) and abs(n) < LARGEST for n in numbers)


def _check_numbers(found: Contents, path: Path) -> None:
    """raises: RunError for a number that no step has, with the step's own"""
    with np.errstate(invalid="ignore"):
        is_wrong = ~(np.abs(found.terms) <= LARGEST).all(axis=1)
        is_wrong |= ~((found.decays >= 0) & (found.decays <= 1))
    if is_wrong.any():
        place = int(is_wrong.argmax())
        terms = found.terms[place].tolist()
        numbers = f"decay {found.decays[place]} and coefficients {terms!r:.60}"
        _refuse(path, f"step {found.numbers[place] + 1} has {numbers}")
    if not np.isfinite(found.factors).all():
        _refuse(path, "its factors are not finite")


def _refuse(path: Path, why: str, hint: str = COPY) -> None:
    raise RunError(f"{path}: {why}", hint)
