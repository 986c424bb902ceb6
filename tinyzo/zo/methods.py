"""Methods by name: each an estimator, a direction, an update and what is trained.

    estimator   two-sided, one-sided, leave-one-out, forward         estimators.py
    direction   z: gaussian or rademacher everywhere; gaussian of low rank in matrices, or only
                where weights are small
    update      sgd, sign, momentum, adam                            updates.py
    train       full, lora, lora-fa, prefix, names                   models/trainable.py

All combine in one step, but for those in REFUSED.
"""

from collections.abc import Callable
from typing import Any

from tinyzo.errors import UsageError

DIRECTIONS = ("gaussian", "rademacher", "low-rank", "magnitude")
OBJECTIVES = ("cross-entropy", "accuracy", "f1")
FIRST_ORDER = ("adam", "sgd")  # by backpropagation, to compare with

METHODS: dict[str, dict[str, Any]] = {
    "mezo": {},
    "n-spsa": {"queries": 4},
    "p-rge": {"queries": 4, "train": "lora-fa"},
    "fzoo": {"estimator": "one-sided", "queries": 8, "direction": "rademacher"},
    "leave-one-out": {"estimator": "leave-one-out", "queries": 8},
    "lozo": {"direction": "low-rank"},
    "sparse-mezo": {"direction": "magnitude"},
    "momentum": {"update": "momentum"},
    "adamezo": {"update": "adam"},
    "forward-gradient": {"estimator": "forward"},
    **{name: {} for name in FIRST_ORDER},
}
PLAIN = {"estimator": "two-sided", "queries": 1, "direction": "gaussian", "update": "sgd",
         "train": "full"}  # fmt: skip

# (name of a setting, its value), another, and why they do not go together.
REFUSED: tuple[tuple[tuple[str, Any], Callable[[Any], bool], str], ...] = (
    (("estimator", "forward"), lambda s: s.objective != "cross-entropy",
     "a derivative needs a loss that has one"),
    (("estimator", "forward"), lambda s: s.direction == "magnitude",
     "its tangents are whole; take two-sided"),
    (("estimator", "leave-one-out"), lambda s: s.queries < 2, "it compares --queries 2 or more"),
    (("estimator", "one-sided"), lambda s: s.queries < 2,
     "the spread of one loss is 0; take --queries 2 or more"),
    (("estimator", "one-sided"), lambda s: s.update in ("sign", "adam"),
     "both normalise the step; take sgd or momentum"),
    (("direction", "rademacher"), lambda s: s.update == "adam",
     "z^2 is 1, so Adam is momentum; take that"),
    (("direction", "low-rank"), lambda s: s.train != "full", "adapters are of low rank already"),
    (("direction", "low-rank"), lambda s: s.update in ("momentum", "adam"),
     "what they look back on ends with a window; take sgd or sign"),
    (("direction", "magnitude"), lambda s: s.train in ("lora", "lora-fa", "prefix"),
     "these begin small; it is for the model's own weights"),
    *((("method", name), lambda s: s.objective != "cross-entropy",
       "a gradient needs a loss that has one") for name in FIRST_ORDER),
    *((("method", name), lambda s: {n: getattr(s, n) for n in PLAIN if n != "train"} != {
        n: v for n, v in PLAIN.items() if n != "train"},
       "backpropagation has no queries, directions, estimator or update") for name in FIRST_ORDER),
)  # fmt: skip


def check_combination(settings: Any) -> None:
    """raises: UsageError for what does not go together, with the reason"""
    for (name, value), conflicts, why in REFUSED:
        if getattr(settings, name) == value and conflicts(settings):
            raise UsageError(f"--{name} {value} with the other settings", why)
