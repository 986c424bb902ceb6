"""A model that has read something gives what it gives after whole sequences."""

from __future__ import annotations

import numpy as np
import pytest
from folders import write_model
from tiny import ENGINES, MODELS, VOCABULARY, tiny_opt

import tinyzo
from tinyzo.engine.numpy_engine import NumpyEngine
from tinyzo.errors import ConfigError, DataError
from tinyzo.models.context import after
from tinyzo.models.model import Model
from tinyzo.models.trainable import train_only

RANDOM = np.random.RandomState(5)
BEFORE = RANDOM.randint(2, 29, 7).tolist()
ROWS = [RANDOM.randint(2, 29, count).tolist() for count in (4, 1, 6)]


def check(model: Model, before: list[int] = BEFORE) -> None:
    """The logits of rows after a text, against those of the whole sequences."""
    whole = model.logits([before + row for row in ROWS])
    found = after(model, before).logits(ROWS)
    for expected, each in zip(whole, found, strict=True):
        np.testing.assert_allclose(each, expected[len(before) :], rtol=2e-4, atol=2e-5)


@pytest.mark.parametrize("kind", ["opt", "opt-post"])
@pytest.mark.parametrize("name", ENGINES)
def test_what_follows_is_scored_as_in_whole_sequences(kind: str, name: str) -> None:
    model = MODELS[kind]("f32", ENGINES[name], num_hidden_layers=3)
    check(model)
    again = after(after(model, BEFORE[:4]), BEFORE[4:])
    (expected,), (found,) = after(model, BEFORE).logits(ROWS[:1]), again.logits(ROWS[:1])
    np.testing.assert_allclose(found, expected, rtol=2e-4, atol=2e-5)


@pytest.mark.parametrize("dtype", ["bf16", "f16"])
def test_weights_of_16_bits(dtype: str) -> None:
    check(tiny_opt(dtype, NumpyEngine()))


@pytest.mark.parametrize("train", ["lora", "prefix"])
@pytest.mark.parametrize("name", ENGINES)
def test_adapters_count_in_both_parts(train: str, name: str) -> None:
    model = tiny_opt("f32", ENGINES[name], num_hidden_layers=2)
    train_only(model, train, 3, 2, 4.0)
    model.weights.add([(9, 0.5)])
    check(model)


def test_weights_in_their_file_with_steps_that_are_pending(tmp_path) -> None:
    model = tinyzo.load(write_model(tmp_path / "opt", "opt"), "numpy", "streamed")
    model.weights.add([(9, 0.01)], fold=False)
    assert model.weights.pending
    check(model)


def test_matrices_in_groups(tmp_path) -> None:
    folder = write_model(tmp_path / "opt", "opt")
    check(tinyzo.load(folder, "numpy", base_dtype="int8"))


def test_the_model_itself_stays_as_it_is() -> None:
    model = tiny_opt("f32", NumpyEngine())
    names, trained = model.weights.names(), dict(model.weights.trained)
    (before,) = model.logits(ROWS[:1])
    left = after(model, BEFORE)
    assert model.weights.names() == names and model.weights.trained == trained
    np.testing.assert_array_equal(model.logits(ROWS[:1])[0], before)
    assert left.config.max_length == model.config.max_length - len(BEFORE)
    assert after(model, []) is model


def test_what_it_refuses() -> None:
    with pytest.raises(ConfigError, match="roberta does not read on from a text before"):
        after(MODELS["roberta"](), BEFORE)
    with pytest.raises(DataError, match="a sequence of 21 tokens; the model has 20 positions"):
        after(tiny_opt("f32", NumpyEngine()), [3] * 21)
    with pytest.raises(DataError, match=f"token id {VOCABULARY} is outside the vocabulary"):
        after(tiny_opt("f32", NumpyEngine()), [VOCABULARY])
    with pytest.raises(DataError, match="a sequence of 4 tokens; the model has 3 positions"):
        after(tiny_opt("f32", NumpyEngine()), [3] * 17).logits(ROWS[:1])
