"""A flipped bit in any file of a run: it is said, or mended, and never changes what comes out."""

from __future__ import annotations

import json
import random
import re
import shutil

import numpy as np
import pytest
from disturbed import record
from folders import finetune, write_model, write_reviews

from tinyzo.checkpoints.checksums import TENSOR
from tinyzo.checkpoints.safetensors import SafetensorsWriter, open_safetensors
from tinyzo.cli import main
from tinyzo.errors import CheckpointError, RunError, TinyzoError
from tinyzo.runs.journal import Journal
from tinyzo.runs.lines import read, read_lines
from tinyzo.runs.run import Run
from tinyzo.runs.snapshots import tuned_model

exhaustive = pytest.mark.exhaustive
COUNTS = [200, pytest.param(5_000, marks=exhaustive)]  # of a snapshot's 300,000 bits


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    home = tmp_path_factory.mktemp("home")
    model, data = write_model(home / "model", "opt"), write_reviews(home / "data")
    options = ("--fold-every", "2", "--lr", "1e-2", "--engine", "numpy")
    for residency in ("resident", "streamed"):
        run = home / residency
        assert finetune(model, data, run, *options, "--residency", residency) == 0
    return home


@pytest.fixture
def run(home, tmp_path):
    return shutil.copytree(home / "streamed", tmp_path / "run")


def flip(path, at, bit=0):
    """In its place, since a run may be reading the file."""
    with open(path, "r+b") as file:
        file.seek(at)
        (byte,) = file.read(1)
        file.seek(at)
        file.write(bytes([byte ^ 1 << bit]))


def flips(path, count):
    """A copy's bytes with one bit flipped, for so many bits of the file."""
    data = path.read_bytes()
    bits = range(8 * len(data))
    for at, bit in (divmod(n, 8) for n in random.Random(1).sample(bits, min(count, len(bits)))):
        yield data[:at] + bytes([data[at] ^ 1 << bit]) + data[at + 1 :]


def is_data(path):
    """Where the data of a safetensors file begins."""
    return 8 + int.from_bytes(path.read_bytes()[:8], "little")


# --- snapshots ---


@pytest.mark.parametrize("residency", ["resident", "streamed"])
@pytest.mark.parametrize("draw", range(3))
def test_a_resumption_passes_over_a_damaged_snapshot(home, tmp_path, capsys, residency, draw):
    """And goes on from the base, to the same bytes."""
    run = shutil.copytree(home / residency, tmp_path / "run")
    (run / "result.json").unlink()
    events = (run / "events.jsonl").read_text().splitlines(keepends=True)
    (run / "events.jsonl").write_text("".join(line for line in events if '"step": 6' not in line))
    (path,) = run.glob("weights-*")
    chance = random.Random(draw)
    flip(path, chance.randrange(is_data(path), path.stat().st_size), chance.randrange(8))
    capsys.readouterr()
    assert main(["finetune", "--resume", str(run)]) == 0
    said = [line for line in capsys.readouterr().err.splitlines() if "passed over" in line]
    assert said
    for line in said:
        assert re.fullmatch(rf"passed over: {path}: '.*' is damaged at row \d+: .*", line)
    assert record(run) == record(home / residency)


def test_the_older_snapshot_is_next(home, tmp_path, capsys):
    run = shutil.copytree(home / "streamed", tmp_path / "run")
    newest = run / "weights-6.safetensors"
    assert newest.exists()
    older = theta(run, 4)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Run, "best_step", lambda self: 4)  # so that both are kept
        again = tmp_path / "again"
        arguments = ("--fold-every", "2", "--lr", "1e-2", "--engine", "numpy")
        assert finetune(home / "model", home / "data", again, *arguments) == 0
    assert {path.name for path in again.glob("weights-*")} == {
        "weights-4.safetensors", "weights-6.safetensors"
    }  # fmt: skip
    expected = theta(again, 6)
    flip(again / "weights-6.safetensors", is_data(newest) + 5)
    capsys.readouterr()
    assert theta(again, 6) == expected
    assert theta(again, 4) == older
    assert capsys.readouterr().err.count("passed over") == 1


@pytest.mark.parametrize("command", [["evaluate", "--model"], ["predict", "a", "--model"]])
def test_readers_pass_over_it_too(home, run, capsys, command):
    assert main([*command, str(home / "streamed")]) == 0
    expected = capsys.readouterr().out
    for path in run.glob("weights-*"):
        flip(path, path.stat().st_size - 100)
    assert main([*command, str(run)]) == 0
    output, log = capsys.readouterr()
    assert output == expected and "passed over: " in log and "damaged at row" in log


@pytest.mark.parametrize("count", COUNTS)
def test_no_bit_of_a_snapshot_changes_what_is_read(run, count):
    """Damage is refused, or it is in the header's spaces and names, where it changes nothing."""
    (path,) = run.glob("weights-*")
    whole = {}
    with open_safetensors(path) as file:
        for name in file.names():
            whole[name] = file.read(name).tobytes()
    for data in flips(path, count):
        path.write_bytes(data)
        try:
            with open_safetensors(path) as file:
                if not file.checksums or set(file.names()) != set(whole):
                    continue  # the header is another, as a snapshot's never is
                read = {name: file.read(name).tobytes() for name in file.names()}
        except CheckpointError:
            continue
        assert read == whole


def test_a_streamed_run_stops_at_a_row_that_is_damaged_under_it(home, tmp_path, capsys):
    """And goes on, as if nothing had been, by --resume."""
    append, output = Journal.append, tmp_path / "run"

    def damaging(self, step):
        append(self, step)
        if len(self.steps) == 4:
            for path in output.glob("*weights-*"):
                flip(path, is_data(path) + 4000)

    options = ("--fold-every", "3", "--lr", "1e-2", "--engine", "numpy", "--residency", "streamed")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Journal, "append", damaging)
        assert finetune(home / "model", home / "data", output, *options) == 1
    log = capsys.readouterr().err
    assert "is damaged at row" in log
    assert "hint: a run goes on without it by finetune --resume" in log
    assert main(["finetune", "--resume", str(output)]) == 0
    assert "passed over: " in capsys.readouterr().err
    assert record(output) == record(home / "streamed")


def test_a_snapshot_without_checksums_is_still_read(run, capsys):
    """As version 0.1.0 wrote it."""
    expected = theta(run, 6)
    (path,) = run.glob("weights-*")
    with open_safetensors(path) as file:
        infos = {name: file.info(name) for name in file.names()}
        tensors = {name: file.read(name) for name in infos}
        metadata = file.metadata
    with SafetensorsWriter(path, infos, metadata) as writer:
        for name in writer.names():
            writer.write(name, tensors[name])
    assert TENSOR.encode() not in path.read_bytes()
    capsys.readouterr()
    assert theta(run, 6) == expected
    assert "passed over" not in capsys.readouterr().err


def theta(run, step):
    weights = tuned_model(Run.open(run), step, "numpy", "resident").weights
    return {name: weights.stored(name).tobytes() for name in weights.names()}


# --- run.toml ---


@pytest.mark.parametrize("count", COUNTS)
def test_no_bit_of_run_toml_changes_a_setting(run, count):
    whole = Run.open(run)
    path = run / "run.toml"
    refused = 0
    for data in flips(path, count):
        path.write_bytes(data)
        try:
            again = Run.open(run)
        except TinyzoError as error:
            assert error.hint
            refused += 1
            continue
        assert (again.settings, again.about) == (whole.settings, whole.about)
    assert refused


def test_a_run_toml_that_is_another(run):
    path = run / "run.toml"
    text = path.read_text()
    path.write_text(text.replace("lr = 0.01", "lr = 0.03"))
    with pytest.raises(RunError, match=r"run.toml is not as it was written\n  hint: restore") as e:
        Run.open(run)
    assert "if the change is yours, remove its first line" in e.value.hint
    path.write_text(text.replace("lr = 0.01", "lr = 0.03").partition("\n")[2])
    assert Run.open(run).settings.lr == 0.03
    path.write_bytes(text.replace("\n", "\r\n").encode())  # as an editor of Windows saves it
    assert Run.open(run).settings.lr == 0.01


# --- events.jsonl, metrics.jsonl, result.json ---


@pytest.mark.parametrize("count", COUNTS)
def test_no_bit_of_an_event_changes_the_best_step(run, count):
    """A line that is whole says what it said, a damaged one is an error, the last is torn."""
    opened = Run.open(run)
    path = run / "events.jsonl"
    whole = read_lines(path)
    for data in flips(path, count):
        path.write_bytes(data)
        found = read_lines(path)
        for line, expected in zip(found, whole, strict=False):
            assert line.items() >= expected.items()  # more, where the key of the CRC is another
        try:
            opened.best_step()
        except RunError as error:
            assert error.message == f"{path}: line {len(found) + 1} is damaged"
            assert error.hint == f"finetune --resume {run} evaluates again"
        else:
            assert len(found) >= len(whole) - 1


@pytest.mark.parametrize("name", ["events.jsonl", "metrics.jsonl", "result.json"])
@pytest.mark.parametrize("draw", range(3))
def test_a_resumption_mends_reports(home, run, name, draw):
    chance = random.Random(draw)
    path = run / name
    flip(path, chance.randrange(path.stat().st_size // 2), 7)  # no longer ASCII
    assert main(["finetune", "--resume", str(run)]) == 0
    assert record(run) == record(home / "streamed")


@pytest.mark.parametrize(
    "line",
    [
        b"[]", b"1", b'"step"', b"{}", b'{"step": "1"}', b"\xff", b"[" * 5000,
        b'{"event": [], "step": 1}', b'{"event": "evaluation", "step": 1, "split": "dev"}',
        b'{"step": 1, "loss": null, "seconds": 1.0, "forwards": 2}',
        b'{"step": 1, "loss": NaN, "seconds": 1.0, "forwards": 2}',
        b'{"step": 1, "loss": -1e999, "seconds": 1.0, "forwards": 2}',
        b'{"event": "error", "step": 1, "crc": "00000000"}', b"9" * 5000,
    ],
)  # fmt: skip
def test_lines_that_are_none(tmp_path, line):
    path = tmp_path / "events.jsonl"
    whole = b'{"event": "error", "step": 1}\n'  # before version 0.2 without a CRC
    path.write_bytes(whole + line + b"\n" + whole)
    assert read_lines(path) == [{"event": "error", "step": 1}]


def test_a_line_of_metrics_among_the_events_is_no_evaluation(run):
    """Which it has none of the keys of."""
    best = Run.open(run).best_step()
    metrics = (run / "metrics.jsonl").read_bytes()
    with open(run / "events.jsonl", "ab") as events:
        events.write(metrics)
    assert Run.open(run).best_step() == best


@pytest.mark.parametrize("damage", [b"[1]", b"[" * 5000, b"\xff", b"null", b'{"loss": Infinity}'])
def test_a_result_that_is_none(run, damage):
    (run / "result.json").write_bytes(damage)
    with pytest.raises(RunError, match="not finished\n  hint: --resume"):
        _ = Run.open(run).result


def test_results_are_said_as_they_are(run):
    assert Run.open(run).result == json.loads((run / "result.json").read_text())
    assert np.isfinite(Run.open(run).result["loss"])


@pytest.mark.parametrize(
    "more",
    [
        {"note": "x" * (1 << 16)},
        {"note": [{}]},
        {"note": {}},
        {f"note{i}": 0 for i in range(33)},
    ],
)
def test_a_line_that_would_take_much_memory_is_damaged(tmp_path, more):
    good = {"event": "error", "step": 1, "message": "a"}
    file = tmp_path / "events.jsonl"
    file.write_text("".join(json.dumps(each) + "\n" for each in (good, good | more)))
    assert read(file) == ([good], True)
