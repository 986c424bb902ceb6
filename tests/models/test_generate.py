"""Sequences that grow: as transformers' greedy ones, and as whole passes over the same tokens."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from golden.compare import seeded_model
from golden.seeded import GENERATED, NEW_TOKENS
from in_groups import in_groups
from streams import PAIR, streamed
from tiny import ENGINES, MODELS, VOCABULARY, WORDS, Float64View, tiny_opt, tiny_roberta

import tinyzo
from tinyzo.engine.past import PastView, attend
from tinyzo.engine.terms import Probe
from tinyzo.errors import ConfigError, DataError, NumericError, UsageError
from tinyzo.models import generate as generating
from tinyzo.models.generate import Kept, generate, groups, newest_of, stream, whole
from tinyzo.models.model import Model
from tinyzo.models.sampling import Sampler
from tinyzo.models.trainable import train_only

GOLDEN = json.loads((Path(__file__).parents[1] / "golden" / "generated.json").read_text())
DRAWS = [0.4178560309810564, 0.7431879680370912, 0.39076960005331784, 0.4106375476112589]
engines = pytest.mark.parametrize("engine", ENGINES.values(), ids=ENGINES)
KEEPING = {name: engine for name, engine in ENGINES.items() if name != "onnx"}
keeping = pytest.mark.parametrize("engine", KEEPING.values(), ids=KEEPING)
PROMPTS = [[5, 9, 12, 3], [4], [8, 8, 2, 20, 11, 7, 6]]
NEW = 6
# A chain of float32 sums, of widths up to 29, beside another order of the same.
TOLERANCE = 16 * 2.0**-24


def followed(theta, model: Model, prompts: list[list[int]], new: list[list[int]]) -> list:
    """The scores f32[P, B, V] of each pass, if the prompts go on with these tokens."""
    sequences = [list(prompt) for prompt in prompts]
    past = PastView(
        theta, [len(prompt) + len(more) for prompt, more in zip(prompts, new, strict=True)]
    )
    found = []
    for step in range(len(new[0]) + 1):
        batch = newest_of(sequences) if step else whole(sequences)
        past.begin(batch, range(len(sequences)))
        found.append(model.scores(past, batch))
        for sequence, more in zip(sequences, new, strict=True):
            sequence += more[step : step + 1]
    return found


def used_share(model: Model, probes=None, prompts=PROMPTS) -> float:
    """The largest error of scores by what was kept, as a share of the tolerance."""
    new = np.random.RandomState(4).randint(3, VOCABULARY, (len(prompts), NEW)).tolist()
    theta = model.weights.view(probes) if probes else model.weights.view()
    worst = 0.0
    for step, found in enumerate(followed(theta, model, prompts, new)):
        batch = whole([prompt + more[:step] for prompt, more in zip(prompts, new, strict=True)])
        wanted = model.scores(theta, batch)
        assert found.shape == wanted.shape
        worst = max(worst, float(np.abs(found - wanted).max() / np.abs(wanted).max()))
    return worst / TOLERANCE


# -- as transformers


@engines
@pytest.mark.parametrize("name", GOLDEN)
def test_greedy_tokens_are_those_of_transformers(name, engine):
    golden = GOLDEN[name]
    assert golden["margin"] > 1e-5 and NEW_TOKENS >= 64  # or rounding could choose
    model = seeded_model(GENERATED[name], engine) if name in GENERATED else shipped(engine)
    assert generate(model, golden["prompts"], NEW_TOKENS) == golden["tokens"]


def shipped(engine) -> Model:
    model = tinyzo.load("opt-tiny", dtype="f32")
    model.weights.engine = engine
    return model


def test_views_of_any_kind_generate():
    wanted = generate(tiny_opt(), PROMPTS, NEW)
    model = tiny_opt(engine=FloatOnes)
    assert generate(model, PROMPTS, NEW) == wanted


class FloatOnes(Float64View):
    """The reference, of the model itself."""

    def __init__(self, weights, probes) -> None:
        super().__init__(weights, probes)
        self.probes = probes


def likeliest(model: Model, prompt: list[int]) -> list[int]:
    """What follows, by the plain logits of the text as it grows."""
    text = list(prompt)
    for _ in range(NEW):
        (logits,) = model.logits([text])
        text.append(int(logits[-1].argmax()))
    return text[len(prompt) :]


@engines
def test_each_token_is_the_likeliest(engine):
    model = tiny_opt("f32", engine)
    wanted = [likeliest(model, prompt) for prompt in PROMPTS]
    assert generate(model, PROMPTS, NEW) == wanted
    assert len({tuple(tokens) for tokens in wanted}) > 1


# -- what is kept, against passes over whole sequences


@keeping
@pytest.mark.parametrize("name", ["opt", "opt-post"])
@pytest.mark.parametrize("dtype", ["f32", "bf16", "f16"])
@pytest.mark.parametrize("probes", [None, [Probe(5, 1e-2)], PAIR])
def test_a_token_at_a_time_is_as_all_at_once(name, dtype, probes, engine, within):
    model = MODELS[name](dtype, engine, num_hidden_layers=2)
    within({"scores": used_share(model, probes)})


@keeping
@pytest.mark.parametrize("what", ["lora", "prefix", "label-words", "bias"])
@pytest.mark.parametrize("probes", [None, PAIR])
def test_with_what_is_trained_beside_it(what, probes, engine, within):
    model = tiny_opt("f32", engine, num_hidden_layers=2)
    train_only(model, what, 3, 2, 4.0, ids=WORDS)
    model.weights.add([(3, 0.5)])
    within({"scores": used_share(model, probes)})


@keeping
@pytest.mark.parametrize("kind", ["int4", "int8"])
@pytest.mark.parametrize("is_streamed", [False, True])
def test_of_quantised_matrices(kind, is_streamed, engine, tmp_path, within):
    model = in_groups(tiny_opt("f32", engine), tmp_path / "w", kind, is_streamed)
    within({"scores": used_share(model)})


@engines
@pytest.mark.parametrize("dtype", ["f32", "bf16"])
def test_weights_in_their_file_give_the_same_tokens(dtype, engine, tmp_path):
    here = tiny_opt(dtype, engine)
    here.weights.add([(3, 0.05)])
    assert generate(streamed(here, tmp_path / "w"), PROMPTS, NEW) == generate(here, PROMPTS, NEW)


@pytest.mark.parametrize("name", ["_starts", "_rows"])
def test_a_past_that_is_one_token_off_is_seen(name, monkeypatch):
    right = PastView.begin

    def begin(view, batch, numbers):
        right(view, batch, numbers)
        if not view._is_first:
            setattr(view, name, getattr(view, name) + (1 if name == "_starts" else -1))

    monkeypatch.setattr(PastView, "begin", begin)
    assert used_share(tiny_opt(), prompts=[PROMPTS[0], PROMPTS[2]]) > 10


@pytest.mark.parametrize("copies", [(1, 1, 1), (2, 1, 2), (1, 2, 2)])
def test_engines_agree_on_one_query(copies):
    random = np.random.RandomState(0)
    sizes = [(copies[0], 3, 2, 5), (copies[1], 2, 40, 5), (copies[2], 2, 40, 5)]
    q, keys, values = (random.standard_normal(size).astype(np.float32) for size in sizes)
    starts, stops = np.array([0, 1, 7]), np.array([1, 7, 40])
    wanted = attend(q, keys, values, starts, stops)
    for engine in ENGINES.values():
        view = tiny_opt("f32", engine).weights.view()
        if hasattr(view, "attend"):
            found = view.attend(q, keys, values, starts, stops)
            assert np.abs(found - wanted).max() < TOLERANCE * np.abs(values).max()
    alone = attend(q[:, 1:2], keys[:, :, 1:7], values[:, :, 1:7], np.array([0]), np.array([6]))
    assert np.array_equal(alone[:, 0], wanted[:, 1])


# -- how sequences grow and end


def test_prompts_do_not_see_each_other():
    model = tiny_opt()
    together = generate(model, PROMPTS, NEW)
    assert together == [generate(model, [prompt], NEW)[0] for prompt in PROMPTS]
    assert generate(model, [], NEW) == []


@pytest.mark.parametrize(("at_once", "read_at_once"), [(10, 2048), (8192, 5), (1, 1)])
def test_few_at_once_are_as_many(at_once, read_at_once, monkeypatch):
    wanted = generate(tiny_opt(), PROMPTS, NEW)
    monkeypatch.setattr(generating, "AT_ONCE", at_once)
    monkeypatch.setattr(generating, "READ_AT_ONCE", read_at_once)
    assert generate(tiny_opt(), PROMPTS, NEW) == wanted


def test_groups_are_as_large_as_may_be():
    assert groups([3, 4, 5, 20, 1], 9) == [[0, 1], [2], [3], [4]]
    assert groups([], 9) == []


def test_a_stop_ends_a_sequence_which_leaves_the_batch(monkeypatch):
    model = tiny_opt()
    free = generate(model, PROMPTS, NEW)
    stop = free[0][2]
    wanted = [tokens[: tokens.index(stop)] if stop in tokens else tokens for tokens in free]
    assert wanted != free
    read = []
    right = Kept.logits
    count = lambda source, part, sequences: (  # noqa: E731
        read.append(len(part)) or right(source, part, sequences)
    )
    monkeypatch.setattr(Kept, "logits", count)
    assert generate(model, PROMPTS, NEW, stop=[stop]) == wanted
    lengths = [min(len(tokens) + 1, NEW) for tokens in wanted]
    assert read == [sum(length > step for length in lengths) for step in range(max(lengths))]


def test_the_stream_says_which_token_is_the_last_and_why():
    model = tiny_opt()
    (tokens,) = generate(model, PROMPTS[:1], NEW)
    found = list(stream(model, PROMPTS[:1], NEW))
    assert [(t.sequence, t.id) for t in found] == [(0, token) for token in tokens]
    assert [t.end for t in found] == [""] * (NEW - 1) + ["length"]
    *_, last = stream(model, PROMPTS[:1], NEW, stop=[tokens[0]])
    assert last == (0, tokens[0], "stop")
    *_, last = stream(model, PROMPTS[:1], NEW, ends=lambda _, token: token == tokens[0])
    assert last == (0, tokens[0], "stop")


def test_a_view_of_one_probe_is_what_generates():
    model = tiny_opt()
    far = [Probe(5, 1.5), Probe(5, -1.5)]
    one, other = (
        generate(model, PROMPTS, NEW, theta=part) for part in model.weights.view(far).parts(1)
    )
    assert one != other
    assert one == generate(model, PROMPTS, NEW, theta=model.weights.view(far[:1]))
    with pytest.raises(UsageError, match="a view of 2 probes") as caught:
        generate(model, PROMPTS, NEW, theta=model.weights.view(far))
    assert "theta.parts" in caught.value.hint


# -- what cannot be done


def test_a_masked_language_model_is_refused_by_name():
    with pytest.raises(ConfigError, match="roberta is a masked language model") as caught:
        generate(tiny_roberta(), PROMPTS, NEW)
    assert "opt-tiny" in caught.value.hint


@pytest.mark.parametrize(
    ("prompts", "new", "error", "message"),
    [
        ([[3] * 15], 6, DataError, "a prompt of 15 tokens and 6 new ones"),
        ([[3] * 21], 1, DataError, "a sequence of 21 tokens; the model has 20 positions"),
        ([[3, 29]], 1, DataError, "token id 29 is outside the vocabulary of 29"),
        ([[3], []], 1, DataError, "an empty sequence"),
        ([[3]], 0, UsageError, "0 new tokens"),
    ],
)
def test_prompts_that_cannot_go_on(prompts, new, error, message):
    with pytest.raises(error, match=message) as caught:
        stream(tiny_opt(), prompts, new)
    assert caught.value.hint


def test_the_last_position_is_used():
    assert len(generate(tiny_opt(), [[3] * 15], 5)[0]) == 5


def test_memory_that_is_not_there(monkeypatch):
    monkeypatch.setattr(generating, "free_bytes", lambda: 1e3)
    with pytest.raises(DataError, match=r"keys and values of 30 tokens take 0\.00192 MB") as caught:
        generate(tiny_opt(), PROMPTS, NEW)
    assert "0.001 MB are free" in caught.value.hint


def test_scores_that_are_not_finite():
    model = tiny_opt()
    model.weights.stored("model.decoder.final_layer_norm.bias")[...] = np.nan
    with pytest.raises(NumericError, match="the model's scores have nan"):
        generate(model, PROMPTS, NEW)


# -- what is drawn


LOGITS = np.log(np.array([0.5, 0.05, 0.3, 0.15], np.float32))


def shares(sampler: Sampler, count: int = 4000) -> np.ndarray:
    chosen = [sampler.choose(LOGITS, 0, step) for step in range(count)]
    return np.bincount(chosen, minlength=4) / count


@pytest.mark.parametrize("temperature", [0.5, 1.0, 3.0])
def test_tokens_are_drawn_as_likely_as_they_are(temperature):
    odds = np.exp(LOGITS.astype(np.float64) / temperature)
    odds /= odds.sum()
    assert np.abs(shares(Sampler(temperature)) - odds).max() < 4 * np.sqrt(0.25 / 4000)


@pytest.mark.parametrize(
    ("top_p", "kept"), [(0.1, [0]), (0.45, [0]), (0.7, [0, 2]), (0.9, [0, 2, 3])]
)
def test_top_p_leaves_the_fewest_that_come_to_it(top_p, kept):
    sampler = Sampler(1.0, top_p)
    odds = np.exp(LOGITS.astype(np.float64))
    assert sampler.likely(odds).tolist() == kept
    found = shares(sampler)
    wanted = np.where(np.isin(np.arange(4), kept), odds, 0)
    assert np.abs(found - wanted / wanted.sum()).max() < 4 * np.sqrt(0.25 / 4000)


def test_a_low_temperature_is_greedy_and_draws_hang_on_the_seed_alone():
    model = tiny_opt()
    greedy = generate(model, PROMPTS, NEW)
    assert generate(model, PROMPTS, NEW, temperature=1e-3) == greedy
    hot = generate(model, PROMPTS, NEW, temperature=2.0, seed=1)
    assert hot == generate(model, PROMPTS, NEW, temperature=2.0, seed=1) != greedy
    assert hot != generate(model, PROMPTS, NEW, temperature=2.0, seed=2)
    assert hot[:1] == generate(model, PROMPTS[:1], NEW, temperature=2.0, seed=1)
    assert generate(model, PROMPTS, NEW, temperature=2.0, top_p=1e-6) == greedy


def test_draws_are_the_same_on_every_machine():
    draws = [Sampler(seed=seed).draw(3, step) for seed in (0, 7) for step in (0, 1)]
    assert draws == DRAWS


@pytest.mark.parametrize(
    ("choices", "message"),
    [
        ({"temperature": -1.0}, "temperature -1.0"),
        ({"temperature": float("nan")}, "temperature nan"),
        ({"temperature": float("inf")}, "temperature inf"),
        ({"top_p": 0.0}, "top-p 0.0"),
        ({"top_p": 1.1}, "top-p 1.1"),
    ],
)
def test_choices_out_of_range(choices, message):
    with pytest.raises(UsageError, match=message) as caught:
        Sampler(**choices)
    assert caught.value.hint
    with pytest.raises(ConfigError, match="seed -1 is out of range"):
        Sampler(seed=-1)
