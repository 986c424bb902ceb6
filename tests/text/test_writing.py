"""Tokens to text as they come: whole letters, and nothing of what a stop begins with."""

from __future__ import annotations

import pytest
from folders import write_vocabulary
from hypothesis import given
from hypothesis import strategies as st

from tinyzo.errors import UsageError
from tinyzo.text.tokenizer import Tokenizer, load_tokenizer
from tinyzo.text.writing import Writing


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory) -> Tokenizer:
    """A vocabulary of bytes and a few words, so that most letters are several tokens."""
    folder = tmp_path_factory.mktemp("tokenizer")
    write_vocabulary(folder)
    (folder / "config.json").write_text('{"model_type": "opt"}')
    return load_tokenizer(folder)


def written(tokenizer: Tokenizer, ids: list[int], stop: tuple[str, ...] = ()) -> list[str]:
    """What can be taken after each token, up to the one that ends the text."""
    writing = Writing(tokenizer, stop)
    taken = []
    for place, token in enumerate(ids):
        is_end = writing.add(token)
        if is_end or place == len(ids) - 1:
            writing.finish()
        taken.append(writing.take())
        if is_end:
            break
    assert "".join(taken) == writing.text
    return taken


def test_ids_are_their_bytes(tokenizer):
    for text in ("No 1", " great", "größer 😀\n", "日本"):
        ids = tokenizer.encode(text)
        assert b"".join(map(tokenizer.bytes_of, ids)) == text.encode()
    assert tokenizer.bytes_of(tokenizer.eos_id) == b""
    assert tokenizer.bytes_of(10**9) == b""


def test_a_letter_comes_when_it_is_whole(tokenizer):
    assert written(tokenizer, tokenizer.encode("a😀ö")) == ["a", "", "", "", "😀", "", "ö"]


def test_half_a_letter_at_the_end(tokenizer):
    ids = tokenizer.encode("a😀")[:-1]
    assert written(tokenizer, ids) == ["a", "", "", "\ufffd"]
    assert written(tokenizer, [*ids[1:2], *tokenizer.encode("b")]) == ["", "\ufffdb"]


def test_a_stop_across_tokens_is_held_back_and_left_out(tokenizer):
    ids = tokenizer.encode("ab##\n\ncd")
    assert written(tokenizer, ids, ("\n\nc",)) == ["a", "b", "#", "#", "", "", ""]
    assert written(tokenizer, ids, ("##\n\nx",)) == ["a", "b", "", "", "", "", "##\n\nc", "d"]


def test_the_first_of_several_stops_counts(tokenizer):
    assert "".join(written(tokenizer, tokenizer.encode("a.b!c"), ("!", "."))) == "a"


def test_a_stop_within_a_token(tokenizer):
    (great,) = tokenizer.encode(" great")
    assert written(tokenizer, [great], ("ea",)) == [" gr"]


def test_what_might_have_been_a_stop_comes_at_the_end(tokenizer):
    assert "".join(written(tokenizer, tokenizer.encode("ab\n"), ("\n\n",))) == "ab\n"


def test_an_empty_stop_is_refused(tokenizer):
    with pytest.raises(UsageError, match="a text that stops is empty") as caught:
        Writing(tokenizer, ["a", ""])
    assert caught.value.hint


LETTERS = "ab\n😀"  # each a token or more


@given(
    text=st.text(LETTERS, max_size=12),
    stop=st.lists(st.text(LETTERS, min_size=1, max_size=3)),
)
def test_a_text_goes_to_the_stop_that_is_whole_first(text, stop):
    (tokenizer,) = SMALL
    found = "".join(written(tokenizer, tokenizer.encode(text), tuple(stop)))
    spans = [(text.find(each) + len(each), text.find(each)) for each in stop if each in text]
    first_end = min(spans, default=(0, 0))[0]
    starts = [start for end, start in spans if end == first_end]
    assert found == text[: min(starts, default=len(text))]


SMALL: list[Tokenizer] = []


@pytest.fixture(scope="module", autouse=True)
def small(tokenizer):
    SMALL.append(tokenizer)
