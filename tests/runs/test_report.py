"""What a person sees: a line of progress, and a picture, or one line that says how to get it."""

from __future__ import annotations

import errno
import io
import json
import math
import os
import re
import sys

import pytest
from broken import break_package

from tinyzo import system
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


def test_the_picture_is_whole_or_as_it_was(run, monkeypatch):
    pytest.importorskip("matplotlib.figure", reason=DRAWS)

    def full(file):
        raise OSError(errno.ENOSPC, "No space left on device")

    (run / "loss.png").write_bytes(b"old")
    monkeypatch.setattr(system, "sync", full)
    assert report.plot(run).endswith("loss.png: No space left on device")
    assert (run / "loss.png").read_bytes() == b"old"
    assert not list(run.glob("*.partial"))


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


# --- progress ---

METRICS = {
    "step": 7, "forwards": 2, "loss": 0.12345, "seconds": 0.5, "resident_bytes": 61_000_000,
    "peak_bytes": 64_000_000,
}  # fmt: skip


@pytest.fixture
def terminal(monkeypatch):
    """Makes stderr a terminal of so many columns, or of none where it is a file."""

    def make(columns, term="xterm"):
        def size(descriptor):
            if columns is None:
                raise OSError(errno.ENOTTY, "Inappropriate ioctl for device")
            return os.terminal_size((columns, 25))

        monkeypatch.setattr(os, "get_terminal_size", size)
        monkeypatch.setattr(sys.stderr, "fileno", lambda: 2)
        monkeypatch.setenv("TERM", term)

    return make


def test_a_bar_in_a_terminal(terminal, capsys):
    pytest.importorskip("tqdm", reason="it draws the bar")
    terminal(120)
    with report.progress(2, 4) as bar:
        report.show(bar, METRICS, None)
        report.show(bar, METRICS, 0.75)
        bar.refresh()
    output, log = capsys.readouterr()
    assert output == ""
    assert "4/4" in log and "loss=0.1235" in log and "dev=0.750" in log and "\r" in log
    assert "passes=14, memory=61MB, peak=64MB, s/step=0.500" in log and "left 00:0" in log


def test_a_narrow_terminal_shows_what_counts_most(terminal, capsys):
    pytest.importorskip("tqdm", reason="it draws the bar")
    terminal(80)
    with report.progress(10, 400) as bar:
        report.show(bar, METRICS, 0.75)
        bar.refresh()
    last = capsys.readouterr().err.rstrip().splitlines()[-1]
    assert "dev=0.750, passes=14, memory=61MB, peak=64MB" in last


@pytest.mark.parametrize(
    ("columns", "end"),
    [(40, ", loss=0.1235"), (60, ", dev=0.750, passes=14"), (78, "passes=14, memory=61MB")],
)
def test_no_number_is_cut_in_two(terminal, capsys, columns, end):
    pytest.importorskip("tqdm", reason="it draws the bar")
    terminal(columns)
    with report.progress(10, 400) as bar:
        report.show(bar, METRICS, 0.75)
        bar.refresh()
    last = capsys.readouterr().err.rstrip().splitlines()[-1].rstrip()
    assert last.endswith(end)


def test_memory_that_the_system_does_not_say(capsys):
    report.show(report.Lines(0, 1), METRICS | {"resident_bytes": 0}, None)
    assert "passes=14, peak=64MB" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("columns", "term"), [(None, "xterm"), (80, "dumb"), (0, "xterm"), (1, "")]
)
def test_lines_where_no_bar_can_be_drawn(terminal, columns, term):
    terminal(columns, term)
    assert isinstance(report.progress(0, 1), report.Lines)


def test_lines_in_a_notebook_and_without_tqdm(terminal, monkeypatch):
    monkeypatch.setattr(sys, "stderr", io.StringIO())  # it has no descriptor
    assert isinstance(report.progress(0, 1), report.Lines)
    terminal(80)
    monkeypatch.setitem(sys.modules, "tqdm", None)
    assert isinstance(report.progress(0, 1), report.Lines)


def test_a_line_now_and_then(monkeypatch, capsys):
    """A step takes 7 s here: so a line for the first, each fifth after it, and the last."""
    clock = iter(range(1000, 2000, 7))
    monkeypatch.setattr("time.monotonic", lambda: next(clock))
    with report.Lines(10, 30) as lines:
        for step in range(11, 31):
            report.show(lines, METRICS, None if step < 15 else 0.75)
    output, log = capsys.readouterr()
    found = [re.fullmatch(LINE, line) for line in log.splitlines()]
    assert output == "" and all(found)
    assert [each["step"] for each in found] == ["11", "16", "21", "26", "30"]
    assert [each["dev"] for each in found] == [None, "0.750", "0.750", "0.750", "0.750"]
    assert [each["left"] for each in found] == [
        "0:02:13",
        "0:01:38",
        "0:01:03",
        "0:00:28",
        "0:00:00",
    ]


LINE = (
    r"step (?P<step>\d+)/30, loss=0\.1235(, dev=(?P<dev>[\d.]+))?, passes=14, memory=61MB, "
    r"peak=64MB, s/step=0\.500, left=(?P<left>\d+:\d\d:\d\d)"
)


def test_a_long_run_has_days_left(monkeypatch, capsys):
    clock = iter((0, 864))
    monkeypatch.setattr("time.monotonic", lambda: next(clock))
    report.show(report.Lines(0, 301), METRICS, None)
    assert capsys.readouterr().err.endswith(", left=3 days, 0:00:00\n")


def test_a_broken_tqdm_is_said_once(terminal, tmp_path, monkeypatch, capsys):
    say_once.cache_clear()
    terminal(80)
    monkeypatch.setitem(sys.modules, "tqdm", None)
    break_package(monkeypatch, tmp_path, "tqdm")
    for _ in range(2):
        assert isinstance(report.progress(2, 4), report.Lines)
    line = "tinyzo: tqdm cannot be used (SystemError: bad): no bar is shown\n"
    assert sys.stderr.getvalue() == line


def test_a_name_in_a_log_commands_no_terminal(capsys):
    report.say("run x\x1b[31m")
    assert capsys.readouterr().err == "run x\\x1b[31m\n"


def test_say(capsys):
    report.say("a line")
    assert capsys.readouterr() == ("", "a line\n")


def test_a_log_that_cannot_be_written_stops_nothing(monkeypatch):
    class Full(io.StringIO):
        def write(self, text):
            raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(sys, "stderr", Full())
    report.say("a line")


def test_the_run_that_goes_on_is_in_the_interrupt(tmp_path):
    with pytest.raises(KeyboardInterrupt) as stop, report.resumable(tmp_path):
        raise KeyboardInterrupt
    assert vars(stop.value)["run"] == tmp_path
