"""Scores of examples under the weights as they are: accuracy, loss, predictions."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from tinyzo.text.batches import micro_batches
from tinyzo.text.tasks import Example
from tinyzo.zo.objectives import Objective, cross_entropy


@dataclass(frozen=True)
class Evaluation:
    """accuracy: the share of examples whose best candidate is the gold one; loss: as trained on."""

    examples: int
    accuracy: float
    loss: float


def evaluate(objective: Objective, examples: Sequence[Example]) -> Evaluation:
    """Accuracy and loss of the model on labelled examples."""
    right, total = 0, 0.0
    theta = objective.model.weights.view()
    for part in micro_batches(examples, objective.max_tokens):
        batch = objective.pack(part)
        scores = objective.scores(theta, batch)
        right += int((scores[0].argmax(axis=-1) == batch.labels).sum())
        total += float(cross_entropy(scores, batch.labels)[0])
    loss = total / len(examples)
    if objective.bound.task.loss == "lm":
        loss = float(objective(theta, examples)[0])
    return Evaluation(len(examples), right / len(examples), loss)


def predict(objective: Objective, examples: Sequence[Example]) -> Iterator[np.ndarray]:
    """The probabilities of each example's candidates, softmax of their scores: f64[C]."""
    theta = objective.model.weights.view()
    for part in micro_batches(examples, objective.max_tokens):
        scores = objective.scores(theta, objective.pack(part))[0]
        odds = np.exp(scores - scores.max(axis=-1, keepdims=True))
        yield from odds / odds.sum(axis=-1, keepdims=True)
