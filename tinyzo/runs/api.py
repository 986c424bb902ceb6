"""The functions of `import tinyzo` that know of tasks and runs."""

from __future__ import annotations

from pathlib import Path

from tinyzo.runs import train
from tinyzo.runs.run import Run
from tinyzo.runs.settings import FIELDS, Settings


def finetune(
    output: str | Path | None = None,
    resume: str | Path | None = None,
    *,
    model: str | Path | None = None,
    task: str | None = None,
    data: str | Path | None = None,
    template: str | None = None,
    label_words: list[str] | None = None,
    label_field: str | None = None,
    method: str | None = None,
    estimator: str | None = None,
    queries: int | None = None,
    direction: str | None = None,
    update: str | None = None,
    window: int | None = None,
    clip: float | None = None,
    objective: str | None = None,
    train: str | None = None,
    lora_rank: int | None = None,
    lora_alpha: float | None = None,
    lora_targets: list[str] | None = None,
    steps: int | None = None,
    batch_size: int | None = None,
    lr: float | None = None,
    eps: float | None = None,
    schedule: str | None = None,
    warmup: int | None = None,
    weight_decay: float | None = None,
    seed: int | None = None,
    data_seed: int | None = None,
    k_shot: int | None = None,
    train_rows: int | None = None,
    limit: int | None = None,
    eval_every: int | None = None,
    micro_batch_tokens: int | None = None,
    engine: str | None = None,
    residency: str | None = None,
    memory_budget: str | None = None,
    fold_every: int | None = None,
    dtype: str | None = None,
    threads: int | None = None,
) -> Run:
    """Tune a model by forward passes; the same as `tinyzo finetune`.

    output: the run's new directory; None: runs/<task>-<model>-<n>
    resume: go on with this run instead; then only steps, fold_every, residency, threads and
        memory_budget may be chosen anew
    All others are the fields of Settings, which says what each is; None leaves it to tinyzo.
    returns: the finished run; its `result` is the summary
    raises: TinyzoError; KeyboardInterrupt leaves a run that can be resumed
    """
    choices = {name: value for name, value in locals().items() if name in FIELDS}
    settings = Settings.from_mapping(choices, "finetune")
    return train.finetune(settings, as_path(output), as_path(resume))


def as_path(path: str | Path | None) -> Path | None:
    return None if path is None else Path(path)
