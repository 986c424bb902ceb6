"""The cache of the hub: where it is, which folder a name means, and models that are in it."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from folders import cached, write_model

import tinyzo
from tinyzo.checkpoints.directory import fingerprint
from tinyzo.checkpoints.hub import cache_folder, cached_model, looked_in, name_of
from tinyzo.cli import main
from tinyzo.errors import CheckpointError
from tinyzo.runs.settings import SHIPPED, model_path

VARIABLES = ("HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE", "HF_HOME", "XDG_CACHE_HOME")


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The cache, at its default place, and no other setting of it."""
    for variable in VARIABLES:
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    return tmp_path / ".cache" / "huggingface" / "hub"


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({}, "~/.cache/huggingface/hub"),
        ({"XDG_CACHE_HOME": "/x"}, "/x/huggingface/hub"),
        ({"XDG_CACHE_HOME": "/x", "HF_HOME": "/h"}, "/h/hub"),
        ({"HF_HOME": "~/h"}, "~/h/hub"),
        ({"HF_HOME": "$HOME/h"}, "~/h/hub"),
        ({"HF_HOME": "/h", "HUGGINGFACE_HUB_CACHE": "/old"}, "/old"),
        ({"HUGGINGFACE_HUB_CACHE": "/old", "HF_HUB_CACHE": "~/new"}, "~/new"),
        ({"HF_HOME": "", "HF_HUB_CACHE": "", "XDG_CACHE_HOME": ""}, "~/.cache/huggingface/hub"),
    ],
)
def test_where_the_cache_is(
    cache: Path, monkeypatch: pytest.MonkeyPatch, settings: dict[str, str], expected: str
) -> None:
    for name, value in settings.items():
        monkeypatch.setenv(name, value)
    assert cache_folder() == Path(expected).expanduser()


def test_a_name_is_the_snapshot_that_main_refers_to(cache: Path, tmp_path: Path) -> None:
    model = write_model(tmp_path / "model", "opt")
    first = cached(cache, "org/name", model, ("a1", "main"), ("b2", "refs/pr/1"), ("c3", "v1.0"))
    assert model_path("org/name") == cached_model("org/name") == first
    assert cached_model("org/name", "v1.0") == first.with_name("c3")
    assert cached_model("org/name", "refs/pr/1") == first.with_name("b2")
    assert cached_model("org/name", "b2") == first.with_name("b2")
    assert cached_model("org/name", "v2") is None
    assert name_of(first) == "name"
    assert name_of(tmp_path / "model") == "model"
    old = cached(cache, "gpt-old", model, ("d4", "main"))
    assert model_path("gpt-old") == old and name_of(old) == "gpt-old"


@pytest.mark.parametrize(
    "name",
    ["org/other", "org/name/more", "", "/", "..", "org/..", "../org/name", "org--name", "/abs",
     "org/na me", "org/\0", "a" * 300],
)  # fmt: skip
def test_other_names_are_paths(cache: Path, tmp_path: Path, name: str) -> None:
    cached(cache, "org/name", write_model(tmp_path / "model"), ("a1", "main"))
    assert cached_model(name) is None


@pytest.mark.parametrize("commit", ["", "../../../..", "gone", "a1/..", "/", "x" * 10_000, "\xff"])
def test_a_reference_to_no_snapshot_is_none(cache: Path, tmp_path: Path, commit: str) -> None:
    cached(cache, "org/name", write_model(tmp_path / "model"), ("a1", "main"))
    (cache / "models--org--name" / "refs" / "main").write_text(commit, encoding="latin-1")
    assert cached_model("org/name") is None
    assert cached_model("org/name", "../refs/main") is None


def test_folders_and_shipped_models_come_first(cache: Path, tmp_path: Path) -> None:
    model = write_model(tmp_path / "model")
    cached(cache, "opt-tiny", model, ("a1", "main"))
    assert model_path("opt-tiny") == SHIPPED / "opt-tiny"
    snapshot = cached(cache, "org/name", model, ("a1", "main"))
    assert model_path("org/name") == snapshot
    write_model(tmp_path / "org" / "name")
    assert model_path("org/name") == Path("org/name")


def test_a_model_of_links_is_opened_and_has_the_same_fingerprint(
    cache: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = write_model(tmp_path / "model", "opt")
    snapshot = cached(cache, "org/name", model, ("a1", "main"))
    assert (snapshot / "model.safetensors").is_symlink()
    assert fingerprint(snapshot) == fingerprint(model)
    (found,) = tinyzo.load("org/name").logits([[1, 2, 3]])
    (expected,) = tinyzo.load(model).logits([[1, 2, 3]])
    assert (found == expected).all()
    assert main(["inspect", "org/name"]) == 0
    assert main(["doctor", "org/name"]) == 0
    shutil.rmtree(model)
    assert main(["convert", "org/name", "--output", "copy"]) == 0
    assert not any(path.is_symlink() for path in Path("copy").iterdir())
    capsys.readouterr()


def test_where_a_model_was_sought_is_said(cache: Path, capsys: pytest.CaptureFixture[str]) -> None:
    place = f"{cache}/models--org--name"
    sought = f"{place} has no snapshot of main either, and nothing is downloaded"
    with pytest.raises(CheckpointError) as caught:
        tinyzo.load("org/name")
    assert caught.value.message == "org/name: no such folder"
    assert caught.value.hint == f"name a model's folder; {sought}"
    assert main(["evaluate", "--model", "org/name"]) == 1
    assert sought in capsys.readouterr().err
    assert looked_in("../elsewhere") == ""
