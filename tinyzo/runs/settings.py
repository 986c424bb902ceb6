"""Every choice of a run, with its default; written to run.toml and read back from it."""

from __future__ import annotations

import dataclasses
import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tinyzo.errors import ConfigError, UsageError

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

# The models and the data that ship: installed beside the package's code, or in the checkout.
HERE = Path(__file__).resolve().parents[1]
SHIPPED = next((p for p in (HERE / "weights", HERE.parent / "weights") if p.is_dir()), HERE)

# Tuned on the dev splits of the shipped task and of SST-2: small models take larger steps.
TINY = {"lr": 1e-4, "eps": 1e-3, "batch_size": 32, "steps": 600, "eval_every": 100}


@dataclass(frozen=True)
class Settings:
    """The settings of a run; None means that `complete` fills it in.

    model: a folder, or the name of a shipped model. data: a folder or file, or a shipped set.
    lr, eps, batch_size, steps: the papers' for full tuning, the shipped models' own for those.
    k_shot: draw the published k-shot split from the training file. train_rows: else at most so
    many. limit: at most so many rows to report on. seed makes z, data_seed the rows and order.
    micro_batch_tokens: a batch is computed in parts of at most so many packed tokens.
    """

    model: str = "roberta-tiny"
    task: str | None = None
    data: str | None = None
    template: str | None = None
    label_words: list[str] | None = None
    label_field: str = "label"
    method: str = "mezo"
    steps: int | None = None
    batch_size: int | None = None
    lr: float | None = None
    eps: float | None = None
    schedule: str = "constant"
    warmup: int = 0
    weight_decay: float = 0.0
    seed: int = 0
    data_seed: int | None = None
    k_shot: int | None = None
    train_rows: int = 1000
    limit: int | None = None
    eval_every: int | None = None
    micro_batch_tokens: int = 4096
    engine: str = "auto"
    residency: str = "auto"
    dtype: str = "auto"
    threads: int | None = None

    @property
    def is_shipped_model(self) -> bool:
        return not Path(self.model).is_dir() and (SHIPPED / self.model).is_dir()

    @property
    def model_path(self) -> Path:
        return SHIPPED / self.model if self.is_shipped_model else Path(self.model)

    @property
    def data_path(self) -> Path:
        return Path(self.data) if self.data else SHIPPED / "reviews"

    def complete(self, family: str) -> Settings:
        """The settings with every None that has a default for this family of models filled in.

        raises: UsageError for settings that contradict each other or are out of range
        """
        custom = self.template is not None or self.label_words is not None
        if custom and not (self.template and self.label_words and self.data):
            raise UsageError(
                "a task of your own needs --data, --template and --label-words", "give all three"
            )
        if self.task and custom:
            raise UsageError(f"--task {self.task} and --template", "give one of them")
        if self.task and self.task.lower() != "reviews" and not self.data:
            raise UsageError(f"--task {self.task} without --data", "name the folder of its files")
        if self.data and not (self.task or custom):
            raise UsageError("--data without --task or --template", "say what the rows are")
        batch_size = 64 if family == "roberta" else 16
        paper = {"lr": 1e-6, "eps": 1e-3, "batch_size": batch_size, "steps": 10_000}
        defaults: dict[str, Any] = TINY if self.is_shipped_model else paper
        filled = {k: v for k, v in defaults.items() if getattr(self, k) is None}
        if self.data_seed is None:
            filled["data_seed"] = 42 if family == "roberta" else 0  # the published sets
        if self.task is None and not custom:
            filled["task"] = "reviews"
        settings = dataclasses.replace(self, **filled)
        if settings.eval_every is None:
            settings = dataclasses.replace(settings, eval_every=max(1, settings.steps // 10))
        settings.check()
        return settings

    def check(self) -> None:
        """raises: UsageError for a number out of range"""
        least = {"steps": 0, "batch_size": 1, "eval_every": 1, "micro_batch_tokens": 1}
        least |= {"k_shot": 1, "limit": 1, "train_rows": 1, "warmup": 0, "seed": 0, "data_seed": 0}
        for name, value in least.items():
            if (given := getattr(self, name)) is not None and given < value:
                raise UsageError(f"{name} = {given}", f"{name} is {value} or more")
        if not self.eps > 0:
            raise UsageError(f"eps = {self.eps}", "eps is greater than 0, such as 1e-3")

    def to_toml(self) -> str:
        """The settings that have a value, a line each."""
        items = dataclasses.asdict(self).items()
        return "".join(f"{name} = {json.dumps(v)}\n" for name, v in items if v is not None)


def read_toml(path: Path) -> dict[str, Any]:
    """A TOML file as a dictionary.

    raises: ConfigError when it cannot be read or parsed
    """
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path}: {error}", "a file of lines such as lr = 1e-6") from None


def settings_from(values: dict[str, Any], where: str) -> Settings:
    """Settings from a dictionary such as a TOML file gives; `-` in a name counts as `_`.

    raises: UsageError for a name that is no setting, or a value of another type
    """
    kinds = {f.name: str(f.type) for f in dataclasses.fields(Settings)}
    given = {name.replace("-", "_"): value for name, value in values.items()}
    for name, value in given.items():
        if name not in kinds:
            raise UsageError(f"{where}: no setting is called {name!r}", "see tinyzo finetune -h")
        if "float" in kinds[name] and type(value) is int:
            given[name] = float(value)
        elif type(value).__name__ not in kinds[name]:
            raise UsageError(f"{where}: {name} = {value!r}", f"expected {kinds[name]}")
    return Settings(**given)
