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
from tinyzo.engine.noise import step_seed
from tinyzo.engine.terms import Direction
from tinyzo.engine.weights import Weights
from tinyzo.errors import CheckpointError, RunError
from tinyzo.models.model import Model
from tinyzo.runs import report
from tinyzo.runs.journal import read_journal, record_crc
from tinyzo.runs.run import Run
from tinyzo.runs.settings import Settings
from tinyzo.zo.directions import renew
from tinyzo.zo.methods import FIRST_ORDER
from tinyzo.zo.updates import UpdateRule

MOST = 1000  # steps that are redone


def infos_of(weights: Weights, names: Iterable[str]) -> dict[str, TensorInfo]:
    """Some of the weights as a safetensors file describes them."""
    return {n: TensorInfo(weight_type(weights.dtype(n)).tag, weights.shape(n)) for n in names}


def tuned_model(run: Run, step: int | None = None) -> Model:
    """The model of a run after `step` steps; None: the step that did best on dev.

    raises: RunError when it has no such step
    """
    steps, s = read_journal(run.journal_path)[1], run.settings
    step = run.best_step() if step is None else step
    if not 0 <= step <= len(steps):
        raise RunError(f"{run.path}: no step {step}", f"it has {len(steps)} steps")
    model = run.base_model()
    start = Snapshots(run).restore(model, step)
    ends = s.direction == "low-rank" and start // s.window < step // s.window
    where = "resident" if ends else s.residency  # where a window's end can be merged
    if ends:
        model.settle(s.engine, where, s.threads)
    if s.method in FIRST_ORDER and start < step:
        raise RunError(f"{run.path}: no snapshot of step {step}",
                       "a gradient is in no journal; there are the best step and the last")
    rule = UpdateRule(s.update, s.window)
    for number in range(start, step):
        update = rule.from_journal(steps[number].terms, steps[number].decay)
        model.weights.apply(update, fold=False)
        end_window(model.weights, s, number + 1)
    return model.settle(s.engine, where, s.threads)


def end_window(weights: Weights, settings: Settings, step: int, is_merged: bool = False) -> None:
    """After the last step of a low-rank direction's V: what it has moved into the matrices.

    is_merged: a snapshot has just been taken, which did that
    """
    if settings.direction == "low-rank" and step % settings.window == 0:
        if not is_merged:
            weights.write(lambda name, raw: None, list(weights.saved))
        renew(weights, step_seed(settings.seed, step))


class Snapshots(AbstractContextManager):
    """Those of one run, which one process at a time adds to; leaving waits for the last one."""

    def __init__(self, run: Run, every: int | None = None, passes: int = 1) -> None:
        """every: steps between two, 0 for none, None for as many as are best; passes: of a step."""
        self._run, self._every, self._passes = run, every, passes
        self._thread = ThreadPoolExecutor(1)
        self._writing: Future | None = None
        self._last, self._seconds, self._term_seconds = 0, 0.0, 0.0

    def __enter__(self) -> "Snapshots":
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
                end_window(model.weights, self._run.settings, at, is_merged=True)
                self._last = at
                return at
        return 0

    def _found(self) -> dict[int, Path]:
        files = self._run.path.glob("weights-*.safetensors")
        return {int(p.stem[8:]): p for p in files if p.stem[8:].isdecimal()}

    def _is_ours(self, path: Path, step: int, weights: Weights) -> bool:
        try:
            with open_safetensors(path) as file:
                infos = {name: file.info(name) for name in file.names()}
                crc = file.metadata.get("journal")
        except CheckpointError as error:
            report.say(f"passed over: {error.message}")
            return False
        due = record_crc(self._run.journal_path, step)
        return infos == infos_of(weights, weights.saved) and crc == due

    def is_due(self, weights: Weights, step: int, done: int) -> bool:
        """Whether it is time for one after this step; what it builds on then goes to the disk.

        done: steps that were taken before this process, of which none but the last counts
        """
        every, s = self._every, self._run.settings
        if s.method in FIRST_ORDER:
            return step >= done and (step % s.eval_every == 0 or step == s.steps)
        if s.direction == "low-rank" and (step % s.window or not weights.store.base.is_resident):
            return step % s.window == 0  # what is streamed is merged as it is written
        if every is None and weights.store.is_resident:
            every = MOST
        elif every is None:
            self._seconds = self._seconds or weights.nbytes() / 200e6
            self._term_seconds = self._term_seconds or seconds_a_term(weights)
            best = math.sqrt(2 * self._seconds / (self._term_seconds * self._passes))
            every = min(MOST, max(1, round(best)))
        return step >= done and bool(every) and step - self._last >= every

    def take(self, weights: Weights, step: int) -> None:
        """Write theta, which is as after that step."""
        self.wait()
        start, path = time.perf_counter(), self._run.path / f"weights-{step}.safetensors"
        crc = record_crc(self._run.journal_path, step)
        with ExitStack() as undone:
            about = {"format": "pt", "journal": crc}
            writer = SafetensorsWriter(path, infos_of(weights, weights.saved), about)
            undone.enter_context(writer)
            weights.write(writer.write, writer.names())
            weights.move(writer.partial)
            undone.pop_all()
        found, best = self._found(), self._run.best_step()
        kept = step, max((n for n in (step, *found) if n <= best), default=0)
        old = [path for n, path in found.items() if n not in kept]
        self._writing = self._thread.submit(self._finish, writer, old, start)
        self._last = step

    def _finish(self, writer: SafetensorsWriter, old: list[Path], start: float) -> None:
        writer.close()
        for path in old:
            path.unlink(missing_ok=True)
        self._seconds = time.perf_counter() - start

    def wait(self) -> None:
        """Until the last one is on the disk.

        raises: CheckpointError when it cannot be written
        """
        if self._writing:
            self._writing.result()

    def __exit__(self, *exc: object) -> None:
        self._thread.shutdown()


def seconds_a_term(weights: Weights) -> float:
    """What one pending term costs a pass over all weights, measured on a million of them."""
    dtype = weights.dtype(weights.names()[0])
    direction = Direction(weights.direction.kind)
    some = Weights({"w": np.zeros((1 << 10, 1 << 10), dtype)}, weights.engine, direction)
    elements = weights.nbytes() / dtype.itemsize
    return min(timeit(lambda: some.add([(1, 0.0)]), number=1) for _ in range(3)) * elements / 2**20
