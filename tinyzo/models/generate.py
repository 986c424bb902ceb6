"""Greedy generation: the likeliest token after each prompt, again and again."""

from collections.abc import Sequence
from dataclasses import replace

from tinyzo.engine.protocols import View
from tinyzo.models.model import Model
from tinyzo.text.packing import pack_sequences


def generate(
    model: Model,
    prompts: Sequence[Sequence[int]],
    max_new_tokens: int,
    stop: Sequence[int] = (),
    theta: View | None = None,
) -> list[list[int]]:
    """The tokens that continue each prompt, all prompts in one pass a token.

    stop:    tokens that end a text, and are not in it
    theta:   a view of one probe; None: the weights as they are
    returns: at most max_new_tokens of each
    raises:  DataError for a prompt that is empty, or that grows beyond the model's positions
    """
    theta = theta or model.weights.view()
    texts = [list(prompt) for prompt in prompts]
    going = texts
    for _ in range(max_new_tokens):
        if not going:
            break
        batch = model.check(pack_sequences(going))
        last = replace(batch, read=batch.starts[1:] - 1)
        best = model.scores(theta, last)[0].argmax(axis=-1).tolist()
        pairs = zip(going, best, strict=True)
        going = []
        for text, token in pairs:
            if token not in stop:
                text.append(token)
                going.append(text)
    return [text[len(prompt) :] for text, prompt in zip(texts, prompts, strict=True)]
