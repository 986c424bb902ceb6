"""Every reader of files on some damaged ones; tests/fuzz/run.py gives each a million."""

from __future__ import annotations

import subprocess
from contextlib import suppress
from random import Random

import pytest
from fuzz import costs, run
from fuzz.mutate import mutate
from fuzz.reader import Reader, load, names

from tinyzo.errors import TinyzoError

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


@pytest.mark.parametrize("kind", costs.KINDS)
def test_what_costs_much_is_read_or_refused(kind, tmp_path):
    file, read, files = costs.KINDS[kind]
    for make in files.values():
        (tmp_path / file).write_bytes(make(2000))
        with suppress(TinyzoError):
            read(tmp_path / file)


def test_the_cost_of_a_file_is_measured(tmp_path, capsys, monkeypatch):
    assert costs.cost_is_fair("config", "objects", 1000, tmp_path)
    for answer in ('[9.0, 0, "read"]', '[0.1, 99000000, "read"]'):
        process = subprocess.CompletedProcess([], 0, stdout=answer)
        monkeypatch.setattr(costs.subprocess, "run", lambda *_, p=process, **__: p)
        assert not costs.cost_is_fair("config", "lists", 10, tmp_path)
    said = capsys.readouterr().out.splitlines()
    assert [line.split()[:2] for line in said] == [["ok", "config"]] + [["BAD", "config"]] * 2
