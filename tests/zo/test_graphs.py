"""A step as a graph, on tiny models: its losses, its gradients, and every bit that it adds."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
from tiny import MODELS, POSITIONS, WORDS, examples_for, tiny_opt, tiny_roberta, toy_task

from tinyzo.engine.numpy_engine import NumpyEngine
from tinyzo.engine.onnx.graph import Graph
from tinyzo.engine.onnx.protobuf import External
from tinyzo.engine.onnx.tensors import Floats, Tensor
from tinyzo.engine.terms import Probe
from tinyzo.engine.weights import Weights
from tinyzo.models import opt, roberta
from tinyzo.models.model import Model
from tinyzo.models.trainable import train_only
from tinyzo.text.tasks import BoundTask, Example
from tinyzo.zo import graphs
from tinyzo.zo.graphs import CANDIDATES, GOLD, NEXT, Reading, Sizes, Written
from tinyzo.zo.objectives import Objective

onnxruntime = pytest.importorskip("onnxruntime", reason="it runs the graphs")
MASK = 1
SEEDS = [3, 1 << 63, 7, (1 << 64) - 1]
EPS, LR = 1e-2, 0.3
NAN = float("nan")
BARE = {"enable_bias": False, "layer_norm_elementwise_affine": False}


class Case(NamedTuple):
    """A model with an adapter, a task, and what a graph asks of its rows."""

    model: Model
    bound: BoundTask
    reading: Reading
    examples: list[Example]


def masked(example: Example) -> Example:
    """A prompt of RoBERTa's with one mask."""
    ids = [MASK if at == example.mask_at else token for at, token in enumerate(example.prompt)]
    return replace(example, prompt=tuple(ids))


def of_words(example: Example) -> Example:
    return replace(example, candidates=tuple((word,) for word in WORDS))


def case(name: str, what: str = "lora-fa", **config: Any) -> Case:
    """NAME is a model, and for OPT the kind of reading."""
    family, _, kind = name.partition(" ")
    make = {"roberta": tiny_roberta, "opt": tiny_opt}.get(family, MODELS.get(family))
    model = make("f32", NumpyEngine(), **config)
    train_only(model, what, seed=5, rank=2, alpha=6.0)
    random = np.random.RandomState(1)
    for tensor in model.weights.trained:
        model.weights.stored(tensor)[...] += random.standard_normal(model.weights.shape(tensor)) / 4
    if family == "roberta":
        examples = [masked(example) for example in examples_for("roberta", 5)]
        return Case(model, toy_task("roberta"), Reading("words", tuple(WORDS), MASK), examples)
    examples = examples_for("opt", 5)
    if kind == "words":
        examples = [of_words(example) for example in examples]
        return Case(model, toy_task("opt"), Reading("words", tuple(WORDS)), examples)
    loss = "lm" if kind == GOLD else "classification"
    return Case(model, toy_task("opt", loss), Reading(kind), examples)


CASES = ["roberta", "opt words", "opt candidates", "opt gold", "opt-post candidates"]


def stored_of(model: Model):
    def stored(graph: Graph, name: str) -> Tensor:
        return Floats(graph.constant(model.weights.read(name)), is_wide=True)

    return stored


def step_of(case: Case, queries: int, sizes: Sizes | None = None) -> Written:
    sizes = sizes or Sizes(queries)
    return graphs.step_graph(case.model, case.reading, sizes, stored_of(case.model), {})


def eval_of(case: Case) -> Written:
    scored = Reading(CANDIDATES) if case.reading.kind == GOLD else case.reading
    return graphs.eval_graph(case.model, scored, Sizes(1), stored_of(case.model), {})


def run(written: Written, given: dict[str, Any]) -> dict[str, np.ndarray]:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 4
    session = onnxruntime.InferenceSession(written.data, options)
    assert [each.name for each in session.get_inputs()] == [each.name for each in written.inputs]
    names = [each.name for each in written.outputs]
    return dict(zip(names, session.run(names, given), strict=True))


# -- rows as an app has them -----------------------------------------------------------------------


class Row(NamedTuple):
    ids: list[int]
    targets: list[int]


def rows_of(case: Case, gold_only: bool) -> list[Row]:
    if case.reading.kind == "words":
        return [Row([*e.prompt], [0] * len(e.prompt)) for e in case.examples]
    rows = []
    for example in case.examples:
        chosen = example.candidates
        if gold_only:
            chosen = (chosen[example.label],)
        for candidate in chosen:
            targets = [0] * len(example.prompt) + [1] * len(candidate)
            rows.append(Row([*example.prompt, *candidate], targets))
    return rows


def inputs(
    case: Case, side: str = "right", gold_only: bool | None = None, tokens: int = POSITIONS
) -> dict[str, np.ndarray]:
    """Rows of any side, filled up with what would be seen if it were read."""
    if gold_only is None:
        gold_only = case.reading.kind == GOLD
    rows = rows_of(case, gold_only)
    random = np.random.RandomState(2)
    ids = random.randint(2, 29, (len(rows), tokens))
    ids[:, ::3] = MASK
    mask = np.zeros_like(ids)
    targets = random.randint(0, 2, ids.shape)
    for at, row in enumerate(rows):
        start = {"right": 0, "left": tokens - len(row.ids), "middle": 1}[side]
        place = slice(start, start + len(row.ids))
        ids[at, place], mask[at, place], targets[at, place] = row.ids, 1, row.targets
    given = {"input_ids": ids, "attention_mask": mask}
    return given if case.reading.kind == "words" else {**given, "targets": targets}


def trained(case: Case) -> dict[str, np.ndarray]:
    return {name: case.model.weights.read(name) for name in case.model.weights.trained}


def step_inputs(case: Case, queries: int, side: str = "right") -> dict[str, Any]:
    given = inputs(case, side) | trained(case)
    given |= {"seeds": np.array(SEEDS[:queries], np.uint64).view(np.int64), "lr": np.array(LR)}
    given["eps"] = np.array(EPS)
    if case.reading.kind != GOLD:
        given["labels"] = np.array([example.label for example in case.examples])
    return given


def expected(case: Case, queries: int) -> np.ndarray:
    """The losses by the NumPy engine: f64[q, 2]."""
    probes = [Probe(seed, sign * EPS) for seed in SEEDS[:queries] for sign in (1, -1)]
    loss = Objective(case.model, case.bound)
    return loss(case.model.weights.view(probes), case.examples).reshape(queries, 2)


# -- tests -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("queries", [1, 2, 4])
@pytest.mark.parametrize("name", CASES)
def test_losses_and_gradients(name, queries):
    made = case(name)
    found = run(step_of(made, queries), step_inputs(made, queries))
    assert found["losses"].dtype == np.float64
    np.testing.assert_allclose(found["losses"], expected(made, queries), atol=1e-5, rtol=0)
    plus, minus = found["losses"].T
    np.testing.assert_array_equal(found["projected_gradients"], (plus - minus) / (2 * EPS))


@pytest.mark.parametrize("what", ["lora-fa", "lora"])
@pytest.mark.parametrize("name", ["roberta", "opt candidates"])
def test_what_it_adds_is_what_a_fold_adds_bit_for_bit(name, what):
    made = case(name, what)
    before = trained(made)
    found = run(step_of(made, 4), step_inputs(made, 4))
    coefficients = [-LR * (float(g) / 4) for g in found["projected_gradients"]]
    made.model.weights.add(list(zip(SEEDS, coefficients, strict=True)))
    after = trained(made)
    assert (len(after) == 4) == (what == "lora")
    for name, tensor in after.items():
        assert not np.array_equal(tensor, before[name])
        assert found[name + NEXT].tobytes() == tensor.tobytes()


@pytest.mark.parametrize(
    ("name", "config"),
    [
        ("opt words", BARE),
        ("opt candidates", BARE | {"activation_function": "gelu"}),
        ("opt candidates", {"do_layer_norm_before": False, "num_hidden_layers": 2}),
        ("opt gold", {"_remove_final_layer_norm": True, "num_hidden_layers": 2}),
        ("roberta", {"num_hidden_layers": 3}),
    ],
)
def test_models_that_are_built_otherwise(name, config):
    made = case(name, "lora", **config)
    found = run(step_of(made, 2), step_inputs(made, 2))
    np.testing.assert_allclose(found["losses"], expected(made, 2), atol=1e-5, rtol=0)


@pytest.mark.parametrize("side", ["left", "middle"])
@pytest.mark.parametrize("name", CASES)
def test_filling_on_any_side_counts_for_nothing(name, side):
    made = case(name)
    graph = step_of(made, 1)
    right = run(graph, step_inputs(made, 1))["losses"]
    found = run(graph, step_inputs(made, 1, side))["losses"]
    np.testing.assert_allclose(found, right, atol=2e-6, rtol=0)


@pytest.mark.parametrize("name", CASES)
def test_scores(name):
    made = case(name)
    found = run(eval_of(made), inputs(made, gold_only=False) | trained(made))["scores"]
    loss = Objective(made.model, made.bound)
    batch = loss.pack(made.examples)
    (scores,) = loss.scores(made.model.weights.view([Probe(0, 0.0)]), batch)
    found = found.reshape(scores.shape)
    np.testing.assert_allclose(found, scores, atol=1e-5)


@pytest.mark.parametrize("name", CASES)
def test_a_batch_that_is_filled_up_with_examples_of_no_label(name):
    """Rows that are nothing but filling, which a graph of a fixed size cannot do without."""
    made = case(name)
    whole = step_inputs(made, 1)
    count = len(whole["input_ids"]) + 6
    labels = len(made.examples) + (6 if made.reading.kind == "words" else 2)
    graph = step_of(made, 1, Sizes(1, labels, count, POSITIONS))
    given = dict(whole)
    for field in ("input_ids", "attention_mask", "targets"):
        if field in whole:
            given[field] = np.concatenate([whole[field], np.zeros((6, POSITIONS), np.int64)])
    if "labels" in whole:
        more = np.full(labels - len(made.examples), -1)
        given["labels"] = np.concatenate([whole["labels"], more])
    found = run(graph, given)["losses"]
    np.testing.assert_allclose(found, expected(made, 1), atol=1e-5, rtol=0)
    with pytest.raises(Exception, match="Got invalid dimensions for input"):
        run(graph, whole)


# -- what cannot be asked --------------------------------------------------------------------------


def without(given: dict[str, Any], field: str, row: int, value: int = 0) -> dict[str, Any]:
    changed = given[field].copy()
    changed[row] = value
    return {**given, field: changed}


def test_a_row_without_the_mask_token_is_nan():
    made = case("roberta")
    given = step_inputs(made, 1)
    ids = given["input_ids"]
    given["input_ids"] = np.where((ids == MASK) & (np.arange(5)[:, None] == 2), 9, ids)
    found = run(step_of(made, 1), given)
    assert np.isnan(found["losses"]).all() and np.isnan(found["projected_gradients"]).all()
    fields = {each.name for each in eval_of(made).inputs}
    scores = run(eval_of(made), {name: given[name] for name in fields})["scores"]
    assert np.isnan(scores).all(axis=1).tolist() == [False, False, True, False, False]


def test_of_two_mask_tokens_the_first_is_read():
    made = case("roberta")
    given = step_inputs(made, 1)
    given["input_ids"][3, len(made.examples[3].prompt) - 1] = MASK
    prompt = (*made.examples[3].prompt[:-1], MASK)
    made.examples[3] = replace(made.examples[3], prompt=prompt)
    assert made.examples[3].mask_at < len(prompt) - 1
    found = run(step_of(made, 1), given)["losses"]
    np.testing.assert_allclose(found, expected(made, 1), atol=1e-5, rtol=0)


@pytest.mark.parametrize("name", CASES)
def test_an_empty_row_of_an_example_is_nan(name):
    made = case(name)
    found = run(step_of(made, 1), without(step_inputs(made, 1), "attention_mask", 1))["losses"]
    if made.reading.kind == GOLD:  # of whose tokens the others are the mean
        del made.examples[1]
        np.testing.assert_allclose(found, expected(made, 1), atol=1e-5, rtol=0)
    else:
        assert np.isnan(found).all()


@pytest.mark.parametrize("name", ["opt candidates", "opt gold"])
def test_a_target_that_begins_its_row_is_none(name):
    made = case(name)
    given = step_inputs(made, 1)
    given["targets"][:, 0] = 1
    found = run(step_of(made, 1), given)["losses"]
    np.testing.assert_allclose(found, expected(made, 1), atol=1e-5, rtol=0)


def test_a_batch_without_examples_or_without_targets_is_nan():
    made = case("opt words")
    given = step_inputs(made, 1)
    given["labels"][...] = -1
    assert np.isnan(run(step_of(made, 1), given)["losses"]).all()
    made = case("opt gold")
    given = step_inputs(made, 1)
    given["targets"][...] = 0
    assert np.isnan(run(step_of(made, 1), given)["losses"]).all()


def long_rows(given: dict[str, Any]) -> dict[str, Any]:
    """Rows of one token more than there are positions."""
    rows = len(given["input_ids"])
    fields = given.keys() & {"input_ids", "targets"}
    longer = {field: np.tile(given[field], 2)[:, : POSITIONS + 1] for field in fields}
    return {**longer, "attention_mask": np.ones((rows, POSITIONS + 1), np.int64)}


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("roberta", lambda given: {"labels": given["labels"][:-1]}),
        ("opt candidates", lambda given: {"labels": given["labels"][:-1]}),
        ("opt words", lambda given: {"labels": given["labels"] + 3}),
        ("roberta", lambda given: {"attention_mask": given["attention_mask"] * 0}),
        ("roberta", lambda given: {"input_ids": given["input_ids"] + 1000}),
        ("roberta", lambda given: {"seeds": given["seeds"][:1]}),
        ("roberta", lambda given: long_rows(given)),
        ("opt candidates", lambda given: long_rows(given)),
    ],
)
def test_inputs_that_the_runtime_refuses(name, change):
    made = case(name)
    given = step_inputs(made, 2)
    graph = step_of(made, 2)
    run(graph, given)
    with pytest.raises(Exception, match="ONNXRuntimeError"):
        run(graph, given | change(given))


# -- the files -------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", CASES)
def test_the_onnx_package_finds_no_fault(name):
    onnx = pytest.importorskip("onnx", reason="its checker is the oracle")
    made = case(name, "lora")
    rows = 15 if made.reading.kind == CANDIDATES else 5
    fixed = Sizes(2, 5, rows, POSITIONS)
    for written in (step_of(made, 2), step_of(made, 2, fixed), eval_of(made)):
        onnx.checker.check_model(written.data, full_check=True)
        inferred = onnx.shape_inference.infer_shapes(
            onnx.load_from_string(written.data), check_type=True, strict_mode=True, data_prop=True
        )
        assert len(inferred.graph.output) == len(written.outputs)


@pytest.mark.parametrize("name", CASES)
def test_the_reference_evaluator_takes_the_same_step(name):
    """Which computes node by node, by what the standard says of each."""
    onnx = pytest.importorskip("onnx", reason="its evaluator is the oracle")
    reference = pytest.importorskip("onnx.reference", reason="its evaluator is the oracle")
    made = case(name, "lora")
    written = step_of(made, 2)
    names = [each.name for each in written.outputs]
    with np.errstate(over="ignore", invalid="ignore"):
        evaluator = reference.ReferenceEvaluator(onnx.load_from_string(written.data))
        found = dict(zip(names, evaluator.run(names, step_inputs(made, 2)), strict=True))
    np.testing.assert_allclose(found["losses"], expected(made, 2), atol=1e-5, rtol=0)
    coefficients = [-LR * (float(g) / 2) for g in found["projected_gradients"]]
    made.model.weights.add(list(zip(SEEDS[:2], coefficients, strict=True)))
    for tensor, after in trained(made).items():
        assert found[tensor + NEXT].tobytes() == after.tobytes()


def of_size(family: str, **config: Any) -> Model:
    """A model of a published size, whose numbers take no memory: each tensor is one 0."""
    architecture = {"roberta": roberta, "opt": opt}[family]
    settings = architecture.Config(**config)
    zero = np.zeros((), np.float32)
    tensors = {name: np.broadcast_to(zero, shape) for name, shape in architecture.shapes(settings)}
    return Model(family, settings, Weights(tensors, NumpyEngine()), Path("none"))


LARGE = {
    "roberta": {
        "vocab_size": 50265, "hidden_size": 1024, "num_hidden_layers": 24,
        "num_attention_heads": 16, "intermediate_size": 4096, "max_position_embeddings": 514,
        "type_vocab_size": 1,
    },
    "opt": {
        "vocab_size": 50272, "hidden_size": 2048, "num_hidden_layers": 24,
        "num_attention_heads": 32, "ffn_dim": 8192, "max_position_embeddings": 2048,
        "word_embed_proj_dim": 2048,
    },
}  # fmt: skip


@pytest.mark.parametrize("family", LARGE)
def test_the_graph_of_a_large_model_is_under_a_megabyte(family):
    model = of_size(family, **LARGE[family])
    train_only(model, "lora", seed=0, rank=8, alpha=16.0)
    weights = model.weights

    def stored(graph: Graph, name: str) -> Tensor:
        place = External(name, 1, weights.shape(name), "model.safetensors", 8, 4)
        return Floats(graph.stored(place), is_wide=True)

    reading = Reading("words", (1, 2), 4) if family == "roberta" else Reading(CANDIDATES)
    written = graphs.step_graph(model, reading, Sizes(4), stored, {})
    assert len(weights.trained) == 2 * 2 * 24
    print(len(written.data))
    assert 50_000 < len(written.data) < 1_000_000
