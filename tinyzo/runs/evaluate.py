"""Scores of examples under the weights as they are: accuracy, loss, predictions."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np

from tinyzo.engine.numpy_engine import present
from tinyzo.errors import NumericError
from tinyzo.runs.bounded import BoundedLoss
from tinyzo.text.packing import micro_batches
from tinyzo.text.tasks import Example


class Evaluation(NamedTuple):
    """accuracy: the share of examples whose best candidate is the gold one; loss: cross-entropy."""

    examples: int
    accuracy: float
    loss: float


def evaluate(bounded: BoundedLoss, examples: Sequence[Example]) -> Evaluation:
    """Accuracy and loss of the model on labelled examples.

    raises: NumericError when the loss is not finite
    """
    right, total = 0, 0.0
    objective = bounded.objective
    theta = objective.model.weights.view()
    for batch, scores in _scored(bounded, theta, examples):
        right += int((scores.argmax(axis=-1) == batch.labels).sum())
        total += float(theta.cross_entropy(scores[None], batch.labels, batch.counts)[0])
    loss = total / len(examples)
    if objective.bound.task.loss == "lm":
        loss = float(replace(bounded, objective=replace(objective, kind="cross-entropy"))(theta, examples)[0])
    _check(loss, len(examples))
    return Evaluation(len(examples), right / len(examples), loss)


def predict(bounded: BoundedLoss, examples: Sequence[Example]) -> Iterator[np.ndarray]:
    """The probabilities of each example's candidates, softmax of their scores: f64[C].

    raises: NumericError when a score is not finite
    """
    theta = bounded.objective.model.weights.view()
    for batch, scores in _scored(bounded, theta, examples):
        top = scores.max(axis=-1, keepdims=True)
        _check(float(top.sum()), len(batch.labels))
        odds = np.exp(scores - top)
        yield from odds / odds.sum(axis=-1, keepdims=True)


def _scored(bounded: BoundedLoss, theta: Any, examples: Sequence[Example]) -> Iterator[tuple]:
    """Each micro-batch, and the scores of its candidates: f64[B, C]."""
    objective = bounded.objective
    for batch in map(objective.pack, micro_batches(examples, bounded.max_tokens)):
        yield batch, present(objective.scores(theta, batch), batch.counts)[0]


def _check(value: float, rows: int) -> None:
    if not math.isfinite(value):
        hint = "its weights hold values that are not finite, or grew too large: try a smaller lr"
        raise NumericError(f"the model gives {value} on {rows} rows", hint)
