"""The pages: they name all that is public, and what they name or link to exists."""

from __future__ import annotations

import argparse
import ast
import re
import textwrap
from importlib import import_module
from pathlib import Path

import pytest

import tinyzo

ROOT = Path(__file__).resolve().parents[1]
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), *ROOT.glob("examples/*.md")])
MANUAL = [page for page in PAGES if page.name not in ("CONTRIBUTING.md", "CHANGELOG.md")]
TEXT = "\n".join(page.read_text(encoding="utf-8") for page in MANUAL)
README_BYTES = 9_000


def place(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


pages = pytest.mark.parametrize("page", PAGES, ids=place)


# -- the command line ------------------------------------------------------------------------------


def build_parser() -> argparse.ArgumentParser:
    try:
        home = import_module("tinyzo.cli.main")
    except ModuleNotFoundError:
        home = import_module("tinyzo.cli")
    return home.build_parser()


def subcommands(parser: argparse.ArgumentParser) -> dict[str, argparse.ArgumentParser]:
    (action,) = (a for a in parser._actions if isinstance(a, argparse._SubParsersAction))
    return dict(action.choices)


def options_of(parser: argparse.ArgumentParser) -> set[str]:
    return {name for action in parser._actions for name in action.option_strings}


COMMANDS = subcommands(build_parser())
OPTIONS = sorted(
    (command, option)
    for command, parser in COMMANDS.items()
    for option in options_of(parser)
    if option.startswith("--")
)


# -- what is public is documented ------------------------------------------------------------------


@pytest.mark.parametrize("name", sorted(set(tinyzo.__all__) - {"__version__"}))
def test_each_public_name_is_documented(name):
    assert re.search(rf"\btinyzo\.{name}\b|`{name}\b", TEXT)


@pytest.mark.parametrize("command", COMMANDS)
def test_each_command_is_documented(command):
    assert re.search(rf"\btinyzo {command}\b", TEXT)


@pytest.mark.parametrize(("command", "option"), OPTIONS)
def test_each_option_is_documented(command, option):
    assert option == "--help" or re.search(rf"(?<![\w-]){option}(?![\w-])", TEXT)


def test_the_architecture_names_each_file():
    rows = re.findall(
        r"^\| `(\w+)/` \|(.*)", (ROOT / "docs/architecture.md").read_text(), re.MULTILINE
    )
    named = {room: set(re.findall(r"`(\w+)/?`", row)) for room, row in rows}
    for file in (ROOT / "tinyzo").glob("*/[a-z]*.py"):
        assert file.stem in named[file.parent.name] | set(COMMANDS), file


# -- what the pages name exists --------------------------------------------------------------------


def code_lines(text: str) -> list[str]:
    """The lines of indented and fenced blocks, a line that goes on (\\) joined to the next."""
    lines = []
    is_fenced = False
    for line in text.replace("\\\n", " ").splitlines():
        if line.startswith("```"):
            is_fenced = not is_fenced
        elif is_fenced or line.startswith("    "):
            lines.append(line.strip())
    return lines


def wrong_commands(text: str) -> list[str]:
    """Lines of code that run tinyzo with a command or an option that it has not."""
    wrong = []
    for line in code_lines(text):
        for call in re.findall(r"(?:^|&& |bin/|-m |\| )tinyzo ([^#|;>]*)", line):
            words = call.split()
            options = [word.partition("=")[0] for word in words if re.match(r"--[a-z]", word)]
            command, known = words[0], options_of(build_parser())
            if not command.startswith("-"):
                known = options_of(COMMANDS[command]) if command in COMMANDS else set()
            if command not in COMMANDS and not command.startswith("-"):
                wrong.append(call)
            wrong += [f"{command} {option}" for option in options if option not in known]
    return wrong


@pages
def test_commands_and_options_exist(page):
    assert wrong_commands(page.read_text(encoding="utf-8")) == []


def test_a_planted_command_is_caught():
    assert wrong_commands("    tinyzo fintune --steps 4") == [
        "fintune --steps 4",
        "fintune --steps",
    ]
    assert wrong_commands("```\npython -m tinyzo finetune --stepz 4 # --x\n```") == [
        "finetune --stepz"
    ]
    assert wrong_commands("    tinyzo finetune \\\n        --steps=4 | tinyzo inspect x") == []
    assert wrong_commands("tinyzo is a name") == []


@pages
def test_scripts_exist(page):
    scripts = re.findall(r"\bpython3? ((?:[\w-]+/)+[\w-]+\.py)", page.read_text(encoding="utf-8"))
    assert [script for script in scripts if not (ROOT / script).is_file()] == []


# -- links -----------------------------------------------------------------------------------------


def anchors(text: str) -> set[str]:
    """The names of a page's headings, as hosts of Markdown make them."""
    headings = re.findall(r"^#+ (.*)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def dead_links(page: Path, text: str) -> list[str]:
    dead = []
    for link in re.findall(r"\]\(([^)\s]+)\)", text):
        path, _, anchor = link.partition("#")
        if re.match(r"[a-z]+:", link):
            continue
        target = page.parent / path if path else page
        if not target.exists():
            dead.append(link)
        elif anchor and target.suffix == ".md":
            whole = text if target == page else target.read_text(encoding="utf-8")
            dead += [] if anchor in anchors(whole) else [link]
    return dead


@pages
def test_links_lead_somewhere(page):
    assert dead_links(page, page.read_text(encoding="utf-8")) == []


def test_a_planted_link_is_caught():
    page = ROOT / "README.md"
    text = "# A (z) of *x*\n[a](docs/no.md) [b](#no) [c](#a-z-of-x) [d](LICENSE) [e](https://x.y/z)"
    assert dead_links(page, text) == ["docs/no.md", "#no"]


# -- examples --------------------------------------------------------------------------------------


def python_blocks(text: str) -> list[str]:
    blocks = re.findall(r"^ *```python\n(.*?)^ *```", text, re.MULTILINE | re.DOTALL)
    return [textwrap.dedent(block) for block in blocks]


@pages
def test_python_compiles_and_names_what_is_public(page):
    for block in python_blocks(page.read_text(encoding="utf-8")):
        for node in ast.walk(ast.parse(block)):
            if isinstance(node, ast.Attribute) and ast.unparse(node.value) == "tinyzo":
                assert node.attr in tinyzo.__all__, block


def test_the_readme_is_short():
    assert 1_000 < len((ROOT / "README.md").read_bytes()) <= README_BYTES
