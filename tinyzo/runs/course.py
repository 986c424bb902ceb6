"""What the losses on dev say of a run's course: that it goes on, goes back, or is over.

--guard K: where K evaluations in a row have a loss 2 % above that of the model as it came, the run
has broken down. It goes back to the step of the least loss, and on with smaller rates.
--patience K: where K evaluations in a row bring no loss below the least, the run is over.

Only evaluations every --eval-every steps count, so that a run that is stopped and resumed takes
the same course as one that is not. What was evaluated before the last return counts for neither.
"""

from __future__ import annotations

from collections.abc import Sequence

from tinyzo.runs.history import History, Return
from tinyzo.runs.run import Run

MARGIN = 1.02  # so that small losses that waver about the first one are no alarm
FACTOR = 0.3  # of the rates, at each return
MOST_RETURNS = 5  # which leaves a 400th of the rate


class Course:
    """The losses on dev, by step, of a run after so many steps, and its history."""

    def __init__(self, run: Run, history: History, steps: int) -> None:
        self.settings = run.settings
        self.history = history
        self.steps = steps
        every = run.settings.eval_every
        found = run.evaluations("dev").items()
        self.losses = {n: e["loss"] for n, e in sorted(found) if n <= steps and n % every == 0}

    @property
    def best(self) -> int:
        """The first step with the least loss."""
        return min(self.losses, key=lambda step: self.losses[step])

    def _since(self, step: int) -> Sequence[float]:
        """The losses after a step, and after the last return."""
        last = max([step, *(back.after for back in self.history.returns)])
        return [loss for at, loss in self.losses.items() if at > last]

    @property
    def has_broken_down(self) -> bool:
        most = self.settings.guard
        newest = self._since(0)[-most:]
        return 0 < most == len(newest) and min(newest) > MARGIN * self.losses[0]

    @property
    def is_over(self) -> bool:
        most = self.settings.patience
        return 0 < most <= len(self._since(self.best))

    def back(self) -> Return | None:
        """The return that a guarded run makes now; None where it makes none any more."""
        may = self.settings.guard and self.losses and len(self.history.returns) < MOST_RETURNS
        if not may:
            return None
        factor = FACTOR * self.history.factor(self.steps)
        return Return(self.steps, self.best, float(f"{factor:.4g}"))
