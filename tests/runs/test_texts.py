"""Texts that a model continues: `tinyzo.generate`, and the pieces that it is made of."""

from __future__ import annotations

from pathlib import Path

import pytest
from folders import finetune, write_model, write_reviews

import tinyzo
from tinyzo.errors import ConfigError, DataError, UsageError
from tinyzo.models.generate import generate
from tinyzo.models.sampling import Sampler
from tinyzo.runs import report
from tinyzo.runs.texts import continuations, pieces

PROMPTS = ["No 1", "größer 😀", ""]


@pytest.fixture(scope="module")
def home(tmp_path_factory) -> Path:
    home = tmp_path_factory.mktemp("home")
    write_model(home / "opt", "opt")
    write_model(home / "roberta")
    write_reviews(home / "data")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(report, "plot", lambda path: "not drawn")
        assert finetune(home / "opt", home / "data", home / "run", "--lr", "1e-2") == 0
    return home


def test_text_is_what_the_tokens_are(home):
    model = tinyzo.load(home / "opt")
    tokenizer = model.tokenizer
    ids = [[tokenizer.bos_id, *tokenizer.encode(prompt)] for prompt in PROMPTS]
    tokens = generate(model, ids, 8, [tokenizer.eos_id])
    found = tinyzo.generate(model, PROMPTS, 8)
    assert [each.prompt for each in found] == PROMPTS
    for each, new in zip(found, tokens, strict=True):
        text = b"".join(map(tokenizer.bytes_of, new)).decode(errors="replace")
        assert each.text == text
        assert (each.tokens, each.end) == (8, "length") or each.end == "stop"
        assert each.tokens == len(each.ids)


def test_a_run_a_folder_and_a_model_are_the_same(home):
    by_path = tinyzo.generate(home / "run", PROMPTS, 4, engine="numpy")
    assert by_path == tinyzo.generate(tinyzo.load(home / "run", "numpy"), PROMPTS, 4)
    assert len(tinyzo.generate("opt-tiny", ["The camera"], 2)[0].text) > 2


def test_a_stop_is_left_out_and_said(home):
    (free,) = tinyzo.generate(home / "opt", PROMPTS[:1], 8)
    letter = free.text[2]
    (found,) = tinyzo.generate(home / "opt", PROMPTS[:1], 8, stop=[letter])
    assert found.text == free.text[: free.text.index(letter)]
    assert found.end == "stop" and found.tokens <= 8


def test_the_models_end_ends_a_text(home):
    (found,) = tinyzo.generate("opt-tiny", ["The best thing about this movie is"], 40)
    assert found.end == "stop" and found.tokens < 40 and "</s>" not in found.text


def test_draws_follow_the_seed(home):
    model = tinyzo.load(home / "opt")
    how = {"max_new_tokens": 6, "temperature": 1.5, "top_p": 0.9}
    once, again = (tinyzo.generate(model, PROMPTS, **how, seed=1) for _ in range(2))
    assert once == again != tinyzo.generate(model, PROMPTS, **how, seed=2)


def test_continuations_come_in_the_order_of_prompts(home):
    model = tinyzo.load(home / "opt")
    given = (model, PROMPTS, 5, (), Sampler())
    assert [each.prompt for each in continuations(*given)] == PROMPTS
    text = dict.fromkeys(range(3), "")
    for piece in pieces(*given):
        text[piece.prompt] += piece.text
    assert [text[i] for i in range(3)] == [each.text for each in continuations(*given)]


@pytest.mark.parametrize(
    ("choices", "error", "message"),
    [
        ({"prompts": "The camera"}, DataError, "prompts is a str"),
        ({"max_new_tokens": 0}, UsageError, "0 new tokens"),
        ({"max_new_tokens": 64}, DataError, "a prompt of 4 tokens and 64 new ones"),
        ({"stop": [""]}, UsageError, "a text that stops is empty"),
        ({"temperature": -1}, UsageError, "temperature -1"),
        ({"base": "x"}, UsageError, "--base, but"),
        ({"engine": "numpy"}, UsageError, "engine 'numpy', but the model is open already"),
    ],
)
def test_what_cannot_be_done(home, choices, error, message):
    model = tinyzo.load(home / "opt")
    with pytest.raises(error, match=message) as caught:
        tinyzo.generate(model, **{"prompts": PROMPTS[:1]} | choices)
    assert caught.value.hint


def test_a_masked_language_model(home):
    with pytest.raises(ConfigError, match="roberta is a masked language model"):
        tinyzo.generate(home / "roberta", PROMPTS)
