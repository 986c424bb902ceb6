"""Scores of examples under the weights as they are: accuracy, loss, predictions."""

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from itertools import tee
from typing import NamedTuple

import numpy as np

from tinyzo.dtypes import Integers
from tinyzo.engine.protocols import View
from tinyzo.errors import DataError, NumericError
from tinyzo.runs.bounded import BoundedLoss
from tinyzo.text.answers import best_f1, exact_match
from tinyzo.text.packing import micro_batches
from tinyzo.text.tasks import Example


class Evaluation(NamedTuple):
    """The quality of a model on labelled examples.

    accuracy: the share of examples whose best candidate is a gold one; where the model writes the
        answers, their exact_match, or None if it was not asked to
    loss:     cross-entropy, whatever objective was trained on
    f1, exact_match: the means over answers that the model wrote; None for other tasks
    """

    examples: int
    accuracy: float | None
    loss: float
    f1: float | None = None
    exact_match: float | None = None

    def record(self) -> dict[str, float | None]:
        """The fields by name, without those of another kind of task."""
        record = self._asdict()
        if self.f1 is None:
            del record["f1"], record["exact_match"]
        return record


class Scored(NamedTuple):
    """A micro-batch with its scores.

    examples: those of it
    scores: f64[B, C] of each example's candidates; -inf where an example has fewer than C
    labels: i64[B], the gold candidates; counts: i64[B], how many candidates there are
    """

    examples: Sequence[Example]
    scores: np.ndarray
    labels: Integers
    counts: Integers


def evaluate(
    bounded: BoundedLoss,
    examples: Sequence[Example],
    is_writing: bool = True,
    said: list[np.ndarray | str] | None = None,
) -> Evaluation:
    """Accuracy and loss of the model on labelled examples.

    is_writing: whether the model writes answers, where its task is that; else only the loss is made
    said: gets what the model says of each example: the scores of its candidates, f64[C], -inf
        where it has fewer; or the answer that it writes
    raises: DataError for examples without labels, or for none; NumericError when the loss is not
        finite
    """
    check_labelled(examples)
    theta = bounded.objective.model.weights.view()
    if bounded.objective.bound.task.is_generated:
        loss = _language_loss(bounded, theta, examples)
        if not is_writing:
            return Evaluation(len(examples), None, loss)
        written = list(written_answers(bounded, examples))
        if said is not None:
            said.extend(written)
        return _of_answers(examples, written, loss)
    right = 0
    total = 0.0
    for part, scores, labels, counts in scored(bounded, theta, examples):
        best = scores.argmax(axis=-1)
        right += sum(map(Example.is_right, part, best))
        if said is not None:
            said.extend(scores)
        (entropy,) = theta.cross_entropy(scores[None], labels, counts)
        total += float(entropy)
    loss = total / len(examples)
    if bounded.objective.bound.task.loss == "lm":
        loss = _language_loss(bounded, theta, examples)
    check_finite(loss, len(examples))
    return Evaluation(len(examples), right / len(examples), loss)


def _language_loss(bounded: BoundedLoss, theta: View, examples: Sequence[Example]) -> float:
    """The mean of -log p over the tokens of all gold candidates; raises NumericError."""
    objective = replace(bounded.objective, kind="cross-entropy")
    (loss,) = replace(bounded, objective=objective)(theta, examples)
    check_finite(float(loss), len(examples))
    return float(loss)


def _of_answers(examples: Sequence[Example], answers: Iterable[str], loss: float) -> Evaluation:
    scores = [
        (best_f1(answer, example.answers), exact_match(answer, example.answers))
        for answer, example in zip(answers, examples, strict=True)
    ]
    f1, matches = np.mean(scores, axis=0).tolist()
    return Evaluation(len(examples), matches, loss, f1, matches)


def written_answers(bounded: BoundedLoss, examples: Sequence[Example]) -> Iterator[str]:
    """The answer that the model writes to each example."""
    theta = bounded.objective.model.weights.view()
    return bounded.answers(theta, bounded.written(examples))


def predict(bounded: BoundedLoss, examples: Sequence[Example]) -> Iterator[np.ndarray]:
    """The probabilities of each example's candidates, softmax of their scores: f64[C].

    raises: NumericError when a score is not finite
    """
    theta = bounded.objective.model.weights.view()
    for _, scores, _, _ in scored(bounded, theta, examples):
        top = scores.max(axis=-1, keepdims=True)
        check_finite(float(top.sum()), len(scores))
        odds = np.exp(scores - top)
        yield from odds / odds.sum(axis=-1, keepdims=True)


def scored(bounded: BoundedLoss, theta: View, examples: Sequence[Example]) -> Iterator[Scored]:
    """The examples in micro-batches, with the scores of theta itself."""
    for_scores, for_labels = tee(micro_batches(examples, bounded.max_tokens))
    packed, batches = tee(map(bounded.objective.pack, for_scores))
    for part, batch, scores in zip(for_labels, packed, bounded.scores(theta, batches), strict=True):
        labels = np.array([example.label for example in part], np.int64)
        yield Scored(part, scores, labels, batch.counts)


def check_labelled(examples: Sequence[Example]) -> None:
    unlabelled = sum(example.label < 0 for example in examples)
    if unlabelled or not examples:
        found = f"accuracy and loss of {len(examples)} rows, {unlabelled} of them without a label"
        raise DataError(f"{found}, cannot be computed", "predict labels such rows")


def check_finite(value: float, rows: int) -> None:
    if not math.isfinite(value):
        hint = "tinyzo doctor finds weights that are not finite; a smaller lr keeps a run's finite"
        raise NumericError(f"the model gives {value} on {rows} rows", hint)
