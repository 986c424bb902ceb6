"""What the help says: the commands, options in groups, defaults, methods; and completion."""

from __future__ import annotations

import argparse
import dataclasses
import re
import subprocess
import sys
import typing
from pathlib import Path
from typing import Any

import pytest
from broken import break_package
from commands import command

import tinyzo
from tinyzo.cli import build_parser
from tinyzo.cli.parser import Parser, names, path
from tinyzo.runs.settings import CHOICES, Settings
from tinyzo.zo.methods import METHODS

Capture = pytest.CaptureFixture[str]
OF_FINETUNE = (
    "output",
    "resume",
    "config",
    "find_lr",
    "recipe",
    "share",
    "json",
    "help",
)  # no settings
FIXED = {
    "finetune": "model task data template label-words output method steps batch-size lr eps seed "
    "data-seed engine residency dtype memory-budget threads eval-every resume config json k-shot "
    "limit",
    "evaluate": "model engine task data zero-shot limit json",
    "predict": "model engine task json",
    "generate": "model engine max-new-tokens temperature top-p stop seed json",
    "replay": "output json",
    "share": "output step json",
    "report": "output json",
    "convert": "output json",
    "export": "format model task data template label-words train queries batch-size tokens output "
    "json",
    "inspect": "json",
    "doctor": "json",
}


@pytest.fixture(autouse=True)
def plain_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setenv("NO_COLOR", "1")


def parser_of(name: str) -> Parser:
    commands = next(a for a in build_parser()._actions if isinstance(a, argparse._SubParsersAction))
    parser = commands.choices[name]
    assert isinstance(parser, Parser)
    return parser


def options_of(name: str) -> dict[str, argparse.Action]:
    return {action.dest: action for action in parser_of(name)._actions}


def help_of(capsys: Capture, *arguments: str) -> str:
    capsys.readouterr()
    with pytest.raises(SystemExit) as left:
        command(*arguments, "-h")
    assert left.value.code == 0
    return capsys.readouterr().out


@pytest.mark.parametrize("name", FIXED)
def test_the_fixed_interface(name: str) -> None:
    options = {o for action in parser_of(name)._actions for o in action.option_strings}
    assert options >= {f"--{option}" for option in FIXED[name].split()}


def test_without_a_command_it_shows_three_to_begin_with(capsys: Capture) -> None:
    assert command() == 0
    output, log = capsys.readouterr()
    begin = output.partition("to begin with:\n")[2].partition("\n\n")[0]
    assert re.findall(r"^  tinyzo (\w+)", begin, re.M) == ["finetune", "evaluate", "predict"]
    assert "tinyzo -h" in output and log == ""
    assert max(map(len, output.splitlines())) <= 80


def test_version(capsys: Capture) -> None:
    assert command("--version") == 0
    assert capsys.readouterr().out == f"tinyzo {tinyzo.__version__}\n"


def test_help_lists_every_command(capsys: Capture) -> None:
    output = help_of(capsys)
    assert re.findall(r"^    (\w+) ", output, re.M) == list(FIXED)
    assert "--print-completion SHELL" in output


@pytest.mark.parametrize("name", FIXED)
def test_every_argument_says_its_default_or_that_it_is_needed(name: str) -> None:
    for action in parser_of(name)._actions:
        needed = action.required and ("needed" in str(action.help) or not action.option_strings)
        assert action.dest == "help" or needed or "default: " in str(action.help), action


@pytest.mark.parametrize("name", FIXED)
def test_a_default_of_argparse_is_the_one_that_the_help_says(name: str) -> None:
    for action in parser_of(name)._actions:
        if isinstance(action.default, (int, str)) and type(action.default) is not bool:
            assert f"default: {action.default}" in str(action.help) or action.dest == "help"


@pytest.mark.parametrize("name", FIXED)
def test_every_command_has_help(capsys: Capture, name: str) -> None:
    assert help_of(capsys, name).startswith(f"usage: tinyzo {name} [")


# --- finetune ---


def test_options_come_in_groups_the_six_that_people_set_first(capsys: Capture) -> None:
    output = help_of(capsys, "finetune")
    titles = re.findall(r"^(\w.*):$", output, re.M)
    assert titles[1] == "what people set first"
    assert [title.partition(":")[0] for title in titles[2:8]] == [
        *("model", "task and data", "method", "run", "machine", "output")
    ]
    first = output.partition("what people set first:\n")[2].partition("\n\n")[0]
    expected = ["model", "task", "data", "output", "method", "steps"]
    assert re.findall(r"^  --(\S+) ", first, re.M) == expected
    assert "{" not in output.partition("options:")[0]  # one line of usage, not 25


@pytest.mark.parametrize("columns", [60, 80])
def test_every_method_is_in_the_help_wrapped(
    capsys: Capture, monkeypatch: pytest.MonkeyPatch, columns: int
) -> None:
    monkeypatch.setenv("COLUMNS", str(columns))
    listed = help_of(capsys, "finetune").partition("methods, by --method NAME:\n")[2]
    assert max(map(len, listed.splitlines())) <= columns - 2
    joined = re.sub(r"\n {20}", " ", listed)
    found = re.findall(r"^  (\S+) +(.+)$", joined, re.M)
    assert found == [(name, method.summary) for name, method in METHODS.items()]


@pytest.mark.parametrize("columns", [-1, 0, 1, 2, 10, 22, 40])
def test_a_terminal_of_few_columns(
    capsys: Capture, monkeypatch: pytest.MonkeyPatch, columns: int
) -> None:
    """The help of finetune is made with every command's."""
    monkeypatch.setenv("COLUMNS", str(columns))
    assert command("--version") == 0
    assert "backpropagation" in help_of(capsys, "finetune")


def kind(annotation: Any) -> Any:
    """The type of a setting: without the None that it may be, a Literal as str."""
    kinds = [each for each in typing.get_args(annotation) if each is not type(None)]
    if type(None) in typing.get_args(annotation):
        return kind(kinds[0])
    return str if typing.get_origin(annotation) is typing.Literal else annotation


def test_every_setting_is_one_option_and_the_other_way_round() -> None:
    settings = [field.name for field in dataclasses.fields(Settings)]
    actions = [a for a in parser_of("finetune")._actions if a.dest not in OF_FINETUNE]
    assert sorted(action.dest for action in actions) == sorted(settings)
    hints = typing.get_type_hints(Settings)
    types: dict[Any, Any] = {names: list[str], path: str, None: str}
    for action in actions:
        assert action.option_strings == [f"--{action.dest.replace('_', '-')}"]
        assert types.get(action.type, action.type) == kind(hints[action.dest]), action.dest
        assert action.default is None  # left to the settings
        assert {*(action.choices or ())} == {*CHOICES.get(action.dest, ())}, action.dest


def test_every_choice_is_in_the_help_of_its_option() -> None:
    for name in FIXED:
        for action in parser_of(name)._actions:
            if action.dest != "method":
                assert all(choice in str(action.help) for choice in action.choices or ())


@pytest.mark.parametrize(
    ("name", "given", "said"),
    [
        ("batch_size", {"family": "roberta"}, "{} for RoBERTa"),
        ("batch_size", {"family": "opt"}, "{} for OPT"),
        ("batch_size", {"model": "roberta-tiny"}, "{} for a model that ships"),
        ("data_seed", {"family": "roberta"}, "{} for RoBERTa"),
        ("data_seed", {"family": "opt"}, "{} for OPT"),
        ("steps", {}, "default: {}"),
        ("steps", {"model": "roberta-tiny"}, "{} for a model that ships"),
        ("eval_every", {"model": "roberta-tiny"}, "{} for a model that ships"),
        ("lr", {}, "default: 1e-6"),
        ("lr", {"model": "roberta-tiny"}, "5e-5 for a model that ships"),
        ("eps", {}, "default: {}"),
        ("eps", {"train": "lora"}, "{} for lora"),
        ("eps", {"train": "prefix"}, "{} for prefix"),
        ("queries", {}, "{} for mezo"),
        ("queries", {"method": "n-spsa"}, "{} for n-spsa"),
        ("queries", {"method": "fzoo"}, "{} for fzoo"),
        ("window", {}, "default: {}"),
        ("window", {"method": "lozo"}, "{} for low-rank"),
        ("micro_batch_tokens", {}, "default: {}"),
        ("micro_batch_tokens", {"model": "roberta-tiny"}, "{} for a model that ships"),
        ("train_rows", {}, "default: {}"),
        ("lora_rank", {}, "default: {}"),
        ("warmup", {}, "default: {}"),
        ("seed", {}, "default: {}"),
        ("train", {"method": "p-rge"}, "{} for p-rge"),
        ("train", {"method": "zo-act"}, "{} for zo-act"),
        ("train", {"method": "zo-fit"}, "{} for zo-fit"),
        ("estimator", {}, "{} for mezo"),
        ("direction", {}, "{} for mezo"),
        ("update", {}, "{} for mezo"),
        ("objective", {}, "default: {}"),
        ("schedule", {}, "default: {}"),
        ("method", {}, "default: {}"),
        ("label_field", {}, "default: {}"),
    ],
)
def test_defaults_are_those_that_the_help_says(name: str, given: dict[str, str], said: str) -> None:
    choices = {"model": "elsewhere"} | given
    family = choices.pop("family", "roberta")
    value = getattr(Settings.from_mapping(choices, "here").resolve(family), name)
    text = said.format(value)
    number = re.search(r"\d+e-\d+", text)
    if number:  # as people write it; str() has 1e-06
        assert float(number[0]) == value
    assert text in str(options_of("finetune")[name].help)


# --- completion ---


@pytest.mark.parametrize("shell", ["bash", "zsh"])
def test_completion(capsys: Capture, shell: str) -> None:
    pytest.importorskip("shtab", reason="the extra [completion] is not installed")
    assert command("--print-completion", shell) == 0
    script, log = capsys.readouterr()
    assert log == ""
    for word in ("finetune", "--memory-budget", "leave-one-out", "tinyzo"):
        assert word in script
    assert {"bash": "_shtab_compgen_dirs", "zsh": ":DIR:_files -/"}[shell] in script


def test_completion_that_bash_reads(capsys: Capture, tmp_path: Path) -> None:
    pytest.importorskip("shtab", reason="the extra [completion] is not installed")
    command("--print-completion", "bash")
    script = tmp_path / "completion.bash"
    script.write_text(capsys.readouterr().out)
    ask = f". {script}; COMP_WORDS=(tinyzo finetune --engine n); COMP_CWORD=3; _shtab_tinyzo; "
    found = subprocess.run(
        ["bash", "-c", ask + 'echo "${COMPREPLY[@]}"'], capture_output=True, text=True, check=True
    )
    assert found.stdout.split() == ["numba", "numpy"]


def test_completion_without_shtab(capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "shtab", None)
    assert command("--print-completion", "bash") == 2
    assert capsys.readouterr().err == (
        "tinyzo: --print-completion needs shtab\n"
        "  hint: pip install 'tinyzo[completion]' brings it\n"
    )


def test_completion_with_a_broken_shtab(
    capsys: Capture, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    break_package(monkeypatch, tmp_path, "shtab")
    assert command("--print-completion", "bash") == 2
    assert capsys.readouterr().err == (
        "tinyzo: --print-completion needs shtab, which cannot be used (SystemError: bad)\n"
        "  hint: pip install --force-reinstall shtab\n"
    )


def test_help_and_mistakes_load_nothing_heavy() -> None:
    """The package's own __init__ apart, which is stubbed here."""
    program = """if True:
        import sys, types
        package = types.ModuleType("tinyzo")
        package.__path__ = ["tinyzo"]
        sys.modules["tinyzo"] = package
        from tinyzo.cli import main
        assert main(["finetune", "--engine", "cuda"]) == 2
        try:
            main(["finetune", "-h"])
        except SystemExit:
            heavy = {"numpy", "shtab", "tqdm", "tinyzo.runs.settings", "tinyzo.text"}
            heavy &= {*sys.modules}
            sys.exit(str(heavy) if heavy else 0)
    """
    root = Path(__file__).resolve().parents[2]
    found = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, cwd=root
    )
    assert found.returncode == 0, found.stderr
