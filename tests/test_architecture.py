"""The shape of the house: which way imports run, who may import what, how much code there is."""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path

import pytest
import scripts

measures = scripts.load("measures")

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "tinyzo"
FILES = sorted(PACKAGE.rglob("*.py"))
# A file imports from its own room and from those before it; "" is tinyzo/__init__.py.
ROOMS = [
    "errors", "unique", "packages", "dtypes", "batch", "machine", "system", "parsing",
    "checkpoints", "text", "engine", "models", "zo", "autodiff", "runs", "fleet",
    "", "cli", "__main__",
]  # fmt: skip

# Third-party packages: the files that may import one at the top, and those that may in a function.
TOP = {
    "numpy": ("",),
    "numba": ("engine/numba/",),
    "llvmlite": ("engine/numba/",),
    "flwr": ("fleet/server.py", "fleet/client.py"),  # which nothing imports but Flower
    "tomli": ("parsing.py",),  # where the standard library has no tomllib
}
LAZY = {
    "tokenizers": ("text/",),
    "tqdm": ("runs/", "cli/"),
    "matplotlib": ("runs/",),
    "shtab": ("cli/",),
    "pyarrow": ("text/",),
    "onnxruntime": ("engine/onnx/",),
    "sklearn": ("runs/",),
    "mpi4py": ("runs/ranks.py",),
}
# The one import from a later room, in a function.
AHEAD = {"zo/estimators.py": "tinyzo.autodiff.forward_mode"}  # the exact slope, to compare with

# Foreign exceptions: who raises them, and who turns them into one of ours.
CAUGHT = {
    "checkpoints/": {"ValueError", "zipfile.BadZipFile"},  # parsers; the reader knows the file
    "parsing.py": {"ValueError"},  # the same
    "engine/onnx/reader.py": {"ValueError"},  # the same
    "machine/windows.py": {"ctypes.WinError"},  # an OSError; system.os_errors
    "runs/journal.py": {"OSError"},  # a short write; the same handler as for a failed one
    "engine/threads.py": {"self._error"},  # what a thread met, for the caller
    "engine/onnx/": {"MemoryError"},  # the runtime's, which it tells by words; cli/failures.py
    "engine/numba/": {"LoadError"},  # of compiled code: Numba is called instead
    "cli/": {"argparse.ArgumentTypeError", "KeyboardInterrupt"},  # ways of Python's own
    "__init__.py": {"AttributeError"},  # what a module says of a name it has not
}


def place(file: Path) -> str:
    return file.relative_to(PACKAGE).as_posix()


def module_of(where: str) -> str:
    """zo/mezo.py: tinyzo.zo.mezo."""
    return f"tinyzo/{where}".removesuffix(".py").removesuffix("/__init__").replace("/", ".")


def room(module: str) -> int:
    """The rank of a dotted name: of tinyzo.zo.mezo that of "zo", of tinyzo itself that of ""."""
    return ROOMS.index([*module.split("."), ""][1])


STDLIB = {*sys.stdlib_module_names, "tomllib"}  # which is there since Python 3.11


def imports(tree: ast.AST) -> Iterator[tuple[ast.stmt, str]]:
    """Every (statement, dotted name) that is imported, wherever it stands."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((node, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module == "tinyzo":
            for alias in node.names:
                if alias.name != "__version__":
                    yield node, f"tinyzo.{alias.name}" if alias.name in ROOMS else "tinyzo"
        elif isinstance(node, ast.ImportFrom):
            assert node.module and not node.level, "imports are absolute"
            yield node, node.module


def inside_functions(tree: ast.AST) -> set[ast.AST]:
    functions = (node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef))
    return {inner for function in functions for inner in ast.walk(function)}


def wrong_imports(where: str, source: str) -> list[str]:
    """What is imported from a later room, or is not ours to import."""
    tree = ast.parse(source)
    lazy = inside_functions(tree)
    wrong = []
    for node, name in imports(tree):
        package = name.split(".")[0]
        if package == "tinyzo":
            is_ahead = node in lazy and AHEAD.get(where) == name
            fine = is_ahead or room(name) <= room(module_of(where))
        elif package in LAZY:
            fine = node in lazy and where.startswith(LAZY[package])
        else:
            fine = package in STDLIB or where.startswith(TOP.get(package, ()))
        if not fine:
            wrong.append(f"{where}:{node.lineno} imports {name}")
    return wrong


@pytest.mark.parametrize("file", FILES, ids=place)
def test_imports(file):
    assert wrong_imports(place(file), file.read_text(encoding="utf-8")) == []


@pytest.mark.parametrize(
    ("where", "source"),
    [
        ("engine/weights.py", "import tinyzo.models.opt"),
        ("engine/weights.py", "def f():\n    from tinyzo.zo import mezo"),
        ("engine/weights.py", "from tinyzo import load"),
        ("engine/weights.py", "if TYPE_CHECKING:\n    from tinyzo.models.model import Model"),
        ("batch.py", "from tinyzo.text.tasks import Task"),
        ("zo/mezo.py", "from tinyzo.runs import journal"),
        ("zo/mezo.py", "from tinyzo import runs"),
        ("zo/estimators.py", "def f():\n    from tinyzo.autodiff import adam"),
        ("zo/estimators.py", "from tinyzo.autodiff.forward_mode import ForwardView"),
        ("runs/train.py", "from tinyzo.cli import main"),
        ("runs/train.py", "from tinyzo import load"),
        ("__init__.py", "from tinyzo.cli import main"),
        ("models/opt.py", "import torch"),
        ("models/opt.py", "def f():\n    import transformers, scipy"),
        ("models/opt.py", "from numba import njit"),
        ("engine/numpy_engine.py", "def f():\n    import numba"),
        ("engine/onnx/engine.py", "import onnxruntime"),
        ("engine/onnx/graph.py", "def f():\n    import onnx"),
        ("runs/inference.py", "def f():\n    import onnxruntime"),
        ("text/tokenizer.py", "from tokenizers import Tokenizer"),
        ("models/model.py", "def f():\n    from tokenizers import Tokenizer"),
        ("runs/report.py", "import matplotlib"),
        ("runs/ranks.py", "import mpi4py"),
        ("runs/shared.py", "def f():\n    from mpi4py import MPI"),
        ("checkpoints/safetensors.py", "def f():\n    from safetensors import safe_open"),
    ],
)
def test_a_planted_import_is_caught(where, source):
    assert len(wrong_imports(where, source)) >= 1


@pytest.mark.parametrize(
    ("where", "source"),
    [
        ("__init__.py", "from tinyzo.runs.train import finetune"),
        ("engine/numba/engine.py", "import numba\nfrom tinyzo.engine import weights"),
        ("text/tokenizer.py", "def f():\n    import tokenizers"),
        ("runs/train.py", "import json\nfrom tinyzo import __version__"),
        ("runs/train.py", "def f():\n    from tinyzo.autodiff.adam import Adam"),
        ("autodiff/adam.py", "import numpy\nfrom tinyzo.zo import updates"),
        ("__main__.py", "from tinyzo.cli import main"),
    ],
)
def test_a_proper_import_passes(where, source):
    assert wrong_imports(where, source) == []


# -- no circles ----------------------------------------------------------------------------------


def runtime_imports(source: str) -> set[str]:
    """The modules that a module loads as it is imported: no functions, no TYPE_CHECKING."""
    tree = ast.parse(source)
    later = inside_functions(tree)
    guards = (node for node in ast.walk(tree) if isinstance(node, ast.If))
    for guard in guards:
        if ast.unparse(guard.test) == "TYPE_CHECKING":
            later.update(ast.walk(guard))
    found = {name for node, name in imports(tree) if node not in later}
    for node in set(ast.walk(tree)) - later:
        if isinstance(node, ast.ImportFrom):
            found.update(f"{node.module}.{alias.name}" for alias in node.names)
    return found


def order(sources: dict[str, str]) -> list[str]:
    """Modules, each after those it imports; raises CycleError.

    `from tinyzo.cli import options` is of the module, not of the package around it.
    """
    graph = {}
    for name, source in sources.items():
        found = runtime_imports(source) & sources.keys()
        packages = {each.rpartition(".")[0] for each in found}
        graph[name] = found - (packages & {name.rpartition(".")[0]})
    return list(TopologicalSorter(graph).static_order())


def test_imports_make_no_circle():
    sources = {module_of(place(file)): file.read_text(encoding="utf-8") for file in FILES}
    del sources["tinyzo"]  # only __version__ is read of it
    assert len(order(sources)) == len(FILES) - 1


def test_a_planted_circle_is_caught():
    a, b = "from tinyzo.zo import b", "if TYPE_CHECKING:\n    import tinyzo.zo.a"
    assert order({"tinyzo.zo.a": a, "tinyzo.zo.b": b}) == ["tinyzo.zo.b", "tinyzo.zo.a"]
    with pytest.raises(ValueError, match="cycle"):
        order({"tinyzo.zo.a": a, "tinyzo.zo.b": "import tinyzo.zo.a"})


# -- tests ---------------------------------------------------------------------------------------


def wrong_test_imports(source: str) -> list[str]:
    """The test modules that are imported; what two of them share lies in a module of no tests."""
    found = {name for node, name in imports(ast.parse(source)) if name.split(".")[0] != "tinyzo"}
    return sorted(name for name in found if name.split(".")[-1].startswith("test_"))


def test_no_test_imports_another():
    files = (ROOT / "tests").rglob("*.py")
    wrong = {file.name: wrong_test_imports(file.read_text(encoding="utf-8")) for file in files}
    assert len(wrong) > 70 and not any(wrong.values()), wrong


def test_a_planted_import_of_a_test_is_caught():
    assert wrong_test_imports("from runs.test_train import record") == ["runs.test_train"]
    assert wrong_test_imports("def f():\n    import test_batch") == ["test_batch"]
    assert wrong_test_imports("from disturbed import record\nimport pytest") == []


# -- errors ----------------------------------------------------------------------------------------


def error_names() -> set[str]:
    tree = ast.parse((PACKAGE / "errors.py").read_text(encoding="utf-8"))
    return {node.name for node in tree.body if isinstance(node, ast.ClassDef)}


def wrong_raises(where: str, source: str) -> list[str]:
    """What is raised and is not of our tree, nor made by what says that it makes an error of it.

    That is a function annotated to return one, or a parameter annotated to be the class of one.
    """
    tree = ast.parse(source)
    ours = error_names()
    functions = [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)]
    makers = {f.name for f in functions if f.returns and ast.unparse(f.returns) in ours}
    known = ours | makers | {f"self.{name}" for name in makers}
    kinds = {f"type[{name}]" for name in ours}
    parameters = [arg for f in functions for arg in f.args.args if arg.annotation]
    known |= {arg.arg for arg in parameters if ast.unparse(arg.annotation) in kinds}
    for start, names in CAUGHT.items():
        known |= names if where.startswith(start) else set()
    raises = (node for node in ast.walk(tree) if isinstance(node, ast.Raise) and node.exc)
    raised = [n.exc.func if isinstance(n.exc, ast.Call) else n.exc for n in raises]
    return [ast.unparse(name) for name in raised if ast.unparse(name) not in known]


@pytest.mark.parametrize("file", FILES, ids=place)
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


# -- size and density ------------------------------------------------------------------------------


def test_the_teaching_path_is_at_most_900_lines():
    lines = measures.line_count(measures.teaching_files(ROOT))
    print(f"{lines} lines")
    assert 0 < lines <= 900


def test_all_that_the_teaching_path_imports_is_under_1300_lines():
    files = measures.closure_files(ROOT)
    assert set(measures.teaching_files(ROOT)) < set(files)
    lines = {place(file): measures.line_count([file]) for file in files}
    print(sum(lines.values()), lines)
    assert sum(lines.values()) < 1300


def test_a_line_has_at_most_9_and_a_half_tokens():
    found = sum(map(measures.density, FILES), measures.Density()).report()
    print(found)
    assert 3 < found["tokens_per_line"] <= 9.5


def test_the_density_of_a_known_file(tmp_path):
    file = tmp_path / "a.py"
    file.write_text('"""Of no account."""\n\na, b = 1, 2  # nor this\nc = a if b else (\n    3)\n')
    assert measures.density(file) == measures.Density(
        lines=3, tokens=16, conditional_expressions=1, tuple_assignments=1, all_lines=5
    )


@pytest.mark.parametrize("file", FILES, ids=place)
def test_the_formatter_skips_tables_of_numbers_only(file):
    assert measures.skips_outside_tables(file.read_text(encoding="utf-8")) == []


def test_a_planted_skip_is_caught():
    skip = "  # fmt: " + "skip\n"
    table = f"TABLE = np.array([\n    1, -2.5,\n    3, 4,\n]){skip}"
    assert measures.skips_outside_tables(table) == []
    assert measures.skips_outside_tables(f"x = (a,\n     b){skip}") == [2]
    assert measures.skips_outside_tables(f"{table}NAMES = ['a',\n 'b']{skip}") == [6]
