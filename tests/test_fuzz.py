"""Every reader of files on some damaged ones; tests/fuzz/run.py gives each a million."""

from __future__ import annotations

from random import Random

import pytest
from fuzz import run
from fuzz.mutate import mutate
from fuzz.reader import Reader, load, names

FILES = 300


@pytest.mark.parametrize("name", names())
def test_a_file_that_is_right_is_read(name):
    for data in load(name).seeds:
        load(name).read(data)


@pytest.mark.parametrize("name", names())
def test_a_damaged_file_is_read_or_refused(name):
    reader = load(name)
    random = Random(name)
    for _ in range(FILES):
        data = mutate(random.choice(reader.seeds), reader.seeds, reader.words, random)
        assert run.fault_of(reader, data) == ""


def test_any_other_exception_is_a_fault():
    assert "ZeroDivisionError" in run.fault_of(Reader(lambda data: 1 // 0, [b""]), b"")


def test_a_file_that_takes_long_is_a_fault(monkeypatch):
    monkeypatch.setattr(run, "SECONDS", -1.0)
    assert run.fault_of(Reader(len, [b""]), b"").startswith("it took")


def test_a_file_that_takes_much_memory_is_a_fault(monkeypatch):
    monkeypatch.setattr(run, "GROWTH", -1)
    assert run.fault_of(Reader(len, [b""]), b"").startswith("the process grew")


def test_what_is_found_is_kept(tmp_path, capsys):
    faults = run.Faults("lengths", tmp_path / "found")
    for data in (b"one", b"two"):
        faults.add("it took 3.0 s", data)
    (kept,) = (tmp_path / "found").iterdir()
    assert kept.read_bytes() == b"one"
    assert capsys.readouterr().out == f"{kept}: it took 3.0 s\n"
