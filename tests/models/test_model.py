"""What holds for every model: packing, probes, rows, types; and the verbs behind them."""

from __future__ import annotations

import math

import numpy as np
import pytest
from tiny import (
    DTYPE_NAMES,
    ENGINES,
    MODELS,
    VOCABULARY,
    EngineOf,
    Float64View,
    examples_for,
    tiny_opt,
    tiny_roberta,
    toy_task,
)

import tinyzo
from tinyzo.autodiff.adam import first_order_step
from tinyzo.dtypes import narrow, widen
from tinyzo.engine import tiles
from tinyzo.engine.numpy_engine import QUERIES, NumpyEngine, NumpyView
from tinyzo.engine.terms import Probe
from tinyzo.engine.weights import Weights
from tinyzo.errors import ConfigError, DataError
from tinyzo.text.packing import Packer, pack_candidates, pack_sequences
from tinyzo.text.tasks import Example
from tinyzo.zo.mezo import mezo_step
from tinyzo.zo.objectives import Objective

models = pytest.mark.parametrize("name", MODELS)
engines = pytest.mark.parametrize("engine", ENGINES.values(), ids=ENGINES)
# BLAS sums in another order for another shape: 32 halves of a last place of the largest value.
TOLERANCE = 32 * 2.0**-24


def random_ids(*lengths: int) -> list[list[int]]:
    draw = np.random.RandomState(5).randint
    return [draw(2, VOCABULARY, n).tolist() for n in lengths]


def close(found, expected, tolerance=TOLERANCE) -> bool:
    found, expected = np.asarray(found), np.asarray(expected)
    assert found.shape == expected.shape
    return bool(np.abs(found - expected).max() <= tolerance * np.abs(expected).max())


def log_softmax(scores: np.ndarray) -> np.ndarray:
    scores = scores.astype(np.float64)
    scores = scores - scores.max(axis=-1, keepdims=True)
    return scores - np.log(np.exp(scores).sum(axis=-1, keepdims=True))


# -- batches -----------------------------------------------------------------------------------


@models
def test_a_ragged_batch_is_its_sequences_one_by_one(name):
    model, sequences = MODELS[name](), random_ids(7, 1, 20 - 2, 4)
    for verb, width in (model.logits, VOCABULARY), (model.hidden, None):
        together = verb(sequences)
        assert [len(found) for found in together] == [7, 1, 18, 4]
        for ids, found in zip(sequences, together, strict=True):
            assert found.dtype == np.float32 and width in (None, found.shape[1])
            assert close(found, verb([ids])[0])


@pytest.mark.parametrize("config", [{}, {"do_layer_norm_before": False, "word_embed_proj_dim": 6}])
def test_candidates_that_share_a_prompt_score_as_if_each_had_its_own(config):
    model = tiny_opt(**config)
    examples = [
        Example((2, 9, 4, 7), ((5,), (6, 11), (3, 8, 8, 20)), -1, 0, ""),
        Example((2, 21), ((13, 4, 10), (5,)), -1, 1, ""),
    ]
    batch = model.check(pack_candidates(examples))
    theta = model.weights.view()
    h = model.architecture.hidden(theta, model.config, batch)
    nll = model.architecture.nll(theta, model.config, h, batch.at, batch.targets)[0]
    means = -np.add.reduceat(nll, np.cumsum(batch.lengths) - batch.lengths) / batch.lengths
    expected = []
    for example in examples:
        for candidate in example.candidates:
            n = len(example.prompt)
            (logits,) = model.logits([example.prompt + candidate])
            log_p = log_softmax(logits)[np.arange(n - 1, len(logits) - 1), candidate]
            expected.append(log_p.mean())
    assert len(batch.ids) < sum(len(e.prompt) * len(e.candidates) for e in examples)
    assert close(means, expected)


@models
def test_the_last_layer_at_some_rows_is_the_whole_layer_at_these_rows(name):
    model = MODELS[name]()
    batch = pack_sequences(random_ids(7, 1, 12))
    theta, rows = model.weights.view([Probe(3, 1e-2), Probe(3, -1e-2)]), np.array([0, 3, 7, 19])
    x = model.architecture.embed(theta, model.config, batch)
    whole = model.architecture.layer(theta, model.config, 0, x, batch)
    assert close(model.architecture.layer(theta, model.config, 0, x, batch, rows), whole[:, rows])


@engines
@models
def test_more_queries_than_one_block_are_a_direct_computation(name, engine):
    assert QUERIES < 300
    model = MODELS[name](engine=engine, max_position_embeddings=512)
    batch = model.check(pack_sequences(random_ids(300, 140)))
    found, exact = (
        np.asarray(model.architecture.hidden(theta, model.config, batch))
        for theta in (model.weights.view(), Float64View(model.weights, [Probe(0, 0.0)]))
    )
    assert found.shape == (1, 440, model.config.hidden_size if name != "opt-post" else 6)
    assert close(found, exact)


@engines
@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("rows", [None, np.r_[1:300:7, 299, 301, 306]])
def test_long_attention_with_a_parent_is_a_direct_computation(engine, causal, rows):
    packer = Packer()
    packer.segment(range(300))
    packer.segment([0])
    packer.segment(range(6), parent=0)
    batch = packer.batch()
    q, k, v = np.random.RandomState(1).standard_normal((3, 2, 307, 2, 4)).astype(np.float32)
    q = q if rows is None else q[:, rows]
    found, exact = (
        np.asarray(Weights({}, views).view().attention("a", q, k, v, batch, causal, rows))
        for views in (engine, EngineOf(Float64View))
    )
    assert close(found, exact)


@engines
def test_attention_with_scores_beyond_exp_takes_the_largest(engine):
    q = np.zeros((1, 3, 1, 4), np.float32)
    q[..., 0] = 1e4
    k, v = np.random.RandomState(1).standard_normal((2, 1, 3, 1, 4)).astype(np.float32)
    k[0, :, 0, 0] = 1, 3, 2
    batch = pack_sequences([[2, 2, 2]])
    found = np.asarray(Weights({}, engine).view().attention("a", q, k, v, batch, causal=True))
    assert np.array_equal(found, v[:, [0, 1, 1]])


# -- probes ------------------------------------------------------------------------------------


@models
def test_two_probes_are_two_models_with_perturbed_weights(name):
    model, eps, batch = MODELS[name](), 1e-2, pack_sequences(random_ids(9, 4))
    family = model.architecture

    def logits(theta) -> np.ndarray:
        h = family.hidden(theta, model.config, batch)
        return family.logits(theta, model.config, h)

    def perturbed(scale: float) -> np.ndarray:
        tensors = {}
        for tensor in model.weights.names():
            z = tinyzo.noise(7, tensor, model.weights.shape(tensor)).astype(np.float64)
            tensors[tensor] = (model.weights.read(tensor) + scale * z).astype(np.float32)
        return logits(Weights(tensors, NumpyEngine()).view())[0]

    found = logits(model.weights.view([Probe(7, eps), Probe(7, -eps)]))
    expected = np.stack([perturbed(eps), perturbed(-eps)])
    # Their weights are rounded from float64, ours after a float32 product: one last place.
    assert close(found, expected, 2 * TOLERANCE)
    assert not close(found, expected[::-1], 1000 * TOLERANCE)


@models
def test_probes_without_a_perturbation_are_computed_once(name):
    model, batch = MODELS[name](), pack_sequences(random_ids(9))
    family = model.architecture
    alone, twins = (
        family.hidden(model.weights.view(probes), model.config, batch)
        for probes in ([Probe(0, 0.0)], [Probe(1, 0.0), Probe(2, 0.0)])
    )
    assert alone.shape[0] == 1 and np.array_equal(alone, twins)


# -- types -------------------------------------------------------------------------------------


class Float32Only:
    """A view that refuses any other floating type, going in or coming out."""

    def __init__(self, view: NumpyView) -> None:
        self.view, self.verbs = view, set()

    def __getattr__(self, verb: str):
        def call(*arguments, **named):
            result = getattr(self.view, verb)(*arguments, **named)
            for array in (*arguments, *named.values(), result):
                if isinstance(array, np.ndarray) and array.dtype.kind == "f":
                    assert array.dtype == np.float32, f"{verb}: {array.dtype}"
            self.verbs.add(verb)
            return result

        return call


@models
@pytest.mark.parametrize("dtype", DTYPE_NAMES)
@pytest.mark.parametrize("scale", [0.0, 1e-3])
def test_everything_is_float32(name, dtype, scale):
    model, batch = MODELS[name](dtype), pack_sequences(random_ids(9, 4))
    family = model.architecture
    theta = Float32Only(model.weights.view([Probe(1, scale), Probe(1, -scale)]))
    h = family.hidden(theta, model.config, batch)
    assert h.dtype == np.float32
    assert family.logits(theta, model.config, h).dtype == np.float32
    assert family.logits(theta, model.config, h, np.array([3, 5])).dtype == np.float32
    at = targets = np.array([3, 5])
    assert family.nll(theta, model.config, h, at, targets).dtype == np.float32
    activation = "gelu" if name == "roberta" else "relu"
    assert theta.verbs == {"embed", "linear", "norm", "attention", activation, "scores", "nll"}


@pytest.mark.skipif(np.lib.NumpyVersion(np.__version__) < "2.0.0", reason="NumPy 1 keeps float32")
def test_a_float64_is_seen(monkeypatch):
    right = NumpyView.norm
    monkeypatch.setattr(NumpyView, "norm", lambda *given: right(*given) * np.sqrt(2 / np.pi))
    with pytest.raises(AssertionError, match="norm: float64"):
        test_everything_is_float32("roberta", "f32", 0.0)


# -- verbs -------------------------------------------------------------------------------------


@engines
@pytest.mark.parametrize("rows_per_tile", [1, 5, VOCABULARY])
@pytest.mark.parametrize("size", [1, 1000])
def test_nll_is_minus_the_log_softmax_of_the_scores(monkeypatch, engine, rows_per_tile, size):
    monkeypatch.setattr(tiles, "TILE", 8 * rows_per_tile)
    if engine.name == "numba":
        monkeypatch.setattr("tinyzo.engine.numba.engine.score_rows", lambda tokens: rows_per_tile)
    table = "roberta.embeddings.word_embeddings.weight"
    theta = tiny_roberta(engine=engine).weights.view([Probe(2, 1e-2), Probe(3, 1e-2)])
    h = size * np.random.RandomState(2).standard_normal((2, 6, 8)).astype(np.float32)
    at, targets = np.repeat(np.arange(6), VOCABULARY), np.tile(np.arange(VOCABULARY), 6)
    for bias in (None, "lm_head.bias"):
        expected = -log_softmax(theta.scores(table, h, bias=bias))[:, at, targets]
        assert close(theta.nll(table, h, at, targets, bias), expected)


@engines
def test_scores_of_some_rows_are_those_of_all(engine):
    theta = tiny_roberta(engine=engine).weights.view([Probe(2, 1e-2), Probe(3, 1e-2)])
    h, rows = np.random.RandomState(2).standard_normal((2, 6, 8)).astype(np.float32), [20, 3, 3]
    table, bias = "roberta.embeddings.word_embeddings.weight", "lm_head.bias"
    whole = theta.scores(table, h, bias=bias)
    assert whole.shape == (2, 6, VOCABULARY)
    assert close(theta.scores(table, h, np.array(rows), bias), whole[:, :, rows])


@engines
def test_gelu_is_exact_to_3e_7_of_its_argument(engine):
    tiny = np.logspace(-45, 0, 500)
    grid = np.r_[np.linspace(-12, 12, 200_001), tiny, -tiny, 0.0, 100.0, -100.0, 5.5, -5.5]
    x = grid.astype(np.float32)
    exact = [v * 0.5 * math.erfc(-v / math.sqrt(2)) for v in x.astype(np.float64).tolist()]
    found = np.asarray(Weights({}, engine).view().gelu(x.copy()))
    assert found.dtype == np.float32
    assert (np.abs(found - np.array(exact)) <= 3e-7 * np.abs(x) + 1e-45).all()
    assert not found[x == 0].any() and found[x == 100] == 100


@engines
def test_what_is_not_a_number_stays_so(engine):
    x = np.full((1, 2, 3), np.nan, np.float32)
    theta = Weights({}, engine).view()
    q, batch = np.full((1, 2, 1, 3), np.nan, np.float32), pack_sequences([[2, 2]])
    for found in (
        theta.norm("none", x, 1e-5),
        theta.attention("a", q, q, q, batch, causal=False),
        theta.gelu(x.copy()),
        theta.relu(x.copy()),
    ):
        assert np.isnan(np.asarray(found)).all()


# -- what a model refuses ----------------------------------------------------------------------


@models
@pytest.mark.parametrize(
    ("ids", "message", "hint"),
    [
        (
            [[3, VOCABULARY]],
            f"token id {VOCABULARY} is outside the vocabulary of {VOCABULARY}",
            f"ids go from 0 to {VOCABULARY - 1}; a tokenizer that",
        ),
        (
            [[3], [4, -1]],
            f"token id -1 is outside the vocabulary of {VOCABULARY}",
            f"ids go from 0 to {VOCABULARY - 1}; a tokenizer that",
        ),
        ([[3] * 21], "a sequence of 21 tokens; the model has ", "shorten the text"),
        ([[3], []], "an empty sequence", "at least one token id"),
        ([], "an empty sequence", "at least one token id"),
    ],
)
def test_tokens_beyond_the_tables_are_refused(name, ids, message, hint):
    model = MODELS[name]()
    for verb in (model.logits, model.hidden):
        with pytest.raises(DataError) as caught:
            verb(ids)
        assert message in caught.value.message and hint in caught.value.hint


@pytest.mark.parametrize(("build", "longest"), [(tiny_roberta, 18), (tiny_opt, 20)])
def test_the_longest_sequence_is_read_and_one_more_token_refused(build, longest):
    assert len(build().logits(random_ids(longest))[0]) == longest
    with pytest.raises(DataError, match=f"of {longest + 1} tokens; the model has {longest} "):
        build().logits(random_ids(longest + 1))


@pytest.mark.parametrize(
    ("choice", "message", "hint"),
    [
        ({"engine": "cuda"}, "engine 'cuda' is not built", "auto, numba, numpy, onnx"),
        ({"residency": "disk"}, "residency 'disk' is not built", "auto, resident"),
        ({"dtype": "int8"}, "dtype 'int8' is not built", "auto, f16, bf16, f32"),
    ],
)
def test_a_choice_that_is_not_built_is_refused_by_name(choice, message, hint):
    with pytest.raises(ConfigError) as caught:
        tinyzo.load("nowhere", **choice)
    assert message in caught.value.message and hint in caught.value.hint


@models
@engines
@pytest.mark.parametrize("dtype", DTYPE_NAMES)
def test_numbers_that_underflow_are_no_error_though_numpy_is_told_to_raise(name, engine, dtype):
    """A softmax of wide scores has shares that are 0; a small update of float16 a small change."""
    model = MODELS[name](dtype, engine)
    for tensor, raw in model.weights.store.tensors.items():
        if "query" in tensor or "q_proj" in tensor:
            raw[...] = narrow(np.float32(1000) * widen(raw), raw.dtype, None)
    loss = Objective(model, toy_task(model.family))
    examples = examples_for(model.family)
    with np.errstate(all="raise"):
        model.logits([[0, 5, 2, 9]])
        model.hidden([[0, 5, 2, 9]])
        mezo_step(model.weights, loss, examples, 3, 1e-3, 1e-3)
        model.weights.add([(1, 1e-45)])
        first_order_step(model.weights, loss, examples, {}, 1e-3)
