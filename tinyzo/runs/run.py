"""A run's directory: what it was told, what it did, and the model that comes of it.

    run.toml        every setting, the base's and the data's hashes, versions
    journal         the terms: the fine-tune itself
    metrics.jsonl   one object a step
    events.jsonl    evaluations and errors
    weights-<step>.safetensors    the weights after so many steps, for a quick resumption
    result.json     the summary, when it is done
    loss.png        the losses, where matplotlib is installed
"""

import json
import os
import platform
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np

from tinyzo.checkpoints import peft
from tinyzo.checkpoints.directory import fingerprint
from tinyzo.engine.noise import step_seed
from tinyzo.engine.terms import Direction
from tinyzo.errors import RunError
from tinyzo.models.model import MODELS, Model, open_model
from tinyzo.models.trainable import train_only
from tinyzo.parsing import read_toml
from tinyzo.runs.data import bind_task
from tinyzo.runs.journal import read_journal
from tinyzo.runs.settings import Settings, settings_from
from tinyzo.system import new_directory, os_errors, write_file
from tinyzo.zo.directions import low_rank, magnitude_limits

ROOM = "make room on the disk, or the directory writable, then --resume"


class Run:
    """A run's directory, `path`. `settings` are complete."""

    def __init__(self, path: Path, settings: Settings, about: dict[str, Any]) -> None:
        self.path, self.settings, self.about = path, settings, about
        self.journal_path = path / "journal"

    @property
    def result(self) -> dict[str, Any]:
        """The summary of a finished run; raises RunError before that."""
        try:
            return json.loads((self.path / "result.json").read_text())
        except (OSError, ValueError):
            raise RunError(f"{self.path}: not finished", f"--resume {self.path}") from None

    def create(self) -> None:
        """Make the directory, with its run.toml.

        raises: RunError when there is a run or a model in it already, or it cannot be made
        """
        new_directory(self.path, RunError, ("run.toml", "config.json"))
        self.about |= {"numpy": np.__version__, "machine": platform.machine()}
        self.save()

    def save(self) -> None:
        """Write run.toml, whole or not at all."""
        about = "".join(f"{name} = {json.dumps(value)}\n" for name, value in self.about.items())
        self.write("run.toml", f"[about]\n{about}\n[settings]\n{self.settings.to_toml()}")

    def write(self, file: str, text: str) -> None:
        """Replace a file of the run, whole or not at all.

        raises: RunError when the disk is full or the directory cannot be written
        """
        with os_errors(RunError, self.path / file, ROOM):
            write_file(self.path / file, text.encode())

    @classmethod
    def open(cls, path: Path) -> "Run":
        """An existing run.

        raises: RunError when the directory is not one
        """
        if not (path / "run.toml").is_file():
            raise RunError(f"{path}: no run.toml, so not a run", "name the --output of finetune")
        toml = read_toml(path / "run.toml")
        match toml.get("about"), toml.get("settings"):
            case {"base": str(), "family": str(family)} as about, dict(values) if family in MODELS:
                if values.get("update") == "adam":  # as AdaMeZO was called before 0.2
                    values["update"] = "adamezo"
                return cls(path, settings_from(values, f"{path}/run.toml").complete(family), about)
        raise RunError(f"{path}/run.toml is not a run's", "restore it from a copy")

    def base_model(self) -> Model:
        """The checkpoint that the run began with, its weights still in their file.

        raises: RunError when its files have changed since
        """
        s, base = self.settings, self.about["base"]
        if (found := fingerprint(*peft.parts(s.model_path))) != base:
            why = f"{s.model_path} has changed since the run began ({found[:12]}, then {base[:12]})"
            raise RunError(why, "restore the checkpoint, or begin a new run")
        return prepare(open_model(s.model_path, s.dtype), s)

    def evaluations(self, split: str) -> dict[int, dict[str, Any]]:
        """The evaluations on a split, by step."""
        events = read_lines(self.path / "events.jsonl")
        return {e["step"]: e for e in events if e["event"] == "evaluation" and e["split"] == split}

    def best_step(self) -> int:
        """The step with the best dev accuracy (RoBERTa) or dev loss (OPT), as published.

        Equal accuracies are decided by the loss, then for the earlier step. Without a dev split
        it is the last step.
        """
        if not (evaluations := self.evaluations("dev")):
            return len(read_journal(self.journal_path)[1])
        by_accuracy = self.about["family"] == "roberta"
        ranks = ((-by_accuracy * e["accuracy"], e["loss"], s) for s, e in evaluations.items())
        return min(ranks)[-1]

    def record(self, file: str, line: dict[str, Any]) -> None:
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

    def keep_lines(self, file: str, most: int) -> int:
        """Cut a file of lines after `most` whole ones, dropping a torn one; returns how many."""
        lines = [json.dumps(line) + "\n" for line in read_lines(self.path / file)[:most]]
        self.write(file, "".join(lines))
        return len(lines)


def prepare(model: Model, settings: Settings) -> Model:
    """Make a model, still in its file, one of which z reaches what the settings say."""
    s, weights = settings, model.weights
    words = bind_task(model, s).task.fixed_words if s.train == "label-words" else ()
    ids = sorted({i for word in words for i in model.tokenizer.encode(word)})
    train_only(model, s.train, s.seed, s.lora_rank, s.lora_alpha, s.lora_targets, ids)
    if s.direction == "low-rank":
        low_rank(weights, step_seed(s.seed, 0))
    elif s.direction == "magnitude":
        weights.direction = Direction(limits=magnitude_limits(weights))
    elif s.direction == "rademacher":
        weights.direction = Direction("rademacher")
    if s.method == "adam":
        from tinyzo.autodiff.adam import add_moments

        add_moments(weights)
    return model


def read_lines(path: Path) -> list[dict[str, Any]]:
    """The objects of a .jsonl file up to the first that is torn; none when there is no file."""
    lines: list[dict[str, Any]] = []
    with os_errors(RunError, path, ROOM), suppress(FileNotFoundError, ValueError):
        for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
            lines.append(json.loads(line))
    return lines
