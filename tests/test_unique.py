"""What is open is neither copied nor pickled; what a function returns is."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import numpy as np
import pytest
from folders import write_tensors
from tiny import ENGINES, tiny_roberta

import tinyzo
from tinyzo.checkpoints.safetensors import open_safetensors
from tinyzo.engine.threads import Pool
from tinyzo.runs.api import Prediction
from tinyzo.runs.evaluate import Evaluation

WAYS = {"pickle": pickle.dumps, "deepcopy": copy.deepcopy, "copy": copy.copy}
ways = pytest.mark.parametrize("way", WAYS.values(), ids=WAYS)


def refused(way: Any, what: object) -> None:
    with pytest.raises(tinyzo.UsageError) as caught:
        way(what)
    found = "an open model, or a part of one, cannot be copied or pickled"
    assert caught.value.message == found
    assert caught.value.hint.endswith("load it there, in another process too")


@ways
def test_what_is_open_is_refused(way, tmp_path):
    write_tensors(tmp_path / "w", {"w": np.ones(3, np.float32)})
    with open_safetensors(tmp_path / "w") as source:
        for what in (tiny_roberta(), source, Pool(1)):
            refused(way, what)
        assert source.read("w").all()


@pytest.mark.parametrize("engine", ENGINES.values(), ids=ENGINES)
@pytest.mark.parametrize("way", [pickle.dumps, copy.deepcopy])
def test_so_is_what_holds_it(way, engine):
    weights = tiny_roberta(engine=engine).weights
    for what in (weights, weights.view(), [weights]):
        refused(way, what)


@ways
@pytest.mark.parametrize(
    "value", [Evaluation(2, 0.5, 1.5), Prediction("a", "good", {"good": 1.0}), tinyzo.Settings()]
)
def test_values_are_copied_and_pickled(way, value):
    made = way(value)
    assert (pickle.loads(made) if way is pickle.dumps else made) == value


@ways
def test_errors_are_copied_and_pickled(way):
    made = way(tinyzo.DataError("what\n", "why"))
    error = pickle.loads(made) if way is pickle.dumps else made
    assert type(error) is tinyzo.DataError and (error.message, error.hint) == ("what\\n", "why")
