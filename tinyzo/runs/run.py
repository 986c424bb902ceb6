"""A run's directory: its settings, what it did, and the model that comes of it.

run.toml        every setting; hashes of the base checkpoint and of the data; versions
journal         the terms of every step: the fine-tune itself
metrics.jsonl   one object a step
events.jsonl    evaluations and errors
weights-<step>.safetensors    the weights after so many steps, for a quick resumption
result.json     the summary, when it is done
loss.png        the losses, where matplotlib is installed
"""

from __future__ import annotations

import json
import os
import platform
from contextlib import suppress
from pathlib import Path
from typing import TypeGuard

import numpy as np

from tinyzo.checkpoints import peft
from tinyzo.checkpoints.directory import fingerprint
from tinyzo.errors import RunError
from tinyzo.models.model import MODELS, Model, open_model
from tinyzo.models.trainable import train_only
from tinyzo.parsing import JsonObject, read_toml
from tinyzo.runs.data import bind_task
from tinyzo.runs.journal import read_journal
from tinyzo.runs.methods import method_of
from tinyzo.runs.settings import RunSettings, Settings
from tinyzo.system import new_directory, os_errors, write_file

RUN_TOML = "run.toml"
ROOM = "make room on the disk, or the directory writable, then --resume"
NO_ROOM_TO_BEGIN = "make room on the disk, or name another --output; nothing has been computed yet"
OLD_VALUES = {"update": {"adam": "adamezo"}}  # a setting -> its values of before 0.2 -> ours


class Run:
    """A run's directory.

    path:     the directory
    settings: all that the run goes by
    about:    hashes of the base and the data, versions, the family of the model
    """

    def __init__(self, path: Path, settings: RunSettings, about: JsonObject) -> None:
        self.path = path
        self.settings = settings
        self.about = about

    @property
    def journal_path(self) -> Path:
        return self.path / "journal"

    @property
    def result(self) -> JsonObject:
        """The summary of a finished run.

        raises: RunError before it is finished
        """
        try:
            return dict(json.loads((self.path / "result.json").read_text()))
        except (OSError, ValueError):
            raise RunError(f"{self.path}: not finished", f"--resume {self.path}") from None

    def make_directory(self) -> None:
        """Make a new run's directory, or use one that is there.

        raises: RunError when there is a run or a model in it already, or it cannot be made
        """
        new_directory(self.path, RunError, (RUN_TOML, "config.json"))

    def create(self, steps: int) -> None:
        """Write a new run's run.toml; only who holds the journal may, since two may have begun.

        steps: of the journal
        raises: RunError when there is a run already
        """
        if is_run(self.path) or steps:
            taken = RUN_TOML if is_run(self.path) else "journal"
            raise RunError(f"{self.path} has a {taken} already", "name another --output")
        self.about |= {"numpy": np.__version__, "machine": platform.machine()}
        self.save(NO_ROOM_TO_BEGIN)

    def save(self, hint: str = ROOM) -> None:
        """Write run.toml, whole or not at all. hint: what to do when it cannot be written."""
        about = "".join(f"{name} = {json.dumps(value)}\n" for name, value in self.about.items())
        self.write(RUN_TOML, f"[about]\n{about}\n[settings]\n{self.settings.to_toml()}", hint)

    @classmethod
    def open(cls, path: Path) -> Run:
        """An existing run.

        raises: RunError when the directory is not one
        """
        if not is_run(path):
            raise RunError(f"{path}: no run.toml, so not a run", "name the --output of finetune")
        toml = read_toml(path / RUN_TOML)
        about = toml.get("about")
        values = toml.get("settings")
        if not isinstance(values, dict) or not _is_about_a_run(about):
            raise RunError(f"{path}/run.toml is not a run's", "restore it from a copy")
        for name, renamed in OLD_VALUES.items():
            if name in values:
                values[name] = renamed.get(values[name], values[name])
        given = Settings.from_mapping(values, f"{path}/run.toml")
        return cls(path, given.resolve(about["family"]), about)

    def base_model(self) -> Model:
        """The checkpoint that the run began with, its weights still in their file.

        raises: RunError when its files have changed since
        """
        s = self.settings
        base = self.about["base"]
        found = fingerprint(*peft.parts(s.model_path))
        if found != base:
            change = f"has changed since the run began ({found[:12]}, then {base[:12]})"
            hint = "restore the checkpoint, or begin a new run"
            raise RunError(f"{s.model_path} {change}", hint)
        return prepare(open_model(s.model_path, s.dtype), s)

    def evaluations(self, split: str) -> dict[int, JsonObject]:
        """The evaluations on a split, by step."""
        return {
            event["step"]: event
            for event in read_lines(self.path / "events.jsonl")
            if event["event"] == "evaluation" and event["split"] == split
        }

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

    def write(self, file: str, text: str, hint: str = ROOM) -> None:
        """Replace a file of the run, whole or not at all.

        hint: what to do when it cannot be written
        raises: RunError when the disk is full or the directory cannot be written
        """
        with os_errors(RunError, self.path / file, hint):
            write_file(self.path / file, text.encode())

    def record(self, file: str, line: JsonObject) -> None:
        """Append an object to metrics.jsonl or events.jsonl.

        raises: RunError when the disk is full
        """
        path = self.path / file
        with os_errors(RunError, path, ROOM), open(path, "a", encoding="utf-8") as lines:
            lines.write(json.dumps(line) + "\n")

    def sync(self, file: str) -> None:
        """Push what is written to a file through to the disk, against loss of power."""
        path = self.path / file
        with os_errors(RunError, path, ROOM), open(path, "ab") as lines:
            os.fsync(lines.fileno())

    def keep_lines(self, file: str, most: int | None = None) -> int:
        """Drop a torn last line of a file, and what is beyond `most` lines.

        returns: how many are left
        """
        lines = [json.dumps(line) + "\n" for line in read_lines(self.path / file)[:most]]
        self.write(file, "".join(lines))
        return len(lines)


def is_run(path: Path) -> bool:
    """Whether this is the directory of a run."""
    return (path / RUN_TOML).is_file()


def _is_about_a_run(about: object) -> TypeGuard[JsonObject]:
    """Whether this can be the first table of a run.toml."""
    if not isinstance(about, dict):
        return False
    return isinstance(about.get("base"), str) and about.get("family") in MODELS


def prepare(model: Model, settings: RunSettings) -> Model:
    """Prepare a model that is still in its file: only what the settings say will be trained."""
    s = settings
    ids: list[int] = []
    if s.train == "label-words":
        words = bind_task(model, s).task.fixed_words
        ids = sorted({token for word in words for token in model.tokenizer.encode(word)})
    train_only(model, s.train, s.seed, s.lora_rank, s.lora_alpha, s.lora_targets, ids)
    method_of(s).begin(model.weights)
    return model


def read_lines(path: Path) -> list[JsonObject]:
    """The objects of a .jsonl file up to the first that is torn; none when there is no file."""
    lines: list[JsonObject] = []
    with os_errors(RunError, path, ROOM), suppress(FileNotFoundError, ValueError):
        for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
            lines.append(json.loads(line))
    return lines
