"""`tinyzo share`, and the commands that take what it writes."""

from __future__ import annotations

import json

import pytest
from commands import command, document

from tinyzo.runs.fine_tune_file import pack, read


@pytest.fixture(scope="module")
def file(home, tmp_path_factory):
    path = tmp_path_factory.mktemp("shared") / "a.tinyzo"
    assert command("share", home / "roberta-run", "--output", path) == 0
    return path


def test_share_says_what_it_wrote(home, tmp_path, capsys):
    output = tmp_path / "a.tinyzo"
    found = document(capsys, "share", home / "roberta-run", "--output", output, "--step", 5)
    size = output.stat().st_size
    assert read(output).numbers == [0, 1, 2, 3, 4]
    assert found == {"run": str(home / "roberta-run"), "output": str(output), "bytes": size}
    assert command("share", home / "roberta-run", "--output", output) == 1
    assert (
        "there is something of that name\n  hint: name another --output" in capsys.readouterr().err
    )
    assert command("share", home / "roberta-run", "--output", tmp_path / "b.tinyzo") == 0
    assert f"+{tmp_path / 'b.tinyzo'} applies it" in capsys.readouterr().out
    assert command("share", home / "roberta-rum") == 1
    assert "did you mean" in capsys.readouterr().err


def test_commands_take_a_base_and_a_file(home, file, capsys, tmp_path):
    named = f"{home / 'roberta'}+{file}"
    found = document(capsys, "evaluate", "--model", named, "--data", home / "data")
    expected = document(capsys, "evaluate", "--model", home / "roberta-run")
    assert [found[k] for k in ("accuracy", "loss")] == [expected[k] for k in ("accuracy", "loss")]
    assert command("predict", "--model", named, "No 1") == 0
    assert command("replay", named, "--output", tmp_path / "new") == 0
    assert command("generate", "--model", named, "No 1") == 1
    assert command("evaluate", "--model", f"{home / 'robertta'}+{file}") == 1
    assert "did you mean" in capsys.readouterr().err
    assert command("finetune", "--model", named) == 2
    assert "tune what tinyzo replay writes of it" in capsys.readouterr().err


def test_inspect_explains_a_file(home, file, capsys):
    found = document(capsys, "inspect", f"{home / 'roberta'}+{file}@0.5")
    assert (found["weights"], found["base_name"]) == (["a.tinyzo@0.5"], "roberta")
    assert found["parameters"] > 0 and "missing" not in found
    alone = document(capsys, "inspect", file)
    assert "needs its base (roberta, SHA-256" in alone["missing"]
    assert (alone["task"], alone["method"], alone["steps"]) == ("reviews", "mezo", alone["terms"])
    other = document(capsys, "inspect", f"{home / 'opt'}+{file}")
    assert "has SHA-256" in other["missing"]


def test_inspect_shows_texts_that_command_a_terminal(file, tmp_path, capsys):
    contents = read(file)
    settings = contents.head["settings"] | {"label_words": ["a\x1b[2J", "b"]}
    settings["template"] = "\x1b]0;owned\x07 {text}\nbase you must trust"
    del settings["task"]
    head = contents.head | {"settings": settings, "tinyzo": "1\r\x1b[A"}
    (tmp_path / "b.tinyzo").write_bytes(pack(contents._replace(head=head)))
    assert command("inspect", tmp_path / "b.tinyzo") == 0
    printed = capsys.readouterr().out
    assert set(map(ord, printed)) & {*range(10), *range(11, 32), 127} == set()
    assert not any(line.startswith("base you") for line in printed.splitlines())
    assert json.dumps(document(capsys, "inspect", tmp_path / "b.tinyzo"))
