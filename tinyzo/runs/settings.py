"""The settings of a run: those that a user gives, and all that the run goes by.

    Settings       the user's own choices; what is None is left to tinyzo
    RunSettings    all that a run goes by, written to its run.toml and read back from it

`Settings.resolve` goes from one to the other. A default that holds for every run stands in
RunSettings; one that depends on the model or the method stands in defaults.py.
"""

from __future__ import annotations

import dataclasses
import json
import os
import re
import types
import typing
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, TypeGuard

from tinyzo.checkpoints.groups import GROUP_TYPES
from tinyzo.checkpoints.hub import cached_model
from tinyzo.dtypes import DTYPES
from tinyzo.engine.select import ENGINES
from tinyzo.errors import UsageError, check_choice
from tinyzo.models.model import RESIDENCIES
from tinyzo.runs import defaults
from tinyzo.runs.spelling import closest
from tinyzo.text.tasks import get_task
from tinyzo.zo.directions import DIRECTIONS
from tinyzo.zo.estimators import ESTIMATORS
from tinyzo.zo.methods import ADAPTERS, METHODS, check_combination
from tinyzo.zo.objectives import OBJECTIVES
from tinyzo.zo.updates import LOOKING_BACK, RULES, SCHEDULES

# The models and the data that ship: inside the installed package, or beside it in a checkout.
PACKAGE = Path(__file__).resolve().parents[1]
PLACES = (PACKAGE / "weights", PACKAGE.parent / "weights")
SHIPPED = next((place for place in PLACES if place.is_dir()), PACKAGE)
SHIPPED_TASKS = ("topics", "reviews")  # two columns of weights/reviews; the first by default

LARGE = 1 << 32
RANGES: dict[str, tuple[float, float]] = {
    "queries": (1, 255),
    "window": (1, 255),
    "clip": (1e-30, 1e30),
    "lora_rank": (1, 4096),
    "lora_alpha": (1e-30, 1e30),
    "steps": (0, LARGE - 1),
    "batch_size": (1, LARGE),
    "lr": (0, 1e30),
    "eps": (1e-30, 1e30),
    "lr_passes": (1, LARGE),
    "warmup": (0, LARGE),
    "weight_decay": (0, 1e30),
    "seed": (0, (1 << 64) - 1),
    "data_seed": (0, LARGE - 1),
    "k_shot": (1, LARGE),
    "train_rows": (1, LARGE),
    "limit": (1, LARGE),
    "eval_every": (1, LARGE),
    "guard": (0, LARGE),
    "patience": (0, LARGE),
    "micro_batch_tokens": (1, LARGE),
    "fold_every": (0, LARGE),
    "threads": (1, 1024),
}
PATHS = ("model", "data")
CHOICES: dict[str, tuple[str, ...]] = {
    "method": tuple(METHODS),
    "estimator": tuple(ESTIMATORS),
    "direction": DIRECTIONS,
    "update": RULES,
    "objective": OBJECTIVES,
    "schedule": SCHEDULES,
    "engine": ENGINES,
    "residency": RESIDENCIES,
    "dtype": ("auto", *DTYPES),
    "base_dtype": tuple(GROUP_TYPES),
}


@dataclass(frozen=True)
class Settings:
    """The choices of a user; None leaves one to tinyzo."""

    # the model, the task and its data
    model: str | None = None  # a folder, a run, a PEFT folder, or a shipped name
    task: str | None = None  # a name of the published ones, or topics, reviews
    data: str | None = None  # folder with the task's files, or one file
    template: str | None = None  # a task of the user's own: '{text} It was <mask>.'
    label_words: list[str] | None = None  # of that task: the word for each label
    label_field: str | None = None  # column of the label

    # how to step
    method: str | None = None  # a name for estimator, queries, direction, update and train
    estimator: str | None = None  # from losses to a gradient
    queries: int | None = None  # directions a step
    direction: str | None = None  # how z is distributed
    update: str | None = None  # from gradients to a step
    window: int | None = None  # steps that an update looks back on, or that a low-rank V lasts
    clip: float | None = None  # the largest |projected gradient|; larger ones are cut to it
    objective: str | None = None  # what is minimised

    # what is trained
    train: str | None = None  # full, one of SMALL_SETS, bias, head, or names
    lora_rank: int | None = None  # r of new adapters
    lora_alpha: float | None = None  # new adapters are scaled by alpha / r
    lora_targets: list[str] | None = None  # projections that get one, by the end of their names

    # for how long, and how far
    steps: int | None = None
    batch_size: int | None = None  # examples a step
    lr: float | None = None
    eps: float | None = None  # size of the perturbation
    schedule: str | None = None  # course of the learning rate
    lr_passes: int | None = None  # forward passes that lr was chosen for
    warmup: int | None = None  # steps of rising learning rate
    weight_decay: float | None = None  # pull of the matrices towards 0

    # seeds and rows
    seed: int | None = None  # of z, the random directions
    data_seed: int | None = None  # of the rows that are drawn, and of their order
    k_shot: int | None = None  # draw the published k-shot split
    train_rows: int | None = None  # most rows to train on, without k_shot
    limit: int | None = None  # most rows to report on
    eval_every: int | None = None  # steps between evaluations on dev
    guard: int | None = None  # evaluations worse than at first, until the run goes back
    patience: int | None = None  # evaluations no better than the best, until the run stops
    micro_batch_tokens: int | None = None  # most packed tokens that are computed at once

    # the machine
    engine: str | None = None  # what computes: numba, numpy or onnx
    residency: str | None = None  # where the weights live: in memory, or in their file
    memory_budget: str | None = None  # most memory to take, such as "400MB"
    fold_every: int | None = None  # steps between snapshots of the weights; 0: none
    dtype: str | None = None  # how the weights are stored
    base_dtype: str | None = None  # what the matrices, which then stand still, are quantised to
    threads: int | None = None  # of the engine

    @classmethod
    def from_mapping(cls, values: Mapping[str, object], where: str) -> Settings:
        """Settings from a dictionary such as a TOML file gives; `-` in a name counts as `_`.

        where: what to call the dictionary in messages
        raises: UsageError for a name that is no setting, or a value of another type
        """
        given: dict[str, Any] = {}
        for key, value in values.items():
            name = key.replace("-", "_")
            if name not in FIELDS:
                near = closest(name, FIELDS)
                hint = f"did you mean {near}?" if near else "see tinyzo finetune -h"
                raise UsageError(f"{where}: no setting is called {name!r}", hint)
            if value is not None:
                given[name] = typed(name, value, where)
        return cls(**given)

    def given(self) -> dict[str, Any]:
        """The choices that have been made, by name."""
        return {name: value for name, value in vars(self).items() if value is not None}

    def replace(self, **changes: Any) -> Settings:
        """The same with some choices changed; None takes one back."""
        return dataclasses.replace(self, **changes)

    @property
    def model_path(self) -> Path:
        return model_path(self.model or defaults.MODEL)

    @property
    def is_custom(self) -> bool:
        """Whether the task is the user's own."""
        return self.template is not None or self.label_words is not None

    def resolve(self, family: str, needs_data: bool = True) -> RunSettings:
        """All that a run goes by, with a default for each choice that was not made.

        family:     of the model, "roberta" or "opt"
        needs_data: whether rows will be read, so that a task without its files is a mistake
        raises: UsageError for choices that contradict each other or are out of range; ConfigError
            for a value that a choice does not have
        """
        self._check_task(family, needs_data)
        for name, known in CHOICES.items():
            value = getattr(self, name)
            if value is not None:
                check_choice(name, value, known)
        is_shipped = is_shipped_model(self.model_path)
        values = defaults.complete(GENERAL, self.given(), family, is_shipped)
        settings = RunSettings(**values)
        if not settings.task and not self.is_custom:
            settings = settings.replace(task=SHIPPED_TASKS[0])
        settings.check()
        return settings

    def check_used(self, settings: RunSettings) -> None:
        """Check that each choice counts for something in what they were resolved to.

        raises: UsageError
        """
        for name in self.given():
            need = NEEDS.get(name)
            if need and not need.is_met(settings):
                hint = f"it goes with {need.what}: choose that, or leave it out"
                raise UsageError(f"{name} counts for nothing here", hint)

    def _check_task(self, family: str, needs_data: bool) -> None:
        """raises: UsageError for a task that is not said, said twice, or without its rows;
        DataError for one that is not known
        """
        if self.is_custom and not (self.template and self.label_words):
            raise UsageError("a task of your own needs --template and --label-words", "give both")
        if self.task and self.is_custom:
            raise UsageError(f"--task {self.task} and --template", "give one of them")
        if self.task:
            get_task(self.task, family)
        if self.data and not (self.task or self.is_custom):
            hint = (
                "--task says what the rows are; or --template and --label-words, of your own task"
            )
            raise UsageError("--data without --task or --template", hint)
        if self.data or not needs_data:
            return
        if self.is_custom:
            raise UsageError("--template without --data", "name the folder or file of its rows")
        if self.task and self.task.lower() not in SHIPPED_TASKS:
            found = f"--task {self.task} without --data"
            raise UsageError(found, "name the folder or file of its rows")


@dataclass(frozen=True, kw_only=True)
class RunSettings:
    """All that a run goes by: the fields of Settings, in the order of run.toml.

    Defaults are the papers', for tuning all parameters by MeZO (Malladi et al. 2023, tables 15 and
    16). A field without one gets it from defaults.py, which also changes some of these.
    """

    model: str = defaults.MODEL
    task: str | None = None  # None: the user's own, by template and label_words
    data: str | None = None  # None: the data that ship
    template: str | None = None
    label_words: list[str] | None = None
    label_field: str = "label"

    method: str = defaults.METHOD
    estimator: str
    queries: int
    direction: str
    update: str
    window: int = 10
    clip: float | None = None  # None: projected gradients are not clipped
    objective: str = "cross-entropy"

    train: str
    lora_rank: int = 8
    lora_alpha: float = 16.0
    lora_targets: list[str] | None = None  # None: the usual projections

    steps: int = 10_000
    batch_size: int
    lr: float = 1e-6
    eps: float = 1e-3
    schedule: str = "constant"
    lr_passes: int = 384
    warmup: int = 0
    weight_decay: float = 0.0

    seed: int = 0
    data_seed: int
    k_shot: int | None = None  # None: all rows, at most train_rows
    train_rows: int = 1000
    limit: int | None = None  # None: all rows
    eval_every: int
    guard: int = 0  # 0: it never goes back
    patience: int = 0  # 0: it takes all its steps
    micro_batch_tokens: int = 512

    engine: str = "auto"
    residency: str = "auto"
    memory_budget: str | None = None  # None: half of what is free
    fold_every: int | None = None  # None: as often as is quickest
    dtype: str = "auto"
    base_dtype: str | None = None  # None: as in the file
    threads: int | None = None  # None: one on each fast CPU

    @property
    def model_path(self) -> Path:
        return model_path(self.model)

    @property
    def is_shipped_model(self) -> bool:
        return is_shipped_model(self.model_path)

    @property
    def data_path(self) -> Path:
        return Path(self.data) if self.data else SHIPPED / "reviews"

    def replace(self, **changes: Any) -> RunSettings:
        return dataclasses.replace(self, **changes)

    def check(self) -> None:
        """Check what no type says.

        raises: UsageError for a number out of range, for parts that do not go together, or for
            text that run.toml cannot hold
        """
        self._check_numbers()
        check_combination(self)
        for name, value in vars(self).items():
            try:
                json.dumps(value, ensure_ascii=False).encode()
            except UnicodeEncodeError:
                hint = "it is written to run.toml: take a path and words that are"
                raise UsageError(f"{name} = {value!a} is not UTF-8", hint) from None

    def _check_numbers(self) -> None:
        for name, (least, most) in RANGES.items():
            value = getattr(self, name)
            if value is not None and not least <= value <= most:
                raise UsageError(f"{name} = {value}", f"{name} is from {least} to {most}")
        if self.memory_budget is not None:
            parse_bytes(self.memory_budget)
        if self.lr * self.weight_decay > 1:
            found = f"lr = {self.lr:g} and weight_decay = {self.weight_decay:g}"
            hint = "a step takes lr * weight_decay of the matrices away: at most 1"
            raise UsageError(found, hint)

    def to_toml(self) -> str:
        """The settings that have a value, a line each."""
        return toml_lines({k: value for k, value in vars(self).items() if value is not None})


def toml_lines(values: Mapping[str, object]) -> str:
    """Texts, numbers and lists of texts as lines of TOML."""
    lines = [f"{k} = {json.dumps(value, ensure_ascii=False)}\n" for k, value in values.items()]
    return "".join(lines).replace("\x7f", "\\u007f")  # JSON leaves it, TOML does not


class Need(NamedTuple):
    """What a setting counts with."""

    what: str
    is_met: Callable[[RunSettings], bool]


LORA = Need("--train lora, lora-fa or lora-act", lambda s: s.train in ADAPTERS[:-1])
ADAPTED = Need(
    "--train lora, lora-fa, lora-act, lora-fit or head-fit",
    lambda s: s.train in (*ADAPTERS, "head-fit"),
)
NEEDS = {
    "lora_rank": LORA,
    "lora_alpha": LORA,
    "lora_targets": ADAPTED,
    "window": Need(
        "--update momentum, rms or adamezo, or --direction low-rank",
        lambda s: s.update in LOOKING_BACK or s.direction == "low-rank",
    ),
    "lr_passes": Need("--schedule sqrt", lambda s: s.schedule == "sqrt"),
    "label_field": Need("a task of your own, by --template", lambda s: s.task is None),
    "train_rows": Need("all rows, not with --k-shot", lambda s: s.k_shot is None),
}

# The defaults that stand in RunSettings.
GENERAL: dict[str, Any] = {
    field.name: field.default
    for field in dataclasses.fields(RunSettings)
    if field.default is not dataclasses.MISSING
}


def as_given(settings: RunSettings) -> Settings:
    """A run's settings as if a user had given each of them."""
    return Settings(**vars(settings))


def kinds(cls: type) -> dict[str, Any]:
    """The type of each field of Settings or RunSettings, without the None that it may also be."""
    hints = typing.get_type_hints(cls)
    return {name: _without_none(hint) for name, hint in hints.items()}


def _without_none(hint: Any) -> Any:
    if typing.get_origin(hint) not in (types.UnionType, typing.Union):
        return hint
    (kind,) = (each for each in typing.get_args(hint) if each is not type(None))
    return kind


FIELDS = kinds(Settings)


def typed(name: str, value: object, where: str) -> Any:
    """A setting's value, if it is of its type or can stand for it without loss.

    raises: UsageError
    """
    kind = FIELDS[name]
    if kind is str and isinstance(value, os.PathLike):
        value = os.fspath(value)
    if value == "":
        raise UsageError(f"{where}: {name} is empty", "give it a value, or leave it out")
    if name in PATHS and isinstance(value, str):
        if "\0" in value:
            raise UsageError(f"{where}: {name} = {value!r}", "no path has a NUL in it")
        return os.path.expanduser(value)
    if kind is float and type(value) is int and abs(value) < 1 << 53:
        return float(value)
    if kind == list[str] and _are_texts(value):
        return list(value)
    if type(value) is kind:
        return value
    expected = "list[str]" if kind == list[str] else kind.__name__
    raise UsageError(f"{where}: {name} = {value!r}", f"expected {expected}")


def _are_texts(value: object) -> TypeGuard[Sequence[str]]:
    return isinstance(value, list | tuple) and all(isinstance(each, str) for each in value)


def model_path(model: str) -> Path:
    """The folder of a model that a setting names: a path, or else the name of a shipped one, or of
    one in the local cache of the Hugging Face hub."""
    path = Path(model)
    if os.path.isdir(path):  # false, too, where the path is none
        return path
    if os.path.isdir(SHIPPED / model):
        return SHIPPED / model
    return cached_model(model) or path


def is_shipped_model(path: Path) -> bool:
    """Whether the folder is that of a model that ships."""
    return Path(os.path.realpath(path)).parent == SHIPPED  # for `resolve` a circle of links fails


def parse_bytes(text: str) -> int:
    """The bytes of a size such as 400MB, 1.5G or 256MiB.

    raises: UsageError for another text
    """
    match = re.fullmatch(r"([0-9]{1,15}(?:\.[0-9]+)?) ?([KMGT]?)(i?)B?", text, re.IGNORECASE)
    if not match:
        raise UsageError(f"memory_budget = {text!r}", "a size such as 400MB or 1.5GB")
    number, unit, binary = match.groups()
    base = 1024 if binary else 1000
    power = " KMGT".index(unit.upper() or " ")
    return int(float(number) * base**power)
