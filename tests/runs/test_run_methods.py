"""A method of a run as an object: which one settings make, and what each asks of a run."""

from __future__ import annotations

import pytest
from tiny import MODELS

from tinyzo.engine.noise import step_seed
from tinyzo.errors import RunError
from tinyzo.runs.history import History, Return
from tinyzo.runs.methods import FirstOrder, LowRank, ZerothOrder, method_of, no_batch
from tinyzo.runs.settings import Settings
from tinyzo.zo.methods import METHODS
from tinyzo.zo.mezo import Step

EXPECTED = {  # the object, its losses and terms in the journal, its passes a step
    "mezo": (ZerothOrder, (2, 1), 2),
    "n-spsa": (ZerothOrder, (8, 4), 8),
    "momentum": (ZerothOrder, (2, 10), 2),
    "rms": (ZerothOrder, (2, 10), 2),
    "lozo": (LowRank, (2, 1), 2),
    "forward-gradient": (ZerothOrder, (2, 1), 3),
    "adam": (FirstOrder, (1, 0), 4),
    "sgd": (FirstOrder, (1, 0), 4),
    "lora-adam": (FirstOrder, (1, 0), 4),
}


def method(name: str, **given):
    return method_of(Settings(method=name, **given).resolve("opt"))


@pytest.mark.parametrize("name", EXPECTED)
def test_settings_make_the_object(name):
    kind, shape, forwards = EXPECTED[name]
    found = method(name)
    assert type(found) is kind
    assert (found.journal_shape, found.forwards) == (shape, forwards)
    assert found.keeps_gradients == (kind is FirstOrder)


def test_a_combination_makes_the_object_of_its_parts():
    assert type(method("mezo", direction="low-rank")) is LowRank
    assert type(method("mezo", train="lora")) is ZerothOrder
    assert method("mezo").is_mezo and not method("mezo", clip=1.0).is_mezo
    assert not method("mezo", queries=2).is_mezo and not method("mezo", update="sign").is_mezo


@pytest.mark.parametrize("name", METHODS)
def test_each_step_has_seeds_of_its_own(name):
    found = method(name)
    if isinstance(found, FirstOrder):
        return
    queries = found.settings.queries
    seeds = [seed for number in range(4) for seed in found.seeds(number)]
    assert seeds == [step_seed(0, place) for place in range(4 * queries)]
    assert len(set(seeds)) == 4 * queries


def test_what_an_update_looks_back_on_is_the_newest_first():
    found = method("momentum", window=3)
    done = History([Step((2.0 + number, 2.0), 0.0, ()) for number in range(5)])
    past = found.past(4, done)
    assert [step.seeds for step in past] == [found.seeds(3), found.seeds(2)]
    g = [number / (2 * found.settings.eps) for number in (3, 2)]
    assert [step.gradients for step in past] == [pytest.approx([value]) for value in g]
    assert found.past(0, done) == [] and len(found.past(1, done)) == 1
    done.returns.append(Return(after=4, to=1, factor=0.5))  # it has looked away from 2 and 3
    assert [step.seeds for step in found.past(4, done)] == [found.seeds(0)]


def test_rates_are_lower_after_a_return():
    found, back = method("mezo", lr=1.0), Return(after=2, to=1, factor=0.25)
    rates = [found.lr(number, History(returns=[back])) for number in range(4)]
    assert rates == [1.0, 1.0, 0.25, 0.25]


def test_a_schedule_counts_passes_not_steps():
    """After 384 passes a rate has fallen by sqrt(2), whatever a step costs."""
    for name in ("mezo", "n-spsa", "forward-gradient"):
        found = method(name, lr=1.0, schedule="sqrt")
        assert found.lr(384 // found.forwards, History()) == pytest.approx(0.5**0.5)
    assert method("mezo", lr=1.0, schedule="sqrt", lr_passes=8).lr(12, History()) == 0.5


def due(found, weights, steps, is_new=True, is_worth_it=True) -> bool:
    return found.is_snapshot_due(weights, steps, is_new, lambda: is_worth_it)


def test_when_a_snapshot_is_due():
    weights = MODELS["opt"]().weights
    mezo, lozo = method("mezo"), method("lozo", window=2)
    adam = method("adam", steps=5, eval_every=2)
    assert due(mezo, weights, 3)
    assert not due(mezo, weights, 3, is_new=False) and not due(mezo, weights, 3, is_worth_it=False)
    assert [due(lozo, weights, steps) for steps in (1, 2, 3, 4)] == [False, True, False, True]
    found = [due(adam, weights, steps, is_worth_it=False) for steps in range(1, 6)]
    assert found == [False, True, False, True, True]
    assert not due(adam, weights, 4, is_new=False)


def test_steps_over_a_windows_end_are_redone_in_memory():
    lozo = method("lozo", window=3)
    way = History([Step((), 0.0, ())] * 100).way(100)
    assert [lozo.must_be_resident(way[:stop]) for stop in (2, 3, 4)] == [False, True, True]
    assert not lozo.must_be_resident(way[3:5])
    assert not method("mezo").must_be_resident(way)


def test_a_gradient_is_not_redone_without_its_batch():
    with pytest.raises(RunError, match=r"run: step 3\n  hint: a gradient is in no journal"):
        method("adam").redo(None, None, no_batch("run: step 3"))
