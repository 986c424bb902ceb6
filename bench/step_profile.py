"""Where do the seconds of a MeZO step go, and how near to the machine's limits are they?

    python bench/step_profile.py --model roberta-large --batch-size 8 --steps 3

A step of synthetic weights (see step.py), in one process. A row is a verb of the view, or the fold
of the update: its seconds in compiled kernels, those that Python and the hand-over to threads take
beside them, its calls, what it does in a second, and which share that is of the roofline: the peak
of the instruction that multiplies, or the bandwidth of a copy where each float is read and written
once. `rest` is what no verb takes. A second table is of the ways to multiply and the memory.

Each figure is the least of the steps. (As profile.py it would hide the standard library's.)
"""

from __future__ import annotations

import argparse
import math
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any
from unittest.mock import patch

import common
import numpy as np
import step
from ours import Stepper

from tinyzo.batch import Batch
from tinyzo.dtypes import Rows
from tinyzo.engine.numba import roofline
from tinyzo.engine.numba.engine import NumbaEngine, NumbaView
from tinyzo.engine.numba.roofline import Bandwidth, Way
from tinyzo.engine.numpy_engine import QUERIES

VERBS = ("embed", "linear", "norm", "attention", "gelu", "relu", "scores", "nll", "cross_entropy")
GIGA = 1e9
Given, Named = tuple[Any, ...], dict[str, Any]  # the arguments of a call


@dataclass
class Row:
    """What a verb took in a step. kernels: seconds of these; work: operations or bytes."""

    seconds: float = 0.0
    kernels: float = 0.0
    calls: int = 0
    work: float = 0.0


Table = defaultdict[str, Row]


@dataclass
class Limits:
    """What the machine can do, with all threads.

    ways:      to multiply float32, and what the weights are stored as
    hand_over: seconds of a kernel that does nothing
    """

    ways: list[Way]
    memory: Bandwidth
    hand_over: float

    @classmethod
    def of_machine(cls, engine: NumbaEngine, dtype: str) -> Limits:
        ways = [way for way in roofline.ways(engine.threads) if way.name[:3] in ("f32", dtype[:3])]
        empty = roofline.best(lambda: engine.run(roofline.multiplying, 0, False, scratch=1024))
        return cls(ways, roofline.bandwidth(engine), empty)

    def of(self, verb: str) -> float:
        """Billions a second: operations of a verb that multiplies, or else bytes."""
        if verb == "attention":
            return self.ways[0].peak
        if verb == "linear":
            return [way.peak or way.reached for way in self.ways if way.is_chosen][-1]
        return self.memory.copy


class Meter:
    """A clock around the verbs of the engine and around its kernels."""

    def __init__(self) -> None:
        self.rows: Table = defaultdict(Row)
        self.verb: str | None = None  # the one under way; others within it are a part of it

    @contextmanager
    def running(self) -> Iterator[None]:
        with ExitStack() as patches:
            for verb in VERBS:
                self.wrap(patches, NumbaView, verb, self.around_verb)
            self.wrap(patches, NumbaEngine, "fold", self.around_verb)
            self.wrap(patches, NumbaEngine, "run", self.around_kernel)
            yield

    def wrap(self, patches: ExitStack, owner: type, name: str, around: Callable[..., Any]) -> None:
        method = getattr(owner, name)

        def timed(this: Any, *given: Any, **more: Any) -> Any:
            return around(name, lambda: method(this, *given, **more), given, more)

        patches.enter_context(patch.object(owner, name, timed))

    def around_verb(self, name: str, call: Callable[[], Any], given: Given, more: Named) -> Any:
        if self.verb:
            return call()
        self.verb = name
        start = time.perf_counter()
        try:
            result = call()
        finally:
            self.verb = None
        row = self.rows[name]
        row.seconds += time.perf_counter() - start
        row.calls += 1
        row.work += work_of(name, given, more, result)
        return result

    def around_kernel(self, name: str, call: Callable[[], Any], given: Given, more: Named) -> Any:
        start = time.perf_counter()
        result = call()
        self.rows[self.verb or name].kernels += time.perf_counter() - start
        return result


def work_of(name: str, given: Given, more: Named, result: Any) -> float:
    """The least that a verb does: operations, or bytes to and from memory."""
    first, second = given[0], given[1] if len(given) > 1 else None
    if name == "linear":
        return 2 * second.shape[2] * result.size
    if name == "attention":
        return attention_operations(given[4], more.get("rows"), result)
    if name == "fold":
        return 2 * given[2].nbytes
    if name == "norm":
        return second.nbytes + result.nbytes
    if name in ("gelu", "relu"):
        return 2 * first.nbytes
    return result.nbytes


def attention_operations(batch: Batch, rows: Rows, out: np.ndarray) -> float:
    """Scores and sums of the keys in a query's segment, whether or not it sees them."""
    tokens = np.arange(len(batch.ids))
    blocks = batch.attention_blocks(rows, QUERIES)
    pairs = sum(len(block.places) * len(tokens[block.keys]) for block in blocks)
    return 4 * pairs * len(out) * math.prod(out.shape[2:])


def least(steps: Sequence[Table]) -> Table:
    """Of each figure the least of all steps."""
    found: Table = defaultdict(Row)
    for name, row in steps[0].items():
        rows = [step[name] for step in steps]
        seconds, kernels = min(r.seconds for r in rows), min(r.kernels for r in rows)
        found[name] = Row(seconds, min(kernels, seconds), row.calls, row.work)
    return found


def profile(stepper: Stepper, seeds: Sequence[int]) -> tuple[float, Table]:
    """The least seconds of a step, and of each row in it."""
    steps, seconds = [], []
    for seed in seeds:
        meter = Meter()
        with meter.running():
            seconds.append(common.timed(partial(stepper.mezo, seed)))
        steps.append(meter.rows)
        within = sum(row.seconds for row in meter.rows.values())
        meter.rows["rest"] = Row(seconds[-1] - within)
    return min(seconds), least(steps)


def report(seconds: float, rows: Table, limits: Limits) -> None:
    """The table of a step, the slowest first, and that of the machine."""
    common.row("a step", "seconds", "share", "Python s", "calls", "us a call", "G/s", "roofline")
    for name, row in sorted(rows.items(), key=lambda each: -each[1].seconds):
        a_call = row.calls and 1e6 * row.seconds / row.calls
        rate = row.work / row.seconds / GIGA
        share = rate / limits.of(name)
        outside = row.seconds - row.kernels
        common.row(
            name, row.seconds, row.seconds / seconds, outside, row.calls, a_call, rate, share
        )
    common.row("all", seconds)
    print()
    common.row("the machine, G/s", "peak", "linear", "chosen")
    for way in limits.ways:
        common.row(way.name, way.peak, way.reached, "yes" if way.is_chosen else "")
    common.row("memory read, copy", limits.memory.read, limits.memory.copy)
    common.row("us an empty kernel", limits.hand_over * 1e6)


def parse() -> argparse.Namespace:
    parser = common.arguments(__doc__)
    parser.add_argument("--model", choices=step.SHAPES, default="roberta-large")
    parser.add_argument("--dtype", choices=("f32", "bf16", "f16"), default="f32")
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--tokens", type=int, default=64, help="of each random sequence")
    parser.add_argument("--steps", type=int, default=3, help="that are timed")
    return parser.parse_args()


def main() -> None:
    options = parse()
    stepper = Stepper({"task": None} | step.model_setup(options.model) | vars(options))
    seconds, rows = profile(stepper, range(1, options.steps + 1))
    limits = Limits.of_machine(stepper.engine, options.dtype)
    report(seconds, rows, limits)
    common.finish(**vars(options), seconds_per_step=seconds, rows=rows, limits=limits)


if __name__ == "__main__":
    main()
