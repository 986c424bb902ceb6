"""A model, a run or an adapter opened for a task: what evaluate and predict begin with."""

from typing import Any, NamedTuple

from tinyzo.errors import DataError, UsageError
from tinyzo.models.model import Model, load
from tinyzo.runs.bounded import BoundedLoss
from tinyzo.runs.data import Data, bind_task, load_data, load_evaluation
from tinyzo.runs.run import Run
from tinyzo.runs.settings import RunSettings, Settings, as_given
from tinyzo.runs.snapshots import tuned_model
from tinyzo.text.tasks import BoundTask
from tinyzo.zo.objectives import Objective

OF_TASK = ("task", "template", "label_words", "data", "label_field")


class Opened(NamedTuple):
    """A model with a task.

    settings: which task and rows
    is_own:   whether they are those that the model was tuned on
    """

    model: Model
    settings: RunSettings
    is_own: bool

    def bound(self) -> BoundTask:
        """The task in the model's vocabulary."""
        return bind_task(self.model, self.settings)

    def loss(self) -> BoundedLoss:
        """The scores and the loss of the task, in bounded memory."""
        return BoundedLoss(Objective(self.model, self.bound()), self.settings.micro_batch_tokens)

    def data(self) -> Data:
        """The rows to report on: of a run's own task, those that it keeps for that."""
        return (load_data if self.is_own else load_evaluation)(self.bound(), self.settings)


def open_for_task(given: Settings, needs_data: bool = True, zero_shot: bool = False) -> Opened:
    """Open what `model` names: a folder, a shipped name, a PEFT folder, or a run, whose own task
    and data count where none are given.

    needs_data: whether rows will be read
    zero_shot:  of a run, its base and not the result
    raises: UsageError for settings that do not fit the run, and as `load` and `tuned_model`
    """
    if not (given.model_path / "run.toml").is_file():
        model = load(given.model_path, dtype=given.dtype)
        return Opened(model, given.resolve(model.family, needs_data), is_own=False)
    run = Run.open(given.model_path)
    for name in ("dtype", "data_seed"):
        known, asked = getattr(run.settings, name), getattr(given, name)
        if asked not in (None, known):
            option = f"--{name.replace('_', '-')}"
            raise UsageError(f"the run's {name} is {known}", f"leave out {option}")
    own = run.settings.task or ""
    is_same = given.template is None and (given.task or own).lower() == own.lower()
    before = as_given(run.settings)
    if not is_same:
        before = before.replace(**dict.fromkeys(OF_TASK))
    settings = before.replace(**given.given() | {"model": run.settings.model})
    model = tuned_model(run, 0 if zero_shot else None)
    is_own = is_same and given.data is None
    return Opened(model, settings.resolve(model.family, needs_data), is_own)


def row_of(bound: BoundTask, text: str | dict[str, Any]) -> dict[str, Any]:
    """A text as a row of the task's columns.

    raises: DataError when the task has several columns, and a text cannot say them all
    """
    if isinstance(text, dict):
        return text
    if len(bound.fields) == 1:
        return {bound.fields[0]: text}
    found = f"{text[:40]!r}: the task reads {', '.join(bound.fields)}"
    raise DataError(found, "give each text as a JSON object of these columns")
