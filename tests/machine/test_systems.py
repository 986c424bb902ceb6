"""The whole package where other systems' calls are missing, and Windows's are there."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
from folders import finetune, python, write_model, write_reviews

SCRIPT = Path(__file__).with_name("elsewhere.py")
pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="others are imitated on Linux")


def elsewhere(system: str, *commands: list[str]) -> list[tuple[int, str, str]]:
    process = python(SCRIPT, system, *map(json.dumps, commands))
    output, error = process.communicate()
    assert process.returncode == 0, error
    found = json.loads(output.splitlines()[-1])
    assert found["modules"] > 70
    return [tuple(ending) for ending in found["endings"]]


def files(run: Path) -> dict[str, bytes]:
    """What a run leaves, but for times."""
    names = sorted(path.name for path in run.iterdir())
    kept = ("journal", *(name for name in names if name.endswith(".safetensors")))
    return {name: (run / name).read_bytes() if name in kept else b"" for name in names}


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    home = tmp_path_factory.mktemp("home")
    write_model(home / "model")
    write_reviews(home / "data")
    return home


def commands(home: Path, system: str, *options: str) -> list[list[str]]:
    run = str(home / f"{system}{''.join(options)}")
    common = ["--model", str(home / "model"), "--task", "reviews", "--data", str(home / "data")]
    how = ["--engine", "numpy", "--steps", "4", "--batch-size", "4", "--lr", "1e-3"]
    tune = ["finetune", *common, *how, "--eval-every", "2", *options, "--output", run, "--json"]
    return [
        ["--help"],
        ["finetune", "--help"],
        tune,
        tune,
        ["evaluate", "--model", run, "--json"],
        ["predict", "--model", run, "No 3"],
        ["replay", run, "--output", f"{run}-tuned"],
        ["inspect", "--plan", run],
    ]


@pytest.fixture(scope="module")
def there(home: Path) -> Any:
    """What the commands print here, and what a run leaves."""
    known: dict[tuple[str, ...], Any] = {}

    def get(*options: str) -> Any:
        if options not in known:
            endings = elsewhere("here", *commands(home, "here", *options))
            known[options] = endings, files(home / f"here{''.join(options)}")
        return known[options]

    return get


STREAMED = ("--residency", "streamed", "--fold-every", "1")
exhaustive = pytest.mark.exhaustive


@pytest.mark.parametrize(
    ("system", "options"),
    [
        ("win32", STREAMED),
        ("bare", STREAMED),
        pytest.param("darwin", STREAMED, marks=exhaustive),
        *(pytest.param(system, (), marks=exhaustive) for system in ("win32", "darwin", "bare")),
    ],
)
def test_every_command_works_and_ends_with_the_same_bytes(
    home: Path, there: Any, system: str, options: tuple[str, ...]
) -> None:
    endings = elsewhere(system, *commands(home, system, *options))
    expected, left = there(*options)
    errors = [error for code, _, error in endings if code]
    assert [code for code, *_ in endings] == [0, 0, 0, 1, 0, 0, 0, 0], errors
    assert "has a run.toml already" in errors[0]
    assert endings[0] == expected[0] and endings[1] == expected[1]
    assert endings[5][1] == expected[5][1]
    assert files(home / f"{system}{''.join(options)}") == left
    result = json.loads(endings[2][1])
    assert result["peak_bytes"] == {"win32": 123 << 20}.get(system, result["peak_bytes"])
    said = "files cannot be locked there: let one process at a time write"
    assert [said in error for _, _, error in endings].count(True) <= 3
    assert (said in endings[2][2]) == (system == "bare")


def test_a_hubs_cache_of_links_is_only_read(tmp_path: Path) -> None:
    """As Hugging Face's hub keeps it: files are links to blobs, and nobody may write."""
    blobs, snapshot = tmp_path / "hub/blobs", tmp_path / "hub/snapshots/5af"
    snapshot.mkdir(parents=True)
    write_model(blobs)
    for blob in list(blobs.iterdir()):
        (snapshot / blob.name).symlink_to(f"../../blobs/{blob.name}")
        blob.chmod(0o444)
    data = write_reviews(tmp_path / "data")
    folders = (snapshot, blobs)
    before = {path: path.lstat() for folder in folders for path in folder.iterdir()}
    for folder in folders:
        folder.chmod(0o555)
    assert finetune(snapshot, data, tmp_path / "run", "--residency", "streamed") == 0
    for folder in folders:
        folder.chmod(0o755)
    after = {path: path.lstat() for folder in folders for path in folder.iterdir()}
    assert [*after] == [*before]
    assert [s.st_mtime_ns for s in after.values()] == [s.st_mtime_ns for s in before.values()]
