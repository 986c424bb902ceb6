"""The table of methods, and what is refused with its reason."""

from __future__ import annotations

from itertools import product
from typing import Any

import pytest

from tinyzo.errors import UsageError
from tinyzo.runs.settings import CHOICES, Settings
from tinyzo.zo.methods import METHODS, REFUSED, Refusal, check_combination

TRAIN = ("full", "lora", "lora-fa", "prefix", "label-words", "bias")
VALUES: dict[str, tuple[Any, ...]] = {
    "estimator": CHOICES["estimator"],
    "direction": CHOICES["direction"],
    "update": CHOICES["update"],
    "objective": CHOICES["objective"],
    "queries": (1, 2, 5),
    "train": TRAIN,
    "clip": (None, 1.0),
}
# Pairs that are refused, and why; all other pairs of values are built.
NORMALISED = "both normalise the step; take sgd or momentum"
NO_PARTS = "backpropagation has no queries, directions, estimator, update or clip"
SMALL = "these begin small; it is for the model's own weights"
CLASHES = {
    (("estimator", "forward"), ("objective", "accuracy")): "a derivative needs a loss that has one",
    (("estimator", "forward"), ("objective", "f1")): "a derivative needs a loss that has one",
    (("estimator", "forward"), ("direction", "magnitude")): "its tangents are whole",
    (("estimator", "leave-one-out"), ("queries", 1)): "it compares --queries 2 or more",
    (("estimator", "one-sided"), ("queries", 1)): "the spread of one loss is 0",
    (("estimator", "one-sided"), ("update", "sign")): NORMALISED,
    (("estimator", "one-sided"), ("update", "rms")): NORMALISED,
    (("estimator", "one-sided"), ("update", "adamezo")): NORMALISED,
    (("direction", "rademacher"), ("update", "adamezo")): "z^2 is 1, so AdaMeZO is momentum",
    (("direction", "low-rank"), ("update", "momentum")): "a window ends what they look back on",
    (("direction", "low-rank"), ("update", "rms")): "a window ends what they look back on",
    (("direction", "low-rank"), ("update", "adamezo")): "a window ends what they look back on",
    **{
        (("direction", "low-rank"), ("train", train)): "adapters are of low rank already"
        for train in TRAIN[1:]
    },
    **{(("direction", "magnitude"), ("train", train)): SMALL for train in TRAIN[1:5]},
}
PAIRS = [
    ((a, x), (b, y))
    for a, b in product(VALUES, VALUES)
    if list(VALUES).index(a) < list(VALUES).index(b)
    for x, y in product(VALUES[a], VALUES[b])
]


def resolve(*parts: tuple[str, Any], **more: Any) -> None:
    """Settings of these parts; queries enough for any estimator unless they are said."""
    given = {"queries": 2} | dict(parts) | more
    Settings(**given).resolve("roberta")


@pytest.mark.parametrize(("first", "second"), PAIRS)
def test_every_pair_of_parts_is_built_or_refused_with_its_reason(first, second):
    why = CLASHES.get((first, second)) or CLASHES.get((second, first))
    if why is None:
        lonely = dict((first, second)).get("queries") == 1
        if lonely and {first[1], second[1]} & {"one-sided", "leave-one-out"}:
            return  # in the table by itself
        resolve(first, second)
        return
    with pytest.raises(UsageError) as error:
        resolve(first, second)
    assert why in str(error.value) and error.value.exit_code == 2


@pytest.mark.parametrize("method", ["adam", "sgd", "lora-adam"])
@pytest.mark.parametrize(
    ("name", "value", "why"),
    [
        ("objective", "accuracy", "a gradient needs a loss that has one"),
        ("objective", "f1", "a gradient needs a loss that has one"),
        ("estimator", "leave-one-out", NO_PARTS),
        ("queries", 2, NO_PARTS),
        ("direction", "rademacher", NO_PARTS),
        ("update", "momentum", NO_PARTS),
        ("clip", 1.0, NO_PARTS),
    ],
)
def test_backpropagation_combines_with_nothing(method, name, value, why):
    given = {"queries": 2} if name == "estimator" else {}
    with pytest.raises(UsageError, match=f"\n  hint: {why}"):
        Settings(method=method, **(given | {name: value})).resolve("roberta")
    Settings(method=method, train="lora").resolve("roberta")


@pytest.mark.parametrize("train", ["full", "prefix", "*.bias"])
def test_lora_adam_trains_lora(train):
    with pytest.raises(UsageError, match="\n  hint: it trains lora or lora-fa; adam"):
        Settings(method="lora-adam", train=train).resolve("opt")
    Settings(method="lora-adam", train="lora-fa").resolve("opt")


def test_every_row_is_reached():
    """With one row taken out, its clash is built: no row stands behind another."""
    reasons = {refusal.why for refusal in REFUSED}
    for why in (*CLASHES.values(), NO_PARTS, "a gradient needs a loss that has one"):
        assert any(reason.startswith(why) for reason in reasons)
    assert all(isinstance(refusal, Refusal) and refusal.why for refusal in REFUSED)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("family", ["roberta", "opt"])
def test_every_method_is_complete_and_allowed(method, family):
    settings = Settings(method=method).resolve(family)
    for part in ("estimator", "queries", "direction", "update", "train"):
        assert getattr(settings, part) == getattr(METHODS[method], part)
    check_combination(settings)
    assert METHODS[method].summary and "\n" not in METHODS[method].summary


def test_auto_is_zo_head():
    auto, head = (Settings(method=name).resolve("roberta") for name in ("auto", "zo-head"))
    assert auto == head.replace(method="auto")


def test_a_choice_counts_before_the_method():
    settings = Settings(method="p-rge", queries=7, train="full", update="adamezo").resolve("opt")
    assert (settings.queries, settings.train, settings.update) == (7, "full", "adamezo")
    assert Settings(direction="low-rank").resolve("opt").window == 50
