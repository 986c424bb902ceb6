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
from typing import Any

import numpy as np

from tinyzo.batch import Batch
from tinyzo.engine.numpy_engine import present
from tinyzo.engine.protocols import View
from tinyzo.models.model import Model
from tinyzo.text.packing import pack_candidates, pack_masks
from tinyzo.text.tasks import BoundTask, Example


@dataclass(frozen=True)
class Objective:
    """The loss of a task on a model: objective(view, examples) -> f64[P].

    bound: the task with the model's vocabulary
    kind:  cross-entropy (classification or lm, as the task says), accuracy or f1
    """

    model: Model
    bound: BoundTask
    kind: str = "cross-entropy"

    def __call__(self, theta: View, examples: Sequence[Example]) -> np.ndarray:
        return self.mean(self.sums(theta, examples), self.count(examples))

    @property
    def is_lm(self) -> bool:
        """Whether it is the language-model loss, which reads the gold candidate alone."""
        return self.kind == "cross-entropy" and self.bound.task.loss == "lm"

    def sums(self, theta: View, examples: Sequence[Example]) -> np.ndarray:
        """What adds up over the parts of a batch: losses, f64[P], or how often a label is taken
        for another, f64[P, gold, predicted]."""
        batch = self.pack(examples, gold_only=self.is_lm)
        if self.is_lm:
            return self.token_nll(theta, batch).sum(axis=-1)
        scores = self.scores(theta, batch)
        if self.kind == "cross-entropy":
            return theta.cross_entropy(scores, batch.labels, batch.counts)
        predicted = present(scores, batch.counts).argmax(axis=-1)
        one = np.eye(max(len(self.bound.task.words), scores.shape[-1]))
        return one[batch.labels].T @ one[predicted]

    def count(self, examples: Sequence[Example]) -> int:
        """What a sum of losses is divided by: examples, or target tokens of a language model."""
        if not self.is_lm:
            return len(examples)
        return sum(len(example.candidates[example.label]) for example in examples)

    def mean(self, sums: np.ndarray, count: int) -> np.ndarray:
        """The loss of each probe from the sums over all parts of a batch."""
        return sums / count if self.kind == "cross-entropy" else self.errors(sums)

    def errors(self, table: np.ndarray) -> np.ndarray:
        """1 - accuracy or 1 - F1 from counts of gold and predicted labels."""
        right = np.diagonal(table, axis1=1, axis2=2)
        if self.kind == "accuracy":
            return 1 - right.sum(axis=-1) / table.sum(axis=(1, 2))
        both = table.sum(axis=1) + table.sum(axis=2)
        return 1 - (2 * right / np.maximum(both, 1)).sum(axis=-1) / (both > 0).sum(axis=-1)

    def pack(self, examples: Sequence[Example], gold_only: bool = False) -> Batch:
        if self.bound.task.family == "roberta":
            return self.model.check(pack_masks(examples, self.bound.label_word_ids))
        return self.model.check(pack_candidates(examples, gold_only))

    def token_nll(self, theta: Any, batch: Batch) -> np.ndarray:
        """-log p of each target token: f64[P, K]."""
        return self.read("nll", theta, batch, batch.at, batch.targets)

    def read(self, what: str, theta: Any, batch: Batch, *which: np.ndarray) -> np.ndarray:
        """The model's `nll` of some targets, or `logits` of some words, of the tokens read: f64."""
        architecture, config = self.model.architecture, self.model.config
        h = architecture.hidden(theta, config, batch)
        return getattr(architecture, what)(theta, config, h, *which).astype(np.float64)

    def scores(self, theta: Any, batch: Batch) -> np.ndarray:
        """Each example's candidates: f64[P, B, C]; where an example has fewer than C, anything.

        Up to a number that all candidates of an example share: where each has one token, that is
        the sum over the vocabulary in log p, which is then not computed.
        """
        if batch.words is not None:
            return self.read("logits", theta, batch, batch.words)
        if batch.lengths.max() == 1:
            words, column = np.unique(batch.targets, return_inverse=True)
            means = self.read("logits", theta, batch, words)[:, batch.at, column]
        else:
            starts = np.cumsum(batch.lengths) - batch.lengths
            sums = np.add.reduceat(self.token_nll(theta, batch), starts, axis=-1)
            means = -sums / batch.lengths
        first = np.cumsum(batch.counts) - batch.counts
        each = np.minimum(np.arange(batch.counts.max()), batch.counts[:, None] - 1)
        return means[:, first[:, None] + each]
