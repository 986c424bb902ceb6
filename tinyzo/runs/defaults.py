"""Defaults of a run, from the general to the particular, and where each comes from.

A learning rate belongs to what sets the scale of a step: the estimator, the direction, the update
and what is trained. Each has a factor on the rate of MeZO on all parameters; the factors multiply.
"""

from typing import Any

from tinyzo.zo.methods import METHODS

MODEL = "roberta-tiny"

# The papers', for tuning all parameters by MeZO (Malladi et al. 2023, tables 15 and 16).
GENERAL: dict[str, Any] = {
    "model": MODEL,
    "task": None,
    "data": None,
    "template": None,
    "label_words": None,
    "label_field": "label",
    "method": "mezo",
    "window": 10,
    "clip": None,
    "objective": "cross-entropy",
    "lora_rank": 8,
    "lora_alpha": 16.0,
    "lora_targets": None,
    "steps": 10_000,
    "lr": 1e-6,
    "eps": 1e-3,
    "schedule": "constant",
    "warmup": 0,
    "weight_decay": 0.0,
    "seed": 0,
    "k_shot": None,
    "train_rows": 1000,
    "limit": None,
    "micro_batch_tokens": 512,
    "engine": "auto",
    "residency": "auto",
    "memory_budget": None,
    "fold_every": None,
    "dtype": "auto",
    "threads": None,
}

# data_seed is that of the published sets.
FAMILIES: dict[str, dict[str, Any]] = {
    "roberta": {"batch_size": 64, "data_seed": 42},
    "opt": {"batch_size": 16, "data_seed": 0},
}

# The models that ship are small enough for larger steps and micro-batches than the papers'; chosen
# on the dev split of `topics`.
SHIPPED: dict[str, Any] = {
    "steps": 400,
    "batch_size": 32,
    "lr": 5e-5,
    "eps": 1e-3,
    "eval_every": 100,
    "micro_batch_tokens": 4096,
}

# Few parameters take larger perturbations.
EPS_OF_TRAIN = {"lora": 1e-2, "lora-fa": 1e-2, "prefix": 1e-1, "label-words": 1e-2}
WINDOW_OF_DIRECTION = {"low-rank": 50}

# From the papers, and from bench/convergence.py on small models; 1 where nothing is said.
RATE_FACTORS: dict[str, dict[str, float]] = {
    "estimator": {"one-sided": 30},
    "direction": {"low-rank": 0.1},
    "update": {"momentum": 0.1, "adamezo": 0.1},
    "train": {"lora": 100, "lora-fa": 100, "prefix": 3_000, "label-words": 3},
}


def complete(given: dict[str, Any], family: str, is_shipped_model: bool) -> dict[str, Any]:
    """A value for every field of RunSettings, but a task where the model ships.

    given: the user's choices, which count before all else
    """
    method = METHODS[given.get("method", GENERAL["method"])]
    parts = {name: getattr(method, name) for name in PARTS}
    values = GENERAL | FAMILIES[family] | parts
    if is_shipped_model:
        values |= SHIPPED
    chosen = values | given
    values["eps"] = EPS_OF_TRAIN.get(chosen["train"], values["eps"])
    values["window"] = WINDOW_OF_DIRECTION.get(chosen["direction"], values["window"])
    values["lr"] = scaled_rate(values["lr"], chosen)
    values["eval_every"] = values.get("eval_every", max(1, chosen["steps"] // 10))
    return values | given


PARTS = ("estimator", "queries", "direction", "update", "train")


def scaled_rate(lr: float, parts: dict[str, Any]) -> float:
    """The default learning rate for a combination of parts, in four digits."""
    for part, factors in RATE_FACTORS.items():
        lr *= factors.get(parts[part], 1)
    return float(f"{lr:.4g}")
