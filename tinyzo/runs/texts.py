"""Texts that a model continues: tokens are text here, as they come or whole."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from tinyzo.errors import DataError
from tinyzo.models.generate import check, stream
from tinyzo.models.model import Model
from tinyzo.models.sampling import Sampler
from tinyzo.text.writing import Writing

NEW_TOKENS = 50  # unless more or fewer are asked for


@dataclass(frozen=True)
class Continuation:
    """What a model makes of a prompt.

    text:   what follows the prompt
    ids:    of the new tokens, all of them
    tokens: how many these are
    end:    "stop": by the model's end of a text, or a text to stop at; "length": by their number
    """

    prompt: str
    text: str
    ids: list[int]
    tokens: int
    end: str


class Piece(NamedTuple):
    """What a token adds to a prompt's continuation; `end` with the last one, as Continuation's.

    text: letters, which may be none; id: of the token
    """

    prompt: int
    text: str
    end: str
    id: int


def continuations(
    model: Model,
    prompts: Sequence[str],
    max_new_tokens: int,
    stop: Sequence[str],
    sampler: Sampler,
) -> Iterator[Continuation]:
    """What follows each prompt, in their order, each as soon as it and those before are whole."""
    texts = ["" for _ in prompts]
    ids: list[list[int]] = [[] for _ in prompts]
    ends = ["" for _ in prompts]
    done = 0
    for number, text, end, token in pieces(model, prompts, max_new_tokens, stop, sampler):
        texts[number] += text
        ids[number].append(token)
        ends[number] = end
        while done < len(prompts) and ends[done]:
            new = ids[done]
            yield Continuation(prompts[done], texts[done], new, len(new), ends[done])
            done += 1


def pieces(
    model: Model,
    prompts: Sequence[str],
    max_new_tokens: int,
    stop: Sequence[str],
    sampler: Sampler,
) -> Iterator[Piece]:
    """What each token adds to a prompt's continuation, as it comes.

    A prompt begins with the tokenizer's bos, as in transformers.
    raises: as models.generate.stream; DataError for one text where a list of them belongs;
        UsageError for a stop that is empty
    """
    if isinstance(prompts, str):
        raise DataError("prompts is a str", "generate takes a list of texts")
    check(model, [], max_new_tokens)
    tokenizer = model.tokenizer
    ids = [[tokenizer.bos_id, *tokenizer.encode(prompt)] for prompt in prompts]
    writings = [Writing(tokenizer, stop) for _ in prompts]
    eos = [tokenizer.eos_id]
    ends = lambda number, token: writings[number].add(token)  # noqa: E731
    for number, token, end in stream(model, ids, max_new_tokens, eos, None, sampler, ends):
        if end:
            writings[number].finish()
        yield Piece(number, writings[number].take(), end, token)
