"""The examples run and show what they say."""

from __future__ import annotations

import json
import re
import runpy
import sys
from pathlib import Path
from typing import Any
from unittest.mock import MagicMock

import pytest
from tiny import examples_for, raw_bytes, tiny_roberta, toy_task

import tinyzo
from tinyzo.zo.objectives import Objective

ROOT = Path(__file__).resolve().parents[1]
EXAMPLES = ROOT / "examples"
CODE = re.compile(r"```python\n(.*?)```", re.DOTALL)


def test_mezo_by_hand(capsys):
    path = EXAMPLES / "mezo_by_hand.py"
    runpy.run_path(str(path), run_name="__main__")
    said = capsys.readouterr().out
    values = [float(text) for text in re.findall(r"f\(x\) = +(\S+)", said)]
    losses = [float(text) for text in re.findall(r"loss (\S+)", said)]
    assert values[-1] < 0.01 * values[0]
    assert losses[-1] < losses[0]
    assert "every one of 74 tensors is the same: True" in said
    assert len(path.read_text().splitlines()) < 80


def cells() -> list[dict[str, Any]]:
    notebook = json.loads((EXAMPLES / "mezo.ipynb").read_text(encoding="utf-8"))
    return [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]


@pytest.mark.exhaustive
def test_the_notebook_shows_what_it_says(monkeypatch):
    """Its cells run in turn; what they draw goes to a stand-in, since matplotlib is no need."""
    for name in ("matplotlib", "matplotlib.pyplot", "IPython", "IPython.display"):
        monkeypatch.setitem(sys.modules, name, MagicMock())
    names: dict[str, Any] = {}
    for cell in cells():
        exec("".join(cell["source"]), names)
    assert names["cosines"][-1] > 4 * names["cosines"][0] > 0
    assert all(less < more for less, more in zip(names["forward"], names["backward"], strict=True))
    assert names["curve"][-1] < names["curve"][0]
    assert names["size"] == 52 + 56 * len(names["lines"])


def test_the_notebook_has_its_outputs_and_is_small():
    drawn = [
        out for cell in cells() for out in cell["outputs"] if "image/png" in out.get("data", {})
    ]
    assert len(drawn) == 4
    assert all(cell["outputs"] for cell in cells())
    assert (EXAMPLES / "mezo.ipynb").stat().st_size < 300_000


@pytest.mark.exhaustive
def test_the_page_on_python_runs(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    page = (ROOT / "docs" / "python.md").read_text(encoding="utf-8")
    names: dict[str, Any] = {}
    for block in CODE.findall(page):
        exec(block, names)
    assert names["run"].result["steps"] == 30
    assert names["again"].weights.names() == names["tuned"].weights.names()
    assert "no-such-folder" in capsys.readouterr().out


def test_the_readme_s_step_is_mezo_s():
    """The lines that the README shows change theta by the same bits as the step they stand for."""
    shown, _ = CODE.findall((ROOT / "README.md").read_text(encoding="utf-8"))
    names: dict[str, Any] = {"Probe": tinyzo.Probe}
    exec(shown, names)
    found = []
    for step in (names["mezo_step"], tinyzo.mezo_step):
        model = tiny_roberta()
        step(
            model.weights,
            Objective(model, toy_task("roberta")),
            examples_for("roberta"),
            7,
            1e-3,
            1e-2,
        )
        found.append(raw_bytes(model.weights))
    assert found[0] == found[1] != raw_bytes(tiny_roberta().weights)
