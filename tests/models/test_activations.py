"""A of `lora-act`: the singular vectors of what each adapted matrix really gets, on any store and
engine."""

from __future__ import annotations

import numpy as np
import pytest
from streams import small_tiles, streamed  # noqa: F401 (small_tiles: used by all)
from tiny import ANY_STORE, MODELS, examples_for, raw_bytes, tiny_opt, toy_task

from tinyzo.engine.numpy_engine import NumpyView
from tinyzo.errors import ConfigError
from tinyzo.models.activations import lead_by_inputs, leading_directions
from tinyzo.models.model import Model
from tinyzo.models.trainable import train_only
from tinyzo.zo.objectives import Objective

RANK = 3


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
