"""What a batch costs: one loss for each probe, from the scores of each example's candidates.

    classification   -log softmax(s)[gold],  s_c = the label word's logit (RoBERTa)
                                             s_c = mean log p of candidate c's tokens (OPT)
    lm               -mean log p over the gold candidates' tokens of the batch (OPT)
    accuracy         the share of examples whose best candidate is not the gold one
    f1               1 - macro F1 over the labels,  F1 = 2 TP / (gold + predicted)

The last two have no derivative, which a zeroth-order method does not need (Malladi et al. 2023,
section 3.3). Sums are float64 over float32 scores, since a projected gradient is a small difference
of two losses. Memory is bounded by whoever calls: runs/bounded.py.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tinyzo.batch import Batch
from tinyzo.dtypes import Integers
from tinyzo.engine.numpy_engine import present
from tinyzo.engine.protocols import View
from tinyzo.models.model import Model
from tinyzo.text.packing import pack_candidates, pack_masks
from tinyzo.text.tasks import BoundTask, Example

Float64 = NDArray[np.float64]
OBJECTIVES = ("cross-entropy", "accuracy", "f1")


@dataclass(frozen=True)
class Objective:
    """The loss of a task on a model: objective(view, examples) -> f64[P].

    bound: the task with the model's vocabulary
    kind:  cross-entropy (classification or lm, as the task says), accuracy or f1
    """

    model: Model
    bound: BoundTask
    kind: str = "cross-entropy"

    def __call__(self, theta: View, examples: Sequence[Example]) -> Float64:
        return self.mean(self.sums(theta, examples), self.count(examples))

    @property
    def is_lm(self) -> bool:
        """Whether it is the language-model loss, which reads the gold candidate alone."""
        return self.kind == "cross-entropy" and self.bound.task.loss == "lm"

    # -- a batch may come in parts: sums of each, added up, then the mean

    def sums(self, theta: View, examples: Sequence[Example]) -> Float64:
        """The part of some examples: their losses, f64[P], or how often each label is taken for
        each other, f64[P, gold, predicted]."""
        batch = self.pack(examples, gold_only=self.is_lm)
        if self.is_lm:
            return self.token_nll(theta, batch).sum(axis=-1)
        scores = self.scores(theta, batch)
        if self.kind == "cross-entropy":
            return theta.cross_entropy(scores, batch.labels, batch.counts)
        return self.confusion(scores, batch)

    def count(self, examples: Sequence[Example]) -> int:
        """The divisor of the sum: examples, or target tokens of a language model."""
        if not self.is_lm:
            return len(examples)
        return sum(len(example.candidates[example.label]) for example in examples)

    def mean(self, sums: Float64, count: int) -> Float64:
        """The loss of each probe, from the sums and the count of the whole batch."""
        return sums / count if self.kind == "cross-entropy" else self.errors(sums)

    # -- scores of candidates

    def pack(self, examples: Sequence[Example], gold_only: bool = False) -> Batch:
        """The examples as a batch that fits the model.

        gold_only: without the candidates that a language-model loss does not read
        raises: DataError when a token id or a length is beyond the model's tables
        """
        if self.bound.task.family == "roberta":
            return self.model.check(pack_masks(examples, self.bound.label_word_ids))
        return self.model.check(pack_candidates(examples, gold_only))

    def scores(self, theta: View, batch: Batch) -> Float64:
        """Each example's candidates: f64[P, B, C]; where an example has fewer than C, anything.

        Up to a number that all candidates of an example share: where each has one token, that is
        the sum over the vocabulary in log p, which is then not computed.
        """
        if batch.words.size:
            return self.word_scores(theta, batch, batch.words)
        if batch.lengths.max() == 1:
            words, column = np.unique(batch.targets, return_inverse=True)
            means = self.word_scores(theta, batch, words)[:, batch.at, column]
        else:
            starts = np.cumsum(batch.lengths) - batch.lengths
            sums = np.add.reduceat(self.token_nll(theta, batch), starts, axis=-1)
            means = -sums / batch.lengths
        first = np.cumsum(batch.counts) - batch.counts  # of each example's candidates
        within = np.minimum(np.arange(batch.counts.max()), batch.counts[:, None] - 1)
        return means[:, first[:, None] + within]

    def word_scores(self, theta: View, batch: Batch, words: Integers) -> Float64:
        """The logits of some words at each token that the batch reads: f64[P, M, R]."""
        architecture, config = self.model.architecture, self.model.config
        h = architecture.hidden(theta, config, batch)
        return architecture.logits(theta, config, h, words).astype(np.float64)

    def token_nll(self, theta: View, batch: Batch) -> Float64:
        """-log p of each target token: f64[P, K]."""
        architecture, config = self.model.architecture, self.model.config
        h = architecture.hidden(theta, config, batch)
        return architecture.nll(theta, config, h, batch.at, batch.targets).astype(np.float64)

    # -- objectives without a derivative

    def confusion(self, scores: Float64, batch: Batch) -> Float64:
        """How often each label is taken for each other: f64[P, gold, predicted]."""
        predicted = present(scores, batch.counts).argmax(axis=-1)
        labels = np.eye(max(len(self.bound.task.words), scores.shape[-1]))
        return labels[batch.labels].T @ labels[predicted]

    def errors(self, confusion: Float64) -> Float64:
        """1 - accuracy or 1 - F1 of each probe."""
        right = np.diagonal(confusion, axis1=1, axis2=2)
        if self.kind == "accuracy":
            return 1 - right.sum(axis=-1) / confusion.sum(axis=(1, 2))
        gold_and_predicted = confusion.sum(axis=1) + confusion.sum(axis=2)
        f1 = 2 * right / np.maximum(gold_and_predicted, 1)
        return 1 - f1.sum(axis=-1) / (gold_and_predicted > 0).sum(axis=-1)
