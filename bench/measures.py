"""How small, plain and light is the package? Four measures, and the release before.

    python bench/measures.py [--quick] [--main-job] [ROOT]

(a) lines of the teaching path, and of all that importing it pulls in
(b) density of the code: tokens a line and its companions
(c) errors of the type checker
(d) footprint: run-time dependencies, import time and memory, bytes of the wheel, with --main-job
    peak memory and speed of `tinyzo finetune`

--quick leaves out what takes minutes: the type checker and the wheel. ROOT is the checkout to
measure, by default this one. The last line is one JSON document.
"""

from __future__ import annotations

import argparse
import ast
import json
import os
import re
import subprocess
import sys
import tokenize
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

HERE = Path(__file__).resolve().parent
LAST_RELEASE = HERE / "results" / "measures-0.1.0.json"
TEACHING = (
    "tinyzo.engine.noise",
    "tinyzo.engine.weights",
    "tinyzo.engine.numpy_engine",
    "tinyzo.models.roberta",
    "tinyzo.zo.mezo",
)
WIDE = 90  # columns that a line may have and still be pleasant
NO_CODE = {
    tokenize.COMMENT,
    tokenize.NL,
    tokenize.NEWLINE,
    tokenize.INDENT,
    tokenize.DEDENT,
    tokenize.ENDMARKER,
    tokenize.ENCODING,
}
TURNS = 9  # of an import; the least of them is reported

CLOSURE = (
    "import sys, {}; print(*(m.__file__ for n, m in sys.modules.items() if n.startswith('tinyzo')))"
)
IMPORT = """
import json, time
start = time.perf_counter()
{}
seconds = time.perf_counter() - start
with open("/proc/self/status") as status:
    peak = next(int(line.split()[1]) << 10 for line in status if line.startswith("VmHWM"))
print(json.dumps([seconds, peak]))
"""


# -- (a) lines -----------------------------------------------------------------------------------


def line_count(files: list[Path]) -> int:
    """All lines: code, comments, docstrings and blank ones."""
    return sum(len(file.read_text(encoding="utf-8").splitlines()) for file in files)


def teaching_files(root: Path) -> list[Path]:
    return [root.joinpath(*name.split(".")).with_suffix(".py") for name in TEACHING]


def closure_files(root: Path) -> list[Path]:
    """The package's files that are loaded once the teaching path is imported."""
    return [Path(file) for file in python(root, "-c", CLOSURE.format(", ".join(TEACHING))).split()]


# -- (b) density -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Density:
    """What a file, or many, are like to read."""

    lines: int = 0  # of code: no blank lines, comments or docstrings
    tokens: int = 0
    conditional_expressions: int = 0
    tuple_assignments: int = 0  # a, b = x, y
    wide_lines: int = 0
    all_lines: int = 0
    skips: int = 0  # of the formatter

    def __add__(self, other: Density) -> Density:
        pairs = zip(vars(self).values(), vars(other).values(), strict=True)
        return Density(*(one + another for one, another in pairs))

    def report(self) -> dict[str, float]:
        return {
            "code_lines": self.lines,
            "all_lines": self.all_lines,
            "tokens_per_line": round(self.tokens / self.lines, 2),
            "conditional_expressions_per_1000": round(
                1000 * self.conditional_expressions / self.lines, 1
            ),
            "tuple_assignments_per_1000": round(1000 * self.tuple_assignments / self.lines, 1),
            "wide_lines_percent": round(100 * self.wide_lines / self.all_lines, 2),
            "fmt_skips": self.skips,
        }


def package_files(root: Path) -> list[Path]:
    """All modules; version 0.1.0 had two packages beside tinyzo."""
    return sorted(file for folder in root.glob("tinyzo*/") for file in folder.rglob("*.py"))


def density(file: Path) -> Density:
    source = file.read_text(encoding="utf-8")
    nodes = list(ast.walk(ast.parse(source)))
    lines, tokens = _code(file, _docstring_lines(nodes))
    return Density(
        lines=len(lines),
        tokens=tokens,
        conditional_expressions=sum(isinstance(node, ast.IfExp) for node in nodes),
        tuple_assignments=sum(map(_is_tuple_assignment, nodes)),
        wide_lines=sum(len(line) > WIDE for line in source.splitlines()),
        all_lines=len(source.splitlines()),
        skips=len(skips(source)),
    )


def _docstring_lines(nodes: list[ast.AST]) -> set[int]:
    texts = (node for node in nodes if isinstance(node, ast.Expr))
    docstrings = (text for text in texts if isinstance(text.value, ast.Constant))
    return {n for text in docstrings for n in range(text.lineno, (text.end_lineno or 0) + 1)}


def _code(file: Path, docstrings: set[int]) -> tuple[set[int], int]:
    """The lines that hold code, and how many tokens they have; an f-string is one, as before
    Python 3.12, which takes it apart."""
    lines: set[int] = set()
    count = depth = 0
    with tokenize.open(file) as stream:
        for token in tokenize.generate_tokens(stream.readline):
            kind = tokenize.tok_name[token.type]
            if token.type in NO_CODE or token.start[0] in docstrings:
                continue
            lines.update(range(token.start[0], token.end[0] + 1))
            if depth == 0:
                count += 1
            depth += {"FSTRING_START": 1, "FSTRING_END": -1}.get(kind, 0)
    return lines, count


def _is_tuple_assignment(node: ast.AST) -> bool:
    if not isinstance(node, ast.Assign):
        return False
    return isinstance(node.targets[0], ast.Tuple) and isinstance(node.value, ast.Tuple)


def skips(source: str) -> list[int]:
    """The lines that tell the formatter to leave something as it is."""
    lines = enumerate(source.splitlines(), 1)
    return [number for number, line in lines if re.search(r"# fmt: (skip|off)", line)]


def skips_outside_tables(source: str) -> list[int]:
    """Those that are not the end of a table of numbers, or of rows of them."""
    tables = {n for node in ast.walk(ast.parse(source)) for n in _table_lines(node)}
    return [number for number in skips(source) if number not in tables]


def _table_lines(node: ast.AST) -> range:
    """The lines of an assignment of literal numbers, in any brackets or an array of them."""
    if not isinstance(node, (ast.Assign, ast.AnnAssign)):
        return range(0)
    value = node.value
    if isinstance(value, ast.Call) and value.args:
        value = value.args[0]
    inner = list(ast.walk(value)) if value else []
    literal = (ast.List, ast.Tuple, ast.Constant, ast.UnaryOp, ast.USub, ast.Load)
    is_table = all(isinstance(each, literal) for each in inner)
    numbers = [each.value for each in inner if isinstance(each, ast.Constant)]
    if not is_table or not numbers or not all(isinstance(n, (int, float)) for n in numbers):
        return range(0)
    return range(node.lineno, (node.end_lineno or 0) + 1)


def longest_functions(files: list[Path], count: int = 8) -> list[str]:
    lengths = sorted(((length, name) for file in files for name, length in functions(file)))
    return [f"{name} {length}" for length, name in reversed(lengths[-count:])]


def functions(file: Path) -> Iterator[tuple[str, int]]:
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.FunctionDef):
            yield f"{file.parent.name}/{file.name}:{node.name}", node.end_lineno - node.lineno + 1


# -- (c) types -------------------------------------------------------------------------------------


def type_errors(root: Path) -> int | None:
    """What mypy finds in the package; None where it is not installed or could not check."""
    config = ["--config-file", str(HERE.parent / "pyproject.toml")]
    folders = sorted(str(path) for path in root.glob("tinyzo*/"))
    command = [sys.executable, "-m", "mypy", *config, *folders]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True)
    if done.returncode not in (0, 1) or "No module named mypy" in done.stderr:
        return None
    return sum(": error:" in line for line in done.stdout.splitlines())


# -- (d) footprint ---------------------------------------------------------------------------------


def python(root: Path, *arguments: str) -> str:
    """What a fresh interpreter prints, with the package of this checkout."""
    environment = os.environ | {"PYTHONPATH": str(root)}
    command = [sys.executable, *arguments]
    done = subprocess.run(command, cwd=root, env=environment, capture_output=True, text=True)
    if done.returncode:
        sys.exit(done.stderr)
    return done.stdout


def import_cost(root: Path, statement: str) -> tuple[float, int]:
    """Seconds, the least of many, and bytes of peak memory, of a statement in a fresh process."""
    samples = [json.loads(python(root, "-c", IMPORT.format(statement))) for _ in range(TURNS)]
    return min(seconds for seconds, _ in samples), min(peak for _, peak in samples)


def dependencies(root: Path) -> list[str]:
    """The names of what a run needs, from pyproject.toml."""
    listed = re.search(
        r"\ndependencies = \[\n(.*?)\n\]", (root / "pyproject.toml").read_text(), re.S
    )
    return re.findall(r'^ *"([a-z]+)', listed[1], re.M) if listed else []


def wheel_bytes(root: Path) -> int:
    with TemporaryDirectory() as folder:
        build = [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "-w", folder, str(root)]
        subprocess.run(build, check=True)
        (wheel,) = Path(folder).glob("*.whl")
        return wheel.stat().st_size


def main_job(root: Path) -> dict[str, float]:
    """Peak memory and speed of `tinyzo finetune` as it comes."""
    with TemporaryDirectory() as folder:
        command = ["-m", "tinyzo", "finetune", "--json", "--output", f"{folder}/run"]
        result = json.loads(python(root, *command).splitlines()[-1])
    return {
        "main_job_peak_bytes": result["peak_bytes"],
        "main_job_seconds_per_step": result["seconds_per_step"],
    }


# -- the report ------------------------------------------------------------------------------------


def measure(root: Path, is_quick: bool, has_main_job: bool) -> dict[str, Any]:
    files = package_files(root)
    found: dict[str, Any] = {
        "teaching_lines": line_count(teaching_files(root)),
        "closure_lines": line_count(closure_files(root)),
        **sum(map(density, files), Density()).report(),
        "longest_functions": longest_functions(files),
    }
    found["dependencies"] = dependencies(root)
    statements = {
        "import": "import tinyzo",
        "api": "import tinyzo; tinyzo.load; tinyzo.finetune",
        "load": f"import tinyzo; tinyzo.load({str(root / 'weights' / 'roberta-tiny')!r})",
    }
    for name, statement in statements.items():
        found[f"{name}_seconds"], found[f"{name}_peak_bytes"] = import_cost(root, statement)
    if not is_quick:
        found["type_errors"] = type_errors(root)
        found["wheel_bytes"] = wheel_bytes(root)
    if has_main_job:
        found |= main_job(root)
    return found


def show(found: dict[str, Any], before: dict[str, Any]) -> None:
    """A table: each figure today and in the last release."""
    print(f"{'':36}{'today':>14}{'last release':>14}")
    for name, value in found.items():
        if isinstance(value, list):
            print(f"{name}\n    {', '.join(value)}")
        else:
            print(f"{name:36}{_cell(value):>14}{_cell(before.get(name)):>14}")


def _cell(value: float | None) -> str:
    if value is None:
        return "-"
    return f"{value:.3f}" if isinstance(value, float) else f"{value:,}"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("root", nargs="?", type=Path, default=HERE.parent, metavar="ROOT")
    parser.add_argument("--quick", action="store_true", help="no type checker, no wheel")
    parser.add_argument("--main-job", action="store_true", help="also tinyzo finetune as it comes")
    options = parser.parse_args()
    found = measure(options.root.resolve(), options.quick, options.main_job)
    before = json.loads(LAST_RELEASE.read_text()) if LAST_RELEASE.exists() else {}
    show(found, before)
    print(json.dumps({"benchmark": "measures", **found}))


if __name__ == "__main__":
    main()
