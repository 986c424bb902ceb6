"""The loss of a batch: one number for each probe, from the scores of the examples' candidates.

    classification   -log softmax(s)[gold],  s_c = the label word's logit (RoBERTa)
                                             s_c = mean log p of candidate c's tokens (OPT)
    lm               -mean log p over the gold candidates' tokens of the batch (OPT)
    accuracy         the share of examples whose best candidate is not the gold one
    f1               1 - macro F1 over the labels,  F1 = 2 TP / (gold + predicted)

Where the model writes the answer (SQuAD, DROP), accuracy is the share of answers that match no gold
one, and f1 is 1 - the mean F1 of their words. These two have no derivative, which a zeroth-order
method does not need (Malladi et al. 2023, section 3.3). Sums are float64 over float32 scores, since
a projected gradient is a small difference of two losses. runs/bounded.py bounds the memory that a
batch takes.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from tinyzo.batch import Batch
from tinyzo.dtypes import Integers
from tinyzo.engine.numpy_engine import present
from tinyzo.engine.protocols import View
from tinyzo.models.generate import generate
from tinyzo.models.model import Model
from tinyzo.text.answers import best_f1, exact_match
from tinyzo.text.packing import pack_candidates, pack_masks, with_gold_only
from tinyzo.text.tasks import BoundTask, Example

Float64 = NDArray[np.float64]
OBJECTIVES = ("cross-entropy", "accuracy", "f1")
SCORES_OF_ANSWERS = {"accuracy": exact_match, "f1": best_f1}


class Generator(Protocol):
    """What continues prompts by tokens, as `models.generate.generate` does."""

    def __call__(
        self,
        model: Model,
        prompts: Sequence[Sequence[int]],
        max_new_tokens: int,
        stop: Sequence[int] = (),
        theta: View | None = None,
    ) -> list[list[int]]: ...


@dataclass(frozen=True)
class Objective:
    """The loss of a task on a model: objective(view, examples) -> f64[P].

    bound: the task with the model's vocabulary
    kind:  cross-entropy (classification or lm, as the task says), accuracy or f1
    generate: writes the answers of a task that has them
    """

    model: Model
    bound: BoundTask
    kind: str = "cross-entropy"
    generate: Generator = generate

    def __call__(self, theta: View, examples: Sequence[Example]) -> Float64:
        return self.mean(self.sums(theta, examples), self.count(examples))

    @property
    def is_lm(self) -> bool:
        """True for the language-model loss, which reads the gold candidates alone."""
        return self.kind == "cross-entropy" and self.bound.task.loss == "lm"

    def read(self, examples: Sequence[Example]) -> Sequence[Example]:
        """What is computed of some examples."""
        return list(map(with_gold_only, examples)) if self.is_lm else examples

    @property
    def is_of_answers(self) -> bool:
        """True for what is computed from answers that the model writes."""
        return self.kind != "cross-entropy" and self.bound.task.is_generated

    # -- a batch may come in parts: sums of each, added up, then the mean

    def sums(self, theta: View, examples: Sequence[Example]) -> Float64:
        """The sum over some examples: of losses, or of the scores of answers, f64[P]; or else their
        confusion matrix."""
        if self.is_of_answers:
            return self.answer_scores(theta, examples)
        batch = self.pack(self.read(examples))
        if self.is_lm:
            return self.token_nll(theta, batch).sum(axis=-1)
        scores = self.scores(theta, batch)
        if self.kind == "cross-entropy":
            return theta.cross_entropy(scores, batch.labels, batch.counts)
        return self.confusion(scores, batch, examples)

    def count(self, examples: Sequence[Example]) -> int:
        """The divisor of the sum: examples, or target tokens of a language model."""
        if not self.is_lm:
            return len(examples)
        gold = [example.candidates[example.label] for example in examples]
        return sum(len(tokens) for tokens in gold)

    def mean(self, sums: Float64, count: int) -> Float64:
        """The loss of each probe, from the sums and the count of the whole batch."""
        if self.kind == "cross-entropy":
            return sums / count
        if self.is_of_answers:
            return 1 - sums / count
        return self.errors(sums)

    # -- scores of candidates

    def pack(self, examples: Sequence[Example]) -> Batch:
        """The examples as a batch that fits the model.

        raises: DataError when a token id or a length is beyond the model's tables
        """
        if self.bound.task.family == "roberta":
            batch = pack_masks(examples, self.bound.label_word_ids)
        else:
            batch = pack_candidates(examples)
        return self.model.check(batch)

    def scores(self, theta: View, batch: Batch) -> Float64:
        """The scores of each example's candidates: f64[P, B, C].

        An example with fewer than C candidates repeats its last one; `present` hides the copies.
        """
        if batch.words.size:
            return self.word_scores(theta, batch, batch.words)
        if batch.lengths.max() == 1:
            scores = self.single_token_scores(theta, batch)
        else:
            scores = self.mean_log_p(theta, batch)
        first = np.cumsum(batch.counts) - batch.counts  # the number of an example's candidate 0
        last = first + batch.counts - 1
        column = np.arange(batch.counts.max())
        candidate = np.minimum(first[:, None] + column, last[:, None])  # [B, C]
        return scores[:, candidate]

    def single_token_scores(self, theta: View, batch: Batch) -> Float64:
        """The logit of each candidate, where all have one token: f64[P, candidates].

        It is log p up to a number that the candidates of an example share, log sum e^logit, which
        is not computed.
        """
        words, column = np.unique(batch.targets, return_inverse=True)
        logits = self.word_scores(theta, batch, words)
        return logits[:, batch.at, column]

    def mean_log_p(self, theta: View, batch: Batch) -> Float64:
        """The mean over each candidate's tokens of log p: f64[P, candidates]."""
        starts = np.cumsum(batch.lengths) - batch.lengths
        sums = np.add.reduceat(self.token_nll(theta, batch), starts, axis=-1)
        means: Float64 = -sums / batch.lengths
        return means

    def word_scores(self, theta: View, batch: Batch, words: Integers) -> Float64:
        """The logits of some words at each token that the batch reads: f64[P, M, R]."""
        return self.model.scores(theta, batch, words).astype(np.float64)

    def token_nll(self, theta: View, batch: Batch) -> Float64:
        """-log p of each target token: f64[P, K]."""
        return self.model.nll(theta, batch).astype(np.float64)

    # -- objectives without a derivative

    def confusion(self, scores: Float64, batch: Batch, examples: Sequence[Example]) -> Float64:
        """The confusion matrix, the number of examples by label: f64[P, gold, predicted].

        Where candidates are a row's own, there are two labels, wrong and right; gold is right.
        """
        predicted = present(scores, batch.counts).argmax(axis=-1)
        gold = batch.labels
        labels = max(len(self.bound.task.words), scores.shape[-1])
        if self.bound.task.choices:
            labels = 2
            gold = np.ones_like(gold)
            predicted = np.array([list(map(_is_right, examples, best)) for best in predicted])
        one_hot = np.eye(labels)
        return one_hot[gold].T @ one_hot[predicted]

    def errors(self, confusion: Float64) -> Float64:
        """1 - accuracy or 1 - F1 of each probe."""
        right = np.diagonal(confusion, axis1=1, axis2=2)
        if self.kind == "accuracy":
            return 1 - right.sum(axis=-1) / confusion.sum(axis=(1, 2))
        gold_and_predicted = confusion.sum(axis=1) + confusion.sum(axis=2)
        f1 = 2 * right / np.maximum(gold_and_predicted, 1)
        return 1 - f1.sum(axis=-1) / (gold_and_predicted > 0).sum(axis=-1)

    # -- answers that the model writes

    def answers(self, theta: View, examples: Sequence[Example]) -> list[str]:
        """The answer to each example by a view of one probe: greedy, to the end of a line."""
        tokenizer = self.bound.tokenizer
        stop = (*tokenizer.encode("\n"), tokenizer.eos_id)
        prompts = [example.prompt for example in examples]
        most = self.bound.task.max_new_tokens
        written = self.generate(self.model, prompts, most, stop, theta)
        return [tokenizer.decode(ids).strip() for ids in written]

    def answer_scores(self, theta: View, examples: Sequence[Example]) -> Float64:
        """The sum of the answers' exact matches or F1: f64[P]."""
        score = SCORES_OF_ANSWERS[self.kind]
        sums = []
        for probe in theta.parts(1):
            answers = self.answers(probe, examples)
            pairs = zip(answers, examples, strict=True)
            sums.append(sum(score(answer, example.answers) for answer, example in pairs))
        return np.array(sums, np.float64)


def _is_right(example: Example, candidate: int) -> int:
    return int(example.is_right(candidate))
