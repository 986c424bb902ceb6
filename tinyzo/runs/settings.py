"""Every choice of a run, with its default; written to run.toml and read back from it."""

from __future__ import annotations  # the types of fields are read as text

import dataclasses
import json
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tinyzo.engine.engines import check_choice
from tinyzo.errors import UsageError
from tinyzo.zo.methods import METHODS, PLAIN, check_combination

# The models and the data that ship: installed beside the package's code, or in the checkout.
HERE = Path(__file__).resolve().parents[1]
SHIPPED = next((p for p in (HERE / "weights", HERE.parent / "weights") if p.is_dir()), HERE)

SHIPPED_TASKS = ("topics", "reviews")  # two columns of weights/reviews; the first by default

# The papers', for tuning all parameters; data_seed is that of the published sets.
PAPERS = {"lr": 1e-6, "eps": 1e-3, "steps": 10_000, "micro_batch_tokens": 512}
FAMILY = {"roberta": {"batch_size": 64, "data_seed": 42}, "opt": {"batch_size": 16, "data_seed": 0}}

SMALL = {"lora": {"lr": 1e-4, "eps": 1e-2}, "lora-fa": {"lr": 1e-4, "eps": 1e-2},
         "prefix": {"lr": 1e-2, "eps": 1e-1}}  # fmt: skip

# Chosen on the dev split of `topics`: small models take larger steps than the papers'.
TINY = {"lr": 5e-5, "eps": 1e-3, "batch_size": 32, "steps": 500, "eval_every": 100,
        "micro_batch_tokens": 4096}  # fmt: skip

RANGES = {"steps": (0, 2**32 - 1), "batch_size": (1, 2**32), "eval_every": (1, 2**32),
          "micro_batch_tokens": (1, 2**32), "k_shot": (1, 2**32), "limit": (1, 2**32),
          "fold_every": (0, 2**32), "train_rows": (1, 2**32), "warmup": (0, 2**32),
          "threads": (1, 2**16), "seed": (0, 2**64 - 1), "data_seed": (0, 2**32 - 1),
          "queries": (1, 2**12), "window": (1, 2**12), "clip": (0, 1e30), "lora_rank": (1, 2**12),
          "lora_alpha": (1e-30, 1e30), "lr": (0, 1e30), "eps": (1e-30, 1e30),
          "weight_decay": (0, 1e30)}  # fmt: skip


@dataclass(frozen=True)
class Settings:
    """The settings of a run; a line for each, which `tinyzo finetune -h` shows too.

    None means that `complete` fills it in: for lr, eps, batch_size, steps with the papers' for full
    tuning, or the shipped models' own, which are small enough for larger micro-batches.

    model: folder of a RoBERTa or OPT model, a run, or a shipped name (roberta-tiny, opt-tiny)
    task: topics, reviews, SST-2, RTE; RoBERTa: SST-5 TREC SNLI MNLI; OPT: CB BoolQ WSC WIC COPA
    data: folder with the task's files, or one .jsonl, .csv or .tsv
    template: a task of your own: '{text} It was <mask>.' (OPT: '{text} It was')
    label_words: a task of your own: the word for each label, as terrible,great
    label_field: column of the label
    method: how to step: names an estimator, a direction, an update and what is trained
    estimator: from losses to a gradient: two-sided, one-sided, leave-one-out, forward
    queries: directions a step
    direction: z: gaussian, rademacher, low-rank, magnitude
    update: from gradients to a step: sgd, sign, momentum, adam
    window: steps that momentum and adam look back on (10), or that a low-rank V stays (50)
    clip: the most that a projected gradient counts
    objective: what is made small: cross-entropy, accuracy (the share of errors), f1 (1 - macro F1)
    train: full, lora, lora-fa, prefix, bias, head, or names of tensors as 'lm_head.*,*.bias'
    lora_rank: r
    lora_alpha: adapters count alpha / r
    lora_targets: projections with an adapter, as query,value
    steps: steps to take
    batch_size: examples a step
    lr: learning rate
    eps: size of the perturbation
    schedule: course of the learning rate
    warmup: steps of rising learning rate
    weight_decay: pull of the matrices towards 0
    seed: makes z
    data_seed: makes the rows and their order
    k_shot: draw the published k-shot split
    train_rows: most rows to train on, without --k-shot
    limit: most rows to report on
    eval_every: steps between evaluations on dev
    micro_batch_tokens: most packed tokens computed at once
    engine: arithmetic
    residency: where the weights live: in memory, or in their file
    memory_budget: most memory to take, as 400MB: chooses engine, residency, micro-batches
    fold_every: steps between writings of the weights into the run; 0: none, only the journal
    dtype: how weights are stored
    threads: of the engine
    """

    model: str = "roberta-tiny"
    task: str | None = None
    data: str | None = None
    template: str | None = None
    label_words: list[str] | None = None
    label_field: str = "label"
    method: str = "mezo"
    estimator: str | None = None
    queries: int | None = None
    direction: str | None = None
    update: str | None = None
    window: int | None = None
    clip: float | None = None
    objective: str = "cross-entropy"
    train: str | None = None
    lora_rank: int = 8
    lora_alpha: float = 16.0
    lora_targets: list[str] | None = None
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
    micro_batch_tokens: int | None = None
    engine: str = "auto"
    residency: str = "auto"
    memory_budget: str | None = None
    fold_every: int | None = None
    dtype: str = "auto"
    threads: int | None = None

    @property
    def model_path(self) -> Path:
        here, shipped = Path(self.model), SHIPPED / self.model
        return here if here.is_dir() or not shipped.is_dir() else shipped

    @property
    def is_shipped_model(self) -> bool:
        return self.model_path.resolve().parent == SHIPPED

    @property
    def data_path(self) -> Path:
        return Path(self.data) if self.data else SHIPPED / "reviews"

    @property
    def is_plain(self) -> bool:
        """Whether a step is MeZO's own, mezo.py."""
        rest = {name: getattr(self, name) for name in PLAIN if name != "train"}
        return self.clip is None and rest | {"train": PLAIN["train"]} == PLAIN

    def complete(self, family: str, needs_data: bool = True) -> Settings:
        """The settings with every None that has a default for this family of models filled in.

        needs_data: whether rows will be read, so that a task without its files is a mistake

        raises: UsageError for settings that contradict each other or are out of range
        """
        custom = self.template is not None or self.label_words is not None
        if custom and not (self.template and self.label_words):
            raise UsageError("a task of your own needs --template and --label-words", "give both")
        if self.task and custom:
            raise UsageError(f"--task {self.task} and --template", "give one of them")
        if self.data and not (self.task or custom):
            raise UsageError("--data without --task or --template", "say what the rows are")
        shipped = not custom and (self.task or SHIPPED_TASKS[0]).lower() in SHIPPED_TASKS
        if needs_data and not self.data and not shipped:
            what = "--template" if custom else f"--task {self.task}"
            raise UsageError(f"{what} without --data", "name the folder or file of its rows")
        check_choice("method", self.method, tuple(METHODS))
        method = PLAIN | METHODS[self.method]
        window = 50 if (self.direction or method["direction"]) == "low-rank" else 10
        small = SMALL.get(self.train or method["train"], {})
        defaults = {**method, "window": window, **FAMILY[family]}
        defaults |= TINY if self.is_shipped_model else PAPERS | small
        steps = defaults["steps"] if self.steps is None else self.steps
        task = None if custom else SHIPPED_TASKS[0]
        defaults = {"eval_every": max(1, steps // 10), "task": task, **defaults}
        filled = {k: v for k, v in defaults.items() if getattr(self, k) is None}
        settings = dataclasses.replace(self, **filled)
        settings.check()
        check_combination(settings)
        return settings

    def check(self) -> None:
        """raises: UsageError for a number out of range, or text that run.toml cannot hold"""
        for name, (least, most) in RANGES.items():
            value = getattr(self, name)
            if value is not None and not least <= value <= most:
                raise UsageError(f"{name} = {value}", f"{name} is from {least} to {most}")
        if self.memory_budget:
            parse_bytes(self.memory_budget)
        try:
            self.to_toml().encode()
        except UnicodeEncodeError:
            raise UsageError("a path or text that is not UTF-8", "rename the folder") from None

    def to_toml(self) -> str:
        """The settings that have a value, a line each."""
        items = ((k, v) for k, v in dataclasses.asdict(self).items() if v is not None)
        lines = (f"{name} = {json.dumps(value, ensure_ascii=False)}\n" for name, value in items)
        return "".join(lines).replace("\x7f", "\\u007f")  # JSON leaves it, TOML does not


def parse_bytes(text: str) -> int:
    """A size such as 400MB, 1.5G or 256MiB.

    raises: UsageError for another text
    """
    match = re.fullmatch(r"(\d+(?:\.\d+)?) ?([KMG]?)(i?)B?", text, re.IGNORECASE)
    if not match:
        raise UsageError(f"memory_budget = {text!r}", "a size such as 400MB or 1.5GB")
    power = " KMG".index(match[2].upper() or " ")
    return int(float(match[1]) * (1024 if match[3] else 1000) ** power)


def settings_from(values: Mapping[str, Any], where: str) -> Settings:
    """Settings from a dictionary such as a TOML file gives; `-` in a name counts as `_`.

    raises: UsageError for a name that is no setting, or a value of another type
    """
    kinds = {f.name: str(f.type).removesuffix(" | None") for f in dataclasses.fields(Settings)}
    given: dict[str, Any] = {}
    for name, value in values.items():
        name = name.replace("-", "_")
        if name not in kinds:
            raise UsageError(f"{where}: no setting is called {name!r}", "see tinyzo finetune -h")
        if value is not None:
            given[name] = _typed(kinds[name], value)
            if given[name] is None:
                raise UsageError(f"{where}: {name} = {value!r}", f"expected {kinds[name]}")
    return Settings(**given)


def _typed(kind: str, value: Any) -> Any:
    """The value if it is of the kind, or can stand for it without loss; else None."""
    if kind == "str" and isinstance(value, os.PathLike):
        return os.fspath(value)
    if kind == "float" and type(value) is int and abs(value) < 1 << 53:
        return float(value)
    if kind == "list[str]" and isinstance(value, (list, tuple)):
        return list(value) if all(isinstance(v, str) for v in value) else None
    return value if type(value).__name__ == kind else None
