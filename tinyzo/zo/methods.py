"""The methods by name: each an estimator, a direction, an update and a set that is trained.

    estimator   two-sided, one-sided, leave-one-out, forward         estimators.py
    direction   z: gaussian or rademacher everywhere; gaussian of low rank in matrices, or only
                where weights are small                              directions.py
    update      sgd, sign, momentum, rms, adamezo                    updates.py
    train       full, lora, lora-fa, lora-act, lora-fit, head-fit, prefix, label-words, names
                                                                 models/trainable.py

All combine in one step, but for the rows of REFUSED. `adam`, `sgd` and `lora-adam` backpropagate,
to compare with, and combine with nothing.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple, Protocol

from tinyzo.errors import UsageError


@dataclass(frozen=True)
class Method:
    """A combination of parts; the defaults are MeZO's.

    summary:  a line of help
    gradient: the rule of a method that backpropagates; "" for the others
    """

    summary: str
    estimator: str = "two-sided"
    queries: int = 1
    direction: str = "gaussian"
    update: str = "sgd"
    train: str = "full"
    gradient: str = ""


METHODS = {
    "mezo": Method("two passes along one Gaussian direction (Malladi et al. 2023)"),
    "n-spsa": Method("MeZO averaged over --queries directions", queries=4),
    "p-rge": Method(
        "n-SPSA on LoRA-FA, all probes in one pass over the weights (arXiv 2409.15520)",
        queries=4,
        train="lora-fa",
    ),
    "zo-act": Method(
        "LoRA-FA whose A are the leading directions of each layer's inputs (arXiv 2607.01125)",
        train="lora-act",
    ),
    "zo-fit": Method(
        "LoRA-FA along the directions in which a layer's inputs foretell the errors",
        train="lora-fit",
    ),
    "zo-head": Method(
        "the same, after the label words' rows are fitted to the training rows",
        train="head-fit",
    ),
    "fzoo": Method(
        "one-sided, sign vectors, the step divided by the losses' spread (arXiv 2506.09034)",
        estimator="one-sided",
        queries=8,
        direction="rademacher",
    ),
    "leave-one-out": Method(
        "each probe against the mean of the others", estimator="leave-one-out", queries=8
    ),
    "lozo": Method(
        "z = U V^T of rank 2 in matrices, V kept for --window steps (arXiv 2410.07698)",
        direction="low-rank",
    ),
    "sparse-mezo": Method(
        "z only where weights are small (arXiv 2402.15751)", direction="magnitude"
    ),
    "momentum": Method("MeZO with momentum, made again from seeds", update="momentum"),
    "rms": Method("momentum, divided by the root mean square of the gradients", update="rms"),
    "adamezo": Method(
        "Adam's moments made again from the last seeds (arXiv 2605.00650)", update="adamezo"
    ),
    "auto": Method(
        "zo-head, the quickest of those measured (docs/convergence.md), or fzoo where a task has "
        "no label words to fit",
        train="head-fit",
    ),
    "forward-gradient": Method(
        "the exact derivative along z, by forward-mode differentiation", estimator="forward"
    ),
    "adam": Method("backpropagation and Adam, to compare with", gradient="adam"),
    "sgd": Method("backpropagation and SGD, to compare with", gradient="sgd"),
    "lora-adam": Method(
        "backpropagation and Adam on LoRA, beside weights that may stay in their file",
        train="lora",
        gradient="adam",
    ),
}


class Parts(Protocol):
    """The settings that a combination is made of."""

    @property
    def method(self) -> str: ...
    @property
    def estimator(self) -> str: ...
    @property
    def queries(self) -> int: ...
    @property
    def direction(self) -> str: ...
    @property
    def update(self) -> str: ...
    @property
    def clip(self) -> float | None: ...
    @property
    def objective(self) -> str: ...
    @property
    def train(self) -> str: ...
    @property
    def guard(self) -> int: ...


class Refusal(NamedTuple):
    """A combination that is not built: `setting` is `value`, and `clashes` with the others."""

    setting: str
    value: str
    clashes: Callable[[Parts], bool]
    why: str


def is_not_plain(parts: Parts) -> bool:
    """True when anything is chosen that only a zeroth-order step has."""
    plain = METHODS["mezo"]
    chosen = (parts.estimator, parts.queries, parts.direction, parts.update, parts.clip)
    return chosen != (plain.estimator, plain.queries, plain.direction, plain.update, None)


def has_no_gradient(parts: Parts) -> bool:
    """True for an objective that counts."""
    return parts.objective != "cross-entropy"


BACKPROPAGATING = tuple(name for name, method in METHODS.items() if method.gradient)
NO_GRADIENT = "a gradient needs a loss that has one"
NO_PARTS = "backpropagation has no queries, directions, estimator, update or clip"
NO_WAY_BACK = "no journal holds a gradient, so --guard has nothing to go back by"
ADAPTERS = ("lora", "lora-fa", "lora-act", "lora-fit")
SMALL_SETS = (*ADAPTERS, "head-fit", "prefix", "label-words")

# The first row that applies is reported.
REFUSED = (
    Refusal(
        "estimator",
        "forward",
        lambda parts: parts.objective != "cross-entropy",
        "a derivative needs a loss that has one",
    ),
    Refusal(
        "estimator",
        "forward",
        lambda parts: parts.direction == "magnitude",
        "its tangents are whole; take two-sided",
    ),
    Refusal(
        "estimator",
        "leave-one-out",
        lambda parts: parts.queries == 1,
        "it compares --queries 2 or more",
    ),
    Refusal(
        "estimator",
        "one-sided",
        lambda parts: parts.queries == 1,
        "the spread of one loss is 0; take --queries 2 or more",
    ),
    Refusal(
        "estimator",
        "one-sided",
        lambda parts: parts.update in ("sign", "rms", "adamezo"),
        "both normalise the step; take sgd or momentum",
    ),
    Refusal(
        "direction",
        "rademacher",
        lambda parts: parts.update == "adamezo",
        "z^2 is 1, so AdaMeZO is momentum; take that",
    ),
    Refusal(
        "direction",
        "low-rank",
        lambda parts: parts.train != "full",
        "adapters are of low rank already",
    ),
    Refusal(
        "direction",
        "low-rank",
        lambda parts: parts.update in ("momentum", "rms", "adamezo"),
        "a window ends what they look back on; take sgd or sign",
    ),
    Refusal(
        "direction",
        "magnitude",
        lambda parts: parts.train in SMALL_SETS,
        "these begin small; it is for the model's own weights",
    ),
    *(Refusal("method", name, has_no_gradient, NO_GRADIENT) for name in BACKPROPAGATING),
    *(Refusal("method", name, is_not_plain, NO_PARTS) for name in BACKPROPAGATING),
    Refusal(
        "method",
        "lora-adam",
        lambda parts: parts.train not in ("lora", "lora-fa"),
        "it trains lora or lora-fa; adam trains anything",
    ),
    *(
        Refusal("method", name, lambda parts: parts.guard > 0, NO_WAY_BACK)
        for name in BACKPROPAGATING
    ),
)


def check_combination(parts: Parts) -> None:
    """raises: UsageError for parts that do not go together, with the reason"""
    for refusal in REFUSED:
        if getattr(parts, refusal.setting) == refusal.value and refusal.clashes(parts):
            found = f"--{refusal.setting} {refusal.value} with the other settings"
            raise UsageError(found, refusal.why)
