"""What `tinyzo export` wrote, opened again: checked in all its parts, and run as an app runs it.

    export = open_export(folder)          CheckpointError for whatever does not fit together
    app = App(export)                     needs ONNX Runtime
    app.step(rows, seeds)                 losses and projected gradients; app.tensors moves
    app.scores(rows)
    app.save()                            the adapter, which tinyzo and peft load

Nothing that a file of the folder says is believed before it is checked: the folder may have come
from anywhere.
"""

from __future__ import annotations

import hashlib
import math
import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from tinyzo.checkpoints import peft
from tinyzo.checkpoints.directory import fingerprint
from tinyzo.checkpoints.safetensors import SafetensorsFile, SafetensorsWriter
from tinyzo.dtypes import Array
from tinyzo.engine import noise
from tinyzo.engine.onnx.reader import Outline, read_outline
from tinyzo.engine.onnx.session import Session
from tinyzo.errors import CheckpointError, DataError, refuse
from tinyzo.models.model import MODELS, names_of_tensors, read_config
from tinyzo.parsing import JsonObject, is_natural, parse_json
from tinyzo.runs.export import METADATA, WEIGHTS
from tinyzo.runs.inference import ABOUT, ADAPTER_WEIGHTS, EVAL, FORMAT, ROWS, STEP
from tinyzo.system import os_errors, read_file
from tinyzo.text.packing import batch_rows
from tinyzo.zo.graphs import CANDIDATES, GOLD, NEXT, WORDS

Float64 = NDArray[np.float64]
AGAIN = "tinyzo export writes it again"
SPLITS = ("train", "test")
MOST_ROWS = 64 << 20  # bytes of rows.json
MOST_GRAPH = 64 << 20


# -- tinyzo.json -------------------------------------------------------------------------------


def is_text(value: object) -> bool:
    return isinstance(value, str)


def is_number(value: object) -> bool:
    return type(value) in (int, float) and math.isfinite(value)  # type: ignore[arg-type]


def is_positive(value: object) -> bool:
    return is_natural(value) and value > 0


def list_of(is_one: Callable[[object], bool]) -> Callable[[object], bool]:
    return lambda value: isinstance(value, list) and all(map(is_one, value))


def is_natural_or_none(value: object) -> bool:
    return value is None or is_natural(value)


def of_graphs(is_one: Callable[[object], bool]) -> Callable[[object], bool]:
    """Whether each graph has one, and nothing else has."""

    def are_right(value: object) -> bool:
        is_of_each = isinstance(value, dict) and value.keys() == {STEP, EVAL}
        return is_of_each and all(map(is_one, value.values()))  # type: ignore[attr-defined]

    return are_right


def is_signature(value: object) -> bool:
    if not isinstance(value, dict) or value.keys() != {"inputs", "outputs"}:
        return False
    sides = value.values()
    return all(isinstance(s, dict) and all(map(is_described, s.values())) for s in sides)


def is_described(value: object) -> bool:
    match value:
        case {"type": str(), "shape": list() as shape}:
            return all(is_natural(size) or is_text(size) for size in shape)
    return False


def are_trained(value: object) -> bool:
    return isinstance(value, dict) and bool(value) and all(map(is_trained, value.values()))


def is_trained(value: object) -> bool:
    match value:
        case {"key": str(), "shape": list() as shape}:
            return len(shape) == 2 and all(map(is_positive, shape))
    return False


# The fields, and what each may be. The first two say whether the others can be known.
FIELDS: dict[str, Callable[[object], bool]] = {
    "format": is_natural,
    "noise_format": is_natural,
    "base": is_text,
    "graphs": of_graphs(is_text),
    "signatures": of_graphs(is_signature),
    "family": lambda value: value in list(MODELS),
    "task": is_text,
    "labels": list_of(is_text),
    "label_words": list_of(is_text),
    "kind": lambda value: value in (WORDS, CANDIDATES, GOLD),
    "words": list_of(is_natural),
    "mask_id": is_natural_or_none,
    "pad_id": is_natural,
    "max_tokens": is_positive,
    "train": is_text,
    "rank": is_positive,
    "alpha": is_number,
    "scale": is_number,
    "queries": is_positive,
    "batch_size": is_positive,
    "lr": is_number,
    "eps": is_number,
    "seed": is_natural,
    "adapter": lambda value: value == ADAPTER_WEIGHTS,
    "trained": are_trained,
}


def read_about(data: bytes, path: Path) -> JsonObject:
    """The fields of tinyzo.json, each of its type.

    path: what errors name
    raises: CheckpointError for another format, for z of another format, for a field that is
        missing or not of its type
    """
    about = parse_json(data, path)
    check_version(about, path, "format", FORMAT)
    check_version(about, path, "noise_format", noise.FORMAT)
    for name, is_right in FIELDS.items():
        if name not in about:
            refuse(path, f"it has no {name}", AGAIN)
        if not is_right(about[name]):
            refuse(path, f"{name} is {about[name]!r:.80}", AGAIN)
    return about


def check_version(about: Mapping[str, object], path: Path, name: str, own: int) -> None:
    """raises: CheckpointError for a number of a format that is not known here"""
    found = about.get(name)
    if found == own and type(found) is int:
        return
    writer = f"tinyzo {about.get('tinyzo')!s:.20}"
    hint = f"export it again with this version, or take the one that wrote it, {writer}"
    refuse(path, f"{name} is {found!r:.40}; this version of tinyzo reads {own}", hint)


# -- the folder --------------------------------------------------------------------------------


@dataclass(frozen=True)
class Export:
    """A folder in which all fits together.

    about: the fields of tinyzo.json
    """

    path: Path
    about: JsonObject

    @property
    def trained(self) -> dict[str, tuple[int, ...]]:
        """The tensors that a step moves, and their shapes."""
        return {name: tuple(each["shape"]) for name, each in self.about["trained"].items()}

    def elements(self) -> int:
        """The number of parameters that a step moves."""
        return sum(map(math.prod, self.trained.values()))

    def size_of_base(self) -> int:
        """The bytes of the base's weights, which the runtime maps and does not copy."""
        with os_errors(CheckpointError, self.path / WEIGHTS, AGAIN):
            return (self.path / WEIGHTS).stat().st_size

    def rows(self, split: str) -> list[JsonObject]:
        """The rows of "train" or "test".

        raises: CheckpointError when rows.json is damaged
        """
        path = self.path / ROWS
        found = parse_json(read_part(path, MOST_ROWS), path).get(split)
        if not isinstance(found, list) or not all(map(self._is_row, found)):
            refuse(path, f"its {split} are no rows of {self.about['kind']}", AGAIN)
        return found

    def _is_row(self, row: object) -> bool:
        if self.about["kind"] == WORDS:
            match row:
                case {"input_ids": list() as ids, "label": label}:
                    return bool(ids) and all(map(is_natural, ids)) and is_natural(label)
            return False
        match row:
            case {"input_ids": list() as ids, "targets": list() as targets, "label": label}:
                are_lists = list_of(list_of(is_natural))
                is_whole = are_lists(ids) and are_lists(targets)
                return is_whole and [*map(len, ids)] == [*map(len, targets)] and is_natural(label)
        return False


def is_export(path: Path) -> bool:
    """Whether this is a folder of `tinyzo export`, maybe a damaged one; a PEFT folder is none."""
    names = (ABOUT, STEP, EVAL, f".{ABOUT}.partial")
    is_adapter = os.path.isfile(path / peft.CONFIG)
    return not is_adapter and any(os.path.isfile(path / name) for name in names)


def open_export(path: Path) -> Export:
    """A folder of `tinyzo export`, once all of it has been checked.

    raises: CheckpointError for a file that is missing, truncated, altered, or of another export,
        for another format of the folder or of z, and for paths out of the folder
    """
    if not os.path.isfile(path / ABOUT):
        hint = AGAIN if is_export(path) else "name the --output of tinyzo export"
        refuse(path, f"no {ABOUT}, so no whole export", hint)
    about = read_about(read_part(path / ABOUT), path / ABOUT)
    outlines = [check_graph(path / name, digest) for name, digest in about["graphs"].items()]
    check_base(path, about)
    with ExitStack() as files:
        names = (WEIGHTS, ADAPTER_WEIGHTS)
        sources = {name: files.enter_context(SafetensorsFile(path / name)) for name in names}
        for name, outline in zip(about["graphs"], outlines, strict=True):
            check_externals(path / name, outline, sources)
        check_adapter(about, sources[WEIGHTS], sources[ADAPTER_WEIGHTS])
    return Export(path, about)


def read_part(path: Path, most: int = 1 << 20) -> bytes:
    """A file of the folder. raises: CheckpointError, also for one that is larger"""
    data = read_file(path, CheckpointError, AGAIN, most + 1)
    if len(data) > most:
        refuse(path, f"it has more than {most} bytes", AGAIN)
    return data


def check_graph(path: Path, digest: str) -> Outline:
    """raises: CheckpointError for a graph of another hash"""
    data = read_part(path, MOST_GRAPH)
    found = hashlib.sha256(data).hexdigest()
    if found != digest:
        why = f"it is not as it was exported: SHA-256 {found[:12]}, then {digest:.12}"
        refuse(path, why, AGAIN)
    outline = read_outline(data, path)
    own = str(noise.FORMAT)
    if outline.metadata.get("noise_format") != own:
        found = outline.metadata.get("noise_format", "")
        refuse(path, f"its z is of format {found!r:.20}; this version of tinyzo has {own}", AGAIN)
    return outline


def check_base(path: Path, about: JsonObject) -> None:
    """raises: CheckpointError for a base of another hash"""
    found = fingerprint(path)
    if found != about["base"]:
        why = f"not the base that was exported: SHA-256 {found[:12]}, then {about['base']:.12}"
        refuse(f"{path}: {WEIGHTS} or config.json", why, "restore them, or export again")


def check_externals(path: Path, outline: Outline, sources: Mapping[str, SafetensorsFile]) -> None:
    """raises: CheckpointError for a tensor that is at no tensor's place in the folder's files"""
    spans = {
        file: {(source.offset(name), source.info(name).nbytes) for name in source.names()}
        for file, source in sources.items()
    }
    for each in outline.externals:
        if each.file not in spans:
            hint = f"only {WEIGHTS} and {ADAPTER_WEIGHTS} are read"
            refuse(path, f"{each.name:.80} is to be read from {each.file!r:.80}", hint)
        if (each.offset, each.nbytes) not in spans[each.file]:
            found = f"{each.name:.80} is to be at byte {each.offset} of {each.file}"
            refuse(path, f"{found}, where no tensor of {each.nbytes} bytes is", AGAIN)


def check_adapter(about: JsonObject, base: SafetensorsFile, source: SafetensorsFile) -> None:
    """raises: CheckpointError for an adapter that does not fit the base, or the graphs' inputs"""
    family, config = read_config(base.path.parent)
    architecture = MODELS[family]
    names_of_tensors(base, architecture, config)
    shapes = dict(architecture.shapes(config))
    file = source.path.with_name(peft.CONFIG)
    peft.open_adapter(file, source.path, shapes, architecture.LAYOUT).source.close()
    for each in about["trained"].values():
        info = source.info(each["key"])
        if info.dtype != "F32" or info.shape != tuple(each["shape"]):
            found = f"{each['key']:.80} is {info.dtype} {list(info.shape)}"
            refuse(source.path, f"{found}, and the graphs take F32 {each['shape']}", AGAIN)


# -- the folder as an app has it ---------------------------------------------------------------


class Stepped(NamedTuple):
    """losses: f64[q, 2], at +eps and at -eps; projected_gradients: f64[q]."""

    losses: Float64
    projected_gradients: Float64


class App:
    """An export that learns: the adapter in memory, and ONNX Runtime for all else.

    tensors: those that a step moves, as they are now
    threads: of the runtime; None: as many as it wants
    """

    def __init__(self, export: Export, threads: int | None = None) -> None:
        self.export = export
        self.tensors: dict[str, Array] = {}
        with SafetensorsFile(export.path / ADAPTER_WEIGHTS) as source:
            for name, each in export.about["trained"].items():
                self.tensors[name] = source.read(each["key"])
        self._step = Session(export.path / STEP, threads)
        self._eval = Session(export.path / EVAL, threads)

    def seeds(self, step: int) -> list[int]:
        """The seeds of a step, from 0, as a run of the same --seed has them."""
        about = self.export.about
        first = step * about["queries"]
        return [noise.step_seed(about["seed"], first + query) for query in range(about["queries"])]

    def batch(self, step: int, rows: Sequence[JsonObject], data_seed: int = 0) -> list[JsonObject]:
        """The rows of a step, as a run has them."""
        chosen = batch_rows(step, len(rows), self.export.about["batch_size"], data_seed)
        return [rows[row] for row in chosen]

    def step(
        self,
        rows: Sequence[JsonObject],
        seeds: Sequence[int],
        lr: float | None = None,
        eps: float | None = None,
    ) -> Stepped:
        """Move the adapter by a step on some rows. lr, eps: None: those of the export.

        raises: ConfigError for rows or seeds that the graph does not take
        """
        about = self.export.about
        inputs = self.padded(STEP, rows)
        if about["kind"] != GOLD:
            labels = np.full(self._size(STEP, "labels", 0, len(rows)), -1, np.int64)
            labels[: len(rows)] = [row["label"] for row in rows]
            inputs["labels"] = labels
        inputs["seeds"] = np.array(seeds, np.uint64)
        inputs["lr"] = np.array(about["lr"] if lr is None else lr)
        inputs["eps"] = np.array(about["eps"] if eps is None else eps)
        names = ["losses", "projected_gradients", *(name + NEXT for name in self.tensors)]
        losses, gradients, *moved = self._step.run(names, inputs | self.tensors)
        self.tensors = dict(zip(self.tensors, moved, strict=True))
        return Stepped(losses, gradients)

    def scores(self, rows: Sequence[JsonObject]) -> Float64:
        """The scores of each row's labels or candidates: f64[rows, C]."""
        about = self.export.about
        most = len(rows)
        if isinstance(self._shape(EVAL, "input_ids")[0], int):
            most = about["batch_size"]
        parts = [rows[start : start + most] for start in range(0, len(rows), most)]
        return np.concatenate([self._scores(part) for part in parts])

    def _scores(self, rows: Sequence[JsonObject]) -> Float64:
        (scores,) = self._eval.run(["scores"], self.padded(EVAL, rows) | self.tensors)
        return scores.reshape(-1, len(self.export.about["labels"]))[: len(rows)]

    def padded(self, graph: str, rows: Sequence[JsonObject]) -> dict[str, Any]:
        """Rows as a graph takes them, filled up to the longest, or to the size that it fixes."""
        about = self.export.about
        fields = ["input_ids"] if about["kind"] == WORDS else ["input_ids", "targets"]
        lists = {field: self._sequences(graph, rows, field) for field in fields}
        ids = lists["input_ids"]
        lists["attention_mask"] = [[1] * len(each) for each in ids]
        found = (len(ids), max(map(len, ids), default=0))
        shape = [self._size(graph, "input_ids", axis, found[axis]) for axis in (0, 1)]
        padding = {"input_ids": about["pad_id"]}
        return {field: filled(lists[field], shape, padding.get(field, 0)) for field in lists}

    def _sequences(self, graph: str, rows: Sequence[JsonObject], field: str) -> list[list[int]]:
        """Of one field, a list for each row that the graph takes."""
        kind = self.export.about["kind"]
        if kind == WORDS:
            return [row[field] for row in rows]
        if kind == GOLD and graph == STEP:
            return [row[field][row["label"]] for row in rows]
        return [sequence for row in rows for sequence in row[field]]

    def _shape(self, graph: str, name: str) -> list[int | str]:
        """The shape of an input, with names of sizes that may be any."""
        found: list[int | str] = self.export.about["signatures"][graph]["inputs"][name]["shape"]
        return found

    def _size(self, graph: str, name: str, axis: int, found: int) -> int:
        """A size of an input: the one that the graph fixes, or what is found.

        raises: DataError for more than the graph takes
        """
        size = self._shape(graph, name)[axis]
        if isinstance(size, str):
            return found
        if found > size:
            hint = "give fewer, or export without --batch-size or --tokens"
            raise DataError(f"{name} of {found} along axis {axis}; {graph} takes {size}", hint)
        return size

    def save(self) -> Path:
        """Write the adapter as it is now in the place of the export's.

        returns: the folder, which tinyzo and peft load
        raises: CheckpointError
        """
        path = self.export.path / ADAPTER_WEIGHTS
        keys = {name: each["key"] for name, each in self.export.about["trained"].items()}
        moved = {keys[name]: tensor for name, tensor in self.tensors.items()}
        with SafetensorsFile(path) as source:
            infos = {name: source.info(name) for name in source.names()}
            still = {name: source.read(name) for name in infos if name not in moved}
        with SafetensorsWriter(path, infos, METADATA) as writer:
            for name in writer.names():
                writer.write(name, (moved | still)[name])
        return path.parent


def filled(
    sequences: Sequence[Sequence[int]], shape: Sequence[int], padding: int
) -> NDArray[np.int64]:
    """Sequences of any length as i64[S, T]."""
    out = np.full(shape, padding, np.int64)
    for row, sequence in zip(out, sequences, strict=False):
        row[: len(sequence)] = sequence
    return out
