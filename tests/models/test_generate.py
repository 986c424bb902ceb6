"""Greedy generation, against the plain logits of each text as it grows."""

from __future__ import annotations

import pytest
from tiny import ENGINES, MODELS

from tinyzo.engine.terms import Probe
from tinyzo.errors import DataError
from tinyzo.models.generate import generate

PROMPTS = [[0, 5, 7], [0, 9], [0, 3, 4, 11, 12]]


def by_logits(model, prompt, count):
    text = list(prompt)
    for _ in range(count):
        (logits,) = model.logits([text])
        text.append(int(logits[-1].argmax()))
    return text[len(prompt) :]


@pytest.mark.parametrize("engine", ENGINES.values(), ids=ENGINES)
def test_each_token_is_the_likeliest(engine):
    model = MODELS["opt"]("f32", engine)
    wanted = [by_logits(model, prompt, 6) for prompt in PROMPTS]
    assert generate(model, PROMPTS, 6) == wanted
    assert len({tuple(tokens) for tokens in wanted}) > 1
    assert generate(model, [], 6) == []


def test_a_text_ends_before_the_token_that_stops_it_alone():
    model = MODELS["opt"]()
    whole = generate(model, PROMPTS, 6)
    stop = whole[0][2]
    found = generate(model, PROMPTS, 6, stop=[stop])
    for tokens, text in zip(whole, found, strict=True):
        end = tokens.index(stop) if stop in tokens else 6
        assert text == tokens[:end]
    assert len(found[0]) <= 2


def test_a_view_writes_as_it_is_perturbed():
    model = MODELS["opt"]()
    view = model.weights.view([Probe(5, 1.5)])
    found = generate(model, PROMPTS, 6, theta=view)
    assert found != generate(model, PROMPTS, 6)
    assert found == generate(model, PROMPTS, 6, theta=model.weights.view([Probe(5, 1.5)]))


def test_prompts_that_are_too_long_or_empty_are_refused():
    model = MODELS["opt"]()
    with pytest.raises(DataError, match="a sequence of 21 tokens; the model has 20 positions"):
        generate(model, [[5] * 18], 4)
    with pytest.raises(DataError, match="an empty sequence"):
        generate(model, [[]], 1)
