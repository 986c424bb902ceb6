"""An exported folder run as an app runs it: by ONNX Runtime alone, which needs to be installed.

    app = App(open_export(folder))
    app.step(app.batch(0, rows), app.seeds(0))      losses and projected gradients; tensors move
    app.scores(rows)
    app.save()                                      the adapter, which tinyzo and peft load

An app in another language does the same calls; examples/onnx_app has one.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from tinyzo.checkpoints.safetensors import SafetensorsFile, SafetensorsWriter
from tinyzo.dtypes import Array, Integers
from tinyzo.engine import noise
from tinyzo.engine.onnx.session import Session
from tinyzo.errors import DataError
from tinyzo.parsing import JsonObject
from tinyzo.runs.export import METADATA
from tinyzo.runs.exported import Export
from tinyzo.runs.inference import ADAPTER_WEIGHTS, EVAL, STEP
from tinyzo.text.packing import batch_rows
from tinyzo.zo.graphs import GOLD, NEXT, WORDS

Float64 = NDArray[np.float64]
Given = dict[str, np.ndarray]  # what a graph takes, by name


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
        queries = about["queries"]
        numbers = range(step * queries, (step + 1) * queries)
        return [noise.step_seed(about["seed"], number) for number in numbers]

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
            inputs["labels"] = self._labels(rows)
        inputs["seeds"] = np.array(seeds, np.uint64).view(np.int64)
        if lr is None:
            lr = about["lr"]
        if eps is None:
            eps = about["eps"]
        inputs["lr"] = np.array(lr)
        inputs["eps"] = np.array(eps)
        moved = [name + NEXT for name in self.tensors]
        outputs = ["losses", "projected_gradients", *moved]
        found = self._step.run(outputs, inputs | self.tensors)
        losses, projected_gradients, *tensors = found
        self.tensors = dict(zip(self.tensors, tensors, strict=True))
        return Stepped(losses, projected_gradients)

    def _labels(self, rows: Sequence[JsonObject]) -> Integers:
        """The labels of a batch; -1 of what only fills it up."""
        count = self._size(STEP, "labels", 0, len(rows))
        labels = np.full(count, -1, np.int64)
        labels[: len(rows)] = [row["label"] for row in rows]
        return labels

    def scores(self, rows: Sequence[JsonObject]) -> Float64:
        """The scores of each row's labels or candidates: f64[rows, C]."""
        most = len(rows)
        if isinstance(self._shape(EVAL, "input_ids")[0], int):
            most = self.export.about["batch_size"]
        starts = range(0, len(rows), most)
        parts = [rows[start : start + most] for start in starts]
        return np.concatenate([self._scores(part) for part in parts])

    def _scores(self, rows: Sequence[JsonObject]) -> Float64:
        inputs = self.padded(EVAL, rows)
        (scores,) = self._eval.run(["scores"], inputs | self.tensors)
        labels = len(self.export.about["labels"])
        return scores.reshape(-1, labels)[: len(rows)]

    def padded(self, graph: str, rows: Sequence[JsonObject]) -> Given:
        """Rows as a graph takes them, filled up to the longest, or to the size that it fixes."""
        about = self.export.about
        ids = self._sequences(graph, rows, "input_ids")
        longest = max(map(len, ids), default=0)
        count = self._size(graph, "input_ids", 0, len(ids))
        tokens = self._size(graph, "input_ids", 1, longest)
        shape = (count, tokens)
        ones = [[1] * len(each) for each in ids]
        found = {
            "input_ids": filled(ids, shape, about["pad_id"]),
            "attention_mask": filled(ones, shape, 0),
        }
        if about["kind"] != WORDS:
            targets = self._sequences(graph, rows, "targets")
            found["targets"] = filled(targets, shape, 0)
        return found

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
        with SafetensorsFile(path) as source:
            infos = {name: source.info(name) for name in source.names()}
            tensors = {name: source.read(name) for name in infos}
        for name, each in self.export.about["trained"].items():
            tensors[each["key"]] = self.tensors[name]
        with SafetensorsWriter(path, infos, METADATA) as writer:
            for name in writer.names():
                writer.write(name, tensors[name])
        return path.parent


def filled(sequences: Sequence[Sequence[int]], shape: Sequence[int], padding: int) -> Integers:
    """Sequences of any length as i64[S, T]."""
    out = np.full(shape, padding, np.int64)
    for row, sequence in zip(out, sequences, strict=False):
        row[: len(sequence)] = sequence
    return out
