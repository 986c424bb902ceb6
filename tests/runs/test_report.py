"""What a person sees: a line of progress, and a picture, or one line that says how to get it."""

from __future__ import annotations

import errno
import json
import math
import sys

import pytest
from broken import break_package

from tinyzo.packages import say_once
from tinyzo.runs import report

DRAWS = "matplotlib draws it"


@pytest.fixture
def run(tmp_path):
    run = tmp_path / "a $x$ 一 run"
    run.mkdir()
    metrics = [{"step": n, "loss": 1 / n} for n in (1, 2, 3)]
    events = [{"event": "evaluation", "split": "dev", "step": 2, "loss": 0.5}, {"event": "error"}]
    for name, objects in (("metrics.jsonl", metrics), ("events.jsonl", events)):
        (run / name).write_text("".join(json.dumps(o) + "\n" for o in objects))
    return run


def test_the_picture(run):
    pytest.importorskip("matplotlib", reason=DRAWS)
    assert report.plot(run) == f"losses drawn in {run / 'loss.png'}"
    assert (run / "loss.png").read_bytes().startswith(b"\x89PNG")


def test_a_run_without_steps_can_be_drawn(tmp_path):
    pytest.importorskip("matplotlib", reason=DRAWS)
    assert report.plot(tmp_path) == f"losses drawn in {tmp_path / 'loss.png'}"


def test_without_matplotlib_one_line_says_how_to_get_it(run, tmp_path, monkeypatch):
    missing = 'raise ModuleNotFoundError("No module named matplotlib", name="matplotlib")'
    break_package(monkeypatch, tmp_path / "path", "matplotlib", missing)
    assert report.plot(run) == "no plot of the loss: pip install 'tinyzo[plot]' draws it"
    assert not (run / "loss.png").exists()


BROKEN = {
    'raise SystemError("bad magic")': "SystemError: bad magic",
    "raise ValueError(\"Key backend: 'x' is not a valid value\")": "ValueError: Key backend: 'x'",
    'raise OSError("matplotlib needs a folder that can be written")': "OSError: matplotlib needs",
}


@pytest.mark.parametrize("code", BROKEN)
def test_a_broken_matplotlib_is_said_and_does_not_fail_the_run(run, tmp_path, monkeypatch, code):
    break_package(monkeypatch, tmp_path / "path", "matplotlib", code)
    expected = f"no plot of the loss: matplotlib cannot be used ({BROKEN[code]}"
    assert report.plot(run).startswith(expected)
    assert not (run / "loss.png").exists()


def test_a_disk_without_room_for_the_picture_does_not_fail_the_run(run, monkeypatch):
    figure = pytest.importorskip("matplotlib.figure", reason=DRAWS).Figure

    def full(*_, **__):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(figure, "savefig", full)
    assert report.plot(run).endswith("loss.png: No space left on device")


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.693147, "0.6931"),
        (0, "0.0000"),
        (-12.5, "-12.5000"),
        (9999.4, "9999.4000"),
        (32049323802624.0, "3.205e+13"),
        (0.00012345, "0.0001234"),
        (math.inf, "inf"),
        (math.nan, "nan"),
    ],
)
def test_numbers_for_people(value, text):
    assert report.number(value) == text


def test_progress_is_on_stderr(capsys):
    metrics = {"loss": 0.12345, "seconds": 0.5, "peak_bytes": 64 << 20}
    with report.progress(2, 4) as bar:
        report.show(bar, metrics, None)
        report.show(bar, metrics, 0.75)
        bar.refresh()
    output, log = capsys.readouterr()
    assert output == ""
    assert "4/4" in log and "loss=0.1235" in log and "dev=0.750" in log
    assert "s/step=0.500" in log and "peak=64MB" in log


@pytest.mark.parametrize("is_broken", [True, False])
def test_without_tqdm_there_is_no_bar(tmp_path, monkeypatch, capsys, is_broken):
    say_once.cache_clear()
    monkeypatch.setitem(sys.modules, "tqdm", None)
    if is_broken:
        break_package(monkeypatch, tmp_path, "tqdm")
    metrics = {"loss": 0.12345, "seconds": 0.5, "peak_bytes": 64 << 20}
    with report.progress(2, 4) as bar:
        report.show(bar, metrics, 0.75)
    line = "tinyzo: tqdm cannot be used (SystemError: bad): no bar is shown\n"
    assert capsys.readouterr() == ("", line if is_broken else "")


def test_say(capsys):
    report.say("a line")
    assert capsys.readouterr() == ("", "a line\n")
