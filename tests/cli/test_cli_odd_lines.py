"""Odd command lines, by the hundred: an exit code, no traceback, one message with one hint.

A line is a command that works, with one word of it changed: a value that is no number, a path that
leads nowhere. The default run takes some of them by turns, the exhaustive one all.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path

import pytest
from commands import command

from tinyzo.errors import shown
from tinyzo.runs.settings import FIELDS, RANGES

Capture = pytest.CaptureFixture[str]
Line = list[str]

NUMBERS = (
    *("", " ", "nan", "inf", "-inf", "1e999", "1e-400", "-1", "-0.5", "0x10", "1,5", "3.", "1e3"),
    *("10**30", "99999999999999999999999999", "١٢٣x", "None", "--", "1 2", "²"),
)
SIZES = (
    *("", "0", "-1", "1B", "1", "nan", "inf", "1e9", "4 0 MB", "10ZB", "9" * 400 + "GB", "GB"),
    *("1GBB", "MB1", "0x10MB", "1,5GB", "²GB"),
)
# Relative ones are in an empty folder, but for `file`, `nul` and `empty`.
PATHS = (
    *(
        "",
        "-",
        "~",
        "~/nowhere",
        "~no-such-user/x",
        "file",
        "empty",
        "nul",
        "file/x",
        ".",
        "nowhere",
    ),
    *("a b", "a\nb", "größe", "\udcff", "\ud800", "x" * 300, "x/" * 3000, "a\0b", "/dev/null"),
    *("{data}", "{data}/dev.jsonl", "{opt}/config.json", "-x", "*", "\x1b[31m"),
)
TEXTS = (
    "",
    "-",
    "nowhere",
    "a\nb",
    "\udcff",
    "x" * 300,
    "{",
    "{text",
    "{}",
    "{0}",
    "{a.b}",
    "<mask>",
)
MODEL = "--model={opt}"
DATA = ("--task=reviews", "--data={data}")
TUNE = ["finetune", MODEL, *DATA, "--steps=0", "--output=run"]
EVALUATE = ["evaluate", MODEL, *DATA]
OWN = ["evaluate", MODEL, "--data={data}"]


def numbers() -> Iterator[Line]:
    for name in RANGES:
        option = f"--{name.replace('_', '-')}"
        needed = {"window": ["--update=momentum"], "lora_rank": ["--train=lora"]}.get(name, [])
        for number in NUMBERS:
            yield [*TUNE, *needed, f"{option}={number}"]
            if name in ("limit", "data_seed"):
                yield [*EVALUATE, f"{option}={number}"]
    for number in NUMBERS:
        yield ["replay", "{run}", "--output=new", f"--step={number}"]
        yield ["inspect", "{opt}", f"--tokens={number}"]
        yield ["inspect", "{opt}", f"--batch-size={number}"]
    for size in SIZES:
        yield [*TUNE, f"--memory-budget={size}"]
        yield ["inspect", "{opt}", f"--memory-budget={size}"]


def paths() -> Iterator[Line]:
    """The path comes last."""
    for path in PATHS:
        yield ["finetune", "--steps=0", "--output=run", f"--model={path}"]
        yield ["finetune", f"--resume={path}"]
        yield [*TUNE, f"--config={path}"]
        yield ["finetune", MODEL, "--task=reviews", "--steps=0", "--output=run", f"--data={path}"]
        yield ["evaluate", *DATA, f"--model={path}"]
        yield ["evaluate", MODEL, "--task=reviews", f"--data={path}"]
        yield ["predict", "a", f"--model={path}"]
        yield ["replay", "--output=new", "--", path]
        yield ["convert", "--output=new", "--", path]
        yield ["export", "--format=onnx", "--output=new", f"--model={path}"]
        yield ["inspect", "--", path]
        yield ["doctor", "--json", "--", path]
        if path != "{data}":  # which stays as it is
            yield [*TUNE, f"--output={path}"]
            yield ["replay", "{run}", f"--output={path}"]
            yield ["convert", "{opt}", f"--output={path}"]
            yield ["export", "--format=onnx", "--model={opt}", *DATA, f"--output={path}"]


def words() -> Iterator[Line]:
    for text in TEXTS:
        yield [text]
        yield [*OWN, f"--task={text}"]
        yield [*OWN, f"--template={text}", "--label-words=terrible,great", "--label-field=mood"]
        yield [*OWN, "--template={{text}}", f"--label-words={text}", "--label-field=mood"]
        yield [*OWN, "--template={{text}}", f"--label-words=great,{text}"]
        yield [*OWN, "--template={{text}}", "--label-words=terrible,great", f"--label-field={text}"]
        yield [*TUNE, f"--train={text}"]
        yield [*TUNE, "--train=lora", f"--lora-targets={text}"]
        yield ["predict", MODEL, *DATA[:1], "--", text]
        yield ["predict", MODEL, "--task=RTE", "--", text]
        for name, kind in FIELDS.items():
            if kind is str:
                yield [*TUNE, f"--{name.replace('_', '-')}={text}"]


def combinations() -> Iterator[Line]:
    """Options that do not go together, or of the wrong command."""
    yield from (
        ["finetune", "--resume={run}", "--find-lr"],
        ["finetune", "--resume={run}", "--lora-rank=4"],
        ["finetune", "--resume={run}", "--output=x"],
        ["finetune", "--resume={run}", "--config=file"],
        ["finetune", "--resume={opt}"],
        [*TUNE, "--find-lr", "--lr=0"],
        [*TUNE, "--lora-rank=4"],
        [*TUNE, "--window=4"],
        [*TUNE, "--label-field=mood"],
        [*TUNE, "--k-shot=2", "--train-rows=3"],
        [*TUNE, "--lr=1", "--weight-decay=1.5"],
        [*TUNE, "--method=adam", "--clip=1"],
        [*TUNE, "--method=adam", "--objective=f1"],
        [*TUNE, "--method=mezo", "--method"],
        [*TUNE, "--output={run}"],
        [*TUNE, "--output={opt}"],
        [*TUNE, "--model={run}"],
        ["convert", "{run}", "--output=new"],
        ["convert", "roberta-tinny", "--output=new"],
        ["convert", "{opt}"],
        ["replay", "opt-tiny", "--output=new"],
        ["replay", "{run}x", "--output=new"],
        ["doctor", "{run}"],
        ["doctor", "a", "b"],
        ["inspect", "--plan=yes"],
        ["evaluate", "--model={run}", "--dtype=f16"],
        ["evaluate", "text"],
        ["predict", "--steps=3", "a"],
        ["--version=3"],
        ["--print-completion"],
        ["finetune", "evaluate"],
        ["finetune", "--"],
        ["finetune", "--", "--steps"],
        ["@file"],
    )


Part = Callable[[], Iterator[Line]]
PARTS: dict[Part, int] = {numbers: 400, paths: 300, words: 200, combinations: 30}  # lines at least


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder that the lines are given in."""
    place = tmp_path / "place"
    place.mkdir()
    for name, content in (("file", b"hello"), ("empty", b""), ("nul", b"a\0b")):
        (place / name).write_bytes(content)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.chdir(place)
    return place


def clear(place: Path) -> None:
    """Take away what a line has made."""
    for path in place.iterdir():
        if path.is_dir():
            shutil.rmtree(path)
        elif path.name not in ("file", "empty", "nul"):
            path.unlink()


def check(line: Line, capsys: Capture, is_named: bool) -> None:
    """The line ends well, or in one message with one hint, which breaks no line.

    is_named: what is odd is the last word, and the message has to name it
    """
    try:
        code = command(*line)
    except SystemExit as left:
        code = int(left.code or 0)
    output, log = capsys.readouterr()
    assert code in (0, 1, 2), line
    assert "Traceback" not in log, line
    if code == 0 or (line[0] == "doctor" and output):
        return
    first, second = log.splitlines()[-2:]
    assert output == "", line
    assert first.startswith("tinyzo: ") and len(first) > len("tinyzo: ") + 3, (line, log)
    assert second.startswith("  hint: ") and len(second) > len("  hint: ") + 3, (line, log)
    assert log.count("hint: ") == 1 and first.isprintable(), (line, log)
    assert not is_named or names_its_last_word(line, first), (line, log)


def names_its_last_word(line: Line, message: str) -> bool:
    """Whether a message has the option's name or its value, as far as the line has one."""
    name, _, value = line[-1].rpartition("=")
    as_said = shown(os.path.expanduser(value)).encode("utf-8", "backslashreplace").decode()
    option = name.removeprefix("--")
    return (option or "PATH") in message.replace("_", "-") or as_said[:40] in message


def check_all(part: Part, every: int, home: Path, place: Path, capsys: Capture) -> int:
    """Check each so many lines of a part; returns how many were checked."""
    capsys.readouterr()
    chosen = list(islice(part(), 0, None, every))
    for line in chosen:
        where = {"opt": home / "opt", "data": home / "data", "run": home / "opt-run"}
        words = [word.format(**where) if is_ours(word) else word for word in line]
        check(words, capsys, is_named=part in (numbers, paths))
        clear(place)
    return len(chosen)


def is_ours(word: str) -> bool:
    """Whether a word names one of our folders, and is no damaged template."""
    return any(f"{{{name}}}" in word for name in ("opt", "data", "run", "{text}"))


@pytest.mark.exhaustive
@pytest.mark.parametrize("part", PARTS)
def test_every_odd_line(part: Part, home: Path, place: Path, capsys: Capture) -> None:
    assert check_all(part, 1, home, place, capsys) >= PARTS[part]


@pytest.mark.parametrize("part", PARTS)
def test_some_odd_lines(part: Part, home: Path, place: Path, capsys: Capture) -> None:
    """One of eleven, so that each option and each value comes by turns; all combinations."""
    every = 1 if part is combinations else 11
    assert check_all(part, every, home, place, capsys) * every >= PARTS[part]
