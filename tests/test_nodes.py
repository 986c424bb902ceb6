"""The model of many nodes says on paper what its simulation finds."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import scripts

nodes = scripts.load("nodes")
STEADY = replace(nodes.NETWORKS["Wi-Fi"], mtbf=1e12)
FRAIL = replace(nodes.NETWORKS["10 GbE"], mtbf=400.0)


@pytest.mark.parametrize(
    "case",
    [
        nodes.Case(STEADY, 16, "queries"),
        nodes.Case(STEADY, 16, "queries", 0.9),
        nodes.Case(STEADY, 64, "rows"),
        nodes.Case(STEADY, 1024, "rows"),  # the rarest trips decide
        nodes.Case(FRAIL, 4, "queries"),  # one step in thirty begins anew
    ],
)
def test_paper_and_simulation_agree(case):
    mean, error = nodes.simulated(case, 2000, np.random.default_rng(0))
    assert abs(nodes.on_paper(case) - mean) < 4 * error


def test_nodes_that_never_finish_a_step_have_no_seconds():
    assert nodes.on_paper(nodes.Case(nodes.NETWORKS["4G"], 1024, "queries")) is None


def test_the_script_writes_a_line_for_each_case(tmp_path: Path, monkeypatch):
    monkeypatch.setattr(nodes, "NODES", (4,))
    monkeypatch.setattr(sys, "argv", ["nodes.py", "--steps", "2", "--out", str(tmp_path / "n")])
    nodes.main()
    first, *cases = map(json.loads, (tmp_path / "n").read_text(encoding="utf-8").splitlines())
    assert first.keys() == {"sources"}
    assert len(cases) == 4 * 3
