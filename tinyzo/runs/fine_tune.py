"""A fine-tune from a file, or a sum of several: a run without its history, but for its last theta.

Whatever opens a run's model opens one of these. Its base is wherever `--model` says, or has the
name that the file knows it by; it is taken only if its SHA-256 is the file's.
"""

import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from tinyzo.checkpoints.hub import name_of, place_of
from tinyzo.engine.weights import Weights
from tinyzo.errors import RunError
from tinyzo.runs.fine_tune_file import Contents, read
from tinyzo.runs.history import Taken
from tinyzo.runs.methods import ZerothOrder, method_of
from tinyzo.runs.places import is_name, lasting
from tinyzo.runs.run import Tuned
from tinyzo.runs.settings import RunSettings, Settings, model_path
from tinyzo.runs.start import factors_of
from tinyzo.zo.mezo import Step

# The settings that say what the terms make, what they are added to, and which rows are scored.
OF_TERMS = ("method", "estimator", "queries", "direction", "update", "window", "seed")
OF_START = ("train", "lora_rank", "lora_alpha", "lora_targets", "dtype", "base_dtype")
OF_TASK = ("task", "template", "label_words", "label_field")
OF_ROWS = ("data_seed", "k_shot", "train_rows", "limit", "micro_batch_tokens")
KEPT = (*OF_TERMS, *OF_START, *OF_TASK, *OF_ROWS)


class Part(NamedTuple):
    """What one file has, and what its change of theta is multiplied by."""

    path: Path
    weight: float
    contents: Contents
    settings: RunSettings

    @property
    def method(self) -> ZerothOrder:
        return zeroth_order(self.settings)

    def steps(self) -> Iterator[Taken]:
        """Its steps as a run has them, without their losses."""
        numbers = self.contents.numbers
        seeds = self.contents.seeds
        if seeds is None:
            seeds = seeds_of(numbers, self.method)
        rows = zip(seeds.tolist(), self.contents.terms.tolist(), strict=True)
        decays = self.contents.decays.tolist()
        for number, (own, coefficients), decay in zip(numbers, rows, decays, strict=True):
            terms = tuple(zip(own, coefficients, strict=True))
            if self.weight != 1:
                terms = self.method.rule.scaled(terms, self.weight)
            yield Taken(number, Step((), 0.0, terms, decay))


class FineTune(Tuned):
    """A fine-tune from a file, or a sum of several, of which the first says the task.

    path:  of the file, or the sum as it was named
    parts: one, or those of a sum that can be made (sums.py)
    base:  the model that it is applied to; None: the one of the name that the first file has
    """

    def __init__(self, path: Path, parts: Sequence[Part], base: str | None = None) -> None:
        self.parts = parts
        self.head = parts[0].contents.head
        place = base or self.head["name"]
        super().__init__(path, parts[0].settings.replace(model=lasting(place)), self.head)
        self.models = [model_path(place)]

    @property
    def is_sum(self) -> bool:
        """Whether it is more, or less, than one whole fine-tune."""
        return len(self.parts) > 1 or self.parts[0].weight != 1

    @property
    def wanted(self) -> str:
        """The base that it needs, in words."""
        return f"{self.head['name']}, SHA-256 {self.head['base'][:12]}"

    def way(self, step: int | None) -> list[Taken]:
        if step == 0:
            return []
        if step is not None:
            raise RunError(f"{self.path}: no step {step}", "it has one theta: leave out --step")
        way = [taken for part in self.parts for taken in part.steps()]
        if self.is_sum and self.settings.update != "adamezo":
            terms = tuple(term for _, taken in way for term in taken.terms)
            return [Taken(0, Step((), 0.0, terms))]  # 16-bit weights are rounded once
        return way

    def read_start(self, weights: Weights) -> None:
        own = factors_of(weights)
        ends = np.cumsum([half.size for half in own])
        found = self.parts[0].contents.factors
        if found.size != ends[-1]:
            why = f"{found.size} numbers begin its adapters, which have {ends[-1]}"
            raise RunError(f"{self.path}: {why}", "ask for the file again")
        for half, values in zip(own, np.split(found, ends[:-1]), strict=True):
            half[...] = values.reshape(half.shape)

    def missing_base(self) -> str:
        return f"{self.path} needs its base ({self.wanted}), which is not at {self.models[0]}"

    def other_base(self, path: Path, found: str) -> RunError:
        why = f"{self.path} needs its base ({self.wanted}), and {path} has SHA-256 {found[:12]}"
        return RunError(why, f"name that: --model BASE+{self.path.name}")

    def has_data(self) -> bool:
        return bool(self.head["data_ships"])

    def check_data(self) -> None:
        if not self.has_data():
            found = f"{self.path}: the data that it was tuned on do not ship, and no file has them"
            raise RunError(found, "--data PATH names the folder or file that they are in")


def read_part(path: Path, weight: float) -> Part:
    """A file of a fine-tune, all of which has been checked.

    raises: RunError for one that is damaged, has a setting that says nothing of theta, or terms
        that are not its method's; UsageError, ConfigError and DataError as for a run's settings
    """
    contents = read(path)
    head = contents.head
    for name in head["settings"]:
        if name not in KEPT:
            raise RunError(f"{path}: it sets {name!r:.40}", "no fine-tune of ours does")
    given = Settings.from_mapping(head["settings"], str(path))
    settings = given.resolve(head["family"], needs_data=False)
    expected = f"{method_of(settings).journal_shape.terms} {kind_of_z(settings)} terms a step"
    found = f"{head['terms']} {head['z']} terms a step"
    if found != expected:
        raise RunError(f"{path}: {found}, and its method has {expected}", "ask for the file again")
    return Part(path, weight, contents, settings)


def zeroth_order(settings: RunSettings) -> ZerothOrder:
    """The method of settings whose method has terms."""
    method = method_of(settings)
    if not isinstance(method, ZerothOrder):
        found = f"--method {settings.method} steps by gradients, and has no terms"
        raise RunError(found, "tinyzo replay writes what it made")
    return method


def kind_of_z(settings: RunSettings) -> str:
    return "rademacher" if settings.direction == "rademacher" else "gaussian"


def seeds_of(numbers: Sequence[int], method: ZerothOrder) -> np.ndarray:
    """The seeds of all terms of steps, by the numbers with which a run took them.

    Of an update that looks back: the seeds of the steps before on the way, the newest first; where
    there is none, the step's own. The last of adamezo, which stands with the rate, is the first.

    returns: u64[steps, terms]
    """
    count = method.journal_shape.terms
    own = [method.seeds(number) for number in numbers]
    rows = []
    for at, seeds in enumerate(own):
        ages = range(method.rule.memory)
        row = [seed for age in ages for seed in (own[at - age] if age <= at else seeds)]
        rows.append(row + row[: count - len(row)])
    return np.array(rows, np.uint64).reshape(-1, count)


def base_name(model: str) -> str:
    """What a file calls its base: as others may know it, and without a path of this machine."""
    if is_name(model) and place_of(model):
        return model
    letters = re.sub(r"[^\w.]+", "-", name_of(Path(model)), flags=re.ASCII)
    return re.sub(r"\.\.+", ".", letters)[:96].strip("-.") or "model"
