"""Steps by the gradient, against PyTorch's optimisers and by hand."""

from __future__ import annotations

import math
import signal

import numpy as np
import pytest
from autodiff.exact import GOLDEN, add_adapters, golden_case, task_of, tiny_model
from folders import write_model
from golden.seeded import DECAY, GRADIENTS, LR, STEPS
from tiny import raw_bytes

import tinyzo
from tinyzo.autodiff.adam import SGD, Adam, add_moments, first_order_step
from tinyzo.autodiff.reverse_mode import GradientView
from tinyzo.autodiff.tape import Variable
from tinyzo.dtypes import narrow, widen
from tinyzo.engine.numpy_engine import NumpyEngine
from tinyzo.engine.stores.overlay import Overlay
from tinyzo.engine.weights import Weights
from tinyzo.errors import ConfigError, NumericError
from tinyzo.models.model import load

RULES = [Adam(), SGD()]


def steps(model, count: int, state: dict, **options) -> list:
    objective, examples = task_of(model, "classification")
    return [
        first_order_step(model.weights, objective, examples, state, 1e-2, **options)
        for _ in range(count)
    ]


@pytest.mark.parametrize(("kind", "decay"), [("adam", 0.0), ("adamw", DECAY)])
def test_pytorch_makes_the_same_steps(kind, decay):
    objective, examples = golden_case(next(iter(GRADIENTS)))
    weights, state = objective.objective.model.weights, {}
    before = {n: weights.read(n) for n in weights.names()}
    for _ in range(STEPS):
        first_order_step(weights, objective, examples, state, LR, decay, Adam(eps=1e-2))
    with np.load(GOLDEN) as golden:
        expected = {n: golden[f"{kind}.{n}"] for n in before}
    peak = max(np.abs(e).max() for e in expected.values())
    error = max(np.abs(weights.read(n) - w - expected[n]).max() for n, w in before.items())
    print(f"{error / peak:.1e} of the largest change")
    assert error < 1e-5 * peak  # weights of 1 hold changes of 1e-2 to 6e-6


def formula(name: str, shape: tuple[int, ...]) -> np.ndarray:
    """AdamW on gradients that are given: z of each step."""
    weights, state = Weights({name: tinyzo.noise(0, name, shape).copy()}, NumpyEngine()), {}
    for step in range(1, STEPS + 1):
        z = tinyzo.noise(step, name, shape)
        first_order_step(weights, linear_loss(name, z), None, state, LR, DECAY)
    return weights.read(name)


def linear_loss(name: str, z: np.ndarray):
    """A loss whose gradient is z."""

    def loss(theta: GradientView, _):
        w = theta.tensor(name).astype(np.float64)
        return Variable(np.array([(w * z).sum()]), (theta.leaves.get(name), lambda dy: z.copy()))

    return loss


@pytest.mark.parametrize(("name", "shape"), [("matrix", (4, 5)), ("vector", (7,))])
def test_the_formula_is_adamws(name, shape):
    with np.load(GOLDEN) as golden:
        expected = golden[f"formula.{name}"]
    assert formula(name, shape) == pytest.approx(expected, rel=1e-6, abs=1e-7)


def test_sgd_by_hand():
    name, shape = "w", (3, 4)
    w, z = tinyzo.noise(0, name, shape), tinyzo.noise(1, name, shape)
    weights = Weights({name: w.copy()}, NumpyEngine())
    step = first_order_step(weights, linear_loss(name, z), None, {}, LR, DECAY, SGD())
    assert weights.read(name) == pytest.approx((1 - LR * DECAY) * w - LR * z, rel=1e-6, abs=1e-7)
    assert step.projected_gradient == pytest.approx(np.linalg.norm(z), rel=1e-6)
    assert step.losses == (pytest.approx(float((w * z).sum()), rel=1e-6),)
    assert step.terms == () and step.decay == 0


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("name", ["roberta", "opt-post"])
def test_the_loss_falls(name, rule):
    made = steps(tiny_model(name), 8, {}, rule=rule)
    assert made[-1].loss < made[0].loss - 0.03


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("dtype", ["f32", "bf16", "f16"])
def test_a_saved_state_goes_on_to_the_bit(dtype, rule, tmp_path):
    whole, state = tiny_model("opt", dtype), {}
    expected = steps(whole, 4, state, rule=rule, decay=0.1)
    model, half = tiny_model("opt", dtype), {}
    steps(model, 2, half, rule=rule, decay=0.1)
    np.savez(tmp_path / "state.npz", **half)
    with np.load(tmp_path / "state.npz") as saved:
        half = {name: saved[name] for name in saved}
    assert steps(model, 2, half, rule=rule, decay=0.1) == expected[2:]
    assert raw_bytes(model.weights) == raw_bytes(whole.weights)
    assert half.keys() == state.keys() and all(np.array_equal(half[n], state[n]) for n in state)


def test_the_state_is_two_moments_of_what_is_trained():
    model, state = tiny_model("roberta"), {}
    add_adapters(model)
    frozen = {n: b for n, b in raw_bytes(model.weights).items() if n not in model.weights.trained}
    steps(model, 2, state)
    names = {f"{m}.{n}" for m in "mv" for n in model.weights.trained}
    assert state.keys() == {"step", *names} and state["step"] == 2
    assert all(state[n].dtype == np.float32 for n in names)
    assert frozen.items() <= raw_bytes(model.weights).items()
    state = {}
    steps(model, 2, state, rule=SGD())
    assert state.keys() == {"step"}


@pytest.mark.parametrize("dtype", ["bf16", "f16"])
def test_16_bit_storage_is_rounded_to_nearest(dtype):
    model, wide = tiny_model("roberta", dtype), tiny_model("roberta", dtype)
    wide.weights = Weights({n: wide.weights.read(n) for n in wide.weights.names()}, NumpyEngine())
    steps(model, 1, {})
    steps(wide, 1, {})
    for name in model.weights.names():
        stored = model.weights.stored(name)
        expected = narrow(wide.weights.read(name), stored.dtype, None)
        assert np.array_equal(widen(stored), widen(expected))


@pytest.mark.parametrize("rule", RULES)
def test_decay_reaches_matrices_only(rule):
    models = [tiny_model("opt") for _ in range(2)]
    for model, decay in zip(models, (0.0, 0.5), strict=True):
        steps(model, 1, {}, decay=decay, rule=rule)
    before = tiny_model("opt").weights
    for name in before.names():
        plain, decayed = (model.weights.read(name) for model in models)
        lost = 1e-2 * 0.5 * before.read(name) if plain.ndim > 1 else 0.0
        assert plain - decayed == pytest.approx(lost + 0 * plain, abs=3e-7)


def unchanged(weights: Weights, state: dict, loss, error: str) -> None:
    before, kept = raw_bytes(weights), {name: a.copy() for name, a in state.items()}
    with pytest.raises(NumericError, match=error):
        first_order_step(weights, loss, None, state, LR)
    assert raw_bytes(weights) == before and state.keys() == kept.keys()
    assert all(np.array_equal(state[name], a) for name, a in kept.items())


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_loss_or_gradient_that_is_not_finite_changes_nothing(bad):
    weights, state = Weights({"w": np.ones((2, 2), np.float32)}, NumpyEngine()), {}
    good = np.ones((2, 2), np.float32)
    unchanged(weights, state, linear_loss("w", bad * good), "losses")
    first_order_step(weights, linear_loss("w", good), None, state, LR)

    def sharp(theta, _):
        loss = linear_loss("w", bad * good)(theta, _)
        loss.value[...] = 1.0
        return loss

    unchanged(weights, state, sharp, "a gradient of norm")


def test_streamed_weights_are_refused():
    weights = tiny_model("opt").weights
    weights.store.is_resident = False
    with pytest.raises(ConfigError, match="streamed"):
        first_order_step(weights, linear_loss("w", np.ones(1)), None, {}, LR)


def test_what_a_step_changes_is_in_memory(tmp_path):
    model = load(write_model(tmp_path / "model"), engine="numpy", residency="streamed")
    model.weights.store = Overlay(model.weights.store, {})
    add_moments(model.weights)  # two overlays, each of them in memory
    objective, examples = task_of(model, "classification")
    found = r"on streamed weights, as roberta\..*\n.*--residency resident, or .* lora"
    with pytest.raises(ConfigError, match=found):
        first_order_step(model.weights, objective, examples, {}, LR)


@pytest.mark.parametrize("name", ["roberta", "opt"])
def test_micro_batches_are_differentiated_one_after_another(name, monkeypatch):
    found, waiting = [], []
    backward = Variable.backward

    def counted(loss):
        waiting.append(loss)
        return backward(loss)

    monkeypatch.setattr(Variable, "backward", counted)
    for most in (1, 4096):
        model = tiny_model(name)
        objective, examples = task_of(model, "classification", most)
        state: dict = {}
        step = first_order_step(model.weights, objective, examples, state, LR, rule=Adam())
        found.append((step, state))
    assert len(waiting) == len(examples) + 1
    (parts, m), (whole, n) = found
    assert parts.loss == pytest.approx(whole.loss, rel=1e-6)
    assert parts.projected_gradient == pytest.approx(whole.projected_gradient, rel=1e-5)
    peak = max(np.abs(each).max() for key, each in n.items() if key.startswith("m."))
    assert all(np.abs(m[key] - n[key]).max() < 1e-5 * peak for key in n if key != "step")


def test_an_interrupt_within_a_step_comes_after_it(monkeypatch):
    """Weights, moments and the count of the steps are of the same step."""
    models = [tiny_model("roberta", "f32") for _ in range(2)]
    states: list[dict] = [{}, {}]
    steps(models[0], 1, states[0])
    change = Adam.change

    def interrupted(*arguments):
        signal.raise_signal(signal.SIGINT)
        return change(*arguments)

    monkeypatch.setattr(Adam, "change", interrupted)
    with pytest.raises(KeyboardInterrupt):
        steps(models[1], 1, states[1])
    assert raw_bytes(models[0].weights) == raw_bytes(models[1].weights)
    assert states[0].keys() == states[1].keys()
    assert all(np.array_equal(state, states[1][name]) for name, state in states[0].items())
