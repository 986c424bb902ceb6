"""The table of planted_faults.py fits the code, of which each module has a fault."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest
from planted_faults import FAULTS, Fault, with_fault

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "tinyzo"


def name_of(fault: Fault) -> str:
    return f"{fault.file}: {fault.what}"


def has_behaviour(source: str) -> bool:
    """Whether any function does more than to be described."""
    return any(
        not all(isinstance(line, ast.Expr) for line in node.body)
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.FunctionDef)
    )


@pytest.mark.parametrize("fault", FAULTS, ids=name_of)
def test_a_fault_can_be_planted(fault):
    source = (PACKAGE / fault.file).read_text(encoding="utf-8")
    broken = with_fault(source, fault)
    assert ast.dump(ast.parse(broken)) != ast.dump(ast.parse(source))


@pytest.mark.parametrize("fault", FAULTS, ids=name_of)
def test_who_must_see_a_fault_is_there(fault):
    for test in fault.tests.split():
        file, _, function = test.partition("[")[0].partition("::")
        text = (ROOT / "tests" / file).read_text(encoding="utf-8")
        assert re.search(rf"^def {function or 'test_'}", text, re.M)


def test_each_module_that_does_something_has_a_fault():
    modules = {
        file.relative_to(PACKAGE).as_posix()
        for file in PACKAGE.rglob("*.py")
        if has_behaviour(file.read_text(encoding="utf-8"))
    }
    assert modules <= {fault.file for fault in FAULTS}


def test_code_that_is_not_there_or_not_once_is_refused():
    fault = FAULTS[0]._replace(code="x")
    for source in ("y", "x x"):
        with pytest.raises(AssertionError, match=fault.file):
            with_fault(source, fault)
