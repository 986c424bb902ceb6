"""A run's directory: its settings, what it did, and the model that comes of it.

run.toml        every setting; hashes of the base checkpoint and of the data; versions; where it is
journal         the terms of every step: the fine-tune itself
metrics.jsonl   one object a step
events.jsonl    evaluations, answers to ten rows, errors, and changes of the engine
start.safetensors  what no seed makes again: start.py
weights-<step>.safetensors    the weights after so many steps, for a quick resumption
result.json     the summary, when it is done
loss.png        the losses, where matplotlib is installed
"""

from __future__ import annotations

import json
import os
import platform
import re
import zlib
from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple, TypeGuard

import numpy as np

from tinyzo.checkpoints import peft
from tinyzo.checkpoints.directory import fingerprint
from tinyzo.engine.weights import Weights
from tinyzo.errors import RunError, UsageError
from tinyzo.models.model import MODELS, Model, open_model
from tinyzo.models.trainable import train_only
from tinyzo.parsing import JsonObject, read_toml
from tinyzo.runs.data import bind_task
from tinyzo.runs.defaults import PARTS
from tinyzo.runs.history import Taken
from tinyzo.runs.journal import read_journal
from tinyzo.runs.lines import EVENTS, FOLDER, parse_object, read, read_lines, sealed
from tinyzo.runs.methods import method_of
from tinyzo.runs.places import first_there, is_name, lasting, places, relative
from tinyzo.runs.settings import RunSettings, Settings, model_path, toml_lines
from tinyzo.runs.start import FITTED, LED, read_start, write_start
from tinyzo.system import new_directory, os_errors, sync, write_file

RUN_TOML = "run.toml"
RESUME = "then --resume"
NOT_BEGUN = "or name another --output; nothing has been computed yet"
NAME_BASE = "--base DIR names the folder it is in now (of finetune --resume: --model DIR)"
SEAL = "# CRC-32 of what follows: "
OLD_VALUES = {"update": {"adam": "adamezo"}}  # a setting -> its values of before 0.2 -> ours


class AtWork(NamedTuple):
    """An engine, by its name, and how many steps there were when it began."""

    step: int
    name: str


class Tuned(ABC):
    """What was made of a base by the terms of steps: a run, or a fine-tune as a file.

    path:     the run's directory, or the file
    settings: all that it goes by, with the model and the data where they are now
    about:    hashes of the base and the data, versions, the family of the model
    models:   the places that its model may be at
    """

    def __init__(self, path: Path, settings: RunSettings, about: JsonObject) -> None:
        self.path = path
        self.settings = settings
        self.about = about
        self.models = [settings.model_path]

    @abstractmethod
    def way(self, step: int | None) -> list[Taken]:
        """The steps that make theta after `step` steps; None: after those that did best on dev.

        raises: RunError when there is no such step
        """

    @abstractmethod
    def read_start(self, weights: Weights) -> None:
        """Go on with the A that no seed makes (start.py); raises RunError for another one."""

    @abstractmethod
    def missing_base(self) -> str:
        """What is said of a model that is at none of its places."""

    @abstractmethod
    def other_base(self, path: Path, found: str) -> RunError:
        """What is said of a model that is another one, by the hash that was found."""

    def base_model(self, has_begun: bool = True) -> Model:
        """The checkpoint that it began with, its weights still in their file.

        has_begun: whether with what the first step begins with; else as it came
        raises: RunError when it is nowhere, or its files have changed since, or those of its start
        """
        path = self.find_base()
        if len(self.models) > 1:
            self.settings = self.settings.replace(model=str(path))
        s = self.settings
        model = prepare(open_model(path, s.dtype, s.base_dtype), s)
        if s.train in LED and has_begun:
            self.read_start(model.weights)
        return model

    def bases(self) -> list[Path]:
        """The places of the model at which there is a folder; raises RunError when there is none"""
        there = [path for path in self.models if os.path.isdir(path)]
        if not there:
            raise RunError(self.missing_base(), NAME_BASE)
        return there

    def find_base(self) -> Path:
        """The first place of the model where its files have the hash of the base.

        raises: RunError when there is none
        """
        for path in self.bases():
            found = fingerprint(*peft.parts(path))
            if found == self.about["base"]:
                return path
        raise self.other_base(path, found)

    def has_data(self) -> bool:
        """Whether its data are where they were."""
        return os.path.exists(self.settings.data_path)

    def check_data(self) -> None:
        """raises: RunError when its data are at none of their places"""
        if not self.has_data():
            found = f"{self.path}: its data are not at {self.settings.data_path}"
            raise RunError(found, "--data PATH names the folder or file they are in now")


class Run(Tuned):
    """A run's directory, which is its `path`."""

    @property
    def journal_path(self) -> Path:
        return self.path / "journal"

    @property
    def result(self) -> JsonObject:
        """The summary of a finished run.

        raises: RunError before it is finished, or when it cannot be read
        """
        path = self.path / "result.json"
        found = None
        with os_errors(RunError, path, FOLDER), suppress(FileNotFoundError):
            found = parse_object(path.read_bytes())
        if found is None:
            raise RunError(f"{self.path}: not finished", f"--resume {self.path}")
        return found

    def make_directory(self) -> None:
        """Make a new run's directory, or use one that is there.

        raises: RunError when there is a run or a model in it already, or it cannot be made
        """
        new_directory(self.path, RunError, (RUN_TOML, "config.json"))

    def create(self, steps: int, engine: str, weights: Weights) -> None:
        """Write a new run's run.toml; only who holds the journal may, since two may have begun.

        steps:   of the journal
        engine:  the one that it begins with
        weights: what it begins with, of which it keeps what could not be made again
        raises: RunError when there is a run already
        """
        if is_run(self.path) or steps:
            taken = RUN_TOML if is_run(self.path) else "journal"
            raise RunError(f"{self.path} has a {taken} already", "name another --output")
        about = {"numpy": np.__version__, "machine": platform.machine(), "engine": engine}
        self.about |= about
        if self.settings.train in LED:
            self.about["start"] = write_start(self.path, weights)
        self.save(NOT_BEGUN)

    def note_engine(self, engine: str, steps: int) -> None:
        """Record after how many steps an engine goes on with the run, if another was at it before.

        raises: RunError when the disk is full
        """
        before = self.engines()
        if not before or before[-1].name != engine:
            self.record(EVENTS, {"event": "engine", "step": steps, "engine": engine})

    def engines(self) -> list[AtWork]:
        """The engines that were at work, in turn. Runs of before 0.2 do not say the first."""
        events = read_lines(self.path / EVENTS)
        found = [AtWork(e["step"], e["engine"]) for e in events if e.get("event") == "engine"]
        first = self.about.get("engine")
        return [AtWork(0, first), *found] if isinstance(first, str) else found

    def save(self, then: str = RESUME) -> None:
        """Write run.toml, whole or not at all. then: as for `write`."""
        here = self.path.resolve()
        self.about["directory"] = os.fsencode(here).decode(errors="replace")
        s = self.settings
        data = relative(s.data, here) if s.data else None
        stored = s.replace(model=relative(s.model, here), data=data)
        text = f"[about]\n{toml_lines(self.about)}\n[settings]\n{stored.to_toml()}"
        self.write(RUN_TOML, f"{SEAL}{zlib.crc32(text.encode()):08x}\n{text}", then)

    @classmethod
    def open(cls, path: Path, base: str | None = None, data: str | None = None) -> Run:
        """An existing run.

        path: its directory, or a file in it
        base: where its model is now, a path or a name; None: where run.toml says
        data: the same of its data
        raises: RunError when there is no run, or when its run.toml has changed
        """
        if not is_run(path):
            raise RunError(f"{path}: no run.toml, so not a run", "name the --output of finetune")
        directory = directory_of(path)
        file = directory / RUN_TOML
        _check_seal(file)
        toml = read_toml(file)
        about = toml.get("about")
        values = toml.get("settings")
        if not isinstance(values, dict) or not _is_about_a_run(about):
            raise RunError(f"{file} is not a run's", "restore it from a copy")
        for name, renamed in OLD_VALUES.items():
            if isinstance(values.get(name), str):
                values[name] = renamed.get(values[name], values[name])
        with os_errors(RunError, file, "restore it from a copy"):  # a path that no system takes
            settings = Settings.from_mapping(values, str(file)).resolve(about["family"])
            run = cls(directory, settings, about)
            run._find(base, data)
        return run

    def _find(self, base: str | None, data: str | None) -> None:
        """Say in the settings where the model and the data are now, or else where they may be."""
        s = self.settings
        directories = (self.path.resolve(), Path(str(self.about.get("directory", self.path))))
        self.models = [model_path(base)] if base else places(s.model, *directories)
        model = s.model if is_name(s.model) else str(first_there(self.models))
        if base:
            model = lasting(base)
        if data:
            data = str(Path(data).resolve())
        elif s.data:
            data = str(first_there(places(s.data, *directories)))
        self.settings = s.replace(model=model, data=data)

    def way(self, step: int | None) -> list[Taken]:
        if step is None:
            step = self.best_step()  # before the journal is read, which a run at work is ahead with
        history = read_journal(self.journal_path).history
        if not 0 <= step <= len(history.steps):
            raise RunError(f"{self.path}: no step {step}", f"it has {len(history.steps)} steps")
        return history.way(step)

    def read_start(self, weights: Weights) -> None:
        read_start(self.path, self.about.get("start"), weights)

    def missing_base(self) -> str:
        tried = " or ".join(map(str, self.models))
        return f"{self.path}: the model that it began with is not at {tried}"

    def other_base(self, path: Path, found: str) -> RunError:
        hashes = f"({found[:12]}, then {self.about['base'][:12]})"
        why = f"{path} has changed, or is not the model that the run began with {hashes}"
        return RunError(why, f"restore it, or {NAME_BASE}")

    def evaluations(self, split: str) -> dict[int, JsonObject]:
        """The evaluations on a split, by step.

        raises: RunError when a line of events.jsonl is damaged, since the best step depends on it
        """
        path = self.path / EVENTS
        events, is_damaged = read(path)
        if is_damaged:
            why = f"{path}: line {len(events) + 1} is damaged"
            raise RunError(why, f"finetune --resume {self.path} evaluates again")
        found = (event for event in events if event.get("event") == "evaluation")
        return {event["step"]: event for event in found if event["split"] == split}

    def best_step(self) -> int:
        """The step with the best dev accuracy (RoBERTa) or dev loss (OPT), as published.

        Equal accuracies are decided by the loss, then for the earlier step. Without a dev split
        it is the last step.
        """
        evaluations = self.evaluations("dev")
        if not evaluations:
            return len(read_journal(self.journal_path).steps)
        counts_accuracy = self.about["family"] == "roberta"

        def badness(step: int) -> tuple[float, float, int]:
            found = evaluations[step]
            accuracy = found["accuracy"] if counts_accuracy else 0
            return -accuracy, found["loss"], step

        return min(evaluations, key=badness)

    # -- files that grow, and files that are replaced

    def write(self, file: str, text: str, then: str = RESUME) -> None:
        """Replace a file of the run, whole or not at all.

        then: what to do once it can be written
        raises: RunError when the disk is full or the directory cannot be written
        """
        with os_errors(RunError, self.path / file, f"{FOLDER}, {then}", then):
            write_file(self.path / file, text.encode())

    def record(self, file: str, line: JsonObject) -> None:
        """Append an object to metrics.jsonl or events.jsonl; raises as `record_all` does."""
        self.record_all(file, [line])

    def record_all(self, file: str, lines: Iterable[JsonObject]) -> None:
        """Append objects to metrics.jsonl or events.jsonl, in which each gets a CRC, in one write.

        raises: RunError when the disk is full
        """
        if file == EVENTS:
            lines = map(sealed, lines)
        path = self.path / file
        text = "".join(json.dumps(line, allow_nan=False) + "\n" for line in lines)
        with os_errors(RunError, path, FOLDER, RESUME), open(path, "ab") as grown:
            grown.write(text.encode())

    def sync(self, file: str) -> None:
        """Push what is written to a file through to the disk, against loss of power."""
        path = self.path / file
        with os_errors(RunError, path, FOLDER, RESUME), open(path, "ab") as lines:
            sync(lines)

    def keep_lines(self, file: str, most: int | None = None) -> int:
        """Drop a torn or damaged line of a file with all after it, and what is beyond `most` lines.

        returns: how many are left
        """
        lines = read_lines(self.path / file)[:most]
        whole = map(sealed, lines) if file == EVENTS else lines
        self.write(file, "".join(json.dumps(line) + "\n" for line in whole))
        return len(lines)


def is_run(path: Path) -> bool:
    """Whether this is the directory of a run, or a file in one."""
    return os.path.isfile(directory_of(path) / RUN_TOML)


def directory_of(path: Path) -> Path:
    """A run's directory, of which a file may be named instead."""
    return path.parent if os.path.isfile(path) else path


def _check_seal(file: Path) -> None:
    """raises: RunError for a run.toml whose first line says another CRC than the rest has"""
    with os_errors(RunError, file, "make it readable"):
        seal, _, rest = file.read_bytes().replace(b"\r\n", b"\n").partition(b"\n")
    found = re.fullmatch(f"{SEAL}([0-9a-f]{{8}})".encode(), seal)
    if found and int(found[1], 16) != zlib.crc32(rest):
        hint = "restore it from a copy; if the change is yours, remove its first line"
        raise RunError(f"{file} is not as it was written", hint)


def _is_about_a_run(about: object) -> TypeGuard[JsonObject]:
    """Whether this can be the first table of a run.toml."""
    if not isinstance(about, dict):
        return False
    family = about.get("family")
    is_known = isinstance(family, str) and family in MODELS
    return is_known and isinstance(about.get("base"), str)


def settle_method(given: Settings, model: Model) -> Settings:
    """The choices with what `--method auto` stands for: zo-head; fzoo where the task has no label
    words to fit, or a part of a method is chosen."""
    if given.method != "auto":
        return given
    fzoo = given.replace(method="fzoo")
    is_whole = not given.given().keys() & set(PARTS)
    if is_whole and _have_rows(_label_words(model, fzoo.resolve(model.family))):
        return given.replace(method="zo-head")
    return fzoo


def prepare(model: Model, settings: RunSettings) -> Model:
    """Prepare a model that is still in its file: only what the settings say will be trained."""
    s = settings
    words: list[list[int]] = []
    if s.train in ("label-words", *FITTED):
        words = _label_words(model, s)
    ids = sorted({token for word in words for token in word})
    rank = s.lora_rank
    if s.train in FITTED:
        rank = len(words) - 1
        if rank < 1:
            found = f"--train {s.train} has a direction for each label word, and the task has none"
            raise UsageError(found, "take --train lora-act")
    if s.train == "head-fit" and not _have_rows(words):
        found = "--train head-fit fits a row of each label word, and not all of them are one token"
        raise UsageError(found, "take --train lora-fit")
    train_only(model, s.train, s.seed, rank, s.lora_alpha, s.lora_targets, ids)
    method_of(s).begin(model.weights)
    return model


def _label_words(model: Model, settings: RunSettings) -> list[list[int]]:
    """The tokens of each label word; of a task whose words are columns of the data, none."""
    return [model.tokenizer.encode(word) for word in bind_task(model, settings).task.fixed_words]


def _have_rows(words: Sequence[Sequence[int]]) -> bool:
    """Whether the scores of label words are those of one row each."""
    return len(words) > 1 and all(len(word) == 1 for word in words)
