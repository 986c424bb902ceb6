"""The shape of the house: which way imports run, what may be imported, how much code there is."""

from __future__ import annotations

import ast
import sys
import tokenize
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "tinyzo"
FILES = sorted(PACKAGE.rglob("*.py"))
GRADIENTS = sorted((ROOT / "tinyzo_gradients").rglob("*.py"))  # a package beside it, and above it
FORMATS = sorted((ROOT / "tinyzo_formats").rglob("*.py"))  # another, beside tinyzo/checkpoints
STOREYS = ["errors", "checkpoints", "text", "engine", "models", "zo", "runs", "", "cli", "__main__"]
TEACHING = [
    "engine/noise.py", "engine/weights.py", "engine/numpy_engine.py", "models/roberta.py",
    "zo/mezo.py",
]  # fmt: skip

# Third-party packages: the files that may import one at their top, and whether functions may.
TOP = {
    "numpy": ("",),
    "numba": ("engine/numba_",),
    "llvmlite": ("engine/numba_",),
    "tqdm": ("runs/", "cli.py"),
    "tomli": ("checkpoints/files.py",),
}
LAZY = {"tokenizers", "matplotlib", "tqdm", "tomli"}

# Foreign exceptions that never leave: who says them, and who turns them into one of ours.
CAUGHT = {
    "checkpoints/": {"ValueError"},  # parsers; the reader knows the file
    "tinyzo_formats/": {"ValueError", "zipfile.BadZipFile"},  # the same
    "runs/journal.py": {"OSError"},  # a short write; the same handler as for a failed one
    "engine/numba_engine.py": {"error"},  # what a thread met, for the caller
    "cli.py": {"argparse.ArgumentTypeError"},  # argparse's own way out of a type
}


def place(file: Path) -> str:
    """In the package, or at the top level: tinyzo_gradients/adam.py."""
    return file.relative_to(PACKAGE if PACKAGE in file.parents else ROOT).as_posix()


def storey(module: str) -> int:
    """The rank of a dotted name: of tinyzo.zo.mezo that of "zo", of tinyzo itself that of ""."""
    return STOREYS.index([*module.split("."), ""][1])


def own_module(file: Path) -> str:
    parts = file.relative_to(ROOT).with_suffix("").parts
    return ".".join(part for part in parts if part != "__init__")


def imports(tree: ast.AST) -> Iterator[tuple[ast.stmt, str]]:
    """Every (statement, dotted name) that is imported, wherever it stands."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((node, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module == "tinyzo":
            for name in (alias.name for alias in node.names if alias.name != "__version__"):
                yield node, f"tinyzo.{name}" if name in STOREYS else "tinyzo"
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, "imports are absolute"
            yield node, node.module


def inside_functions(tree: ast.AST) -> set[ast.AST]:
    functions = (n for n in ast.walk(tree) if isinstance(n, (ast.FunctionDef, ast.Lambda)))
    return {inner for function in functions for inner in ast.walk(function)}


def wrong_imports(file: Path, source: str) -> list[str]:
    """What is imported from a higher storey, or is not ours to import."""
    tree, mine, where = ast.parse(source), own_module(file), place(file)
    lazy, wrong = inside_functions(tree), []
    for node, name in imports(tree):
        package = name.split(".")[0]
        above, beside = (mine.startswith(f"tinyzo_{name}") for name in ("gradients", "formats"))
        if package == "tinyzo":
            limit = storey("tinyzo.checkpoints") if beside else 0 if above else storey(mine)
            fine = above or storey(name) <= limit
        elif package == "tinyzo_formats":
            fine = beside or (where.startswith("checkpoints/") and node in lazy)
        elif package == "tinyzo_gradients":
            fine = above or (where.startswith(("runs/", "zo/estimators.py")) and node in lazy)
        elif package in sys.stdlib_module_names:
            fine = True
        else:
            anywhere = package in LAZY and node in lazy and not above
            fine = where.startswith(TOP.get(package, ())) or anywhere
        if not fine:
            wrong.append(f"{where}:{node.lineno} imports {name}")
    return wrong


@pytest.mark.parametrize("file", FILES + GRADIENTS + FORMATS, ids=place)
def test_imports(file):
    assert wrong_imports(file, file.read_text(encoding="utf-8")) == []


@pytest.mark.parametrize(
    ("where", "source"),
    [
        ("engine/weights.py", "import tinyzo.models.opt"),
        ("engine/weights.py", "def f():\n    from tinyzo.zo import mezo"),
        ("engine/weights.py", "from tinyzo import load"),
        ("zo/mezo.py", "from tinyzo.runs import journal"),
        ("zo/mezo.py", "from tinyzo import runs"),
        ("runs/train.py", "from tinyzo.cli import main"),
        ("runs/train.py", "from tinyzo import load"),
        ("__init__.py", "from tinyzo.cli import main"),
        ("models/opt.py", "import torch"),
        ("models/opt.py", "def f():\n    import transformers, scipy"),
        ("models/opt.py", "from numba import njit"),
        ("engine/numpy_engine.py", "def f():\n    import numba"),
        ("text/tokenizer.py", "from tokenizers import Tokenizer"),
        ("checkpoints/safetensors.py", "def f():\n    from safetensors import safe_open"),
        ("runs/train.py", "from tinyzo_gradients.adam import Adam"),
        ("zo/mezo.py", "def f():\n    import tinyzo_gradients"),
        ("../tinyzo_gradients/adam.py", "import torch"),
        ("../tinyzo_gradients/adam.py", "def f():\n    import numba, tqdm"),
    ],
)
def test_a_planted_import_is_caught(where, source):
    assert len(wrong_imports((PACKAGE / where).resolve(), source)) >= 1


@pytest.mark.parametrize(
    ("where", "source"),
    [
        ("__init__.py", "from tinyzo.runs.train import finetune"),
        ("engine/numba_engine.py", "import numba\nfrom tinyzo.engine import weights"),
        ("text/tokenizer.py", "def f():\n    import tokenizers"),
        ("runs/train.py", "import json\nfrom tinyzo import __version__"),
        ("__main__.py", "from tinyzo.cli import main"),
        ("runs/train.py", "def f():\n    from tinyzo_gradients.adam import Adam"),
        ("../tinyzo_gradients/adam.py", "import numpy\nfrom tinyzo.runs import train"),
    ],
)
def test_a_proper_import_passes(where, source):
    assert wrong_imports((PACKAGE / where).resolve(), source) == []


# -- errors ----------------------------------------------------------------------------------


def error_names() -> set[str]:
    tree = ast.parse((PACKAGE / "errors.py").read_text(encoding="utf-8"))
    return {node.name for node in tree.body if isinstance(node, ast.ClassDef)}


def wrong_raises(where: str, source: str) -> list[str]:
    """What is raised and is not of our tree, nor made by what says that it makes an error of it.

    That is a function annotated to return one, or a parameter annotated to be the class of one.
    """
    tree, ours = ast.parse(source), error_names()
    functions = [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)]
    known = ours | {f.name for f in functions if f.returns and ast.unparse(f.returns) in ours}
    kinds = {f"type[{name}]" for name in ours}
    parameters = [arg for f in functions for arg in f.args.args if arg.annotation]
    known |= {arg.arg for arg in parameters if ast.unparse(arg.annotation) in kinds}
    for start, names in CAUGHT.items():
        known |= names if where.startswith(start) else set()
    raises = (node for node in ast.walk(tree) if isinstance(node, ast.Raise) and node.exc)
    raised = [n.exc.func if isinstance(n.exc, ast.Call) else n.exc for n in raises]
    return [ast.unparse(name) for name in raised if ast.unparse(name) not in known]


@pytest.mark.parametrize("file", FILES + GRADIENTS + FORMATS, ids=place)
def test_everything_raised_is_ours(file):
    source = file.read_text(encoding="utf-8")
    assert wrong_raises(place(file), source) == []
    assert not [node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Assert)]


def test_a_planted_raise_is_caught():
    assert wrong_raises("zo/a.py", "raise ValueError('no')") == ["ValueError"]
    assert wrong_raises("checkpoints/a.py", "raise KeyError") == ["KeyError"]
    assert wrong_raises("zo/a.py", "def f() -> int: ...\nraise f()") == ["f"]
    wrong = "def f(kind: type[OSError]):\n    raise kind('no')"
    assert wrong_raises("zo/a.py", wrong) == ["kind"]
    assert wrong_raises("zo/a.py", wrong.replace("OSError", "TinyzoError")) == []
    fine = "def f() -> DataError: ...\nraise f()\ntry: 1\nexcept E: raise"
    assert wrong_raises("zo/a.py", fine) == []


# -- size --------------------------------------------------------------------------------------


def code_lines(file: Path) -> int:
    """Lines that hold code: no blank lines, comments or docstrings."""
    tree = ast.parse(file.read_text(encoding="utf-8"))
    docs: set[int] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
            docs.update(range(node.lineno, node.end_lineno + 1))
    empty = {tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT,
             tokenize.ENDMARKER, tokenize.ENCODING}  # fmt: skip
    lines: set[int] = set()
    with tokenize.open(file) as stream:
        for token in tokenize.generate_tokens(stream.readline):
            if token.type not in empty:
                lines.update(range(token.start[0], token.end[0] + 1))
    return len(lines - docs)


def all_lines(file: Path) -> int:
    return len(file.read_text(encoding="utf-8").splitlines())


def test_the_teaching_path_is_under_900_lines():
    lines = sum(all_lines(PACKAGE / name) for name in TEACHING)
    print(f"{lines} lines")
    assert 0 < lines < 900


def test_the_package_is_under_4000_lines_of_code():
    code, whole = sum(map(code_lines, FILES)), sum(map(all_lines, FILES))
    print(f"{code} lines of code, {whole} with comments, docstrings and blank lines")
    assert 0 < code < 4000


def test_the_reader_of_torch_bin_is_under_200_lines_of_code():
    assert 0 < sum(map(code_lines, FORMATS)) < 200


def test_exact_derivatives_are_under_400_lines_of_code():
    code = sum(map(code_lines, GRADIENTS))
    print(f"{code} lines of code")
    assert 0 < code < 400


@pytest.mark.parametrize("file", FILES + GRADIENTS + FORMATS, ids=place)
def test_lines_are_short(file):
    lines = file.read_text(encoding="utf-8").splitlines()
    assert [number for number, line in enumerate(lines, 1) if len(line) > 100] == []
