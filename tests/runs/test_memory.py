"""What is planned against what is measured, in processes of their own."""

from __future__ import annotations

import json
import math
import re
from itertools import cycle, product
from typing import Any, NamedTuple

import numpy as np
import pytest
from folders import python, rows, shell, write_jsonl, write_model, write_tensors, write_vocabulary

from tinyzo.engine.numba.sizes import BLOCK, score_rows
from tinyzo.engine.numpy_engine import QUERIES, NumpyEngine
from tinyzo.engine.past import past_bytes
from tinyzo.engine.weights import Weights
from tinyzo.errors import ConfigError, UsageError
from tinyzo.machine.memory import STATUS
from tinyzo.models.generate import AT_ONCE
from tinyzo.models.model import MODELS, open_model
from tinyzo.models.roberta import Config
from tinyzo.models.trainable import train_only
from tinyzo.runs import memory
from tinyzo.runs.settings import Settings, parse_bytes

SHARE = 0.15  # measured when this was written: 0.5 to 8 %
needs_proc = pytest.mark.skipif(not STATUS.exists(), reason="no /proc to read the peak from")


class Measured(NamedTuple):
    """What a run planned to hold and what it held, in bytes, and what it says of itself."""

    parts: list[int]
    planned: int
    peak: int
    result: dict[str, Any]


def measure(process) -> Measured:
    output, log = process.communicate()
    assert process.returncode == 0, log
    result = json.loads(output)
    plan = re.search("memory plan: .*", log)[0]
    *parts, planned = (int(size) << 20 for size in re.findall(r" (\d+) MB", plan))
    peak = result["peak_bytes"]
    print(f"planned {planned / 1e6:.0f} MB, held {peak / 1e6:.0f} MB")
    return Measured(parts, planned, peak, result)


# -- what a run holds

OPTIONS = {
    "default": (),
    "large batch": ("--batch-size", "120"),
    "float32": ("--batch-size", "2", "--dtype", "f32"),
    "numpy": ("--engine", "numpy"),
    "streamed": ("--residency", "streamed"),
    "streamed numpy": ("--residency", "streamed", "--engine", "numpy"),
    "backpropagation": ("--method", "adam"),
    "backpropagation, streamed": (
        *("--method", "lora-adam", "--residency", "streamed", "--batch-size", "64"),
    ),
    "quantised": ("--base-dtype", "int4", "--train", "lora-fa"),
    "quantised, streamed": (
        *("--base-dtype", "int8", "--train", "lora-fa", "--residency", "streamed"),
    ),
}
ONNX_OPTIONS = {  # what is planned besides: whether pages of the model's file are
    "lora-fa": (("--train", "lora-fa", "--batch-size", "64"), True),
    "full": (("--batch-size", "8"), False),
}
MODEL_OF = dict(zip(OPTIONS, cycle(["roberta-tiny", "opt-tiny"]), strict=False))


def check_plan(home, model, options):
    """A run of two steps holds what it planned, whose parts add up."""
    options = "--model", model, "--steps", "2", "--output", "run", "--json", *OPTIONS[options]
    found = measure(shell("finetune", *options, cwd=home))
    assert found.planned == pytest.approx(found.peak, rel=SHARE)
    assert sum(found.parts) == pytest.approx(found.planned, abs=3 << 20)  # each is rounded


FIRST = ("default", "streamed numpy", "backpropagation", "quantised")  # the others are exhaustive
REST = [name for name in OPTIONS if name not in FIRST]


@needs_proc
@pytest.mark.parametrize(
    "options", [*FIRST, *(pytest.param(name, marks=pytest.mark.exhaustive) for name in REST)]
)
def test_the_plan_is_what_a_run_then_holds(tmp_path, options):
    check_plan(tmp_path, MODEL_OF[options], options)


@needs_proc
@pytest.mark.exhaustive
@pytest.mark.parametrize("options", OPTIONS)
def test_the_plan_of_the_other_model(tmp_path, options):
    check_plan(tmp_path, ({"roberta-tiny", "opt-tiny"} - {MODEL_OF[options]}).pop(), options)


@needs_proc
@pytest.mark.exhaustive
def test_micro_batches_bound_the_peak(tmp_path):
    """A batch of 1,500 tokens at once or in parts; the parts need little more than one."""
    data = write_jsonl(tmp_path / "rows.jsonl", rows(200))

    def peak(tokens):
        return measure(shell(
            "finetune", "--task", "reviews", "--data", data, "--steps", "1", "--batch-size", "100",
            "--limit", "1", "--eval-every", "9", "--micro-batch-tokens", tokens, "--json",
            "--output", tokens, cwd=tmp_path,
        )).peak  # fmt: skip

    assert peak("4096") - peak("150") > 10 << 20


@needs_proc
@pytest.mark.exhaustive
@pytest.mark.parametrize("options", ["lora-fa", "full"])
def test_the_plan_of_a_run_by_onnx_runtime(tmp_path, options):
    """What is not anonymous memory is said apart."""
    pytest.importorskip("onnxruntime", reason="ONNX Runtime is not here")
    given, is_mapped = ONNX_OPTIONS[options]
    given = "--model", "opt-tiny", "--steps", "2", "--output", "run", "--json", *given
    process = shell("finetune", "--engine", "onnx", *given, cwd=tmp_path)
    output, log = process.communicate()
    assert process.returncode == 0, log
    plan = re.search("memory plan: onnx, .*", log)[0]
    assert ("mapped" in plan) is is_mapped
    planned, anonymous = map(int, re.search(r"total (\d+) MB \((\d+) MB without", plan).groups())
    peak = json.loads(output)["peak_bytes"] / 2**20
    print(f"planned {planned} MB, of it anonymous {anonymous} MB, held {peak:.0f} MB")
    assert planned == pytest.approx(peak, rel=SHARE)
    assert 0 < anonymous < planned


PASSAGE = "It was a long day, and nobody knew the way. "
QUESTIONS = {  # many candidates on one passage, answers that are written, and one of two words
    "ReCoRD": {
        "passage": PASSAGE * 8,
        "query": "In the end only @placeholder was there, and nobody else knew the way home",
        "entities": [f"Ann {n}" for n in range(20)],
        "answers": ["Ann 3"],
    },
    "SQuAD": {
        "title": "A day",
        "context": PASSAGE * 6,
        "question": "Who knew the way?",
        "answers": {"text": ["nobody"]},
    },
    "MultiRC": {
        "paragraph": PASSAGE * 8,
        "question": "Who knew the way?",
        "answer": "nobody",
        "label": 1,
    },
}


SOMETIMES = [
    pytest.param(*each, marks=pytest.mark.exhaustive)
    for each in product(QUESTIONS, (30, 90), ("numba", "numpy"))
    if each != ("ReCoRD", 30, "numba")
]


@needs_proc
@pytest.mark.parametrize(("name", "count", "engine"), [("ReCoRD", 30, "numba"), *SOMETIMES])
def test_the_plan_of_long_passages(tmp_path, name, count, engine):
    """What a step trains on, what an evaluation scores, and what it writes."""
    data = write_jsonl(tmp_path / "rows.jsonl", [QUESTIONS[name]] * count)
    found = measure(shell(
        "finetune", "--model", "opt-tiny", "--task", name, "--data", data, "--steps", "1",
        "--batch-size", "8", "--json", "--output", "run", "--engine", engine, cwd=tmp_path,
    ))  # fmt: skip
    assert found.planned == pytest.approx(found.peak, rel=SHARE)


# -- what is planned


def settings(**given):
    """Those of a model that does not ship."""
    return Settings(model="model", **given).resolve("opt")


def parts(model, engine, *load, **given):
    """The first plan of an engine."""
    chosen = settings(engine=engine, residency="resident", **given)
    return next(memory.plans(model, chosen, [memory.Load(*load)])).parts


@pytest.fixture
def model(tmp_path):
    return open_model(write_model(tmp_path / "model", "opt"))


def test_parts_grow_as_they_should(model, monkeypatch):
    base, wide, both = (parts(model, "numpy", *n) for n in ((64, 8, 1), (128, 8, 1), (64, 8, 2)))
    assert base.keys() == {"interpreter", "weights", "tiles", "activations"}
    assert base["weights"] == model.weights.nbytes()
    assert base["activations"] < wide["activations"] < 2 * base["activations"]
    assert both["activations"] == 2 * base["activations"]
    long, longer = (parts(model, "numpy", 512, n, 1)["activations"] for n in (QUERIES, 2 * QUERIES))
    heads = model.config.num_attention_heads
    assert longer - long == 4 * 2 * heads * QUERIES * QUERIES  # scores of one block of queries
    one, two = (parts(model, "numba", 512, 8, 2, threads=n)["tiles"] for n in (1, 2))
    assert two > one
    adam, size = parts(model, "numpy", 64, 8, 2, True), model.weights.nbytes()
    layers, width = model.config.num_hidden_layers, model.config.hidden_size
    layer = 5 * width + model.config.feed_forward_size + 8 * heads
    piece = model.weights.elements([model.architecture.TOKENS])  # all of it, as small as it is
    assert adam["backward"] == size + 4 * (64 * (layers * width + layer) + piece)  # f32


def test_what_is_written_is_kept(model):
    """Of 16 wide and 2 layers; four times a micro-batch, or the longest text."""

    def written(tokens, longest, most=64):
        load = memory.Load(tokens, longest, 1, targets=4, is_written=True)
        chosen = settings(engine="numpy", residency="resident", micro_batch_tokens=most)
        return next(memory.plans(model, chosen, [load])).parts

    for most, kept in ((64, 256), (8, 60)):
        planned = written(640, 60, most)["past"]
        assert planned == past_bytes(2, 16, kept) == 8 * 2 * 16 * kept
    assert written(153, 51)["past"] == past_bytes(2, 16, 153)
    assert written(1 << 20, 51, 1 << 20)["past"] == past_bytes(2, 16, AT_ONCE)
    assert written(9000, 51, 9000)["activations"] == written(8000, 51, 9000)["activations"]
    assert "past" not in parts(model, "numpy", 64, 10, 1)


def test_scores_of_a_vocabulary_are_planned(model, monkeypatch):
    """Two parts of it for each target, or all of it where a text is written."""
    words, width = model.weights.shape("model.decoder.embed_tokens.weight")

    def activations(engine, **about):
        load = memory.Load(64, 8, 2, **about)
        chosen = settings(engine=engine, residency="resident")
        return next(memory.plans(model, chosen, [load])).parts["activations"]

    left = 4 * 64 * width
    assert activations("numba", targets=64) == 4 * 2 * (left + 64 * words)
    assert activations("numpy", targets=64) == 4 * 2 * (left + 64 * words)
    monkeypatch.setattr(memory, "score_rows", {128: 40, 122: 50}.get)
    assert activations("numba", targets=64) == 4 * 2 * (left + 64 * 80)
    assert activations("numba", targets=99, share=0.95) == 4 * 2 * (left + 61 * 100)
    monkeypatch.setattr(memory, "score_rows", lambda rows: 1)
    assert activations("numba", targets=64, is_written=True) == 4 * 2 * (left + 64 * words)
    assert activations("numba") == activations("numba", targets=99, share=0.0)


@pytest.mark.parametrize(
    ("tokens", "words"),
    [(0, 4096), (1, 4096), (1024, 4096), (1025, 3968), (3000, 1280), (1 << 20, 128)],
)
def test_scores_at_once_are_bounded(tokens, words):
    """16 MB of them, but of as many words as a thread takes at once."""
    assert score_rows(tokens) == words and words % BLOCK == 0


def onnx_plan(model, *load, **given):
    pytest.importorskip("onnxruntime", reason="ONNX Runtime is not here")
    return memory.choose(model, settings(engine="onnx", **given), [memory.Load(*load)])


def test_a_file_that_is_mapped_is_no_anonymous_memory(model, monkeypatch):
    monkeypatch.setattr(memory, "resident_bytes", lambda: 60 << 20)
    monkeypatch.setattr(memory, "status_bytes", {"RssFile": 20 << 20}.get)
    size = model.weights.nbytes()
    full = onnx_plan(model, 64, 8, 2)
    assert full.residency == "resident" and full.parts["weights"] == size
    train_only(model, "lora-fa", 0, 2, 4.0)
    beside = onnx_plan(model, 64, 8, 2)
    assert beside.residency == "streamed" and beside.parts["mapped"] == size
    files = beside.parts["mapped"] + beside.parts["libraries"]
    assert beside.anonymous == beside.total - files
    ending = rf" \({beside.anonymous / 2**20:.0f} MB without pages of files\)$"
    assert re.search(ending, str(beside))
    least = math.ceil(beside.anonymous / 1e6)
    assert onnx_plan(model, 64, 8, 2, memory_budget=f"{least}MB") == beside


def test_a_graph_s_copies_are_planned(tmp_path):
    """Of 16-bit matrices, of logits of the vocabulary, and of z."""
    model, narrow = (
        open_model(write_model(tmp_path / dtype, "opt", dtype)) for dtype in ("f32", "bf16")
    )
    z = onnx_plan(model, 64, 8, 4).parts["copies"]
    assert onnx_plan(model, 64, 8, 2).parts["copies"] == z // 2
    for each in (model, narrow):
        train_only(each, "bias", 0, 2, 4.0)
    none, floats = (onnx_plan(each, 64, 8, 2).parts["copies"] for each in (model, narrow))
    width, wide = model.config.hidden_size, model.config.feed_forward_size
    assert none < floats == 4 * 2 * width * (wide + width) + memory.GAPS_BYTES
    assert onnx_plan(model, 64, 8, 2, False, 16).parts["copies"] > 32 << 20


def test_a_plan_that_onnx_runtime_cannot_hold_is_refused(model):
    with pytest.raises(UsageError, match=r"cannot train them there\n.*resident"):
        onnx_plan(model, 64, 8, 2, residency="streamed")


def test_onnx_is_no_engine_of_auto(model):
    assert {plan.engine for plan in memory.plans(model, settings(), [memory.Load(9, 9, 2)])} <= {
        "numba",
        "numpy",
    }


def test_micro_batches_bound_what_is_planned(model):
    eight, sixty_four, small = (
        parts(model, "numpy", tokens, 64, 2, micro_batch_tokens=most)["activations"]
        for tokens, most in ((8 * 64, 512), (64 * 64, 512), (64 * 64, 128))
    )
    assert eight == sixty_four > small


def test_a_budget_chooses_the_fastest_plan_that_fits(model, monkeypatch):
    monkeypatch.setattr(memory, "may_have_numba", lambda: True)
    monkeypatch.setattr(memory, "resident_bytes", lambda: 40 << 20)
    loads = [memory.Load(4096, 64, 2), memory.Load(100, 64, 1)]
    every = list(memory.plans(model, settings(), loads))
    assert [(p.engine, p.residency) for p in every[::4]] == [
        ("numba", "resident"), ("numba", "streamed"), ("numpy", "resident"), ("numpy", "streamed")
    ]  # fmt: skip
    assert memory.choose(model, settings(), loads) == every[0]
    for plan in every:
        chosen = memory.choose(model, settings(memory_budget=f"{plan.total}"), loads)
        assert chosen.total <= plan.total and every.index(chosen) <= every.index(plan)
    least = min(plan.total for plan in every)
    least_mb = math.ceil(least / 1e6 + memory.SPARE_MB)
    smallest = rf"budget 40MB is too small\n.*the smallest that fits is {least_mb}MB$"
    with pytest.raises(ConfigError, match=smallest):
        memory.choose(model, settings(memory_budget="40MB"), loads)
    assert memory.choose(model, settings(memory_budget=f"{least / 1e6 + 1}MB"), loads)


def test_a_resumed_run_keeps_its_micro_batches(model):
    chosen = settings(memory_budget="900MB", micro_batch_tokens=300)
    every = memory.plans(model, chosen, [memory.Load(9, 9, 2)], is_fixed=True)
    assert {plan.micro_batch_tokens for plan in every} == {300}


def test_without_a_budget_weights_that_take_half_the_memory_stay_in_their_file(model, monkeypatch):
    for free, where in ((1 << 40, "resident"), (1 << 20, "streamed")):
        monkeypatch.setattr(memory, "free_bytes", lambda free=free: free)
        plan = memory.choose(model, settings(engine="numpy"), [memory.Load(64, 8, 2)])
        assert (plan.residency, plan.micro_batch_tokens) == (where, 512)


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("400MB", 400e6),
        ("1.5G", 1.5e9),
        ("256MiB", 256 << 20),
        ("7", 7),
        ("30 kb", 30_000),
        ("2TB", 2e12),
    ],
)
def test_sizes(text, size):
    assert parse_bytes(text) == size


@pytest.mark.parametrize("text", ["", "MB", "4 Z", "-1GB", "1e9", "nan"])
def test_what_is_no_size(text):
    with pytest.raises(UsageError, match=r"a size such as 400MB or 1\.5GB"):
        parse_bytes(text)


# -- the end of a run


def write_roberta(directory, **config):
    """A checkpoint of real shapes, in bfloat16."""
    directory.mkdir()
    write_vocabulary(directory)
    config |= {"max_position_embeddings": 514, "layer_norm_eps": 1e-5}
    shapes = MODELS["roberta"].shapes(Config(**config))
    tensors = {name: np.zeros(shape, np.uint16) for name, shape in shapes}
    Weights(tensors, NumpyEngine()).add([(1, 0.02)])
    write_tensors(directory / "model.safetensors", tensors)
    (directory / "config.json").write_text(json.dumps(config | {"model_type": "roberta"}))
    return directory


BEST_IS = """
import sys
from tinyzo.cli import main
from tinyzo.runs.run import Run
best = int(sys.argv[1])
Run.best_step = lambda run: best
sys.exit(main(sys.argv[2:]))
"""


def measure_run(model, home, where, best):
    """A run of two steps, of which one is declared to be the best."""
    data = write_jsonl(home / "rows.jsonl", rows(40))
    found = measure(python(
        "-c", BEST_IS, best, "finetune", "--model", model, "--task", "reviews", "--data", data,
        "--steps", "2", "--batch-size", "8", "--limit", "8", "--residency", where, "--json",
        "--output", home / "run",
    ))  # fmt: skip
    assert found.result["best_step"] == best
    return found


@pytest.fixture(scope="module")
def sixty_megabytes(tmp_path_factory):
    home = tmp_path_factory.mktemp("model")
    return write_roberta(home / "model", vocab_size=20_000, num_hidden_layers=2)


ENDS = [("resident", 1), ("streamed", 0)]
OTHER_ENDS = [end for end in product(("resident", "streamed"), range(3)) if end not in ENDS]


@needs_proc
@pytest.mark.parametrize(
    ("where", "best"),
    [*ENDS, *(pytest.param(*end, marks=pytest.mark.exhaustive) for end in OTHER_ENDS)],
)
def test_the_end_of_a_run_is_within_its_plan(sixty_megabytes, tmp_path, where, best):
    """Whichever step is the best, its weights take the place of the last step's."""
    found = measure_run(sixty_megabytes, tmp_path, where, best)
    assert found.peak <= found.planned + (20 << 20)


ANONYMOUS = """
import json, sys, threading, time
from tinyzo.cli import main
from tinyzo.machine.memory import status_bytes
most = 0
def watch():
    global most
    while True:
        most = max(most, status_bytes("RssAnon"))
        time.sleep(0.001)
threading.Thread(target=watch, daemon=True).start()
status = main(sys.argv[1:])
print(json.dumps(most), file=sys.stderr)
sys.exit(status)
"""


@needs_proc
def test_the_plan_of_a_middle_shape_by_onnx_runtime(tmp_path):
    """Pages of the file, and what is anonymous, each by itself.

    The table is as small as the vocabulary of the texts: of a larger one, the plan counts as many
    rows as texts of so many tokens have words, and these texts have a dozen.
    """
    pytest.importorskip("onnxruntime", reason="ONNX Runtime is not here")
    model = write_roberta(tmp_path / "model", vocab_size=512, num_hidden_layers=4)
    data = write_jsonl(tmp_path / "rows.jsonl", rows(40))
    process = python(
        "-c", ANONYMOUS, "finetune", "--model", model, "--task", "reviews",
        "--data", data, "--steps", "2", "--batch-size", "8", "--limit", "8", "--json",
        "--engine", "onnx", "--method", "p-rge", "--output", tmp_path / "run",
    )  # fmt: skip
    output, log = process.communicate()
    assert process.returncode == 0, log
    held = int(log.split()[-1]) / 2**20
    planned, anonymous = map(int, re.search(r"total (\d+) MB \((\d+) MB without", log).groups())
    peak = json.loads(output)["peak_bytes"] / 2**20
    print(f"planned {planned} and {anonymous} MB, held {peak:.0f} and {held:.0f} MB")
    assert planned == pytest.approx(peak, rel=SHARE)
    assert anonymous == pytest.approx(held, rel=SHARE)


@needs_proc
@pytest.mark.exhaustive
@pytest.mark.parametrize("where", ["resident", "streamed"])
def test_the_plan_of_a_roberta_base(tmp_path, where):
    """125 million parameters."""
    model = write_roberta(tmp_path / "base", vocab_size=50_265)
    found = measure_run(model, tmp_path, where, best=1)
    assert abs(found.planned - found.peak) < min(SHARE * found.peak, 20 << 20)
