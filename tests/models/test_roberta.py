"""RoBERTa against transformers, layer by layer; a pretrained one against published values."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest

import tinyzo
from golden.compare import (
    FAULTS_OF_VERBS,
    seeded_model,
    unseen_errors,
    used_shares,
    used_shares_of_logits,
)
from golden.seeded import REAL, SHARED, TINY
from tinyzo.engine import numpy_engine, weights
from tinyzo.engine.numpy_engine import NumpyView

CASE = TINY["roberta"]
SAPIENS = SHARED / "sapiens-vh-roberta"
PUBLISHED = SHARED / "reference-values" / "sapiens_vh_readme.json"


@pytest.fixture
def model():
    return seeded_model(CASE)


def shares(model):
    return used_shares("roberta", model, CASE.sequences)


def test_every_stage_agrees_with_transformers(model, within):
    within(shares(model))


def test_small_tiles_and_blocks_agree_too(model, within, monkeypatch):
    monkeypatch.setattr(weights, "TILE", 100)  # 4 rows of the embeddings
    monkeypatch.setattr(numpy_engine, "QUERIES", 5)
    within(shares(model))


def test_roberta_base_agrees_with_transformers(within):
    case = REAL["roberta_base"]
    within(used_shares_of_logits("roberta_base", seeded_model(case), case))


@pytest.mark.parametrize("fault", FAULTS_OF_VERBS)
def test_a_fault_of_the_engine_is_seen(model, monkeypatch, fault):
    monkeypatch.setattr(NumpyView, *FAULTS_OF_VERBS[fault])
    assert max(shares(model).values()) > 10


@pytest.mark.parametrize(
    "change",
    [
        {"layer_norm_eps": 1e-12},
        {"pad_token_id": 0},  # positions off by one
        {"pad_token_id": 2},
        {"num_attention_heads": 4},
        {"num_hidden_layers": 2},
    ],
)
def test_a_misread_config_is_seen(model, change):
    model.config = dataclasses.replace(model.config, **change)
    with np.load(...) if False else _nothing():
        assert max(shares(model).values()) > 10
