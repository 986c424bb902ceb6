"""The table of methods, and what is refused with its reason."""

from __future__ import annotations

from typing import Any

import pytest

from tinyzo.errors import UsageError
from tinyzo.runs.settings import CHOICES as ALL
from tinyzo.runs.settings import RATES, Settings
from tinyzo.zo.estimators import ESTIMATORS
from tinyzo.zo.methods import METHODS, PLAIN, TABLE

CHOICES = {
    "estimator": ESTIMATORS, "direction": ALL["direction"], "update": ALL["update"],
    "objective": ALL["objective"],
    "queries": (1, 2, 5), "train": ("full", "lora", "lora-fa", "prefix", "label-words", "bias"),
    "method": METHODS, "clip": (0, 1.0),
}  # fmt: skip
OTHERS = {"objective": "cross-entropy", "train": "full"} | PLAIN


def clashes() -> list[tuple[dict[str, Any], str]]:
    """What each row refuses, from its other settings as they are plainly."""
    found = []
    for row in TABLE["refused"]:
        pairs = [(n, v) for n, values in row.get("with", {}).items() for v in values]
        pairs += [(n, v) for n, values in row.get("unless", {}).items()
                  for v in CHOICES[n] if v not in values]  # fmt: skip
        for value in row["values"]:
            for name, other in pairs:
                enough = {} if "queries" in (name, row["setting"]) else {"queries": 2}
                more = enough if value in ("one-sided", "leave-one-out") else {}
                found.append(({row["setting"]: value, name: other} | more, row["why"]))
    return found


@pytest.mark.parametrize(("choices", "why"), clashes())
def test_what_is_refused_says_why(choices, why):
    known = {row["why"] for row in TABLE["refused"]}
    with pytest.raises(UsageError) as error:
        Settings(**choices).complete("roberta")
    assert error.value.exit_code == 2
    (said,) = (reason for reason in known if reason in str(error.value))
    if "method" not in choices or "estimator" not in choices:  # else both apply
        assert said == why


def test_every_row_refuses_something_and_names_what_there_is():
    for row in TABLE["refused"]:
        assert set(row["values"]) <= set(CHOICES[row["setting"]])
        for name, values in (row.get("with", {}) | row.get("unless", {})).items():
            assert set(values) <= set(CHOICES[name])
    assert {why for _, why in clashes()} == {row["why"] for row in TABLE["refused"]}


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("family", ["roberta", "opt"])
def test_every_method_is_complete_and_allowed(method, family):
    settings = Settings(method=method).complete(family)
    for name, value in (PLAIN | METHODS[method]).items():
        assert getattr(settings, name) == value
    assert settings.is_plain == (not METHODS[method])
    assert None not in (settings.window, settings.train, settings.lr, settings.eps)


def test_auto_is_fzoo():
    assert METHODS["auto"] == METHODS["fzoo"] and RATES["auto"] == RATES["fzoo"]


def test_what_is_given_counts_before_the_method():
    settings = Settings(method="p-rge", queries=7, train="full", update="adam").complete("opt")
    assert (settings.queries, settings.train, settings.update) == (7, "full", "adam")
    assert not Settings(clip=1.0).complete("opt").is_plain
    assert Settings(direction="low-rank").complete("opt").window == 50
