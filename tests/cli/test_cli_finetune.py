"""`tinyzo finetune`: its document, its lines, tasks of one's own, settings from a file."""

from __future__ import annotations

import json
from pathlib import Path
from typing import NoReturn

import pytest
from commands import command, document
from folders import ROOT, finetune, lines, rows, write_jsonl, write_model, write_reviews

from tinyzo.runs.find_lr import Found
from tinyzo.runs.run import Run
from tinyzo.runs.settings import Settings

Capture = pytest.CaptureFixture[str]
FAMILIES = pytest.mark.parametrize("family", ["roberta", "opt"])
DOCUMENT = {
    *("run", "model", "task", "steps", "forwards", "accuracy_zero_shot", "accuracy", "seconds"),
    *("seconds_per_step", "peak_bytes"),
}
TEMPLATES = {"roberta": "{text} So <mask>.", "opt": "{text} So"}


@FAMILIES
def test_its_document(home: Path, tmp_path: Path, capsys: Capture, family: str) -> None:
    assert finetune(home / family, home / "data", tmp_path / "run", "--json") == 0
    output, log = capsys.readouterr()
    (line,) = output.splitlines()
    result = json.loads(line)
    assert result.keys() >= DOCUMENT
    assert (result["run"], result["task"]) == (str(tmp_path / "run"), "reviews")
    assert (result["steps"], result["forwards"]) == (6, 12)
    assert result["model"] == str(home / family)
    timed = sum(m["seconds"] for m in lines(tmp_path / "run" / "metrics.jsonl"))
    assert result["seconds"] == pytest.approx(timed)
    assert result["seconds_per_step"] == pytest.approx(timed / 6)
    assert "memory plan: numba, resident" in log.replace("numpy", "numba") and "6/6" in log


@pytest.mark.parametrize("dtype", ["bf16", "f32"])
def test_it_says_how_bfloat16_is_multiplied(
    home: Path, tmp_path: Path, capsys: Capture, dtype: str
) -> None:
    assert finetune(home / "opt", home / "data", tmp_path / "run", "--dtype", dtype) == 0
    log = capsys.readouterr().err
    expected = dtype == "bf16" and "memory plan: numba" in log
    assert ("products of bfloat16: by " in log) == expected


def test_it_says_what_it_did(home: Path, tmp_path: Path, capsys: Capture) -> None:
    assert finetune(home / "opt", home / "data", tmp_path / "run") == 0
    output = capsys.readouterr().out
    assert "accuracy on 8 test rows: 0.500 zero-shot" in output
    assert "12 forward passes" in output
    size = (tmp_path / "run" / "journal").stat().st_size
    assert f"the fine-tune is {tmp_path / 'run' / 'journal'} ({size} bytes); " in output
    assert f"tinyzo replay {tmp_path / 'run'} --output DIR writes the model" in output


def test_what_a_gradient_did_is_in_no_journal(home: Path, tmp_path: Path, capsys: Capture) -> None:
    run = tmp_path / "run"
    options = ("--method", "lora-adam", "--lr", "1e-2")
    assert finetune(home / "opt", home / "data", run, *options) == 0
    best = json.loads((run / "result.json").read_text())["best_step"]
    place = run / (f"weights-{best}.safetensors" if best else "journal")
    output = capsys.readouterr().out
    assert f"the fine-tune is {place} ({place.stat().st_size} bytes); " in output


@pytest.mark.usefixtures("capsys")
def test_without_options_the_shipped_model_is_tuned_on_the_shipped_task(
    tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert command("finetune", "--steps", "2", "--json") == 0
    output, log = capsys.readouterr()
    result = json.loads(output.splitlines()[-1])
    assert (result["model"], result["task"]) == ("roberta-tiny", "topics")
    assert (result["run"], result["examples"]) == ("runs/topics-roberta-tiny-1", 120)
    assert [path.name for path in tmp_path.iterdir()] == ["runs"]
    assert "Warning" not in log


def test_find_lr(
    home: Path, tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    given: list[Settings] = []

    def find_lr(settings: Settings) -> Found:
        given.append(settings)
        return Found(lr=0.25, eps=0.5)

    monkeypatch.setattr("tinyzo.runs.find_lr.find_lr", find_lr)
    assert finetune(home / "opt", home / "data", tmp_path / "run", "--find-lr") == 0
    settings = Run.open(tmp_path / "run").settings
    assert (settings.lr, settings.eps) == (0.25, 0.5)
    assert given[0].lr == 1e-3  # where the search begins


# --- tasks of one's own ---


@FAMILIES
@pytest.mark.parametrize("kind", ["jsonl", "csv"])
def test_a_task_of_ones_own(
    home: Path, tmp_path: Path, capsys: Capture, family: str, kind: str
) -> None:
    data = tmp_path / f"rows.{kind}"
    own = [{"text": f"No {n}, yes", "label": ("bad", "good")[n % 2]} for n in range(20)]
    if kind == "jsonl":
        write_jsonl(data, own)
    else:
        table = ["text,label", *(f'"{row["text"]}",{row["label"]}' for row in own)]
        data.write_text("\n".join(table))
    task = ("--template", TEMPLATES[family], "--label-words", "bad,good")
    model = ("--model", home / family)
    run = ("--output", tmp_path / "run", "--steps", 2, "--batch-size", 4)
    result = document(capsys, "finetune", *model, "--data", data, *task, *run)
    assert (result["task"], result["examples"], result["split"]) == ("custom", 4, "held-out")
    again = document(capsys, "evaluate", "--model", tmp_path / "run")
    assert again["split"] == "held-out"
    assert (again["task"], again["loss"]) == ("custom", result["loss"])
    assert document(capsys, "evaluate", *model, "--data", data, *task)["examples"] == 20
    assert document(capsys, "predict", *model, *task, "No")["scores"].keys() == {"bad", "good"}
    tuned = ("--model", tmp_path / "run")
    assert document(capsys, "predict", *tuned, "No")["label"] in ("bad", "good")
    other = ("--task", "reviews", "--data", home / "data")
    assert document(capsys, "evaluate", *tuned, *other)["task"] == "reviews"


def test_kshot_of_a_folder_as_glues(home: Path, tmp_path: Path, capsys: Capture) -> None:
    (tmp_path / "RTE").mkdir()
    labels = ("entailment", "not_entailment")
    for name, count in (("train", 40), ("dev", 7)):
        table = ["index\tsentence1\tsentence2\tlabel"]
        table += [f"{n}\tNo {n}.\tYes {n}.\t{labels[n % 2]}" for n in range(count)]
        (tmp_path / "RTE" / f"{name}.tsv").write_text("\n".join(table))
    task = ("--model", home / "roberta", "--task", "rte", "--data", tmp_path / "RTE")
    size = ("--steps", 2, "--batch-size", 4, "--k-shot", 4)
    journals: list[bytes] = []
    for seed in (13, 13, 21):
        run = tmp_path / f"run{len(journals)}"
        drawn = ("--data-seed", seed, "--output", run)
        result = document(capsys, "finetune", *task, *size, *drawn)
        assert (result["examples"], result["split"]) == (7, "dev")
        start = next(e for e in lines(run / "events.jsonl") if e["split"] == "dev")
        assert start["examples"] == 8  # 4 of each label
        journals.append((run / "journal").read_bytes())
    assert journals[0] == journals[1] != journals[2]


def test_rows_beyond_the_limit_are_not_reported_on(
    home: Path, tmp_path: Path, capsys: Capture
) -> None:
    data = write_jsonl(tmp_path / "rows.jsonl", rows(30))
    task = ("--model", home / "roberta", "--task", "reviews", "--data", data)
    size = ("--limit", 2, "--steps", 0, "--output", tmp_path / "run")
    assert document(capsys, "finetune", *task, *size)["examples"] == 2


# --- settings from a file ---


def test_settings_of_a_file_and_options_over_them(
    home: Path, tmp_path: Path, capsys: Capture
) -> None:
    config = tmp_path / "größer.toml"
    config.write_text(
        f"model = '{home / 'opt'}'\ntask = 'reviews'\ndata = '{home / 'data'}'\n"
        "steps = 4\nbatch-size = 2\nlr = 1e-5\nseed = 3\n"
    )
    document(capsys, "finetune", "--config", config, "--output", tmp_path / "a")
    options = ("--batch-size", 3, "--lr", "1e-3")
    document(capsys, "finetune", "--config", config, *options, "--output", tmp_path / "b")
    a, b = (Run.open(tmp_path / name).settings for name in "ab")
    assert (a.steps, a.batch_size, a.lr, a.seed) == (4, 2, 1e-5, 3)
    assert (b.steps, b.batch_size, b.lr, b.seed) == (4, 3, 1e-3, 3)


def test_settings_with_a_byte_order_mark(home: Path, tmp_path: Path, capsys: Capture) -> None:
    """As Notepad writes it, with its line ends."""
    text = (
        f"model = '{home / 'opt'}'\r\ntask = 'reviews'\r\ndata = '{home / 'data'}'\r\nsteps = 1\r\n"
    )
    (tmp_path / "a.toml").write_bytes(b"\xef\xbb\xbf" + text.encode())
    line = ("finetune", "--config", tmp_path / "a.toml", "--output", tmp_path / "run")
    assert document(capsys, *line)["steps"] == 1


def test_folders_of_any_name(home: Path, tmp_path: Path, capsys: Capture) -> None:
    place = tmp_path / "größe 一 😀 'a' \"b\" $x$"
    model, data = write_model(place / "model"), write_reviews(place / "data")
    assert finetune(model, data, place / "run") == 0
    assert document(capsys, "finetune", "--resume", place / "run")["run"] == str(place / "run")
    assert command("evaluate", "--model", place / "run") == 0
    assert command("replay", place / "run", "--output", place / "tuned") == 0


def test_the_command_of_the_package_is_the_same(
    capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tinyzo import __main__ as entry

    assert 'tinyzo = "tinyzo.__main__:main"' in (ROOT / "pyproject.toml").read_text()
    monkeypatch.setattr("sys.argv", ["tinyzo", "--version"])
    assert entry.main() == 0
    assert capsys.readouterr().out.startswith("tinyzo ")


def test_ctrl_c_before_a_command_has_begun(monkeypatch: pytest.MonkeyPatch) -> None:
    from tinyzo import __main__ as entry

    def interrupted(*_: object) -> NoReturn:
        raise KeyboardInterrupt

    monkeypatch.setattr("builtins.__import__", interrupted)
    code = entry.main()
    monkeypatch.undo()
    assert code == 130


def test_recipes_are_listed_and_misspelt_ones_are_told(capsys: Capture) -> None:
    assert command("finetune", "--recipe", "list") == 0
    assert "opt-6.7b" in capsys.readouterr().out
    assert command("finetune", "--recipe", "roberta-large/SST-3") == 2
    assert "did you mean roberta-large/SST-" in capsys.readouterr().err
