"""A model and a task, opened together: what evaluate and predict begin with."""

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from tinyzo.errors import DataError, UsageError
from tinyzo.models.model import Model, load
from tinyzo.runs import report
from tinyzo.runs.bounded import BoundedLoss
from tinyzo.runs.data import Data, bind_task, load_data, load_evaluation
from tinyzo.runs.named import open_tuned
from tinyzo.runs.run import Tuned
from tinyzo.runs.settings import RunSettings, Settings, as_given
from tinyzo.runs.snapshots import tuned_model
from tinyzo.text.tasks import BoundTask
from tinyzo.zo.objectives import Objective

OF_TASK = ("task", "template", "label_words", "data", "label_field")
OF_RUN = ("dtype", "base_dtype", "data_seed")  # in which a run cannot be given another value


@dataclass(frozen=True)
class Opened:
    """A model with a task.

    settings:    which task and rows
    bound:       the task in the model's vocabulary
    is_run_task: whether they are those that the model was tuned on
    """

    model: Model
    settings: RunSettings
    bound: BoundTask
    is_run_task: bool

    def loss(self) -> BoundedLoss:
        """The scores and the loss of the task, in bounded memory."""
        return BoundedLoss(Objective(self.model, self.bound), self.settings.micro_batch_tokens)

    def data(self) -> Data:
        """The rows to report on: of a run's own task, those that it keeps for that."""
        data = self.encoded(self.bound)
        report.say_all(data.left_out)
        return data

    def encoded(self, bound: BoundTask) -> Data:
        """The same rows by another form of the task."""
        loader = load_data if self.is_run_task else load_evaluation
        return loader(bound, self.settings)


def open_for_task(
    given: Settings, needs_data: bool = True, zero_shot: bool = False, base: str | None = None
) -> Opened:
    """Open what `--model` takes, for a task: as `given.model` names it (named.py).

    A run's own task, data and engine count where none are given.

    needs_data: whether rows will be read
    zero_shot:  of a run, the model that it began with
    base:       of a run, where that model is now; None: where run.toml says
    raises: UsageError for settings that do not fit the run, and as `load` and `tuned_model`
    """
    tuned = open_tuned(given.model, base)
    if tuned:
        return _open_run(tuned, given, needs_data, zero_shot)
    check_no_base(given, base)
    engine = given.engine or "auto"
    model = load(given.model_path, engine, dtype=given.dtype, base_dtype=given.base_dtype)
    return with_task(model, given, needs_data)


def with_task(model: Model, given: Settings, needs_data: bool = True) -> Opened:
    """A model that is open already, for the task of the settings."""
    settings = given.resolve(model.family, needs_data)
    given.check_used(settings)
    return Opened(model, settings, bind_task(model, settings), is_run_task=False)


def _open_run(run: Tuned, given: Settings, needs_data: bool, zero_shot: bool) -> Opened:
    check_same(run.settings, given)
    task = run.settings.task or ""
    is_same_task = given.template is None and (given.task or task).lower() == task.lower()
    known = as_given(run.settings)
    if not is_same_task:
        known = known.replace(**dict.fromkeys(OF_TASK))
    choices = given.given() | {"model": run.settings.model}
    settings = known.replace(**choices)
    if is_same_task and needs_data and given.data is None:
        run.bases()  # which is said first, and both before the terms are added up
        run.check_data()
    model = tuned_model(run, 0 if zero_shot else None, given.engine or "auto")
    resolved = settings.resolve(model.family, needs_data)
    is_own = given.data is None or (needs_data and _is_own_data(run, model, given.data))
    bound = bind_task(model, resolved)
    return Opened(model, resolved, bound, is_same_task and is_own)


def _is_own_data(run: Tuned, model: Model, data: str) -> bool:
    """Whether a path has the rows of a run whose own path has gone."""
    if run.has_data():
        return False
    settings = run.settings.replace(data=data)
    with suppress(DataError):
        return load_data(bind_task(model, settings), settings).digest() == run.about.get("data")
    return False


def check_no_base(given: Settings, base: str | None) -> None:
    """raises: UsageError when what is no run is given the base of one"""
    if base is not None:
        raise UsageError(f"--base, but {given.model_path} is no run", "leave it out")


def check_same(known: RunSettings, given: Settings) -> None:
    """raises: UsageError for a setting that the run has, and that is given another value"""
    for name in OF_RUN:
        value = getattr(known, name)
        if getattr(given, name) not in (None, value):
            option = name.replace("_", "-")
            found = "not set" if value is None else value
            raise UsageError(f"the run's {name} is {found}", f"leave out --{option}")


def _columns_of(row: Any) -> Mapping[str, object]:
    """A row that is no text: a dictionary, or what can be one, as a row of pandas."""
    if isinstance(row, Mapping):
        return row
    if isinstance(row, Sequence) or not hasattr(row, "keys"):
        raise DataError(f"{row!r:.40} is no text", "give a str, or a dictionary of columns")
    return dict(row)


def row_of(bound: BoundTask, text: str | Mapping[str, object]) -> Mapping[str, object]:
    """A text, or the columns that it stands for, as a row of the task.

    raises: DataError when the task has several columns, and a text cannot say them all
    """
    if not isinstance(text, str):
        return _columns_of(text)
    if len(bound.fields) == 1:
        return {bound.fields[0]: text}
    found = f"{text[:40]!r}: the task reads {', '.join(bound.fields)}"
    raise DataError(found, "give each text as a JSON object of these columns")
