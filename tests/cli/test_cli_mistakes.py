"""Wrong commands: each is one line, a hint and an exit code, and leaves nothing behind."""

from __future__ import annotations

import json
import pathlib
from pathlib import Path
from typing import Any, NoReturn

import pytest
from commands import command
from folders import SHAPES, finetune, write_model

Capture = pytest.CaptureFixture[str]


def mistakes(home: Path) -> dict[str, tuple[int, str]]:
    """Wrong commands, their exit code, and a part of what is said."""
    opt, roberta, data, run = (home / n for n in ("opt", "roberta", "data", "opt-run"))
    reviews = f"--task reviews --data {data}"
    return {
        "tune": (
            2,
            "COMMAND takes finetune, evaluate, predict, generate, replay, share, report, convert,",
        ),
        "finetune --steps many": (2, "--steps takes a whole number, not 'many'"),
        "finetune --lr small": (2, "--lr takes a number, not 'small'"),
        "finetune --lr": (2, "--lr: expected one argument"),
        "finetune --stebs 3": (2, "unknown argument --stebs"),
        "finetune --la x": (2, "ambiguous option: --la could match --label-words, --label-field"),
        "finetune --method newton": (2, "--method takes mezo, n-spsa, p-rge"),
        "finetune --engine cuda": (2, "--engine takes auto, numba, numpy or onnx, not 'cuda'"),
        "evaluate --engine cuda": (2, "--engine takes auto, numba, numpy or onnx, not 'cuda'"),
        "predict --engine cuda a": (2, "--engine takes auto, numba, numpy or onnx, not 'cuda'"),
        f"evaluate --model {opt} {reviews} --engine adam": (2, "--engine takes auto, numba"),
        "finetune --residency cloud": (2, "--residency takes auto, resident or streamed, not"),
        "finetune --update adam": (2, "--update takes sgd, sign, momentum, rms or adamezo, not"),
        "finetune --memory-budget much": (2, "memory_budget = 'much'"),
        "finetune --memory-budget 20MB": (1, "--memory-budget 20MB is too small"),
        "finetune --steps -1": (2, "steps = -1"),
        "finetune --batch-size 0": (2, "batch_size = 0"),
        "finetune --eps 0": (2, "eps = 0.0"),
        "finetune --lr nan": (2, "lr = nan"),
        "finetune --data-seed 4294967296": (2, "data_seed = 4294967296"),
        "finetune --threads 0": (2, "threads = 0"),
        f"finetune --model {opt} --task SST-2": (2, "--task SST-2 without --data"),
        f"finetune --model {opt} --task snow": (1, "task 'snow' is not known for opt models"),
        f"evaluate --model {opt} --task snow": (1, "task 'snow' is not known for opt models"),
        f"finetune --model {opt} --data {data}": (2, "--data without --task or --template"),
        f"finetune --model {opt} --data {data} --template {{text}}": (2, "--label-words"),
        f"finetune --model {opt} {reviews} --template {{text}} --label-words a,b": (2, "give one"),
        f"finetune --model {opt} --data {data} --template {{x}} --label-words a": (
            *(1, "label words 'a'"),
        ),
        f"finetune --model {opt} --data {data} --template <mask>{{x}} --label-words a,b": (
            *(1, "template '<mask>{x}' has 1 <mask>"),
        ),
        f"finetune --model {roberta} --task COPA --data {data}": (1, "no prompt for roberta"),
        f"finetune --model {roberta} --task nonsense --data {data}": (1, "is not known"),
        f"finetune --model {opt} {reviews} --k-shot 500": (1, "use k <= "),
        f"finetune --model {home}/nowhere": (1, "nowhere: no such folder"),
        f"finetune --model {opt}/config.json": (1, "config.json: a file, not a folder"),
        f"finetune --model {data}": (1, "data: none of model.safetensors"),
        f"finetune --model {run}": (2, "opt-run is a run"),
        f"finetune --model {opt} --task reviews --data {home}/none.jsonl": (1, "no such file"),
        f"finetune --model {opt} --task reviews --data {opt}": (1, "holds no data"),
        f"finetune --model {opt} --output {run} {reviews}": (1, "has a run.toml already"),
        f"finetune --model {opt} --output /dev/null/run {reviews}": (1, "/dev/null/run: Not a"),
        f"finetune --resume {data}": (1, "no run.toml, so not a run"),
        f"finetune --resume {run} --lr 1": (2, "lr cannot change"),
        f"finetune --resume {run} --output {home}/x": (2, "--resume with --output"),
        f"finetune --resume {run} --steps 1": (2, "the run has done 6"),
        f"finetune --resume {run} --find-lr": (2, "--find-lr with --resume\n  hint: a run keeps"),
        f"finetune --model {opt} {reviews} --window 5": (2, "window counts for nothing here"),
        f"finetune --model {opt} {reviews} --output=": (2, "--output takes a path, not ''"),
        f"replay {run} --output {home}/x --step=--": (2, "--step"),
        f"evaluate --model {opt} {reviews} --label-field x": (2, "label_field counts for nothing"),
        f"finetune --config {home}/none.toml": (1, "none.toml: no such file"),
        f"finetune --config {home}": (1, "it is not a file"),
        "--json finetune": (2, "unknown argument --json\n  hint: give --json after the command"),
        "--print-completion fish": (2, "--print-completion takes bash or zsh, not 'fish'"),
        f"evaluate {opt}": (2, f"unknown argument {opt}\n  hint: tinyzo evaluate -h lists"),
        f"evaluate --model {home}/nowhere": (1, "nowhere: no such folder"),
        f"evaluate --model {opt} --task SST-2": (2, "--task SST-2 without --data"),
        f"evaluate --model {opt} {reviews} --limit 0": (2, "limit = 0"),
        f"evaluate --model {run} --dtype bf16": (2, "the run's dtype is auto"),
        f"evaluate --model {run} --data-seed 5": (
            2,
            "the run's data_seed is 0\n  hint: leave out --data-seed",
        ),
        f"evaluate --model {run} --task SST-2": (2, "--task SST-2 without --data"),
        f"predict --model {opt} --task nonsense a": (1, "is not known"),
        f"predict --model {opt} --template {{text}} a": (2, "--template and --label-words"),
        "generate --engine cuda a": (2, "--engine takes auto, numba, numpy or onnx, not 'cuda'"),
        "generate --max-new-tokens 0 a": (2, "--max-new-tokens takes a whole number from 1 up"),
        "generate --temperature -1 a": (2, "temperature -1.0"),
        "generate --top-p 2 a": (2, "top-p 2.0"),
        "generate --seed -1 a": (1, "seed -1 is out of range"),
        f"generate --model {opt} --stop= a": (2, "a text that stops is empty"),
        f"generate --model {opt} --max-new-tokens 64 a": (1, "a prompt of 2 tokens and 64 new"),
        f"generate --model {opt} --base {run} a": (2, "--base, but"),
        f"generate --model {home}/nowhere a": (1, "nowhere: no such folder"),
        f"replay {run}": (2, "the following arguments are required: --output"),
        f"replay {opt} --output {home}/x": (1, "no run.toml, so not a run"),
        f"replay {run} --output {opt}": (1, "has a config.json already"),
        f"replay {run} --output {home}/x --step 7": (1, "no step 7"),
        f"replay {run} --output {home}/x --step -1": (2, "--step takes a whole number from 0 up"),
        f"convert {home}/nowhere --output {home}/x": (1, "nowhere: no such folder"),
        f"export --output {home}/x": (2, "--format"),
        f"export --format tflite --output {home}/x": (2, "--format takes onnx, not 'tflite'"),
        f"export --format onnx --model {opt} --train full --output {home}/x": (
            1,
            "--train full is not exported",
        ),
        f"export --format onnx --model {opt} --tokens 0 --output {home}/x": (2, "--tokens takes a"),
        f"export --format onnx --model {opt} --method mezo --output {home}/x": (2, "--method"),
        f"convert {opt}/config.json --output {home}/x": (1, "config.json"),
        f"inspect {home}/nowhere": (1, "nowhere: no such folder"),
        f"inspect {opt} --tokens -1": (2, "--tokens takes a whole number from 1 up, not '-1'"),
        f"inspect {opt} --batch-size 0": (2, "--batch-size takes a whole number from 1 up, not"),
        "inspect /" + 5000 * "a": (1, "File name too long"),
    }


def test_every_mistake_is_one_line_a_hint_and_no_traceback(
    home: Path, tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for line, (code, message) in mistakes(home).items():
        found = command(*line.split())
        output, log = capsys.readouterr()
        assert (found, output) == (code, ""), line
        assert message in log and "Traceback" not in log, (line, log)
        first, second = log.splitlines()[-2:]
        assert first.startswith("tinyzo: ") and second.startswith("  hint: "), (line, log)
        if "memory plan" not in log:  # what a run says before it finds its directory taken
            assert len(log.splitlines()) == 2, (line, log)
    assert not list(tmp_path.iterdir())


# --- misspelt names ---


@pytest.mark.parametrize(
    ("line", "code", "meant"),
    [
        ("finetun", 2, "finetune"),
        ("Inspect", 2, "inspect"),
        ("finetune --stebs 3", 2, "--steps"),
        ("finetune --batchsize=3", 2, "--batch-size"),
        ("predict --lable-words a,b", 2, "--label-words"),
        ("finetune --method fzo", 2, "--method fzoo"),
        ("finetune --engine NUMBA", 2, "--engine numba"),
        ("finetune --update adam", 2, "--update adamezo"),
        ("finetune --task topcs", 1, "topics"),
        ("evaluate --task SST-22 --data x", 1, "SST-2"),
        ("predict --task boolqs x", 1, "BoolQ"),
        ("finetune --model roberta-tny", 1, "roberta-tiny"),
        ("inspect op-tiny", 1, "opt-tiny"),
        ("doctor opt-tyni", 1, "opt-tiny"),
        ("evaluate --model {home}/robert", 1, "{home}/roberta"),
        ("inspect {home}/opt-rum", 1, "{home}/opt-run"),
    ],
)
def test_did_you_mean(home: Path, capsys: Capture, line: str, code: int, meant: str) -> None:
    assert command(*line.format(home=home).split()) == code
    _, hint = capsys.readouterr().err.splitlines()
    assert hint.startswith(f"  hint: did you mean {meant.format(home=home)}?")


def test_a_folder_is_near_by_its_own_name_alone(home: Path, capsys: Capture) -> None:
    """However long the way to it, which they share."""
    assert command("inspect", home / "elsewhere") == 1
    assert "did you mean" not in capsys.readouterr().err


def test_a_name_that_means_something_in_another_spelling(home: Path, capsys: Capture) -> None:
    """`sst2` is SST-2, and what is wrong is said of it."""
    assert command("evaluate", "--model", home / "opt", "--task", "sst2") == 2
    assert "--task sst2 without --data" in capsys.readouterr().err


# --- files ---


@pytest.mark.parametrize(
    ("content", "code", "message"),
    [
        ("learning_rate = 1", 2, "c.toml: no setting is called 'learning_rate'\n  hint: see"),
        ("stebs = 1", 2, "c.toml: no setting is called 'stebs'\n  hint: did you mean steps?"),
        ("batchsize = 1", 2, "no setting is called 'batchsize'\n  hint: did you mean batch_size?"),
        ("steps = 'many'", 2, "c.toml: steps = 'many'"),
        ("[model]\nname = 1", 2, "c.toml: model = {'name': 1}"),
        ("steps == 1", 1, "c.toml"),
        ("engine = 'cuda'", 1, "engine 'cuda' is not built"),
        ("method = 'newton'", 1, "method 'newton' is not built"),
        ("update = 'adam'", 1, "one of sgd, sign, momentum, rms, adamezo"),
        ("schedule = 'step'", 1, "schedule 'step' is not built"),
        ("task = 'topcs'", 1, "task 'topcs' is not known\n  hint: did you mean topics?"),
        ("label_words = 'a,b'\ntemplate = '{x}'\ndata = 'x'", 2, "c.toml: label_words = 'a,b'"),
    ],
)
def test_in_a_file_of_settings(
    tmp_path: Path, capsys: Capture, content: str, code: int, message: str
) -> None:
    (tmp_path / "c.toml").write_text(content)
    config = ("--config", tmp_path / "c.toml", "--output", tmp_path / "run")
    assert command("finetune", *config) == code
    assert message in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("rows.jsonl", b"", "rows.jsonl: it is empty"),
        ("rows.csv", b"text,mood\n", "rows.csv: no rows"),
        ("rows.jsonl", b"{", "rows.jsonl line 1: not a JSON object"),
        ("rows.jsonl", b'{"text": null, "mood": "great"}\n' * 9, "'text' is null"),
        ("rows.jsonl", b'{"text": "\xff"}', "rows.jsonl line 1 column 11: byte 0xFF is not UTF-8"),
        ("rows.tsv", b"text\tmood\nNo\n", "rows.tsv line 2: no cell for column 2, 'mood'"),
        ("rows.xlsx", b"PK", "not a kind of file that can be read"),
        ("rows.jsonl", b'{"text": "a", "mood": "great"}\n', "0 training rows"),
    ],
)
def test_in_data(
    home: Path, tmp_path: Path, capsys: Capture, name: str, content: bytes, message: str
) -> None:
    (tmp_path / name).write_bytes(content)
    assert finetune(home / "opt", tmp_path / name, tmp_path / "run") == 1
    assert message in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_a_model_of_no_known_kind(tmp_path: Path, capsys: Capture) -> None:
    write_model(tmp_path / "gpt")
    config = SHAPES["roberta"] | {"model_type": "gpt2"}
    (tmp_path / "gpt" / "config.json").write_text(json.dumps(config))
    assert command("inspect", tmp_path / "gpt") == 1
    assert "model_type 'gpt2' is not built" in capsys.readouterr().err


# --- the system ---


def test_a_folder_that_cannot_be_read(
    home: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As root every folder can be; so the system's answer is made up."""

    def denied(self: Path, *_: Any, **__: Any) -> NoReturn:
        raise PermissionError(13, "Permission denied", str(self))

    monkeypatch.setattr(pathlib.Path, "is_dir", denied)
    assert command("inspect", home / "opt") == 1
    error = capsys.readouterr().err
    assert f"{home / 'opt'}: Permission denied\n  hint: check the permissions of" in error


@pytest.mark.parametrize(
    ("error", "said"),
    [(MemoryError(), "no memory is left"), (MemoryError("too much"), "too much")],
)
def test_memory_that_is_not_there(
    home: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch, error: MemoryError, said: str
) -> None:
    def open_model(*_: Any) -> NoReturn:
        raise error

    monkeypatch.setattr("tinyzo.models.model.open_model", open_model)
    assert command("inspect", home / "opt") == 1
    hint = "close other programs; finetune takes --memory-budget SIZE or --residency streamed"
    assert f"tinyzo: {said}\n  hint: {hint}\n" in capsys.readouterr().err
