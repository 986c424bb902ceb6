"""A model and a task, opened together: what evaluate and predict begin with."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

from tinyzo.errors import DataError, UsageError
from tinyzo.models.model import Model, load
from tinyzo.runs.bounded import BoundedLoss
from tinyzo.runs.data import Data, bind_task, load_data, load_evaluation
from tinyzo.runs.run import Run, is_run
from tinyzo.runs.settings import RunSettings, Settings, as_given
from tinyzo.runs.snapshots import tuned_model
from tinyzo.text.tasks import BoundTask
from tinyzo.zo.objectives import Objective

OF_TASK = ("task", "template", "label_words", "data", "label_field")
OF_RUN = ("dtype", "data_seed")  # settings in which a run cannot be given another value


@dataclass(frozen=True)
class Opened:
    """A model with a task.

    settings:    which task and rows
    is_run_task: whether they are those that the model was tuned on
    """

    model: Model
    settings: RunSettings
    is_run_task: bool

    @cached_property
    def bound(self) -> BoundTask:
        """The task in the model's vocabulary, bound when first asked for."""
        return bind_task(self.model, self.settings)

    def loss(self) -> BoundedLoss:
        """The scores and the loss of the task, in bounded memory."""
        return BoundedLoss(Objective(self.model, self.bound), self.settings.micro_batch_tokens)

    def data(self) -> Data:
        """The rows to report on: of a run's own task, those that it keeps for that."""
        if self.is_run_task:
            return load_data(self.bound, self.settings)
        return load_evaluation(self.bound, self.settings)


def open_for_task(given: Settings, needs_data: bool = True, zero_shot: bool = False) -> Opened:
    """Open what `given.model` names, for a task: a folder, a run, a PEFT folder, a shipped name.

    A run's own task and data count where none are given.

    needs_data: whether rows will be read
    zero_shot:  of a run, the model that it began with
    raises: UsageError for settings that do not fit the run, and as `load` and `tuned_model`
    """
    if is_run(given.model_path):
        return _open_run(Run.open(given.model_path), given, needs_data, zero_shot)
    return with_task(load(given.model_path, dtype=given.dtype), given, needs_data)


def with_task(model: Model, given: Settings, needs_data: bool = True) -> Opened:
    """A model that is open already, for the task of the settings."""
    settings = given.resolve(model.family, needs_data)
    given.check_used(settings)
    return Opened(model, settings, is_run_task=False)


def _open_run(run: Run, given: Settings, needs_data: bool, zero_shot: bool) -> Opened:
    check_same(run.settings, given)
    task = run.settings.task or ""
    is_same_task = given.template is None and (given.task or task).lower() == task.lower()
    known = as_given(run.settings)
    if not is_same_task:
        known = known.replace(**dict.fromkeys(OF_TASK))
    choices = given.given() | {"model": run.settings.model}
    settings = known.replace(**choices)
    model = tuned_model(run, 0 if zero_shot else None)
    resolved = settings.resolve(model.family, needs_data)
    return Opened(model, resolved, is_run_task=is_same_task and given.data is None)


def check_same(known: RunSettings, given: Settings) -> None:
    """raises: UsageError for a setting that the run has, and that is given another value"""
    for name in OF_RUN:
        value = getattr(known, name)
        if getattr(given, name) not in (None, value):
            option = name.replace("_", "-")
            raise UsageError(f"the run's {name} is {value}", f"leave out --{option}")


def row_of(bound: BoundTask, text: str | Mapping[str, object]) -> Mapping[str, object]:
    """A text, or the columns that it stands for, as a row of the task.

    raises: DataError when the task has several columns, and a text cannot say them all
    """
    if not isinstance(text, str):
        return text
    if len(bound.fields) == 1:
        return {bound.fields[0]: text}
    found = f"{text[:40]!r}: the task reads {', '.join(bound.fields)}"
    raise DataError(found, "give each text as a JSON object of these columns")
