"""What a batch costs: one loss for each probe, from the scores of each example's candidates.

    classification   -log softmax(s)[gold],  s_c = the label word's logit (RoBERTa)
                                             s_c = mean log p of candidate c's tokens (OPT)
    lm               -mean log p over the gold candidates' tokens of the batch (OPT)

Sums are float64 over float32 scores, since a projected gradient is a small difference of two
losses. A batch is split into micro-batches to bound memory; the sums add up.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from tinyzo.models.model import Model
from tinyzo.text.batches import Batch, micro_batches, pack_candidates, pack_masks
from tinyzo.text.tasks import BoundTask, Example


@dataclass(frozen=True)
class Objective:
    """The loss of a task on a model: objective(view, examples) -> f64[P].

    bound: the task with the model's vocabulary; max_tokens bounds a micro-batch.
    """

    model: Model
    bound: BoundTask
    max_tokens: int = 4096

    def __call__(self, theta: Any, examples: Sequence[Example]) -> np.ndarray:
        total, count = 0.0, 0
        for part in micro_batches(examples, self.max_tokens):
            if self.bound.task.loss == "lm":
                batch = self.pack(part, gold_only=True)
                total = total + self.token_nll(theta, batch).sum(axis=-1)
                count += len(batch.targets)
            else:
                batch = self.pack(part)
                scores = self.scores(theta, batch)
                total = total + theta.cross_entropy(scores, batch.labels, batch.counts)
                count += len(part)
        return total / count

    def pack(self, examples: Sequence[Example], gold_only: bool = False) -> Batch:
        if self.bound.task.family == "roberta":
            return self.model.check(pack_masks(examples, self.bound.label_word_ids))
        return self.model.check(pack_candidates(examples, gold_only))

    def token_nll(self, theta: Any, batch: Batch) -> np.ndarray:
        """-log p of each target token: f64[P, K]."""
        model, h = self.model, self.hidden(theta, batch)
        nll = model.architecture.nll(theta, model.config, h, batch.at, batch.targets)
        return nll.astype(np.float64)

    def hidden(self, theta: Any, batch: Batch) -> np.ndarray:
        return self.model.architecture.hidden(theta, self.model.config, batch)

    def logits(self, theta: Any, batch: Batch, words: np.ndarray) -> np.ndarray:
        """The logits of some words at each token that is read: f64[P, M, W]."""
        model, h = self.model, self.hidden(theta, batch)
        return model.architecture.logits(theta, model.config, h, words).astype(np.float64)

    def scores(self, theta: Any, batch: Batch) -> np.ndarray:
        """Each example's candidates: f64[P, B, C]; where an example has fewer than C, anything.

        Up to a number that all candidates of an example share: where each has one token, that is
        the sum over the vocabulary in log p, which is then not computed.
        """
        if batch.words is not None:
            return self.logits(theta, batch, batch.words)
        if batch.lengths.max() == 1:
            words, column = np.unique(batch.targets, return_inverse=True)
            means = self.logits(theta, batch, words)[:, batch.at, column]
        else:
            starts = np.cumsum(batch.lengths) - batch.lengths
            sums = np.add.reduceat(self.token_nll(theta, batch), starts, axis=-1)
            means = -sums / batch.lengths
        first = np.cumsum(batch.counts) - batch.counts
        each = np.minimum(np.arange(batch.counts.max()), batch.counts[:, None] - 1)
        return means[:, first[:, None] + each]
