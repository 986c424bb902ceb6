"""A of `lora-act` and `lora-fit`, against what each adapted matrix really gets, on any store and
engine."""

from __future__ import annotations

import tracemalloc
from functools import partial

import numpy as np
import pytest
from streams import small_tiles, streamed  # noqa: F401 (small_tiles: used by all)
from tiny import ANY_STORE, MODELS, examples_for, raw_bytes, tiny_opt, tiny_roberta, toy_task

from tinyzo.engine.numpy_engine import NumpyView
from tinyzo.errors import ConfigError
from tinyzo.models import activations
from tinyzo.models.activations import (
    PRIOR,
    RIDGE,
    SIDE,
    Errors,
    errors,
    fit_bytes,
    fitted_at_once,
    fitted_rows,
    foretelling,
    lead_by_errors,
    lead_by_inputs,
    leading_directions,
)
from tinyzo.models.model import Model
from tinyzo.models.trainable import train_only
from tinyzo.text.packing import packed_size
from tinyzo.zo.objectives import Objective

RANK = 3
CLASSES = 3
MADE_UP = np.random.RandomState(5).standard_normal((8, CLASSES))


class Recording(NumpyView):
    """Keeps the inputs of every product with a matrix, where that is computed."""

    def product(self, name, x):
        self.inputs[name] = x[0].astype(np.float64)
        return super().product(name, x)


def sums(model: Model, theta) -> None:
    Objective(model, toy_task(model.family)).sums(theta, examples_for(model.family))


def led(model: Model, rank: int = RANK, targets=None) -> Model:
    train_only(model, "lora-act", 3, rank, 4.0, targets)
    lead_by_inputs(model.weights, lambda theta: sums(model, theta))
    return model


def true_inputs(model: Model) -> dict[str, np.ndarray]:
    view = Recording(model.weights, [])
    view.inputs = {}
    sums(model, view)
    return view.inputs


@pytest.mark.parametrize("targets", [None, ["query", "fc2", "dense", "out_proj"]])
@pytest.mark.parametrize("name", ["roberta", "opt"])
def test_a_spans_the_leading_directions_of_the_true_inputs(name, targets):
    model = led(MODELS[name](), RANK, targets)
    inputs = true_inputs(MODELS[name]())
    adapted = [n for n in model.weights.names() if ".lora_A." in n]
    assert adapted
    for half in adapted:
        x = inputs[half.replace(".lora_A.", ".")]
        _, sizes, expected = np.linalg.svd(x, full_matrices=False)
        assert sizes[RANK - 1] > 1.01 * sizes[RANK]  # else the directions are not determined
        a = model.weights.read(half)
        assert a == pytest.approx(expected[:RANK] * np.sign((a * expected[:RANK]).sum(1))[:, None],
                                  abs=1e-4)  # fmt: skip
        assert (a[range(RANK), np.abs(a).argmax(1)] > 0).all()
    assert not any(model.weights.read(n).any() for n in model.weights.trained)  # each B is 0


@pytest.mark.parametrize("engine", ANY_STORE.values(), ids=ANY_STORE)
@pytest.mark.parametrize("dtype", ["f32", "bf16"])
def test_a_is_the_same_wherever_the_weights_are(tmp_path, engine, dtype):
    expected = raw_bytes(led(tiny_opt(dtype)).weights)
    assert raw_bytes(led(tiny_opt(dtype, engine)).weights) == expected
    there = led(streamed(tiny_opt(dtype, engine), tmp_path / "w")).weights
    assert {n: there.stored(n).tobytes() for n in there.names()} == expected


def test_directions_that_the_inputs_have_not_are_0():
    x = np.diag([3.0, 0.5, 2.0, 1.0]).astype(np.float32)[:3]
    a = leading_directions(x, 5)
    assert np.array_equal(
        a, np.float32([[1, 0, 0, 0], [0, 0, 1, 0], [0, 1, 0, 0], [0] * 4, [0] * 4])
    )
    assert np.array_equal(leading_directions(-x, 5), a)  # the sign is not chance


def test_a_table_is_refused():
    with pytest.raises(ConfigError, match=r"embed_tokens.weight is a table, and has no inputs"):
        led(tiny_opt(), RANK, ["embed_tokens"])


# -- lora-fit


def fitted(model: Model, rows: int = 4, size: int = 4) -> Model:
    """An adapter along the directions that foretell made-up errors, in parts of `size` examples."""
    train_only(model, "lora-fit", 3, CLASSES - 1, 4.0)
    objective = Objective(model, toy_task(model.family))
    examples = examples_for(model.family, rows)
    parts = []
    for start in range(0, rows, size):
        batch = objective.pack(examples[start : start + size])
        forward = partial(objective.scores, batch=batch)
        parts.append(Errors(forward, batch, MADE_UP[start : start + size]))
    lead_by_errors(model.weights, parts)
    return model


def errors_of_tokens(family: str, rows: int = 4) -> np.ndarray:
    """The made-up errors of the examples that packed tokens are of, told by their lengths."""
    tokens = []
    for example, error in zip(examples_for(family, rows), MADE_UP, strict=False):
        tokens += [error] * packed_size(example)
    return np.array(tokens)


@pytest.mark.parametrize("name", ["roberta", "opt"])
def test_a_foretells_the_errors_of_the_true_inputs(name):
    model = fitted(MODELS[name]())
    inputs = true_inputs(MODELS[name]())
    errors = errors_of_tokens(name)[:, :-1]
    adapted = [n.replace(".lora_A.", ".") for n in model.weights.names() if ".lora_A." in n]
    linear = {n for n in inputs if "embed" not in n}
    assert set(adapted) == linear
    whole = 0
    for n in adapted:
        x = inputs[n]
        if len(x) != len(errors):  # only the tokens that are read
            continue
        c = RIDGE * (x**2).sum() / x.shape[1]
        stacked = np.vstack([x, np.sqrt(c) * np.eye(x.shape[1])])
        wanted = np.vstack([errors, np.zeros((x.shape[1], CLASSES - 1))])
        expected = np.linalg.lstsq(stacked, wanted, rcond=None)[0].T
        expected /= np.sqrt(((x @ expected.T) ** 2).mean(0))[:, None]
        a = model.weights.read(n.replace(".weight", ".lora_A.weight"))
        assert a == pytest.approx(expected, rel=1e-3, abs=1e-4 * np.abs(expected).max())
        whole += 1
    assert whole >= 2
    assert model.weights.adapter_scale == 1


def test_the_tokens_that_are_read_have_their_own_examples_errors():
    batch = Objective(tiny_opt(), toy_task("opt")).pack(examples_for("opt"))
    errors = Errors(lambda theta: None, batch, MADE_UP[:4])
    whole = errors.of_inputs(len(batch.ids))
    assert np.array_equal(whole, errors_of_tokens("opt"))
    assert np.array_equal(errors.of_inputs(len(batch.read)), whole[batch.read])


def test_parts_are_summed_and_inputs_that_foretell_nothing_are_0():
    one = fitted(tiny_roberta(), 4, 4)
    two = fitted(tiny_roberta(), 4, 2)
    same = fitted(tiny_roberta(), 2, 2)
    for n in one.weights.trained:
        a = n.replace(".lora_B.", ".lora_A.")
        assert not np.array_equal(one.weights.read(a), two.weights.read(a))
        assert not np.array_equal(same.weights.read(a), two.weights.read(a))
    x = np.eye(3)
    assert not foretelling(x, np.zeros((3, 2)), 0.1).any()


@pytest.mark.parametrize("shape", [(7, 3), (3, 7), (5, 5)])
def test_both_gram_matrices_give_the_same(shape):
    random = np.random.RandomState(4)
    x, e = random.standard_normal(shape), random.standard_normal((shape[0], 2))
    c = 0.7
    expected = np.linalg.inv(x.T @ x + c * np.eye(shape[1])) @ x.T @ e
    assert foretelling(x, e, c) == pytest.approx(expected.T, rel=1e-9)


@pytest.mark.parametrize("engine", ANY_STORE.values(), ids=ANY_STORE)
def test_the_fit_is_the_same_wherever_the_weights_are(tmp_path, engine):
    expected = raw_bytes(fitted(tiny_opt()).weights)
    there = fitted(streamed(tiny_opt("f32", engine), tmp_path / "w")).weights
    assert {n: there.stored(n).tobytes() for n in there.names()} == expected


# -- head-fit


def penalised(d: np.ndarray, x: np.ndarray, scores: np.ndarray, labels: np.ndarray) -> float:
    """What `fitted_rows` makes least."""
    s = scores + x @ d.T
    entropy = np.log(np.exp(s).sum(axis=1)) - s[np.arange(len(labels)), labels]
    return float(entropy.sum() + PRIOR * np.square(x).mean() / 4 * np.square(d).sum())


@pytest.mark.parametrize("shape", [(30, 4), (5, 12)])
def test_the_rows_of_the_label_words_are_at_the_least_loss(shape, monkeypatch):
    random = np.random.RandomState(2)
    x = random.standard_normal(shape) + 1
    scores = random.standard_normal((len(x), CLASSES))
    labels = random.randint(0, CLASSES, len(x))
    d = fitted_rows(x, scores, labels)
    c = PRIOR * np.square(x).mean()
    slope = errors(scores + x @ d.T, labels).T @ x + c / 2 * d
    assert slope == pytest.approx(np.zeros_like(d), abs=1e-9)
    losses = [penalised(np.zeros_like(d), x, scores, labels)]
    for rounds in range(1, 6):
        monkeypatch.setattr(activations, "ROUNDS", rounds)
        losses.append(penalised(fitted_rows(x, scores, labels), x, scores, labels))
    assert losses == sorted(losses, reverse=True)
    assert losses[-1] > penalised(d, x, scores, labels)


def test_the_prior_is_the_same_however_few_rows_there_are():
    x, labels = np.ones((2, 1)), np.array([0, 0])
    few = fitted_rows(x, np.zeros((2, 2)), labels)
    slope = 2 * (1 / (1 + np.exp(few[0, 0] - few[1, 0])))  # of two rows that say the same
    assert PRIOR / 2 * few[0, 0] == pytest.approx(slope)


def test_the_error_is_the_slope_of_the_loss():
    scores, labels = np.array([[1.0, -0.5, 0.2], [0.0, 3.0, -np.inf]]), np.array([2, 1])

    def loss(s):
        return -np.log(np.exp(s)[range(2), labels] / np.exp(s).sum(1)).sum()

    found = errors(scores, labels)
    for at in ((0, 0), (0, 2), (1, 0), (1, 1)):
        step = np.zeros((2, 3))
        step[at] = 1e-5
        slope = (loss(scores + step) - loss(scores - step)) / 2e-5
        assert found[at] == pytest.approx(slope, abs=1e-8)
    assert found[1, 2] == 0


@pytest.mark.parametrize("shape", [(3000, 300), (300, 3000)])
def test_a_fit_holds_what_is_planned_for_it(shape):
    x = np.ones(shape, np.float32)
    x += np.arange(x.size, dtype=np.float32).reshape(shape) % 7
    e = np.ones((len(x), 1))
    tracemalloc.start()
    try:
        foretelling(x, e, 1.0)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < fit_bytes(*shape) < 4 * peak


def test_wide_inputs_are_fitted_a_few_at_a_time():
    assert fitted_at_once(4096, 768) == 4096
    assert fitted_at_once(4096, 4096) == SIDE
    assert fitted_at_once(256, 4096) == 256
