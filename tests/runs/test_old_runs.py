"""Runs of version 0.1.0 replay to the same bytes, and go on."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path

import pytest

import tinyzo
from tinyzo.__main__ import main
from tinyzo.runs import report

RUNS = Path(__file__).resolve().parents[1] / "golden" / "runs-0.1.0"
HEADER_BYTES = 52  # of a journal
# The file that version 0.1.0 wrote for `tinyzo replay RUN --step 6`, and its SHA-256.
REPLAYED = {
    "mezo": "50ba2b3887e6017a1cd22b082328c3cf721d3e39e32dd017ab6608e9ba5d4c67",
    "fzoo": "23e04cababfd7dbf70ebbdfddaae63b819d70d27e174ec3a706872b10a302bd5",
    "adamezo": "f40c62a9fd1b6e87c7281f2a8e4a85df14ec6cbd34a664057d18d5f6b982c454",
    "lozo": "001825fc9e859f7ff50799955bc20a24294d662067652230451a5b33d906cdad",
    "lora": "ee1af4d03f2550f7eb801e943c11d2bcf86780304222c1eed1901c8c58d09981",
    "magnitude": "c456c923c17f6127c7d45cb469bb2e08d93b33fe6dd9416e1e15762f75227903",
}


@pytest.fixture(autouse=True)
def no_plot(monkeypatch):
    monkeypatch.setattr(report, "plot", lambda path: "not drawn")


def test_each_kept_run_is_tested():
    assert {path.name for path in RUNS.iterdir() if path.is_dir()} == REPLAYED.keys()


@pytest.mark.parametrize("name", REPLAYED)
def test_an_old_run_replays_to_the_same_bytes(name, tmp_path):
    assert main(["replay", str(RUNS / name), "--step", "6", "--output", str(tmp_path / "m")]) == 0
    (file,) = (tmp_path / "m").glob("*.safetensors")
    assert hashlib.sha256(file.read_bytes()).hexdigest() == REPLAYED[name]


# The others go on by the same code, in more passes; each is replayed above.
GO_ON = ("mezo", "lozo", "lora")
OTHERS = [name for name in REPLAYED if name not in GO_ON]


@pytest.mark.parametrize(
    "name", [*GO_ON, *(pytest.param(name, marks=pytest.mark.exhaustive) for name in OTHERS)]
)
def test_an_old_run_goes_on(name, tmp_path):
    path = shutil.copytree(RUNS / name, tmp_path / name)
    tinyzo.finetune(resume=path, steps=7)
    old, new = ((run / "journal").read_bytes() for run in (RUNS / name, path))
    assert new.startswith(old)
    metrics = [json.loads(line) for line in (path / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in metrics] == [1, 2, 3, 4, 5, 6, 7]
    assert 6 * (len(new) - len(old)) == len(old) - HEADER_BYTES  # one record after six
    assert json.loads((path / "result.json").read_text())["steps"] == 7
