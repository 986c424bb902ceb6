"""OPT and its variants against transformers, layer by layer; a trained toy on its own text."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from golden.compare import (
    FAULTS_OF_VERBS,
    seeded_model,
    unseen_errors,
    used_shares,
    used_shares_of_logits,
)
from golden.seeded import REAL, TINY, TRAINED_OPT, windows
from tiny import ENGINES

import tinyzo
from tinyzo.engine import numpy_engine, tiles
from tinyzo.engine.numpy_engine import NumpyView
from tinyzo.models import opt

CASES = {name: case for name, case in TINY.items() if name.startswith("opt")}
cases = pytest.mark.parametrize("name", CASES)


engines = pytest.mark.parametrize("engine", ENGINES.values(), ids=ENGINES)


def shares(name, model=None):
    return used_shares(name, model or seeded_model(CASES[name]), CASES[name].sequences)


@engines
@cases
def test_every_stage_agrees_with_transformers(name, engine, within):
    within(shares(name, seeded_model(CASES[name], engine)))


@cases
def test_small_tiles_and_blocks_agree_too(name, within, monkeypatch):
    monkeypatch.setattr(tiles, "TILE", 100)  # 4 rows of the embeddings
    monkeypatch.setattr(numpy_engine, "QUERIES", 5)
    within(shares(name))


@pytest.mark.exhaustive
@engines
@pytest.mark.parametrize("name", ["opt_125m", "opt_350m"])
def test_the_published_shapes_agree_with_transformers(name, engine, within):
    within(used_shares_of_logits(name, seeded_model(REAL[name], engine), REAL[name]))


@pytest.mark.parametrize("fault", FAULTS_OF_VERBS)
def test_a_fault_of_the_engine_is_seen(monkeypatch, fault):
    monkeypatch.setattr(NumpyView, *FAULTS_OF_VERBS[fault])
    assert max(shares("opt_gelu").values()) > 10


def test_a_look_ahead_is_seen(monkeypatch):
    right = NumpyView.attention

    def attention(view, name, q, k, v, batch, causal, rows=None):
        return right(view, name, q, k, v, batch, False, rows)

    monkeypatch.setattr(NumpyView, "attention", attention)
    assert max(shares("opt").values()) > 10


@pytest.mark.parametrize("offset", [1, 3])
def test_positions_off_by_one_are_seen(monkeypatch, offset):
    monkeypatch.setattr(opt, "OFFSET", offset)
    assert max(shares("opt").values()) > 10


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("opt", {"do_layer_norm_before": False}),
        ("opt", {"_remove_final_layer_norm": True}),
        ("opt", {"activation_function": "gelu"}),
        ("opt", {"num_attention_heads": 4}),
        ("opt_post_norm", {"do_layer_norm_before": True}),
        ("opt_no_final_norm", {"_remove_final_layer_norm": False}),
        ("opt_gelu", {"activation_function": "relu"}),
    ],
)
def test_a_misread_config_is_seen(name, change):
    model = seeded_model(CASES[name])
    model.config = dataclasses.replace(model.config, **change)
    assert max(shares(name, model).values()) > 10


@cases
def test_an_error_of_a_thousandth_in_any_tensor_is_seen(name):
    model = seeded_model(CASES[name])
    unseen = unseen_errors(name, model, CASES[name])
    # A key's bias adds the same to all scores of a query, which the softmax takes out.
    layers = range(3 if model.config.enable_bias else 0)
    assert unseen == {f"model.decoder.layers.{i}.self_attn.k_proj.bias" for i in layers}


# -- gpt-by-hand: a trained word-level toy in OPT's layout -------------------------------------


@pytest.fixture(scope="module")
def trained():
    if not TRAINED_OPT.is_dir():
        pytest.skip("compares trained weights with their text; without ../shared/weights")
    return tinyzo.load(TRAINED_OPT)


def test_every_stage_of_trained_weights_agrees_with_transformers(trained, within):
    within(used_shares("trained_opt", trained, windows()[:10]))


def test_trained_weights_know_their_text(trained):
    """Guessing among 32 costs log(32) = 3.47; that a 0 follows each word costs next to nothing."""
    losses = []
    for ids, logits in zip(windows(), trained.logits(windows()), strict=True):
        scores = logits[:-1].astype(np.float64)
        log_total = np.log(np.exp(scores).sum(axis=-1))
        losses.append(log_total - scores[np.arange(7), ids[1:]])
    after_word, after_zero = np.mean(losses, axis=0)[::2], np.mean(losses, axis=0)[1::2]
    assert (after_word < 0.07).all() and (after_zero < 3.2).all()
