"""A run that moves: with its model, without it, to where nothing is, and what is said then."""

from __future__ import annotations

import json
import os
import re
import shutil
import sys
from pathlib import Path

import pytest
from disturbed import record
from folders import finetune, write_model, write_reviews

import tinyzo
from tinyzo.cli import main
from tinyzo.errors import ConfigError, RunError, UsageError
from tinyzo.runs.places import lasting, places, relative
from tinyzo.runs.run import Run


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A project with a model, data and a run."""
    home = tmp_path_factory.mktemp("made")
    model, data = write_model(home / "model", "opt"), write_reviews(home / "data")
    assert finetune(model, data, home / "runs" / "one", "--fold-every", "2", "--lr", "1e-2") == 0
    return home


@pytest.fixture
def project(made, tmp_path, monkeypatch):
    """A copy of it, whose first place is gone; the tests stand elsewhere."""
    moved = tmp_path / "moved"
    shutil.copytree(made, moved)
    run = moved / "runs" / "one"
    replace(run / "run.toml", str(made), str(tmp_path / "gone"))
    monkeypatch.chdir(tmp_path)
    return moved


def replace(file, old, new):
    """Another text in run.toml, which then says no CRC."""
    text = re.sub("^#.*\n", "", file.read_text())
    file.write_text(text.replace(old, new))


def every_command(run, output, *options):
    """The exit codes of what can be done with a run."""
    commands = [
        ["inspect", str(run)],
        ["evaluate", "--model", str(run), *options],
        ["predict", "--model", str(run), "No", *options],
        ["replay", str(run), "--output", str(output), *options],
    ]
    return [main(command) for command in commands]


# --- what run.toml says ---


@pytest.mark.parametrize(
    ("path", "stored"),
    [
        ("/home/me/model", "../../model"),
        ("/home/me", "../.."),
        ("/data/model", "../../../../data/model"),
        ("/home/me/runs/one/model", "./model"),
        ("/home/me/runs/one", "./."),
        ("/home/me/runs/one/..model", "./..model"),
        ("roberta-tiny", "roberta-tiny"),
        ("org/name", "org/name"),
        ("C:\\models\\opt", "C:\\models\\opt"),  # another system's
    ],
)
@pytest.mark.skipif(sys.platform == "win32", reason="paths of Linux and macOS")
def test_there_and_back(path, stored):
    directory = Path("/home/me/runs/one")
    assert relative(path, directory) == stored
    if stored != "roberta-tiny":  # which is found among those that ship
        assert str(places(stored, directory, Path("/else/where"))[0]) == path


def test_both_directories_are_tried():
    directories = (Path("/b/runs/one"), Path("/a/runs/one"))
    assert places("../../model", *directories) == [Path("/b/model"), Path("/a/model")]
    assert places("../../model", *directories[:1] * 2) == [Path("/b/model")]


def test_a_path_on_another_drive_stays(monkeypatch):
    def fails(*arguments):
        raise ValueError("path is on mount 'D:', start on mount 'C:'")

    monkeypatch.setattr(os.path, "relpath", fails)
    assert relative("/data/model", Path("/runs/one")) == "/data/model"


def test_a_name_stays_a_name(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    assert lasting("roberta-tiny") == "roberta-tiny"
    (tmp_path / "mine").mkdir()
    assert lasting("mine") == str(tmp_path.resolve() / "mine")


def test_run_toml_is_relative(made):
    text = (made / "runs" / "one" / "run.toml").read_text()
    assert 'model = "../../model"\n' in text and 'data = "../../data"\n' in text
    assert text.count(str(made)) == 1  # where it was


def test_a_directory_that_toml_cannot_say(made, tmp_path):
    for name in ("𝄞 \x7f", "latin \udce9"):
        try:
            (tmp_path / name).mkdir()
        except (OSError, UnicodeError):
            pytest.skip("no such name on this disk")
        run = shutil.copytree(made / "runs" / "one", tmp_path / name / "one")
        assert main(["finetune", "--resume", str(run), "--steps", "7"]) == 0
        again = Run.open(run)
        assert again.settings.steps == 7 and again.base_model().family == "opt"


# --- moved ---


def test_moved_with_its_model(made, project, tmp_path):
    run = project / "runs" / "one"
    opened = Run.open(run)
    assert opened.settings.model == str(project.resolve() / "model")
    assert opened.settings.data == str(project.resolve() / "data")
    assert every_command(run, tmp_path / "tuned") == [0, 0, 0, 0]
    stayed = shutil.copytree(made / "runs" / "one", tmp_path / "stayed")
    assert tinyzo.finetune(resume=run, steps=8).result["steps"] == 8
    assert tinyzo.finetune(resume=stayed, steps=8).result["steps"] == 8
    (*ours, _), (*theirs, _) = record(run), record(stayed)
    assert ours == theirs
    assert str(tmp_path / "gone") not in (run / "run.toml").read_text()


def test_moved_without_its_model(made, tmp_path):
    run = shutil.copytree(made / "runs" / "one", tmp_path / "deep" / "er" / "one")
    assert Run.open(run).settings.model == str(made.resolve() / "model")
    assert every_command(run, tmp_path / "tuned") == [0, 0, 0, 0]


def test_another_model_in_its_place_is_no_base(made, tmp_path):
    write_model(tmp_path / "model", "roberta")
    run = shutil.copytree(made / "runs" / "one", tmp_path / "runs" / "one")
    opened = Run.open(run)
    assert opened.settings.model == str(tmp_path.resolve() / "model")
    assert opened.base_model().family == "opt"
    assert opened.settings.model == str(made.resolve() / "model")


@pytest.mark.skipif(not hasattr(os, "symlink"), reason="no symlinks")
def test_by_a_link(project, tmp_path):
    link = tmp_path / "a" / "link"
    link.parent.mkdir()
    link.symlink_to(project / "runs" / "one", target_is_directory=True)
    assert every_command(link, tmp_path / "tuned") == [0, 0, 0, 0]


@pytest.mark.parametrize("name", ["", "/", "run.toml", "journal", "metrics.jsonl"])
def test_by_a_file_or_a_slash(project, tmp_path, name):
    run = f"{project}/runs/one{'/' if name not in ('', '/') else ''}{name}"
    assert every_command(run, tmp_path / "tuned") == [0, 0, 0, 0]
    with pytest.raises(UsageError, match="is a run\n  hint: --resume it"):
        tinyzo.finetune(model=run)


def test_nothing_is_written_into_it(project, tmp_path):
    run = project / "runs" / "one"
    before = {path: (path.stat().st_mtime_ns, path.stat().st_size) for path in run.iterdir()}
    run.chmod(0o555)
    try:
        assert every_command(run, tmp_path / "tuned") == [0, 0, 0, 0]
    finally:
        run.chmod(0o755)
    assert before == {p: (p.stat().st_mtime_ns, p.stat().st_size) for p in run.iterdir()}


# --- where it has gone, and by what name it is found ---


@pytest.fixture
def scattered(project, tmp_path):
    """A run whose model and data are at none of their places."""
    (project / "model").rename(tmp_path / "base")
    (project / "data").rename(tmp_path / "rows")
    return project / "runs" / "one"


def test_a_run_without_its_base_is_inspected(scattered, tmp_path, capsys):
    capsys.readouterr()
    assert main(["inspect", str(scattered), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["steps"], found["best_step"], found["family"]) == (6, 6, "opt")
    places = f"{tmp_path / 'moved' / 'model'} or {tmp_path / 'gone' / 'model'}"
    missing = f"{scattered}: the model that it began with is not at {places}"
    assert (found["missing"], found["plans"], found["plan"]) == (missing, [], {})
    assert main(["inspect", str(scattered)]) == 0
    assert f"missing        {missing}\n" in capsys.readouterr().out


def test_a_run_whose_base_is_broken_is_inspected(project, capsys):
    (project / "model" / "model.safetensors").write_bytes(b"")
    capsys.readouterr()
    assert main(["inspect", str(project / "runs" / "one"), "--json"]) == 0
    assert "model.safetensors: it is empty" in json.loads(capsys.readouterr().out)["missing"]


def test_what_cannot_be_done_without_it_says_how_to_go_on(scattered, tmp_path, capsys):
    assert every_command(scattered, tmp_path / "tuned") == [0, 1, 1, 1]
    log = capsys.readouterr().err
    hint = "hint: --base DIR names the folder it is in now (of finetune --resume: --model DIR)\n"
    assert log.count("the model that it began with is not at") == log.count(hint) == 3
    assert main(["evaluate", "--model", str(scattered), "--base", "base"]) == 1
    log = capsys.readouterr().err
    assert f"{scattered}: its data are not at {tmp_path / 'moved' / 'data'}\n" in log
    assert "hint: --data PATH names the folder or file they are in now\n" in log
    assert main(["finetune", "--resume", str(scattered)]) == 1
    assert "its data are not at" in capsys.readouterr().err


def test_base_and_data_are_told(made, scattered, tmp_path, capsys):
    capsys.readouterr()
    assert main(["evaluate", "--model", str(made / "runs" / "one")]) == 0
    expected = capsys.readouterr().out
    there = ("--base", "base")
    assert main(["evaluate", "--model", str(scattered), *there, "--data", "rows"]) == 0
    assert capsys.readouterr().out == expected  # the rows that the run keeps for reports
    assert main(["predict", "--model", str(scattered), *there, "No"]) == 0
    assert main(["inspect", str(scattered), *there, "--json"]) == 0
    assert "parameters" in json.loads(capsys.readouterr().out.splitlines()[-1])
    for number, option in enumerate(("--base", "--model")):
        output = f"tuned-{number}"
        assert main(["replay", str(scattered), option, "base", "--output", output]) == 0
    assert tinyzo.load(scattered, base="base").family == "opt"
    assert tinyzo.evaluate(scattered, base=Path("base"), data="rows").examples == 8
    assert len(tinyzo.predict(scattered, ["No"], base="base")) == 1
    tinyzo.replay(scattered, "tuned-2", base="base")
    again = ("--model", "base", "--data", "rows", "--steps", "7")
    assert main(["finetune", "--resume", str(scattered), *again]) == 0
    assert main(["evaluate", "--model", str(scattered)]) == 0  # it knows now
    assert 'model = "../../../base"\n' in (scattered / "run.toml").read_text()


def test_other_files_are_not_taken_for_them(scattered, tmp_path, capsys):
    write_model(tmp_path / "other", "roberta")
    write_reviews(tmp_path / "fewer", train=8)
    for command in (
        ["predict", "--model", str(scattered), "--base", "other", "No"],
        ["replay", str(scattered), "--base", "other", "--output", "tuned"],
        ["finetune", "--resume", str(scattered), "--model", "other", "--data", "rows"],
    ):
        assert main(command) == 1
        assert (
            "other has changed, or is not the model that the run began with ("
            in capsys.readouterr().err
        )
    resume = ["finetune", "--resume", str(scattered), "--model", "base", "--data", "fewer"]
    assert main(resume) == 1
    assert "fewer: the data have changed since the run began" in capsys.readouterr().err
    evaluate = ["evaluate", "--model", str(scattered), "--base", "base", "--data", "fewer"]
    assert main(evaluate) == 0  # as any data: all rows


def test_what_is_no_run_has_no_base(made, capsys):
    for command in (
        ["evaluate", "--model", str(made / "model"), "--base", "x"],
        ["inspect", str(made / "model"), "--base", "x"],
    ):
        assert main(command) == 2
        assert "model is no run\n  hint: leave it out\n" in capsys.readouterr().err
    with pytest.raises(UsageError, match="is no run"):
        tinyzo.load(made / "model", base="x")


# --- runs of before ---


def test_absolute_paths_are_still_read(made, tmp_path):
    """As version 0.1.0 wrote them, without a directory and without a CRC."""
    run = shutil.copytree(made / "runs" / "one", tmp_path / "one")
    file = run / "run.toml"
    replace(file, '"../../', f'"{made}/')
    lines = file.read_text().splitlines(keepends=True)
    file.write_text("".join(line for line in lines if not line.startswith("directory")))
    assert every_command(run, tmp_path / "tuned") == [0, 0, 0, 0]
    assert main(["finetune", "--resume", str(run), "--steps", "9"]) == 0
    assert str(made) not in file.read_text().replace(str(tmp_path), "")  # relative from now on


def test_a_run_of_windows_says_where_its_model_was(made, tmp_path):
    run = shutil.copytree(made / "runs" / "one", tmp_path / "one")
    replace(run / "run.toml", '"../../model"', '"D:\\\\models\\\\opt"')
    with pytest.raises(RunError, match=r"is not at D:\\models\\opt\n"):
        Run.open(run).base_model()


# --- adapters ---


def test_an_adapter_moves_with_its_base(made, tmp_path, monkeypatch):
    """peft's own field has a full path, which peft finds from wherever it stands."""
    home = tmp_path / "home"
    for name in ("model", "data"):
        shutil.copytree(made / name, home / name)
    assert finetune(home / "model", home / "data", home / "run", "--train", "lora") == 0
    tinyzo.replay(home / "run", home / "tuned")
    config = json.loads((home / "tuned" / "adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == str(home.resolve() / "model")
    expected = tinyzo.load(home / "tuned").logits([[2, 5, 7]])[0].tobytes()
    home.rename(tmp_path / "moved")
    monkeypatch.chdir(tmp_path)
    moved = Path("moved/tuned")
    assert tinyzo.load(moved).logits([[2, 5, 7]])[0].tobytes() == expected
    options = ("--steps", "2", "--train", "lora")
    assert finetune(moved, Path("moved/data"), Path("moved/on"), *options) == 0
    (tmp_path / "moved").rename(tmp_path / "again")
    assert main(["evaluate", "--model", "again/on"]) == 0


@pytest.mark.parametrize("change", ["gone", "another", "no origin"])
def test_an_adapter_takes_no_other_base(made, tmp_path, change):
    model = shutil.copytree(made / "model", tmp_path / "home" / "model")
    run = tmp_path / "home" / "run"
    assert finetune(model, made / "data", run, "--train", "lora") == 0
    tinyzo.replay(run, tmp_path / "home" / "tuned")
    moved = (tmp_path / "home").rename(tmp_path / "moved")
    if change == "no origin":
        (moved / "tuned" / "tinyzo.json").unlink()
    else:
        shutil.rmtree(moved / "model")
    if change == "another":
        write_model(moved / "model", "roberta")
    with pytest.raises(ConfigError, match="is no folder here\n  hint: download the base"):
        tinyzo.load(moved / "tuned")


# --- a run.toml with paths that are none ---


@pytest.mark.parametrize("path", ["/" + 5000 * "a", "../" + 5000 * "a"])
def test_a_path_that_is_too_long(project, path):
    run = project / "runs" / "one"
    replace(run / "run.toml", "../../model", path)
    with pytest.raises(RunError, match=r"the model that it began with is not at .*aaa"):
        Run.open(run).base_model()


@pytest.mark.parametrize("name", ["model", "data"])
def test_a_path_with_a_nul(project, name, capsys):
    run = project / "runs" / "one"
    text = re.sub("^#.*\n", "", (run / "run.toml").read_text())
    (run / "run.toml").write_text(re.sub(f'^{name} = "', rf'{name} = "./\\u0000', text, flags=re.M))
    for command in (["inspect", str(run)], ["finetune", "--resume", str(run)]):
        assert main(command) == 2
        said = capsys.readouterr().err
        assert rf"run.toml: {name} = './\x00" in said and "hint: no path has a NUL in it" in said
