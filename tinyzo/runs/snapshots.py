"""The weights of a run, written now and then, so that few steps are ever redone.

    weights-<step>.safetensors      theta after so many steps, in its storage type, with checksums

A snapshot is only a cache: base and journal are enough. So one that is damaged, too short, or of
another history is passed over: all of it is read before it is used. It is written beside the older
ones, and a thread gives it its name once it is safe on the disk, while the next steps are under
way. Two are kept: the newest, and the newest up to the best step.

Streamed weights are read from the newest snapshot. What was added since is pending, and its noise
is made anew in each pass. So a snapshot is due when that noise has cost as much as writing does:
every sqrt(2 W / N) steps, where W seconds go into writing, and N into the noise of one term in all
passes of a step. Both are measured.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager, ExitStack
from pathlib import Path
from timeit import timeit

import numpy as np

from tinyzo.checkpoints.checksums import TENSOR, Checksums
from tinyzo.checkpoints.safetensors import SafetensorsFile, SafetensorsWriter
from tinyzo.checkpoints.sources import TensorInfo
from tinyzo.dtypes import STORAGE, weight_type
from tinyzo.engine.select import engine_here, engine_or_other
from tinyzo.engine.stores.streamed import TILES
from tinyzo.engine.terms import Direction
from tinyzo.engine.threads import Pool, Task
from tinyzo.engine.tiles import tile_rows
from tinyzo.engine.weights import Weights
from tinyzo.errors import CheckpointError, RunError
from tinyzo.models.model import Model
from tinyzo.runs import report
from tinyzo.runs.history import Taken, rest_of
from tinyzo.runs.journal import read_journal, record_crc
from tinyzo.runs.lines import FOLDER
from tinyzo.runs.methods import RunMethod, method_of, no_batch
from tinyzo.runs.run import Run, Tuned
from tinyzo.system import os_errors

MOST = 1000  # steps between two snapshots
FIRST_GUESS = 200e6  # bytes a second that a disk takes, until it has been measured
SAMPLE = (1 << 10, 1 << 10)  # weights on which the noise of a term is timed


def infos_of(weights: Weights, names: Iterable[str]) -> dict[str, TensorInfo]:
    """Some of the weights as a safetensors file describes them."""
    return {
        name: TensorInfo(weight_type(weights.dtype(name)).tag, weights.shape(name))
        for name in names
    }


def tuned_model(
    run: Tuned,
    step: int | None = None,
    engine: str = "auto",
    residency: str = "auto",
    threads: int | None = None,
) -> Model:
    """The model of a run after `step` steps; None: the step that did best on dev.

    engine, residency, threads: "auto" or None: as the run's settings say; where the run's own
        engine cannot be had, another computes, which is said once
    raises: RunError when it has no such step, or one that only its batches could redo
    """
    s = run.settings
    engine = engine_or_other(s.engine) if engine == "auto" else engine_here(engine)
    if residency == "auto" and engine != "onnx":  # which maps all that is in the file as it is now
        residency = s.residency
    threads = threads or s.threads
    way = run.way(step)
    method = method_of(s)
    model = run.base_model(has_begun=bool(way))
    start = Snapshots(run, method).restore(model, way) if isinstance(run, Run) else 0
    rest = rest_of(way, start)
    if method.must_be_resident(rest):
        residency = "resident"
        model.settle(engine, residency, threads)
    from_batch = no_batch(f"{run.path}: no snapshot of step {len(way)}")
    for number, taken in rest:
        method.redo(model.weights, taken, from_batch)
        method.end_step(model.weights, number + 1, is_written=False)
    return model.settle(engine, residency, threads)


class Snapshots(AbstractContextManager["Snapshots"]):
    """The snapshots of one run. One process at a time adds to them; leaving waits for the last one.

    every:  steps between two snapshots; 0: none is taken; None: as many as are quickest
    passes: how often a step goes through all weights
    """

    def __init__(
        self, run: Run, method: RunMethod, every: int | None = None, passes: int = 1
    ) -> None:
        self._run = run
        self._method = method
        self._every = every
        self._passes = passes
        self._thread = Pool(1)
        self._writing: Task[None] | None = None
        self._last = 0  # the step of the newest
        self._useless: set[int] = set()  # the steps of those that were passed over
        self._write_seconds = 0.0  # 0: not measured yet
        self._term_seconds = 0.0

    def __enter__(self) -> Snapshots:
        for partial in self._run.path.glob(".weights-*.partial"):
            _remove(partial)  # of a process that died
        return self

    def restore(self, model: Model, way: Sequence[Taken]) -> int:
        """Move a model that is not settled to the newest snapshot on a way, 0 if there is none.

        returns: its step
        """
        passed = {number + 1 for number, _ in way}
        for at, path in sorted(self._found().items(), reverse=True):
            if at not in passed:
                continue
            if self._has_moved(model.weights, path, at):
                self._method.end_step(model.weights, at, is_written=True)
                self._last = at
                return at
            self._useless.add(at)
        return 0

    def _has_moved(self, weights: Weights, path: Path, step: int) -> bool:
        """Go on with a snapshot, if it is whole; it may go meanwhile, when a newer one is there."""
        if not self._is_ours(path, step, weights):
            return False
        try:
            weights.move(path)
        except CheckpointError as error:
            if path.exists():
                raise
            report.say(f"passed over: {error.message}")
            return False
        return True

    def _found(self) -> dict[int, Path]:
        """The files, by step."""
        files = self._run.path.glob("weights-*.safetensors")
        steps = {path: path.stem.removeprefix("weights-") for path in files}
        return {int(step): path for path, step in steps.items() if step.isdecimal()}

    def _is_ours(self, path: Path, step: int, weights: Weights) -> bool:
        """Whether a file holds what a snapshot of this step holds, and is whole."""
        try:
            with SafetensorsFile(path) as file:
                infos = {name: file.info(name) for name in file.names()}
                crc = file.metadata.get("journal")
                expected = record_crc(self._run.journal_path, step)
                is_ours = infos == infos_of(weights, weights.saved) and crc == expected
                if is_ours and file.checksums:
                    read_through(file)
        except CheckpointError as error:
            report.say(f"passed over: {error.message}")
            return False
        return is_ours

    def is_due(self, weights: Weights, steps: int, done: int) -> bool:
        """Whether a snapshot is due after so many steps.

        done: steps that earlier processes took; of these, only the last may have one
        """
        return self._method.is_snapshot_due(
            weights, steps, steps >= done, lambda: self._is_worth_it(weights, steps)
        )

    def _is_worth_it(self, weights: Weights, steps: int) -> bool:
        every = self._quickest(weights) if self._every is None else self._every
        return every > 0 and steps - self._last >= every

    def _quickest(self, weights: Weights) -> int:
        """The steps between two snapshots that cost the least time."""
        if weights.store.is_resident:
            return MOST
        self._write_seconds = self._write_seconds or weights.nbytes() / FIRST_GUESS
        self._term_seconds = self._term_seconds or seconds_a_term(weights)
        noise_seconds = self._term_seconds * self._passes
        quickest = round(math.sqrt(2 * self._write_seconds / noise_seconds))
        return min(MOST, max(1, quickest))

    def take(self, weights: Weights, step: int) -> None:
        """Write theta as it is now, after that step."""
        self.wait()
        start = time.perf_counter()
        path = self._run.path / f"weights-{step}.safetensors"
        metadata = {"format": "pt", "journal": record_crc(self._run.journal_path, step)}
        infos = infos_of(weights, weights.saved)
        with ExitStack() as undone:
            table = Checksums(infos)
            writer = SafetensorsWriter(path, infos | {TENSOR: table.info}, metadata)
            undone.enter_context(writer)
            write_checked(writer, table, weights)
            weights.move(writer.partial)
            undone.pop_all()
        self._writing = self._thread.submit(self._finish, writer, self._outdated(step), start)
        self._last = step

    def _outdated(self, step: int) -> list[Path]:
        """The files that go once this step's is safe: all but the newest up to the best step that
        is sound."""
        found = self._found()
        history = read_journal(self._run.journal_path).history
        best = min(self._run.best_step(), len(history.steps))  # a journal that was lost has fewer
        passed = {number + 1 for number, _ in history.way(best)}
        self._useless.discard(step)
        up_to_best = [n for n in (step, *(found.keys() - self._useless)) if n in passed]
        kept = {step, max(up_to_best, default=step)}
        return [path for n, path in found.items() if n not in kept]

    def _finish(self, writer: SafetensorsWriter, old: list[Path], start: float) -> None:
        writer.close()
        for path in old:
            _remove(path)
        self._write_seconds = time.perf_counter() - start

    def wait(self) -> None:
        """Wait until the last snapshot is on the disk.

        raises: CheckpointError when it cannot be written
        """
        if self._writing:
            self._writing.result()

    def __exit__(self, *exc: object) -> None:
        self._thread.stop()


def _remove(path: Path) -> None:
    with os_errors(RunError, path, FOLDER):
        path.unlink(missing_ok=True)


def write_checked(writer: SafetensorsWriter, table: Checksums, weights: Weights) -> None:
    """Write theta as it is now, and the checksums of its rows. table: none is made yet."""

    def write(name: str, raw: np.ndarray) -> None:
        table.make(name, raw)
        writer.write(name, raw)

    weights.write(write, [name for name in writer.names() if name != TENSOR])
    writer.write(TENSOR, table.table)


def read_through(file: SafetensorsFile) -> None:
    """Read a snapshot once, which compares all of it with its checksums.

    raises: CheckpointError for a row that has changed since it was written
    """
    for name in file.names():
        dtype, (rows, *rest) = file.info(name)
        step = TILES * tile_rows((rows, *rest))
        for start in range(0, rows, step):
            block = np.empty((min(step, rows - start), *rest), STORAGE[dtype])
            file.read_into(name, block, start)


def seconds_a_term(weights: Weights) -> float:
    """The time that one pending term costs a pass over all weights, measured on some of them."""
    dtype = weights.dtype(weights.names()[0])
    direction = Direction(weights.direction.kind)
    sample = Weights({"w": np.zeros(SAMPLE, dtype)}, weights.engine, direction)
    seconds = min(timeit(lambda: sample.add([(1, 0.0)]), number=1) for _ in range(3))
    return seconds * weights.nbytes() / sample.nbytes()
