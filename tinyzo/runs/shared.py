"""What the ranks of a run share: the work of its losses and scores; and what they must have alike.

A loss is a sum over micro-batches of sums of each probe. A rank computes some of the probes, some
of the micro-batches, or both; all sums are gathered, and every rank adds them in the order in which
one process alone does. A probe's sums have the same bits whichever are computed with it, so that a
shared run and one that is not have the same journal, whatever is shared by however many.
"""

from __future__ import annotations

import json
import math
import os
import shutil
import tempfile
import time
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial, reduce
from operator import add
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from tinyzo import __version__
from tinyzo.batch import Batch
from tinyzo.engine.protocols import View
from tinyzo.engine.weights import Weights
from tinyzo.errors import RunError, UsageError
from tinyzo.runs.bounded import BoundedLoss
from tinyzo.runs.methods import RunMethod
from tinyzo.runs.ranks import CHUNK, Alone, Ranks
from tinyzo.runs.run import RUN_TOML, Run
from tinyzo.runs.settings import Settings
from tinyzo.runs.start import FILE as START
from tinyzo.system import os_errors, try_lock
from tinyzo.text.tasks import Example

SAMPLE = 64  # rows of each tensor that ranks compare at a time
PREFIX = "tinyzo-rank-"  # of temporary folders
HELD = "held"  # the file in them that a rank holds as long as it lives
# What each machine has of its own; all other settings are the same on every rank.
OWN = ("model", "data", "engine", "residency", "memory_budget", "fold_every", "threads")


@dataclass(frozen=True)
class SharedLoss(BoundedLoss):
    """A BoundedLoss of which this rank computes its part; every rank gets all of it."""

    ranks: Ranks

    def total(self, theta: View, parts: Iterable[Sequence[Example]]) -> np.ndarray:
        """The sums over all parts, as a BoundedLoss adds them."""
        parts = list(parts)
        grid = self.ranks.grid(len(theta.probes), len(parts))
        groups = theta.parts(math.ceil(len(theta.probes) / grid.columns))
        row, column = divmod(self.ranks.number, grid.columns)
        own = parts[row :: grid.rows] if column < len(groups) else []

        def compute() -> list[np.ndarray]:
            sums = [self.sums(groups[column], part) for part in own]
            if sums and grid.rows == 1:
                return [reduce(add, sums)]
            return sums

        found = self._exchange(compute)
        count = len(parts) if grid.rows > 1 else 1
        columns = (found[first :: grid.columns] for first in range(len(groups)))
        return np.concatenate([reduce(add, in_turn(column, count)) for column in columns])

    def scores(self, theta: View, batches: Iterable[Batch]) -> Iterator[np.ndarray]:
        """The scores of each batch, of which every rank computes some."""
        batches = list(batches)
        own = batches[self.ranks.number :: self.ranks.count]

        def compute() -> list[np.ndarray]:
            return [scores.ravel() for scores in super(SharedLoss, self).scores(theta, own)]

        found = self._exchange(lambda: np.concatenate(compute()) if own else [])
        taken = [0] * len(found)
        for number, batch in enumerate(batches):
            rank = number % len(found)
            shape = (len(batch.counts), int(batch.counts.max()))
            start = taken[rank]
            taken[rank] += math.prod(shape)
            yield found[rank][start : taken[rank]].reshape(shape)

    def answers(self, theta: View, parts: Iterable[Sequence[Example]]) -> Iterator[str]:
        """The answers to each part, of which every rank writes some."""
        parts = list(parts)
        own = parts[self.ranks.number :: self.ranks.count]
        written = [list(super(SharedLoss, self).answers(theta, [part])) for part in own]
        found = list(map(json.loads, self.ranks.texts(json.dumps(written))))
        for answers in in_turn(found, len(parts)):
            yield from answers

    def _exchange(
        self, compute: Callable[[], Sequence[np.ndarray] | np.ndarray]
    ) -> list[np.ndarray]:
        began = time.perf_counter()
        values = np.array(compute(), np.float64)
        seconds = time.perf_counter() - began
        return self.ranks.exchange(values, seconds if values.size else 0.0)


def in_turn(dealt: Sequence[Any], count: int) -> list[Any]:
    """So many things, in the order in which they were dealt, one to each in turn."""
    return [dealt[number % len(dealt)][number // len(dealt)] for number in range(count)]


def shared(bounded: BoundedLoss, ranks: Alone) -> BoundedLoss:
    """A loss as these ranks compute it."""
    if isinstance(ranks, Ranks):
        return SharedLoss(bounded.objective, bounded.max_tokens, ranks)
    return bounded


def crc_of(weights: Weights, turn: int) -> int:
    """CRC-32 of some rows of all that is trained, as they are now; others in each turn.

    It is the same where the weights are in memory and where they are in their file.
    """
    crc = 0
    for name in weights.trained:
        rows = weights.shape(name)[0]
        step = max(1, rows // SAMPLE)
        sample = np.arange(turn % step, rows, step)
        crc = zlib.crc32(weights.gather(name, sample).tobytes(), crc)
    return crc


def same_weights(ranks: Alone, weights: Weights, step: int, turn: int) -> None:
    """Compare what is trained; raises as `Ranks.check_theta` does."""
    if isinstance(ranks, Ranks):
        weights.fold()
        ranks.check_theta(crc_of(weights, turn), step)


def same_start(ranks: Alone, weights: Weights, make: Callable[[], None]) -> None:
    """Make what no two machines make alike on rank 0, and give it to all. make: sets each A"""
    if ranks.is_first:
        make()
    if not isinstance(ranks, Ranks):
        return
    for name in weights.names():
        if ".lora_A." in name:
            a = weights.stored(name)
            a[...] = np.frombuffer(ranks.send(a.tobytes()), a.dtype).reshape(a.shape)


def agree(ranks: Alone, run: Run, method: RunMethod) -> None:
    """Settle on micro-batches that every rank can compute, and compare what each begins with.

    raises: UsageError for a method that ranks cannot share; RunError as `Ranks.check_same`
    """
    if not isinstance(ranks, Ranks):
        return
    if method.keeps_gradients:
        found = "--share goes with methods whose step is a list of terms, and not with a gradient"
        raise UsageError(found, "leave it out: a gradient is as large as what is trained")
    s = run.settings
    run.settings = s.replace(micro_batch_tokens=ranks.least(s.micro_batch_tokens))
    settings = vars(run.settings).items()
    ranks.check_same(
        {
            "version of tinyzo": __version__,
            "checkpoint": run.about["base"],
            "--share": ranks.share,
            **{name: json.dumps(value) for name, value in settings if name not in OWN},
            "data": run.about["data"],
        }
    )


# -- where a rank has its run


class Place(NamedTuple):
    """What a rank begins with: a user's settings, and the directories of --output and --resume."""

    given: Settings
    output: Path | None
    resume: Path | None


@contextmanager
def placed(ranks: Alone, place: Place) -> Iterator[Place]:
    """Rank 0 where the user says, each other in a temporary folder, with a copy of what there is.

    raises: RunError when a copy cannot be written
    """
    if not isinstance(ranks, Ranks):
        yield place
        return
    is_new = place.resume is None
    if not is_new:
        place = _resolved(ranks, place)
    if ranks.is_first:
        _send_files(ranks, place.resume)
        yield place
        return
    with own_folder() as folder:
        path = folder / "run"
        with os_errors(RunError, path, "TMPDIR names a folder with more room"):
            _receive_files(ranks, path)
        if is_new:
            yield place._replace(output=path)
        else:
            yield place._replace(resume=path)


@contextmanager
def own_folder() -> Iterator[Path]:
    """A temporary folder that this process holds; others that nobody holds any more are removed."""
    sweep(Path(tempfile.gettempdir()))
    with tempfile.TemporaryDirectory(prefix=PREFIX, ignore_cleanup_errors=True) as name:
        folder = Path(name)
        with open(folder / "new", "wb") as held:
            try_lock(held)
            os.rename(held.name, folder / HELD)  # only now, so that nobody finds it free
            try:
                yield folder
            finally:  # what is large goes first: this process may be ended meanwhile
                shutil.rmtree(folder / "run", ignore_errors=True)


def sweep(folder: Path) -> None:
    """Remove what ranks that were killed have left."""
    for path in folder.glob(f"{PREFIX}*/{HELD}"):
        with open(path, "ab") as held:
            is_left = try_lock(held)
        if is_left:
            shutil.rmtree(path.parent, ignore_errors=True)


def _resolved(ranks: Ranks, place: Place) -> Place:
    """With the run's directory, and its model and data where rank 0 finds them."""
    found: dict[str, str | None] = {}
    if ranks.is_first:
        run = Run.open(place.resume or Path(), place.given.model, place.given.data)
        s = run.settings
        found = {"path": str(run.path), "model": s.model, "data": s.data}
    found = ranks.from_first(found)
    given = place.given.replace(model=found["model"], data=found["data"])
    return Place(given, place.output, Path(str(found["path"])))


def _files(run: Path | None) -> list[Path]:
    """What another rank needs of a run: all that decides how it goes on, and its snapshots."""
    if run is None:
        return []
    named = [run / name for name in (RUN_TOML, "journal", "events.jsonl", START)]
    return [path for path in (*named, *run.glob("weights-*.safetensors")) if path.exists()]


def _send_files(ranks: Ranks, run: Path | None) -> None:
    """Give the others a run's files, part by part."""
    for path in _files(run):
        size = path.stat().st_size
        ranks.from_first([path.name, size])
        with open(path, "rb") as file:
            for start in range(0, size, CHUNK):
                ranks.send(file.read(min(CHUNK, size - start)))
    ranks.from_first(None)


def _receive_files(ranks: Ranks, run: Path) -> None:
    """Write what rank 0 sends."""
    run.mkdir()
    for name, size in iter(partial(ranks.from_first, None), None):
        with open(run / Path(name).name, "wb") as file:
            for _ in range(0, size, CHUNK):
                file.write(ranks.send(b""))


def idle(ranks: Alone, probes: int, parts: int) -> list[str]:
    """A line on ranks that have nothing to do in a step of so many probes and micro-batches."""
    if not isinstance(ranks, Ranks):
        return []
    grid = ranks.grid(probes, parts)
    at_work = min(grid.columns, probes) * min(grid.rows, parts)
    if at_work == ranks.count:
        return []
    units = f"probes: {probes}, micro-batches: {parts}"
    hint = "--share both or a smaller --micro-batch-tokens divides it further"
    return [f"{ranks.count - at_work} of {ranks.count} ranks idle in a step ({units}); {hint}"]
