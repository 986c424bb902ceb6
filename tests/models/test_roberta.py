"""RoBERTa against transformers, layer by layer; and a pretrained one against its published values."""

from __future__ import annotations

import dataclasses
import json
import math

import numpy as np
import pytest
from compare import TOLERANCE, agrees, seeded_model, used_shares
from seeded import REAL, SHARED, TINY

import tinyzo
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


def test_tiles_and_blocks_of_any_size_agree_too(model, within, monkeypatch):
    monkeypatch.setattr(weights, "TILE", 100)  # 4 rows
    monkeypatch.setattr(numpy_engine, "QUERIES", 5)
    within(shares(model))


def test_roberta_base_agrees_with_transformers(within):
    ...
