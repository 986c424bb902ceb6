"""The public names: what a type checker sees, what Python finds, and what each import loads."""

from __future__ import annotations

import ast
import inspect
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from folders import write_model

import tinyzo
from tinyzo import errors

ROOT = Path(__file__).resolve().parents[1]
HOMES = tinyzo._HOMES
ERRORS = [
    name
    for name, value in vars(errors).items()
    if inspect.isclass(value) and issubclass(value, errors.TinyzoError)
]


def loaded(statement: str) -> set[str]:
    """The modules of a fresh interpreter after a statement."""
    command = [sys.executable, "-c", f"import sys\n{statement}\nprint(*sys.modules)"]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    return set(subprocess.check_output(command, env=environment, text=True).split())


def test_a_type_checker_sees_the_names_that_python_finds():
    (guard,) = (
        node
        for node in ast.parse(Path(tinyzo.__file__).read_text(encoding="utf-8")).body
        if isinstance(node, ast.If)
    )
    seen = {alias.name: node.module for node in guard.body for alias in node.names}
    assert seen == HOMES
    assert sorted(tinyzo.__all__) == sorted([*HOMES, *ERRORS, "__version__"])
    assert set(tinyzo.__all__) <= set(dir(tinyzo))


@pytest.mark.parametrize("name", tinyzo.__all__)
def test_each_name_is_there_and_says_what_it_is(name):
    value = getattr(tinyzo, name)
    if name != "__version__":
        assert value.__name__ == name and len(value.__doc__) > 20


def test_a_name_that_is_not_there():
    with pytest.raises(AttributeError, match="module 'tinyzo' has no attribute 'loda'"):
        tinyzo.loda  # noqa: B018 (the look-up is the test)


def test_an_import_loads_what_it_needs():
    assert {name for name in loaded("import tinyzo") if name.startswith("tinyzo")} == {
        "tinyzo",
        "tinyzo.errors",
    }
    assert "numpy" not in loaded("import tinyzo")
    assert not any(name.startswith("tinyzo.runs") for name in loaded("import tinyzo.engine.noise"))
    heavy = {"numba", "tokenizers", "matplotlib", "tqdm", "tinyzo.autodiff"}
    assert not heavy & loaded("import tinyzo; tinyzo.load; tinyzo.finetune")


def test_a_package_in_a_zip_labels_texts(tmp_path):
    """As a zipapp, or what a phone's launcher makes: its own tables are no files then."""
    archive = tmp_path / "tinyzo.zip"
    package = Path(tinyzo.__file__).parent
    with zipfile.ZipFile(archive, "w") as packed:
        for file in [*package.rglob("*.py"), *package.rglob("*.toml")]:
            packed.write(file, file.relative_to(package.parent))
    model = write_model(tmp_path / "m")
    program = f"""
import tinyzo
assert tinyzo.__file__.startswith({str(archive)!r})
model = tinyzo.load({str(model)!r})
print(model.engine.name, tinyzo.predict(model, ["a good film"], "sst2")[0].label)
"""
    environment = os.environ | {"PYTHONPATH": str(archive), "TINYZO_NO_NUMBA": "1"}
    done = subprocess.run(
        [sys.executable, "-c", program],
        env=environment, cwd=tmp_path, capture_output=True, text=True, check=True,
    )  # fmt: skip
    (label,) = tinyzo.predict(tinyzo.load(model, engine="numpy"), ["a good film"], "sst2")
    assert done.stdout.split() == ["numpy", label.label]
