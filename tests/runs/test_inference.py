"""The folder that an app tunes from: what is in it, what it is made of, and what an app gets."""

from __future__ import annotations

import errno
import json
import os
import shutil
from collections.abc import Callable
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from folders import finetune, lines, rows, write_jsonl, write_model, write_reviews, write_tensors
from tiny import by_default

import tinyzo
from tinyzo.checkpoints.safetensors import SafetensorsFile
from tinyzo.cli import main
from tinyzo.engine.onnx.reader import read_outline
from tinyzo.engine.onnx.runtime import check_runtime
from tinyzo.engine.terms import Probe
from tinyzo.errors import CheckpointError, ConfigError, DataError, TinyzoError, UsageError
from tinyzo.runs import export, inference
from tinyzo.runs.app import App
from tinyzo.runs.data import bind_task
from tinyzo.runs.exported import open_export
from tinyzo.runs.inference import export_onnx, settings_after
from tinyzo.runs.journal import read_journal
from tinyzo.runs.run import Run
from tinyzo.runs.settings import Settings
from tinyzo.runs.snapshots import tuned_model
from tinyzo.text.tasks import Example
from tinyzo.zo.objectives import Objective


def has_runtime() -> bool:
    try:
        check_runtime()
    except ConfigError:
        return False
    return True


runs_graphs = pytest.mark.skipif(not has_runtime(), reason="ONNX Runtime runs the graphs")
FAMILIES = ("roberta", "opt")
families = pytest.mark.parametrize("family", FAMILIES)


@pytest.fixture(scope="module")
def home(tmp_path_factory) -> Path:
    """`data`, a model of each family, and runs of full, lora and lora-fa."""
    home = tmp_path_factory.mktemp("home")
    write_reviews(home / "data")
    for family in ("roberta", "opt"):
        write_model(home / family, family)
    for train in ("full", "lora", "lora-fa"):
        options = ("--train", train, "--engine", "numpy")
        assert finetune(home / "opt", home / "data", home / train, *options) == 0
    return home


def settings(home: Path, model: str = "roberta", **given: Any) -> Settings:
    task = {} if "template" in given else {"task": "reviews"}
    data = str(home / "data")
    return Settings(**{"model": str(home / model), "data": data, **task, **given})


def about(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "tinyzo.json").read_text())
    return found


def tensors_of(path: Path) -> dict[str, np.ndarray]:
    with SafetensorsFile(path) as file:
        return {name: file.read(name) for name in file.names()}


# -- what is in it ---------------------------------------------------------------------------------


@families
def test_a_folder_is_all_that_an_app_needs(home, tmp_path, family):
    folder = export_onnx(settings(home, family, queries=2), tmp_path / "new" / "app")
    names = {path.name for path in folder.iterdir()}
    assert names >= {"step.onnx", "eval.onnx", "model.safetensors", "rows.json", "tinyzo.json"}
    assert names >= {"config.json", "vocab.json", "merges.txt", "adapter"}
    assert not [name for name in names if name.endswith(".partial")]
    assert os.path.samefile(folder / "model.safetensors", home / family / "model.safetensors")
    found = about(folder)
    assert (found["format"], found["noise_format"], found["train"]) == (1, 1, "lora-fa")
    assert (found["queries"], found["rank"], found["scale"], found["alpha"]) == (2, 8, 2.0, 16.0)
    assert found["labels"] == ["terrible", "great"]
    assert found["label_words"] == [" terrible", " great"]
    assert found["kind"] == "words" and len(found["words"]) == 2
    step = found["signatures"]["step.onnx"]
    assert step["inputs"]["input_ids"] == {"type": "int64", "shape": ["rows", "tokens"]}
    assert step["inputs"]["seeds"] == {"type": "int64", "shape": [2]}
    assert step["outputs"]["losses"] == {"type": "float64", "shape": [2, 2]}
    assert step["outputs"].keys() >= {f"{name}.next" for name in found["trained"]}
    every = json.loads((folder / "rows.json").read_text())
    assert {split: len(each) for split, each in every.items()} == {"train": 12, "test": 8}
    assert every["train"][0].keys() == {"input_ids", "label"}


@families
def test_the_base_and_the_adapter_are_loaded_as_any(home, tmp_path, family):
    folder = export_onnx(settings(home, family), tmp_path / "app")
    base, adapted = tinyzo.load(folder), tinyzo.load(folder / "adapter")
    ids = [[0, 9, 8, 2]]
    np.testing.assert_array_equal(base.logits(ids)[0], tinyzo.load(home / family).logits(ids)[0])
    np.testing.assert_array_equal(base.logits(ids)[0], adapted.logits(ids)[0])  # B is 0
    moved = tmp_path / "moved"
    shutil.move(folder, moved)
    shutil.move(home / family, home / "away")
    try:
        np.testing.assert_array_equal(
            tinyzo.load(moved / "adapter").logits(ids)[0], adapted.logits(ids)[0]
        )
    finally:
        shutil.move(home / "away", home / family)


def test_an_export_is_a_base_again(home, tmp_path):
    first = export_onnx(settings(home), tmp_path / "first")
    second = export_onnx(settings(home).replace(model=str(first)), tmp_path / "second")
    assert about(first)["graphs"] == about(second)["graphs"]
    adapted = settings(home).replace(model=str(first / "adapter"))
    third = export_onnx(adapted, tmp_path / "third")
    assert about(first)["graphs"] == about(third)["graphs"]
    assert (
        tensors_of(third / "adapter/adapter_model.safetensors").keys()
        == tensors_of(first / "adapter/adapter_model.safetensors").keys()
    )


def test_the_command_and_the_function(home, tmp_path, capsys):
    line = f"--model {home}/opt --task reviews --data {home}/data --queries 1 --json"
    arguments = f"export --format onnx --output {tmp_path}/a --train lora {line}".split()
    assert main(arguments) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["output"] == str(tmp_path / "a")
    sizes = {name: (tmp_path / "a" / name).stat().st_size for name in ("step.onnx", "eval.onnx")}
    assert found["graphs"] == sizes
    made = tinyzo.export_onnx(
        tmp_path / "b",
        model=home / "opt",
        task="reviews",
        data=home / "data",
        queries=1,
        train="lora",
    )
    assert about(made) == about(tmp_path / "a")
    assert main([*arguments[:4], f"{tmp_path}/c", *arguments[5:-1]]) == 0
    assert f"exported to {tmp_path / 'c'}: step.onnx (" in capsys.readouterr().out


# -- what it is made of ----------------------------------------------------------------------------


def test_other_disks_get_a_copy(home, tmp_path, monkeypatch):
    def refused(*_: object) -> None:
        raise OSError(errno.EXDEV, os.strerror(errno.EXDEV))

    monkeypatch.setattr(os, "link", refused)
    folder = export_onnx(settings(home), tmp_path / "app")
    assert not os.path.samefile(folder / "model.safetensors", home / "roberta/model.safetensors")
    assert open_export(folder).about["kind"] == "words"


@pytest.mark.parametrize("dtype", ["f16", "bf16"])
def test_sixteen_bits_and_shards(home, tmp_path, dtype):
    model = write_model(tmp_path / "model", "opt", dtype)
    whole = export_onnx(settings(home).replace(model=str(model)), tmp_path / "whole")
    with SafetensorsFile(model / "model.safetensors") as file:
        names = file.names()
        (model / "model.safetensors.index.json").write_text(
            json.dumps({"weight_map": dict.fromkeys(names, "part.safetensors")})
        )
    (model / "model.safetensors").rename(model / "part.safetensors")
    folder = export_onnx(settings(home).replace(model=str(model)), tmp_path / "app")
    assert not (folder / "model.safetensors.index.json").exists()
    found = tensors_of(folder / "model.safetensors")
    for name, tensor in tensors_of(whole / "model.safetensors").items():
        np.testing.assert_array_equal(found[name], tensor)
    assert open_export(folder).trained == open_export(whole).trained


def test_names_and_ties_of_a_file_are_its_own(home, tmp_path):
    """Of an OPT as some versions saved it: another prefix, and the table twice."""
    model = write_model(tmp_path / "model", "opt")
    tensors = tensors_of(model / "model.safetensors")
    renamed = {name.replace("model.decoder.", "decoder."): t for name, t in tensors.items()}
    renamed["lm_head.weight"] = tensors["model.decoder.embed_tokens.weight"]
    write_tensors(model / "model.safetensors", renamed)
    folder = export_onnx(settings(home).replace(model=str(model)), tmp_path / "app")
    data = (folder / "step.onnx").read_bytes()
    with SafetensorsFile(folder / "model.safetensors") as file:
        for each in read_outline(data, folder).externals:
            if each.file == "model.safetensors":
                own = each.name.replace("model.decoder.", "decoder.")
                assert (each.offset, each.shape) == (file.offset(own), file.info(own).shape)
    assert open_export(folder).trained


@runs_graphs
@pytest.mark.parametrize("dtype", ["f32", "f16", "bf16"])
def test_the_onnx_package_finds_no_fault(home, tmp_path, dtype):
    onnx = pytest.importorskip("onnx", reason="its checker is the oracle")
    model = write_model(tmp_path / "model", "opt", dtype)
    folder = export_onnx(settings(home).replace(model=str(model)), tmp_path / "app")
    copy = shutil.copytree(folder, tmp_path / "copy")  # it refuses a file of two names
    for name in ("step.onnx", "eval.onnx"):
        onnx.checker.check_model(str(copy / name), full_check=True)
    app = App(open_export(copy), threads=1)
    loaded = tinyzo.load(folder / "adapter", engine="numpy")
    bound = bind_task(loaded, settings(home, "opt").resolve("opt"))
    resolved = settings(home, "opt").resolve("opt")
    examples = inference.load_data(bound, resolved).test
    objective = Objective(loaded, bound)
    (expected,) = objective.scores(loaded.weights.view(), objective.pack(examples))
    np.testing.assert_allclose(app.scores(app.export.rows("test")), expected, atol=1e-5)


def test_a_run_hands_on_its_adapter(home, tmp_path):
    for train in ("lora", "lora-fa"):
        folder = export_onnx(Settings(model=str(home / train)), tmp_path / train)
        run = Run.open(home / train)
        weights = tuned_model(run).weights
        found = tensors_of(folder / "adapter/adapter_model.safetensors")
        for name in weights.names():
            if ".lora_" in name:
                np.testing.assert_array_equal(found[f"base_model.model.{name}"], weights.read(name))
        known = run.settings
        taken = [about(folder)[name] for name in ("train", "lr", "eps", "queries", "batch_size")]
        assert taken == [train, known.lr, known.eps, 1, 4]
        assert about(folder)["signatures"]["step.onnx"]["inputs"]["input_ids"]["shape"][0] == "rows"


def test_a_run_of_another_step_than_the_graph_s(home, capsys):
    run = Run.open(home / "lora")
    run.settings = run.settings.replace(estimator="one-sided", objective="accuracy")
    settings_after(run, Settings(model=str(home / "lora")))
    said = "lora has one-sided and accuracy; a graph's step is two-sided and cross-entropy\n"
    assert capsys.readouterr().err.endswith(said)


def test_a_run_whose_base_is_elsewhere(home, tmp_path):
    shutil.copytree(home / "lora", tmp_path / "run")
    shutil.copytree(home / "opt", tmp_path / "base")
    line = f"export --format onnx --model {tmp_path}/run --output {tmp_path}/app --base {tmp_path}"
    assert main([*f"{line}/base".split()]) == 0
    assert os.path.samefile(tmp_path / "app/model.safetensors", tmp_path / "base/model.safetensors")
    with pytest.raises(UsageError, match=r"--base, but .* is no run"):
        export_onnx(settings(home), tmp_path / "other", base=str(tmp_path / "base"))


def test_a_run_hands_on_to_another_task(home, tmp_path):
    given = settings(home, "lora", template="{text} It was", label_words=["terrible", "great"])
    folder = export_onnx(given.replace(label_field="mood", queries=3), tmp_path / "app")
    assert (about(folder)["task"], about(folder)["queries"]) == ("custom", 3)


@pytest.mark.parametrize(
    ("given", "error", "message"),
    [
        ({"train": "full"}, ConfigError, "--train full is not exported: an app keeps the model"),
        ({"train": "prefix"}, ConfigError, "take lora-fa or lora"),
        ({"train": "label-words"}, ConfigError, "--train label-words is not exported"),
        ({"train": "lm_head.*"}, ConfigError, r"--train lm_head\.\* is not exported"),
        (
            {"model": "{home}/full"},
            ConfigError,
            "has no adapter, but --train full\n.*tinyzo replay",
        ),
        ({"model": "{home}/lora", "lora_rank": 4}, UsageError, "the run's lora-rank is 8\n.*leave"),
        ({"model": "{home}/lora", "train": "lora-fa"}, UsageError, "the run's train is lora"),
        ({"model": "{home}/none"}, CheckpointError, "none: no such folder"),
        ({"queries": 300}, UsageError, "queries is from 1 to 255"),
        ({"task": "SST-2", "data": None}, UsageError, "--task SST-2 without --data"),
    ],
)
def test_what_is_not_exported(home, tmp_path, given, error, message):
    if "model" in given:
        given = {**given, "model": given["model"].format(home=home)}
    with pytest.raises(error, match=f"(?s){message}"):
        export_onnx(settings(home).replace(**given), tmp_path / "app")
    assert not (tmp_path / "app").exists()


@pytest.mark.parametrize("task", ["ReCoRD", "SQuAD"])
def test_a_task_without_labels(home, tmp_path, task):
    given = settings(home, "opt", task=task)
    with pytest.raises(ConfigError, match=f"{task} has no labels in common, of which an app"):
        export_onnx(given, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_more_tokens_than_the_model_has(home, tmp_path):
    with pytest.raises(UsageError, match="--tokens 65; the model has 64 positions"):
        export_onnx(settings(home), tmp_path / "app", tokens=65)


@families
def test_texts_are_cut_to_the_tokens_that_the_graphs_take(home, tmp_path, family):
    whole = open_export(export_onnx(settings(home, family), tmp_path / "whole"))
    longest = max(len(row["input_ids"]) for row in whole.rows("train"))
    folder = export_onnx(settings(home, family), tmp_path / "app", tokens=longest - 1)
    cut = open_export(folder)
    assert cut.about["max_tokens"] == longest - 1
    every = [*cut.rows("train"), *cut.rows("test")]
    assert all(len(row["input_ids"]) <= longest - 1 for row in every)


def test_a_template_that_does_not_fit_the_tokens(home, tmp_path):
    with pytest.raises(DataError, match=r"the template alone has \d+ tokens, 3 fit"):
        export_onnx(settings(home), tmp_path / "app", tokens=3)


def test_a_text_with_a_mask_of_its_own():
    """Of which the graph, which is told no place, would read the first."""
    example = Example((0, 4, 9, 4, 2), (), 3, 0, "a text")
    reading = inference.Reading("words", (7, 8), 4)
    data = inference.Data([example], [], [], "test")
    with pytest.raises(DataError, match="'a text' has a mask of its own before the template's"):
        inference.check_masks(reading, data)


KINDS = ("int4", "int8")
QUANTISED = set(zip(FAMILIES, KINDS, strict=True))


@runs_graphs
@pytest.mark.parametrize(("family", "kind"), by_default(QUANTISED, product(FAMILIES, KINDS)))
def test_a_quantised_base(home, tmp_path, family, kind):
    export.convert(home / family, tmp_path / kind, kind)
    given = settings(home).replace(model=str(tmp_path / kind))
    app = App(open_export(export_onnx(given, tmp_path / "app")), threads=1)
    found = app.scores(app.export.rows("test"))
    model = tinyzo.load(tmp_path / "app" / "adapter", engine="numpy")
    assert model.weights.dtype(model.weights.names()[0]).names == ("scale", "codes")
    resolved = given.resolve(family)
    bound = bind_task(model, resolved)
    objective = Objective(model, bound)
    batch = objective.pack(inference.load_data(bound, resolved).test)
    (expected,) = objective.scores(model.weights.view(), batch)
    np.testing.assert_allclose(found, expected, atol=1e-5)


# -- what is whole, and what is not ----------------------------------------------------------------


@pytest.mark.parametrize("taken", ["config.json", "tinyzo.json", "step.onnx", "run.toml"])
def test_a_folder_that_has_something_is_left_alone(home, tmp_path, taken):
    (tmp_path / taken).write_text("mine")
    with pytest.raises(CheckpointError, match=f"has a {taken} already\n  hint: name another"):
        export_onnx(settings(home), tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == [taken]


def test_an_adapter_that_is_there_is_left_alone(home, tmp_path):
    (tmp_path / "adapter").mkdir()
    (tmp_path / "adapter/adapter_model.safetensors").write_text("mine")
    with pytest.raises(CheckpointError, match=r"has a adapter/adapter_model\.safetensors already"):
        export_onnx(settings(home), tmp_path)
    assert (tmp_path / "adapter/adapter_model.safetensors").read_text() == "mine"


def test_an_output_that_cannot_be_made(home, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(CheckpointError, match="file/app: Not a directory"):
        export_onnx(settings(home), tmp_path / "file" / "app")


def failing(name: str, write: Callable[[Path, bytes], None]) -> Callable[[Path, bytes], None]:
    def full(path: Path, data: bytes) -> None:
        if path.name == name:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        write(path, data)

    return full


@pytest.mark.parametrize("name", ["config.json", "step.onnx", "rows.json", "adapter_config.json"])
def test_a_full_disk_leaves_nothing_that_looks_whole(home, tmp_path, monkeypatch, name):
    folder = tmp_path / "app"
    with monkeypatch.context() as patch:
        patch.setattr(export, "write_file", failing(name, export.write_file))
        with pytest.raises(CheckpointError, match=rf"{name}: No space left.*\n.*make room"):
            export_onnx(settings(home), folder)
    left = {path.name for path in folder.rglob("*") if path.is_file()}
    assert (
        left <= {"vocab.json", "merges.txt", "tinyzo.json"}
        and not (folder / "tinyzo.json").exists()
    )
    with pytest.raises(CheckpointError, match=r"no tinyzo\.json, so no whole export"):
        open_export(folder)
    with pytest.raises(TinyzoError):
        tinyzo.load(folder)
    export_onnx(settings(home), folder)
    assert open_export(folder)


def test_a_disk_that_is_full_at_the_end(home, tmp_path, monkeypatch):
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(inference, "put_in_place", full)
    with pytest.raises(CheckpointError, match=r"tinyzo\.json: No space left on device"):
        export_onnx(settings(home), tmp_path / "app")
    assert not (tmp_path / "app" / "model.safetensors").exists()


def test_an_export_that_was_killed_is_begun_anew(home, tmp_path):
    """As a process leaves it that had no time for anything."""
    folder = tmp_path / "app"
    export_onnx(settings(home), folder)
    (folder / "tinyzo.json").rename(folder / ".tinyzo.json.partial")
    with pytest.raises(CheckpointError, match="no whole export\n  hint: tinyzo export writes it"):
        open_export(folder)
    source = (home / "roberta/model.safetensors").read_bytes()
    export_onnx(settings(home, queries=1), folder)
    assert open_export(folder).about["queries"] == 1
    assert (home / "roberta/model.safetensors").read_bytes() == source


def test_two_exports_at_once(home, tmp_path):
    with (
        inference.new_folder(tmp_path / "app"),
        pytest.raises(CheckpointError, match="app: another process is writing it"),
    ):
        export_onnx(settings(home), tmp_path / "app")


# -- what an app gets ------------------------------------------------------------------------------


TASKS = {
    "roberta": ("roberta", {"task": "reviews"}),
    "opt words": ("opt", {"task": "reviews"}),
    "opt candidates": (
        "opt",
        {"template": "{text} It was", "label_words": ["great fun", "bad"], "label_field": "kind"},
    ),
    "opt gold": ("opt", {"task": "COPA"}),
}


def data_of(folder: Path, name: str) -> Path:
    """Ragged rows of a task."""
    write_reviews(folder)
    if name == "opt gold":
        for split in ("train", "validation"):
            every = [
                {
                    "premise": f"No {n}" + " more" * (n % 3),
                    "question": ("cause", "effect")[n % 2],
                    "choice1": "it was bad" * (1 + n % 2),
                    "choice2": "it was good",
                    "label": n % 2,
                }
                for n in range(12)
            ]
            write_jsonl(folder / f"{split}.jsonl", every)
        for split in ("dev", "test"):
            (folder / f"{split}.jsonl").unlink()
        return folder
    for split in ("train", "test"):
        every = [
            {"text": "No " * (1 + n % 4), "mood": row["mood"], "kind": ("great fun", "bad")[n % 2]}
            for n, row in enumerate(rows(12))
        ]
        write_jsonl(folder / f"{split}.jsonl", every)
    return folder


QUERIES = (1, 2, 4)
EACH_ONCE = set(zip(TASKS, (*QUERIES, 2), strict=True))


@runs_graphs
@pytest.mark.parametrize(("name", "queries"), by_default(EACH_ONCE, product(TASKS, QUERIES)))
def test_losses_are_those_of_the_numpy_engine(home, tmp_path, name, queries):
    family, task = TASKS[name]
    data = data_of(tmp_path / "data", name)
    given = Settings(model=str(home / family), data=str(data), queries=queries, **task)
    folder = export_onnx(
        given.replace(batch_size=5, train="lora", lora_rank=2), tmp_path / "app", 48
    )
    app = App(open_export(folder), threads=1)
    assert app.export.about["kind"] == {"roberta": "words"}.get(name, name.partition(" ")[2])
    random = np.random.RandomState(1)
    for tensor in app.tensors.values():
        tensor += random.standard_normal(tensor.shape).astype("f4") / 8
    app.save()
    model = tinyzo.load(folder / "adapter", engine="numpy")
    resolved = given.replace(method="p-rge").resolve(family)
    bound = bind_task(model, resolved)
    examples = inference.load_data(bound, resolved).train[:4]
    seeds = app.seeds(0)
    probes = [Probe(seed, sign * 0.01) for seed in seeds for sign in (1, -1)]
    expected = Objective(model, bound)(model.weights.view(probes), examples)
    before = dict(app.tensors)
    found = app.step(app.export.rows("train")[:4], seeds, lr=0.1, eps=0.01)
    np.testing.assert_allclose(found.losses.reshape(-1), expected, atol=1e-5, rtol=0)
    terms = [
        (s, -0.1 * (g / queries)) for s, g in zip(seeds, found.projected_gradients, strict=True)
    ]
    model.weights.add(terms)
    for tensor, moved in app.tensors.items():
        assert moved.tobytes() == model.weights.read(tensor).tobytes()
        assert moved.tobytes() != before[tensor].tobytes()


@runs_graphs
@pytest.mark.parametrize("family", by_default({("roberta",)}, product(FAMILIES)))
def test_sixty_steps_of_an_app_are_a_run(home, tmp_path, family):
    """The same seeds, rows and rates: B within rounding, and an adapter that everything loads."""
    given = settings(home, family, queries=2, batch_size=5, lr=1e-2, eps=1e-2, seed=9)
    folder = export_onnx(given, tmp_path / "app")
    app = App(open_export(folder), threads=1)
    every = app.export.rows("train")
    resolved = given.replace(method="p-rge").resolve(family)
    run = tinyzo.finetune(
        tmp_path / "run",
        **given.replace(method="p-rge", steps=60, engine="numpy", eval_every=60).given(),
    )
    steps = [app.step(app.batch(n, every, resolved.data_seed), app.seeds(n)) for n in range(60)]
    weights = tuned_model(run, 60).weights
    for name, tensor in app.tensors.items():
        expected = weights.read(name)
        scale = np.abs(expected).max()
        assert scale > 1e-3
        np.testing.assert_allclose(tensor, expected, atol=1e-4 * scale, rtol=0)
    journal = [term for step in read_journal(run.journal_path).steps for term in step.terms]
    assert [seed for seed, _ in journal] == [seed for n in range(60) for seed in app.seeds(n)]
    own = np.concatenate([-1e-2 / 2 * step.projected_gradients for step in steps])
    np.testing.assert_allclose(own, [c for _, c in journal], atol=1e-4 * np.abs(own).max())
    losses = [line["loss"] for line in lines(run.path / "metrics.jsonl")]
    np.testing.assert_allclose([step.losses.mean() for step in steps], losses, atol=1e-4)
    adapter = app.save()
    found = tinyzo.evaluate(adapter, "reviews", home / "data")
    scores = app.scores(app.export.rows("test"))
    gold = [row["label"] for row in app.export.rows("test")]
    assert found.accuracy == np.mean(scores.argmax(axis=1) == gold)
    assert tinyzo.predict(adapter, ["No 3, 1"], "reviews")[0].label in ("terrible", "great")
    again = App(open_export(folder), threads=1)  # the graphs still fit the file that was written
    np.testing.assert_array_equal(again.scores(app.export.rows("test")), scores)


@runs_graphs
def test_more_rows_than_a_graph_takes(home, tmp_path):
    folder = export_onnx(settings(home, batch_size=3), tmp_path / "app", tokens=40)
    app = App(open_export(folder), threads=1)
    every = app.export.rows("train")
    assert app.step(every[:2], app.seeds(0)).losses.shape == (4, 2)
    with pytest.raises(DataError, match=r"input_ids of 4 along axis 0; step.onnx takes 3"):
        app.step(every[:4], app.seeds(0))
    with pytest.raises(ConfigError, match=r"step\.onnx: ONNX Runtime refuses it: .*seeds"):
        app.step(every[:2], [1])
