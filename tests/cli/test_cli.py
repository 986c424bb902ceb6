"""The command line: what it takes, what it prints and where, and its exit codes."""

from __future__ import annotations

import io
import json
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import pytest
from folders import (
    ROOT,
    SHAPES,
    finetune,
    lines,
    rows,
    shell,
    write_jsonl,
    write_model,
    write_reviews,
)

import tinyzo
from tinyzo.cli import build_parser, main
from tinyzo.runs import report

FINETUNE = {
    "run", "model", "task", "steps", "forwards", "accuracy_zero_shot", "accuracy", "seconds",
    "seconds_per_step", "peak_bytes",
}  # fmt: skip
FAMILIES = pytest.mark.parametrize("family", ["roberta", "opt"])
TEMPLATES = {"roberta": "{text} So <mask>.", "opt": "{text} So"}


@pytest.fixture(autouse=True)
def no_plot(monkeypatch):
    monkeypatch.setattr(report, "plot", lambda path: "not drawn")


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """Models, data, and a run of each family."""
    home = tmp_path_factory.mktemp("home")
    write_reviews(home / "data")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(report, "plot", lambda path: "not drawn")
        for family in ("roberta", "opt"):
            write_model(home / family, family)
            assert finetune(home / family, home / "data", home / f"{family}-run") == 0
    return home


def command(*arguments):
    return main([*map(str, arguments)])


def document(capsys, *arguments):
    """The JSON document of a command that succeeds, its last line on stdout."""
    capsys.readouterr()
    assert command(*arguments, "--json") == 0
    return json.loads(capsys.readouterr().out.splitlines()[-1])


# --- the fixed interface ---


def test_options_of_each_command():
    text = {}
    (commands,) = (a for a in build_parser()._actions if a.dest == "command")
    for name, parser in commands.choices.items():
        text[name] = {option for a in parser._actions for option in a.option_strings}
    assert text["finetune"] >= {
        "--model", "--task", "--data", "--template", "--label-words", "--output", "--method",
        "--steps", "--batch-size", "--lr", "--eps", "--seed", "--data-seed", "--engine",
        "--residency", "--dtype", "--threads", "--eval-every", "--resume", "--config", "--json",
        "--k-shot", "--limit",
    }  # fmt: skip
    assert text["evaluate"] >= {"--model", "--task", "--data", "--zero-shot", "--limit", "--json"}
    assert text["predict"] >= {"--model", "--task", "--json"}
    assert text["replay"] >= {"--output"} and text["convert"] >= {"--output"}
    assert text["inspect"] >= {"--json"}


@FAMILIES
def test_finetune(home, tmp_path, capsys, family):
    assert finetune(home / family, home / "data", tmp_path / "run", "--json") == 0
    output, log = capsys.readouterr()
    (line,) = output.splitlines()
    result = json.loads(line)
    assert result.keys() >= FINETUNE
    assert (result["run"], result["task"]) == (str(tmp_path / "run"), "reviews")
    assert (result["steps"], result["forwards"]) == (6, 12)
    assert result["model"] == str(home / family)
    timed = sum(m["seconds"] for m in lines(tmp_path / "run" / "metrics.jsonl"))
    assert result["seconds"] == pytest.approx(timed)
    assert result["seconds_per_step"] == pytest.approx(timed / 6)
    assert "memory plan: numba, resident" in log.replace("numpy", "numba") and "6/6" in log


def test_finetune_says_what_it_did(home, tmp_path, capsys):
    assert finetune(home / "opt", home / "data", tmp_path / "run") == 0
    output = capsys.readouterr().out
    assert "accuracy on 8 test rows: 0.500 zero-shot" in output
    assert "12 forward passes" in output
    assert f"tinyzo replay {tmp_path / 'run'} --output DIR writes the model" in output


def test_evaluate(home, capsys):
    options = ("--model", home / "opt", "--task", "Reviews", "--data", home / "data")
    result = document(capsys, "evaluate", *options)
    assert result.keys() >= {"model", "task", "examples", "accuracy", "loss"}
    assert (result["examples"], result["task"]) == (8, "Reviews")
    assert document(capsys, "evaluate", *options, "--limit", 3)["examples"] == 3
    assert command("evaluate", *options) == 0
    assert f"loss {result['loss']:.4f} on 8 test rows" in capsys.readouterr().out


@FAMILIES
@pytest.mark.parametrize("of_run", [False, True])
def test_predict(home, capsys, family, of_run):
    model = home / (f"{family}-run" if of_run else family)
    capsys.readouterr()
    task = () if of_run else ("--task", "reviews")
    assert command("predict", "--model", model, *task, "--json", "No 1", "", "größer 😀") == 0
    found = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [line["text"] for line in found] == ["No 1", "", "größer 😀"]
    for line in found:
        assert line.keys() == {"text", "label", "scores"}
        assert line["scores"].keys() == {"terrible", "great"}
        assert line["label"] == max(line["scores"], key=line["scores"].get)
        assert sum(line["scores"].values()) == pytest.approx(1, abs=1e-12)
    assert command("predict", "--model", model, *task, "No 1") == 0
    label, odds, text = capsys.readouterr().out.rstrip("\n").split("\t")
    assert (label, text) == (found[0]["label"], "No 1")
    assert odds == f"{max(found[0]['scores'].values()):.3f}"


def test_predict_reads_lines_of_stdin(home, capsys, monkeypatch):
    capsys.readouterr()
    arguments = ("predict", "--model", home / "roberta", "--task", "reviews", "--json")
    assert command(*arguments, "No 1", "Yes 2") == 0
    expected = capsys.readouterr().out
    monkeypatch.setattr(sys, "stdin", io.StringIO("No 1\nYes 2"))
    assert command(*arguments) == 0
    assert capsys.readouterr().out == expected
    for empty in (io.StringIO(""), None):
        monkeypatch.setattr(sys, "stdin", empty)
        assert command(*arguments) == 0
        assert capsys.readouterr().out == ""


def test_predict_agrees_with_evaluate(home, capsys):
    """The label that predict gives is right as often as evaluate says."""
    texts = lines(home / "data" / "test.jsonl")
    for family in ("roberta", "opt"):
        result = document(capsys, "evaluate", "--model", home / f"{family}-run")
        command("predict", "--model", home / f"{family}-run", "--json", *[r["text"] for r in texts])
        labels = [json.loads(line)["label"] for line in capsys.readouterr().out.splitlines()]
        right = sum(label == row["mood"] for label, row in zip(labels, texts, strict=True))
        assert right / len(texts) == result["accuracy"]


COPA = {"premise": "No.", "choice1": "Yes", "choice2": "It is good", "question": "cause"}
RTE = {"premise": "No good.", "hypothesis": "It is"}


def test_predict_of_several_columns_takes_json_objects(home, capsys):
    capsys.readouterr()
    command("predict", "--model", home / "opt", "--task", "rte", "--json", json.dumps(RTE))
    line = json.loads(capsys.readouterr().out)
    assert line["scores"].keys() == {"Yes", "No"} and line["text"] == json.dumps(RTE)


def test_labels_are_what_the_files_call_them_where_words_are_columns(home, capsys):
    capsys.readouterr()
    arguments = ("predict", "--model", home / "opt", "--task", "COPA", json.dumps(COPA))
    assert command(*arguments, "--json") == 0
    line = json.loads(capsys.readouterr().out)
    assert line["scores"].keys() == {"0", "1"}
    assert command(*arguments) == 0
    assert capsys.readouterr().out.startswith(line["label"] + "\t")


@pytest.mark.parametrize(
    "text", ["No good.", "{", "[1]", "3", '{"premise": "a"', "[" * 10_000, json.dumps(RTE)[:-9]]
)
def test_predict_of_what_is_no_object(home, capsys, text):
    assert command("predict", "--model", home / "opt", "--task", "RTE", text) == 1
    error = capsys.readouterr().err
    assert f"tinyzo: {text[:40]!r}: the task reads premise, hypothesis\n" in error
    assert "give each text as a JSON object of these columns" in error


def test_predict_of_an_object_without_a_column(home, capsys):
    assert command("predict", "--model", home / "opt", "--task", "RTE", '{"premise": "a"}') == 1
    assert "no text under 'hypothesis'" in capsys.readouterr().err


@FAMILIES
def test_inspect(home, capsys, family):
    result = document(capsys, "inspect", home / family)
    assert result.keys() >= {"parameters", "trainable", "bytes", "plan_bytes", "plan", "types"}
    model = tinyzo.load(home / family)
    sizes = [model.weights.read(name).size for name in model.weights.names()]
    assert result["parameters"] == result["trainable"] == sum(sizes)
    assert result["bytes"] == 4 * sum(sizes)
    assert result["types"] == {"F32": len(sizes)}
    assert result["plan"].keys() >= {"interpreter", "weights", "tiles", "activations"}
    assert result["plan_bytes"] == sum(result["plan"].values())
    huge = document(capsys, "inspect", home / family, "--tokens", 10**12)
    assert huge["plan_bytes"] > 10**12  # a plan allocates nothing


def test_inspect_of_a_run(home, capsys):
    result = document(capsys, "inspect", home / "opt-run")
    assert (result["steps"], result["model"]) == (6, str(home / "opt"))
    assert len(result["base"]) == 64 and result["noise_format"] == 1
    assert command("inspect", home / "opt-run") == 0
    assert "best_step      " in capsys.readouterr().out


def test_replay_and_convert(home, tmp_path, capsys):
    result = document(capsys, "replay", home / "opt-run", "--output", tmp_path / "tuned")
    assert result == {"run": str(home / "opt-run"), "output": str(tmp_path / "tuned")}
    result = document(capsys, "convert", tmp_path / "tuned", "--output", tmp_path / "again")
    assert result.keys() == {"output", "peak_bytes"}
    for command_, path in (("replay", home / "opt-run"), ("convert", home / "opt")):
        assert command(command_, path, "--output", tmp_path / command_) == 0
        assert str(tmp_path / command_) in capsys.readouterr().out
    assert (tmp_path / "again" / "model.safetensors").read_bytes() == (
        tmp_path / "tuned" / "model.safetensors"
    ).read_bytes()


# --- tasks of one's own, and settings from a file ---


@FAMILIES
@pytest.mark.parametrize("kind", ["jsonl", "csv"])
def test_a_task_of_ones_own(home, tmp_path, capsys, family, kind):
    data = tmp_path / f"rows.{kind}"
    own = [{"text": f"No {n}, yes", "label": ("bad", "good")[n % 2]} for n in range(20)]
    if kind == "jsonl":
        write_jsonl(data, own)
    else:
        table = ["text,label", *(f'"{row["text"]}",{row["label"]}' for row in own)]
        data.write_text("\n".join(table))
    task = ("--template", TEMPLATES[family], "--label-words", "bad,good")
    model = ("--model", home / family)
    result = document(
        capsys, "finetune", *model, "--data", data, *task, "--output", tmp_path / "run",
        "--steps", 2, "--batch-size", 4,
    )  # fmt: skip
    assert (result["task"], result["examples"], result["split"]) == ("custom", 4, "4 held-out")
    again = document(capsys, "evaluate", "--model", tmp_path / "run")
    assert (again["task"], again["loss"]) == ("custom", result["loss"])
    assert document(capsys, "evaluate", *model, "--data", data, *task)["examples"] == 20
    assert document(capsys, "predict", *model, *task, "No")["scores"].keys() == {"bad", "good"}
    run = ("--model", tmp_path / "run")
    assert document(capsys, "predict", *run, "No")["label"] in ("bad", "good")
    other = ("--task", "reviews", "--data", home / "data")
    assert document(capsys, "evaluate", *run, *other)["task"] == "reviews"


def test_labels_in_another_column(home, tmp_path, capsys):
    data = write_jsonl(tmp_path / "rows.jsonl", [{"text": "No", "y": n % 2} for n in range(9)])
    options = ("--template", "{text} So <mask>.", "--label-words", "bad,good", "--data", data)
    arguments = ("evaluate", "--model", home / "roberta", *options)
    assert document(capsys, *arguments, "--label-field", "y")["examples"] == 9
    assert command(*arguments) == 1
    assert "rows.jsonl line 1: label is missing, not one of bad, good" in capsys.readouterr().err


def test_kshot_of_a_folder_as_glues(home, tmp_path, capsys):
    (tmp_path / "RTE").mkdir()
    names = ("entailment", "not_entailment")
    for name, count in (("train", 40), ("dev", 7)):
        table = ["index\tsentence1\tsentence2\tlabel"]
        table += [f"{n}\tNo {n}.\tYes {n}.\t{names[n % 2]}" for n in range(count)]
        (tmp_path / "RTE" / f"{name}.tsv").write_text("\n".join(table))
    journals = []
    for seed in (13, 13, 21):
        run = tmp_path / f"run{len(journals)}"
        result = document(
            capsys, "finetune", "--model", home / "roberta", "--task", "rte", "--data",
            tmp_path / "RTE", "--k-shot", 4, "--data-seed", seed, "--output", run,
            "--steps", 2, "--batch-size", 4,
        )  # fmt: skip
        assert (result["examples"], result["split"]) == (7, "dev")
        (start, *_) = (e for e in lines(run / "events.jsonl") if e["split"] == "dev")
        assert start["examples"] == 8  # 4 of each label
        journals.append((run / "journal").read_bytes())
    assert journals[0] == journals[1] != journals[2]


def test_settings_of_a_file_and_options_over_them(home, tmp_path, capsys):
    config = tmp_path / "größer.toml"
    config.write_text(
        f"model = '{home / 'opt'}'\ntask = 'reviews'\ndata = '{home / 'data'}'\n"
        "steps = 4\nbatch-size = 2\nlr = 1e-5\nseed = 3\n"
    )
    document(capsys, "finetune", "--config", config, "--output", tmp_path / "a")
    options = ("--batch-size", 3, "--lr", "1e-3")
    document(capsys, "finetune", "--config", config, *options, "--output", tmp_path / "b")
    a, b = (tinyzo.runs.run.Run.open(tmp_path / name).settings for name in "ab")
    assert (a.steps, a.batch_size, a.lr, a.seed) == (4, 2, 1e-5, 3)
    assert (b.steps, b.batch_size, b.lr, b.seed) == (4, 3, 1e-3, 3)


def test_folders_of_any_name(home, tmp_path, capsys):
    place = tmp_path / "größe 一 😀 'a' \"b\" $x$"
    model, data = write_model(place / "model"), write_reviews(place / "data")
    assert finetune(model, data, place / "run") == 0
    assert document(capsys, "finetune", "--resume", place / "run")["run"] == str(place / "run")
    assert command("evaluate", "--model", place / "run") == 0
    assert command("replay", place / "run", "--output", place / "tuned") == 0


# --- mistakes ---


def mistakes(home):
    """Wrong commands, their exit code, and a part of what is said."""
    opt, roberta, data, run = (home / n for n in ("opt", "roberta", "data", "opt-run"))
    reviews = f"--task reviews --data {data}"
    return {
        "": (2, "the following arguments are required: COMMAND"),
        "tune": (2, "invalid choice: 'tune'"),
        "finetune --steps many": (2, "invalid int value: 'many'"),
        "finetune --stebs 3": (2, "unrecognized arguments: --stebs 3"),
        "finetune --method newton": (2, "invalid choice: 'newton'"),
        "finetune --engine cuda": (2, "invalid choice: 'cuda'"),
        "finetune --residency cloud": (2, "invalid choice: 'cloud'"),
        "finetune --memory-budget much": (2, "memory_budget = 'much'"),
        "finetune --memory-budget 20MB": (1, "--memory-budget 20MB is too small"),
        "finetune --steps -1": (2, "steps = -1"),
        "finetune --batch-size 0": (2, "batch_size = 0"),
        "finetune --eps 0": (2, "eps = 0.0"),
        "finetune --lr nan": (2, "lr = nan"),
        "finetune --data-seed 4294967296": (2, "data_seed = 4294967296"),
        "finetune --threads 0": (2, "threads = 0"),
        f"finetune --model {opt} --task SST-2": (2, "--task SST-2 without --data"),
        f"finetune --model {opt} --data {data}": (2, "--data without --task or --template"),
        f"finetune --model {opt} --data {data} --template {{text}}": (2, "--label-words"),
        f"finetune --model {opt} {reviews} --template {{text}} --label-words a,b": (2, "give one"),
        f"finetune --model {opt} --data {data} --template {{x}} --label-words a": (
            1, "label words 'a'"),
        f"finetune --model {opt} --data {data} --template <mask>{{x}} --label-words a,b": (
            1, "template '<mask>{x}' has 1 <mask>"),
        f"finetune --model {roberta} --task COPA --data {data}": (1, "no prompt for roberta"),
        f"finetune --model {roberta} --task nonsense --data {data}": (1, "is not known"),
        f"finetune --model {opt} {reviews} --k-shot 500": (1, "use k <= "),
        f"finetune --model {home}/nowhere": (1, "nowhere: no such folder"),
        f"finetune --model {opt}/config.json": (1, "config.json: no such folder"),
        f"finetune --model {data}": (1, "data: none of model.safetensors"),
        f"finetune --model {run}": (2, "opt-run is a run"),
        f"finetune --model {opt} --task reviews --data {home}/none.jsonl": (1, "No such file"),
        f"finetune --model {opt} --task reviews --data {home}": (1, "holds no data"),
        f"finetune --model {opt} --output {run} {reviews}": (1, "has a run.toml already"),
        f"finetune --model {opt} --output /dev/null/run {reviews}": (1, "/dev/null/run: Not a"),
        f"finetune --resume {data}": (1, "no run.toml, so not a run"),
        f"finetune --resume {run} --lr 1": (2, "lr cannot change"),
        f"finetune --resume {run} --output {home}/x": (2, "--resume with --output"),
        f"finetune --resume {run} --steps 1": (2, "the run has done 6"),
        f"finetune --config {home}/none.toml": (1, "none.toml"),
        f"finetune --config {home}": (1, "Is a directory"),
        f"evaluate --model {home}/nowhere": (1, "nowhere: no such folder"),
        f"evaluate --model {opt} --task SST-2": (2, "--task SST-2 without --data"),
        f"evaluate --model {opt} {reviews} --limit 0": (2, "limit = 0"),
        f"evaluate --model {run} --dtype bf16": (2, "the run's dtype is auto"),
        f"evaluate --model {run} --data-seed 5": (2, "the run's data_seed is 0"),
        f"evaluate --model {run} --task SST-2": (2, "--task SST-2 without --data"),
        f"predict --model {opt} --task nonsense a": (1, "is not known"),
        f"predict --model {opt} --template {{text}} a": (2, "--template and --label-words"),
        f"replay {run}": (2, "the following arguments are required: --output"),
        f"replay {opt} --output {home}/x": (1, "no run.toml, so not a run"),
        f"replay {run} --output {opt}": (1, "has a config.json already"),
        f"replay {run} --output {home}/x --step 7": (1, "no step 7"),
        f"replay {run} --output {home}/x --step -1": (2, "argument --step"),
        f"convert {home}/nowhere --output {home}/x": (1, "nowhere: no such folder"),
        f"convert {opt}/config.json --output {home}/x": (1, "config.json"),
        f"inspect {home}/nowhere": (1, "nowhere: no such folder"),
        f"inspect {opt} --tokens -1": (2, "argument --tokens"),
        "inspect /" + 5000 * "a": (1, "File name too long"),
    }  # fmt: skip


def test_every_mistake_is_one_line_a_hint_and_no_traceback(home, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for line, (code, message) in mistakes(home).items():
        try:
            found = command(*line.split())
        except SystemExit as error:  # argparse
            found = error.code
        output, log = capsys.readouterr()
        assert (found, output) == (code, ""), line
        assert message in log and "Traceback" not in log, (line, log)
        assert log.startswith("usage: tinyzo") or "\n  hint: " in log, (line, log)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("content", "code", "message"),
    [
        ("learning_rate = 1", 2, "no setting is called 'learning_rate'"),
        ("steps = 'many'", 2, "steps = 'many'"),
        ("[model]\nname = 1", 2, "model = {'name': 1}"),
        ("steps == 1", 1, "c.toml"),
        ("engine = 'cuda'", 1, "engine 'cuda' is not built"),
        ("method = 'newton'", 1, "method 'newton' is not built"),
        ("schedule = 'step'", 1, "schedule 'step' is not built"),
        ("label_words = 'a,b'\ntemplate = '{x}'\ndata = 'x'", 2, "label_words = 'a,b'"),
    ],
)
def test_mistakes_in_a_file_of_settings(home, tmp_path, capsys, content, code, message):
    (tmp_path / "c.toml").write_text(content)
    config = ("--config", tmp_path / "c.toml", "--output", tmp_path / "run")
    assert command("finetune", *config) == code
    assert message in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("rows.jsonl", b"", "rows.jsonl: no rows"),
        ("rows.csv", b"text,mood\n", "rows.csv: no rows"),
        ("rows.jsonl", b"{", "rows.jsonl line 1: not a JSON object"),
        ("rows.jsonl", b'{"text": 3, "mood": "great"}\n' * 9, "no text under 'text'"),
        ("rows.jsonl", b'{"text": "\xff"}', "rows.jsonl line 1: not UTF-8"),
        ("rows.tsv", b"text\tmood\nNo\n", "rows.tsv line 2: not a row"),
        ("rows.xlsx", b"PK", "not a kind of file that can be read"),
        ("rows.jsonl", b'{"text": "a", "mood": "great"}\n', "0 training rows"),
    ],
)
def test_mistakes_in_data(home, tmp_path, capsys, name, content, message):
    (tmp_path / name).write_bytes(content)
    assert finetune(home / "opt", tmp_path / name, tmp_path / "run") == 1
    assert message in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_a_folder_that_cannot_be_read(home, capsys, monkeypatch):
    """As root every folder can be; so the system's answer is made up."""
    import pathlib

    def denied(self, *_, **__):
        raise PermissionError(13, "Permission denied", str(self))

    monkeypatch.setattr(pathlib.Path, "is_dir", denied)
    assert command("inspect", home / "opt") == 1
    error = capsys.readouterr().err
    assert f"Permission denied: '{home / 'opt'}'\n  hint: check the path and its" in error


@pytest.mark.parametrize("error", [MemoryError(), MemoryError("too much")])
def test_memory_that_is_not_there(home, capsys, monkeypatch, error):
    def load(*_, **__):
        raise error

    monkeypatch.setattr("tinyzo.cli.open_model", load)
    assert command("inspect", home / "opt") == 1
    assert f"tinyzo: {error or 'MemoryError'}" in capsys.readouterr().err


# --- real processes ---


def finish(process, given=None):
    output, log = process.communicate(given)
    return process.returncode, output, log


def test_without_arguments_the_shipped_model_is_tuned_on_the_shipped_task(tmp_path):
    code, output, log = finish(shell("finetune", "--steps", "2", "--json", cwd=tmp_path))
    assert code == 0, log
    result = json.loads(output.splitlines()[-1])
    assert (result["model"], result["task"]) == ("roberta-tiny", "topics")
    assert (result["run"], result["examples"]) == ("runs/topics-roberta-tiny-1", 120)
    assert [path.name for path in tmp_path.iterdir()] == ["runs"]
    assert "Warning" not in log


def test_the_command_of_the_package_is_the_same():
    script = ROOT / "pyproject.toml"
    assert 'tinyzo = "tinyzo.__main__:main"' in script.read_text()
    from tinyzo.__main__ import main as entry

    assert entry is main


def test_without_a_command(tmp_path):
    code, output, log = finish(shell(cwd=tmp_path))
    assert (code, output) == (2, "") and log.startswith("usage: tinyzo")
    code, output, _ = finish(shell("finetune", "--help", cwd=tmp_path))
    assert code == 0 and "--label-words" in output


def test_a_reader_that_leaves_early(home):
    """As `| head -1`."""
    process = shell("predict", "--model", home / "opt", stdin=subprocess.PIPE)
    process.stdin.write("No 1\n")
    process.stdin.flush()
    assert process.stdout.readline().endswith("\tNo 1\n")
    process.stdout.close()
    with pytest.raises(BrokenPipeError):  # it ends, so nobody reads on
        for _ in range(10_000):
            process.stdin.write("Yes\n" * 100)
            process.stdin.flush()
    process.wait()
    assert (process.returncode, process.stderr.read()) == (1, "")
    process.stderr.close()
    with suppress(BrokenPipeError):
        process.stdin.close()


def test_a_pipe_that_is_closed_before_the_end(home):
    process = shell("inspect", home / "opt")
    process.stdout.close()
    process.wait()
    assert (process.returncode, process.stderr.read()) == (1, "")
    process.stderr.close()


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full")
def test_a_pipe_to_a_full_disk(home):
    with open("/dev/full", "w") as full:
        code, _, log = finish(shell("inspect", home / "opt", stdout=full))
    assert code == 1 and log.startswith("tinyzo: [Errno 28] No space left on device\n  hint: ")
    assert len(log.splitlines()) == 2


def test_standard_streams_that_are_closed(home):
    predict = f"{sys.executable} -m tinyzo predict --model {home / 'opt'}"
    for closed, output in (("<&-", ""), (">&- a", ""), ("2>&- a", "a")):
        found = subprocess.run(
            f"{predict} {closed}", shell=True, capture_output=True, text=True, cwd=ROOT, check=True
        )
        assert found.stdout[-2:].strip() == output and found.stderr == ""


def test_a_run_with_its_log_closed(home, tmp_path):
    line = f"{sys.executable} -m tinyzo finetune --resume {home / 'opt-run'} --json 2>&-"
    found = subprocess.run(line, shell=True, capture_output=True, text=True, cwd=ROOT, check=True)
    (document,) = found.stdout.splitlines()
    assert json.loads(document)["steps"] == 6


def test_bytes_that_are_no_text(home):
    arguments = ("predict", "--model", home / "opt")
    streams = {"stdin": subprocess.PIPE, "text": False}
    code, output, log = finish(shell(*arguments, **streams), b"No\nNo \xff\nNo\n")
    assert code == 1 and b"Traceback" not in log
    assert b"tinyzo: a text that is not UTF-8\n  hint: save the texts as UTF-8\n" in log
    code, output, log = finish(shell(*arguments, "\udcff"))
    assert (code, output) == (1, "") and "not UTF-8" in log


def test_a_model_of_no_known_kind(home, tmp_path, capsys):
    write_model(tmp_path / "gpt")
    config = SHAPES["roberta"] | {"model_type": "gpt2"}
    (tmp_path / "gpt" / "config.json").write_text(json.dumps(config))
    assert command("inspect", tmp_path / "gpt") == 1
    assert "model_type 'gpt2' is not built" in capsys.readouterr().err


def test_rows_beyond_the_limit_are_not_reported_on(home, tmp_path, capsys):
    data = write_jsonl(tmp_path / "rows.jsonl", rows(30))
    options = ("--model", home / "roberta", "--task", "reviews", "--data", data)
    result = document(
        capsys, "finetune", *options, "--limit", 2, "--steps", 0, "--output", tmp_path / "run"
    )
    assert result["examples"] == 2
