"""Scores of examples under the weights as they are: accuracy, loss, predictions."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np

from tinyzo.dtypes import Integers
from tinyzo.engine.numpy_engine import present
from tinyzo.engine.protocols import View
from tinyzo.errors import DataError, NumericError
from tinyzo.runs.bounded import BoundedLoss
from tinyzo.text.packing import micro_batches
from tinyzo.text.tasks import Example


class Evaluation(NamedTuple):
    """The quality of a model on labelled examples.

    accuracy: the share of examples whose best candidate is the gold one
    loss:     cross-entropy, whatever objective was trained on
    """

    examples: int
    accuracy: float
    loss: float


class Scored(NamedTuple):
    """A micro-batch with its scores.

    scores: f64[B, C] of each example's candidates; -inf where an example has fewer than C
    labels: i64[B], the gold candidates; counts: i64[B], how many candidates there are
    """

    scores: np.ndarray
    labels: Integers
    counts: Integers


def evaluate(
    bounded: BoundedLoss, examples: Sequence[Example], kept: list[np.ndarray] | None = None
) -> Evaluation:
    """Accuracy and loss of the model on labelled examples.

    kept: gets the scores of each example, f64[C], -inf where it has fewer candidates
    raises: DataError for examples without labels, or for none; NumericError when the loss is not
        finite
    """
    _check_labelled(examples)
    theta = bounded.objective.model.weights.view()
    right = 0
    total = 0.0
    for scores, labels, counts in _scored(bounded, theta, examples):
        best = scores.argmax(axis=-1)
        right += int((best == labels).sum())
        if kept is not None:
            kept.extend(scores)
        (entropy,) = theta.cross_entropy(scores[None], labels, counts)
        total += float(entropy)
    loss = total / len(examples)
    if bounded.objective.bound.task.loss == "lm":
        objective = replace(bounded.objective, kind="cross-entropy")
        (mean,) = replace(bounded, objective=objective)(theta, examples)
        loss = float(mean)
    _check_finite(loss, len(examples))
    return Evaluation(len(examples), right / len(examples), loss)


def predict(bounded: BoundedLoss, examples: Sequence[Example]) -> Iterator[np.ndarray]:
    """The probabilities of each example's candidates, softmax of their scores: f64[C].

    raises: NumericError when a score is not finite
    """
    theta = bounded.objective.model.weights.view()
    for scores, _, _ in _scored(bounded, theta, examples):
        top = scores.max(axis=-1, keepdims=True)
        _check_finite(float(top.sum()), len(scores))
        odds = np.exp(scores - top)
        yield from odds / odds.sum(axis=-1, keepdims=True)


def _scored(bounded: BoundedLoss, theta: View, examples: Sequence[Example]) -> Iterator[Scored]:
    """The examples in micro-batches, with the scores of theta itself."""
    objective = bounded.objective
    for part in micro_batches(examples, bounded.max_tokens):
        batch = objective.pack(part)
        labels = np.array([example.label for example in part], np.int64)
        scores = present(objective.scores(theta, batch), batch.counts)
        yield Scored(scores[0], labels, batch.counts)


def _check_labelled(examples: Sequence[Example]) -> None:
    unlabelled = sum(example.label < 0 for example in examples)
    if unlabelled or not examples:
        found = f"accuracy and loss of {len(examples)} rows, {unlabelled} of them without a label"
        raise DataError(f"{found}, cannot be computed", "predict labels such rows")


def _check_finite(value: float, rows: int) -> None:
    if not math.isfinite(value):
        hint = "tinyzo doctor finds weights that are not finite; a smaller lr keeps a run's finite"
        raise NumericError(f"the model gives {value} on {rows} rows", hint)
