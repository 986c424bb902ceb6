"""What a run has done so far: the steps that it took, and its returns to earlier ones.

Steps are numbered as they were taken, and none is ever taken back: a return says that the next one
began from the weights of an earlier one. So the steps are a tree, and the weights after any step
are those of the checkpoint and of the steps on the way to it:

    0 - 1 - 2 - 3 - 4        after 4 steps the run goes back to 2
            \\- 5 - 6         theta after 6 steps has the terms of 1, 2, 5, 6
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from tinyzo.zo.mezo import Step


class Return(NamedTuple):
    """After `after` steps the weights become those of `to` steps, and rates `factor` times lr."""

    after: int
    to: int
    factor: float


class Taken(NamedTuple):
    """A step and its number, from 0."""

    number: int
    step: Step


@dataclass
class History:
    """All steps of a run, and its returns, each in the order in which they came."""

    steps: list[Step] = field(default_factory=list)
    returns: list[Return] = field(default_factory=list)

    def returned(self, number: int) -> Return | None:
        """The return between step `number`, from 0, and the one before it, if there is one."""
        found = (back for back in reversed(self.returns) if back.after == number)
        return next(found, None)

    def origin(self, number: int) -> int:
        """After how many steps the weights were as step `number`, from 0, finds them."""
        back = self.returned(number)
        return number if back is None else back.to

    def factor(self, number: int) -> float:
        """What the learning rate of step `number`, from 0, is multiplied by."""
        return next((b.factor for b in reversed(self.returns) if b.after <= number), 1.0)

    def backwards(self, steps: int) -> Iterator[Taken]:
        """The steps that the weights after so many steps have in them, the newest first."""
        while steps:
            number = steps - 1
            yield Taken(number, self.steps[number])
            steps = self.origin(number)

    def way(self, steps: int) -> list[Taken]:
        """The same, the oldest first."""
        return list(self.backwards(steps))[::-1]


def rest_of(way: Sequence[Taken], start: int) -> list[Taken]:
    """The part of a way that comes after `start` steps, which are on it."""
    return [taken for taken in way if taken.number >= start]
