"""The weights of a run, written now and then, so that few steps are ever redone.

    weights-<step>.safetensors      theta after so many steps, in its storage type

Only a cache: base and journal say it all, so one whose header is damaged, that is too short, or of
another history, is passed over. It is written beside the older ones and takes its name once it is
safe on the disk, by a thread while the next steps are under way. Kept are the newest, and the
newest up to the best step.

Streamed weights are read from it from then on; what was added since is pending, and costs each pass
its noise. So it is taken when that has cost as much as writing does: every sqrt(2 W / N) steps, for
W seconds of writing and N of noise for one term in the passes of a step, both measured.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, ExitStack
from pathlib import Path
from timeit import timeit

import numpy as np

from tinyzo.checkpoints.safetensors import SafetensorsWriter, open_safetensors
from tinyzo.checkpoints.sources import TensorInfo
from tinyzo.dtypes import weight_type
from tinyzo.engine.terms import Direction
from tinyzo.engine.weights import Weights
from tinyzo.errors import CheckpointError, RunError
from tinyzo.models.model import Model
from tinyzo.runs import report
from tinyzo.runs.journal import read_journal, record_crc
from tinyzo.runs.methods import RunMethod, method_of, no_batch
from tinyzo.runs.run import Run

MOST = 1000  # steps that are redone
FIRST_GUESS = 200e6  # bytes a second that a disk takes, until it has been measured
SAMPLE = (1 << 10, 1 << 10)  # weights on which the noise of a term is timed


def infos_of(weights: Weights, names: Iterable[str]) -> dict[str, TensorInfo]:
    """Some of the weights as a safetensors file describes them."""
    return {
        name: TensorInfo(weight_type(weights.dtype(name)).tag, weights.shape(name))
        for name in names
    }


def tuned_model(
    run: Run,
    step: int | None = None,
    engine: str = "auto",
    residency: str = "auto",
    threads: int | None = None,
) -> Model:
    """The model of a run after `step` steps; None: the step that did best on dev.

    engine, residency, threads: "auto" or None: as the run's settings say
    raises: RunError when it has no such step, or one that only its batches could redo
    """
    done = read_journal(run.journal_path)[1]
    step = run.best_step() if step is None else step
    if not 0 <= step <= len(done):
        raise RunError(f"{run.path}: no step {step}", f"it has {len(done)} steps")
    s, method, model = run.settings, method_of(run.settings), run.base_model()
    engine = s.engine if engine == "auto" else engine
    residency = s.residency if residency == "auto" else residency
    threads = threads or s.threads
    start = Snapshots(run, method).restore(model, step)
    if method.must_be_resident(start, step):
        residency = "resident"
        model.settle(engine, residency, threads)
    again = no_batch(f"{run.path}: no snapshot of step {step}")
    for number in range(start, step):
        method.redo(model.weights, done[number], again)
        method.end_step(model.weights, number + 1, is_written=False)
    return model.settle(engine, residency, threads)


class Snapshots(AbstractContextManager["Snapshots"]):
    """Those of one run, which one process at a time adds to; leaving waits for the last one.

    every:  steps between two, 0 for none, None for as many as are quickest
    passes: over the weights, of a step
    """

    def __init__(
        self, run: Run, method: RunMethod, every: int | None = None, passes: int = 1
    ) -> None:
        self._run, self._method, self._every, self._passes = run, method, every, passes
        self._thread = ThreadPoolExecutor(1)
        self._writing: Future[None] | None = None
        self._last = 0  # the step of the newest
        self._write_seconds = self._term_seconds = 0.0

    def __enter__(self) -> Snapshots:
        for partial in self._run.path.glob(".weights-*.partial"):
            partial.unlink()  # of a process that died
        return self

    def restore(self, model: Model, step: int) -> int:
        """Move a model that is not settled to the newest snapshot up to a step, 0 if there is none.

        returns: its step
        """
        for at, path in sorted(self._found().items(), reverse=True):
            if at <= step and self._is_ours(path, at, model.weights):
                model.weights.move(path)
                self._method.end_step(model.weights, at, is_written=True)
                self._last = at
                return at
        return 0

    def _found(self) -> dict[int, Path]:
        """The files, by step."""
        files = self._run.path.glob("weights-*.safetensors")
        steps = {path: path.stem.removeprefix("weights-") for path in files}
        return {int(step): path for path, step in steps.items() if step.isdecimal()}

    def _is_ours(self, path: Path, step: int, weights: Weights) -> bool:
        """Whether a file holds what a snapshot of this step holds, by its header."""
        try:
            with open_safetensors(path) as file:
                infos = {name: file.info(name) for name in file.names()}
                crc = file.metadata.get("journal")
        except CheckpointError as error:
            report.say(f"passed over: {error.message}")
            return False
        expected = record_crc(self._run.journal_path, step)
        return infos == infos_of(weights, weights.saved) and crc == expected

    def is_due(self, weights: Weights, steps: int, done: int) -> bool:
        """Whether it is time for one after so many steps.

        done: steps that were taken before this process, of which none but the last counts
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
        return min(MOST, max(1, round(math.sqrt(2 * self._write_seconds / noise_seconds))))

    def take(self, weights: Weights, step: int) -> None:
        """Write theta, which is as after that step."""
        self.wait()
        start = time.perf_counter()
        path = self._run.path / f"weights-{step}.safetensors"
        metadata = {"format": "pt", "journal": record_crc(self._run.journal_path, step)}
        with ExitStack() as undone:
            writer = SafetensorsWriter(path, infos_of(weights, weights.saved), metadata)
            undone.enter_context(writer)
            weights.write(writer.write, writer.names())
            weights.move(writer.partial)
            undone.pop_all()
        self._writing = self._thread.submit(self._finish, writer, self._outdated(step), start)
        self._last = step

    def _outdated(self, step: int) -> list[Path]:
        """The files that go once this step's is safe: all but the newest up to the best step."""
        found, best = self._found(), self._run.best_step()
        kept = {step, max((n for n in (step, *found) if n <= best), default=0)}
        return [path for n, path in found.items() if n not in kept]

    def _finish(self, writer: SafetensorsWriter, old: list[Path], start: float) -> None:
        writer.close()
        for path in old:
            path.unlink(missing_ok=True)
        self._write_seconds = time.perf_counter() - start

    def wait(self) -> None:
        """Until the last one is on the disk.

        raises: CheckpointError when it cannot be written
        """
        if self._writing:
            self._writing.result()

    def __exit__(self, *exc: object) -> None:
        self._thread.shutdown()


def seconds_a_term(weights: Weights) -> float:
    """The time that one pending term costs a pass over all weights, measured on some of them."""
    dtype = weights.dtype(weights.names()[0])
    direction = Direction(weights.direction.kind)
    sample = Weights({"w": np.zeros(SAMPLE, dtype)}, weights.engine, direction)
    seconds = min(timeit(lambda: sample.add([(1, 0.0)]), number=1) for _ in range(3))
    return seconds * weights.nbytes() / sample.nbytes()
