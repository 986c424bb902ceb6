"""RoBERTa against transformers, layer by layer; a pretrained one against published values."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest
from golden.compare import (
    FAULTS_OF_VERBS,
    seeded_model,
    unseen_errors,
    used_shares,
    used_shares_of_logits,
)
from golden.seeded import REAL, SHARED, TINY
from tiny import ENGINES

import tinyzo
from tinyzo.engine import numpy_engine, tiles
from tinyzo.engine.numpy_engine import NumpyView

CASE = TINY["roberta"]
FASTEST = "numba" if "numba" in ENGINES else "numpy"
FAST = [
    pytest.param(engine, marks=[] if name == FASTEST else pytest.mark.exhaustive)
    for name, engine in ENGINES.items()
]
engines = pytest.mark.parametrize("engine", ENGINES.values(), ids=ENGINES)
SAPIENS = SHARED / "sapiens-vh-roberta"
PUBLISHED = SHARED / "reference-values" / "sapiens_vh_readme.json"


@pytest.fixture
def model():
    return seeded_model(CASE)


def shares(model):
    return used_shares("roberta", model, CASE.sequences)


@engines
def test_every_stage_agrees_with_transformers(engine, within):
    within(shares(seeded_model(CASE, engine)))


def test_small_tiles_and_blocks_agree_too(model, within, monkeypatch):
    monkeypatch.setattr(tiles, "TILE", 100)  # 4 rows of the embeddings
    monkeypatch.setattr(numpy_engine, "QUERIES", 5)
    within(shares(model))


@pytest.mark.parametrize("engine", FAST, ids=ENGINES)
def test_roberta_base_agrees_with_transformers(engine, within):
    case = REAL["roberta_base"]
    within(used_shares_of_logits("roberta_base", seeded_model(case, engine), case))


@pytest.mark.parametrize("fault", FAULTS_OF_VERBS)
def test_a_fault_of_the_engine_is_seen(model, monkeypatch, fault):
    monkeypatch.setattr(NumpyView, *FAULTS_OF_VERBS[fault])
    assert max(shares(model).values()) > 10


@pytest.mark.parametrize(
    "change",
    [
        {"layer_norm_eps": 1e-12},
        {"pad_token_id": 0},  # every position too low by one
        {"pad_token_id": 2},
        {"num_attention_heads": 4},
    ],
)
def test_a_misread_config_is_seen(model, change):
    model.config = dataclasses.replace(model.config, **change)
    assert max(shares(model).values()) > 10


def test_an_error_of_a_thousandth_in_any_tensor_is_seen(model):
    unseen = unseen_errors("roberta", model, CASE)
    # A key's bias adds the same to all scores of a query, which the softmax takes out.
    assert unseen == {f"roberta.encoder.layer.{i}.attention.self.key.bias" for i in range(3)}


# -- sapiens-vh: a pretrained RobertaForMaskedLM of antibody sequences -------------------------


@pytest.fixture(scope="module")
def antibody():
    """What is published, and the probabilities that tinyzo finds at each token: f64[T, V]."""
    if not PUBLISHED.is_file() or not SAPIENS.is_dir():
        pytest.skip(
            "compares with a pretrained model's published outputs; without ../shared/weights"
        )
    published = json.loads(PUBLISHED.read_text())
    (logits,) = tinyzo.load(SAPIENS).logits([published["input_ids"]])
    odds = np.exp(logits.astype(np.float64))
    ids = json.loads((SAPIENS / "vocab.json").read_text())
    return published, ids, odds / odds.sum(axis=-1, keepdims=True)


def test_sapiens_gives_the_published_probabilities(antibody):
    published, ids, found = antibody
    columns = [ids[residue] for residue in published["columns"]]
    expected = np.array(published["published_probs"])
    error = np.abs(found[1 : 1 + len(expected), columns] - expected).max()
    assert expected.shape == (5, 4) and error <= 1e-6  # six decimals are published


def test_sapiens_fills_in_the_published_residues(antibody):
    published, ids, found = antibody
    residues = {number: token for token, number in ids.items()}
    best = [residues[number] for number in found[1:-1].argmax(axis=-1)]
    masked = [i for i, residue in enumerate(published["seq"]) if residue == "*"]
    assert masked == [0, 1, 5]
    filled = [best[i] if i in masked else r for i, r in enumerate(published["seq"])]
    assert "".join(filled) == published["published_infill"]
