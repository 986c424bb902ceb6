"""Defaults that depend on the model or the method, and where each comes from.

Those that hold for every run stand in RunSettings (settings.py).

A learning rate belongs to what sets the scale of a step: the estimator, the direction, the update
and what is trained. Each has a factor on the rate of MeZO on all parameters; the factors multiply.
"""

from typing import Any

from tinyzo.zo.methods import METHODS

MODEL = "roberta-tiny"
METHOD = "mezo"

# data_seed is that of the published sets.
FAMILIES: dict[str, dict[str, int]] = {
    "roberta": {"batch_size": 64, "data_seed": 42},
    "opt": {"batch_size": 16, "data_seed": 0},
}

# The models that ship are small enough for larger steps and micro-batches than the papers'; chosen
# on the dev split of `topics`.
SHIPPED: dict[str, float] = {
    "steps": 400,
    "batch_size": 32,
    "lr": 5e-5,
    "eps": 1e-3,
    "eval_every": 100,
    "micro_batch_tokens": 4096,
}

# The settings that a method is a name for.
PARTS = ("estimator", "queries", "direction", "update", "train")

# Few parameters take larger perturbations.
EPS_OF_TRAIN = {
    "lora": 1e-2,
    "lora-fa": 1e-2,
    "lora-fit": 1e-2,
    "head-fit": 1e-2,
    "prefix": 1e-1,
    "label-words": 1e-2,
}
WINDOW_OF_DIRECTION = {"low-rank": 50}

# From the papers, and from bench/convergence.py on small models; what is not here counts 1.
RATE_FACTORS: dict[str, dict[str, float]] = {
    "estimator": {"one-sided": 30},
    "direction": {"low-rank": 0.1},
    "update": {"momentum": 0.1, "rms": 6, "adamezo": 0.1},
    "train": {
        "lora": 100,
        "lora-fa": 100,
        "lora-act": 10,
        "lora-fit": 60,
        "head-fit": 10,
        "prefix": 3_000,
        "label-words": 3,
    },
}
# Adapters have small gradients, which a step that is divided by their size makes up for already.
NORMALISED = ("one-sided", "rms", "adamezo")
NORMALISED_TRAIN: dict[str, float] = {
    "lora": 5,
    "lora-fa": 5,
    "lora-act": 0.5,
    "lora-fit": 3,
    "head-fit": 3,
    "prefix": 30,
}


# `Any` in what follows: a setting is of the type of its field in RunSettings.
def complete(
    general: dict[str, Any], given: dict[str, Any], family: str, is_shipped_model: bool
) -> dict[str, Any]:
    """A value for every field of RunSettings.

    general: the defaults that hold for every run
    given:   the user's choices, which count before all else
    """
    method = METHODS[given.get("method", METHOD)]
    parts = {name: getattr(method, name) for name in PARTS}
    values = general | FAMILIES[family] | parts
    if is_shipped_model:
        values |= SHIPPED
    chosen = values | given
    values["eps"] = EPS_OF_TRAIN.get(chosen["train"], values["eps"])
    values["window"] = WINDOW_OF_DIRECTION.get(chosen["direction"], values["window"])
    values["lr"] = scaled_rate(values["lr"], chosen)
    values.setdefault("eval_every", max(1, chosen["steps"] // 10))
    return values | given


def scaled_rate(lr: float, parts: dict[str, Any]) -> float:
    """The default learning rate for a combination of parts, in four digits."""
    of_parts = RATE_FACTORS
    if parts["estimator"] in NORMALISED or parts["update"] in NORMALISED:
        of_parts = RATE_FACTORS | {"train": NORMALISED_TRAIN}
    for part, factors in of_parts.items():
        lr *= factors.get(parts[part], 1)
    return float(f"{lr:.4g}")
