"""A linear probe: logistic regression on the hidden state where the model would answer.

That is the state at the mask (RoBERTa), or at the prompt's last token (OPT), after the last layer.
The solver is scikit-learn's, which is an extra: pip install 'tinyzo[probe]'.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np

from tinyzo.batch import Batch
from tinyzo.dtypes import Integers
from tinyzo.errors import ConfigError, DataError, UsageError
from tinyzo.packages import in_a_line, is_missing
from tinyzo.runs.data import Data
from tinyzo.runs.evaluate import Evaluation
from tinyzo.runs.opened import Opened
from tinyzo.text.packing import micro_batches, pack_sequences
from tinyzo.text.tasks import Example

PENALTIES = np.logspace(-4, 4, 10)  # scikit-learn's C, the inverse of the penalty's weight
ITERATIONS = 5000
LEAST = np.finfo(np.float64).tiny  # the probability of a label that no training row has


class Points(NamedTuple):
    """states: f64[B, D]; labels: i64[B]"""

    states: np.ndarray
    labels: Integers


def probe(opened: Opened, data: Data) -> Evaluation:
    """Fit a probe to the training rows, choose its penalty on dev, and report on the test rows.

    raises: ConfigError where there is no scikit-learn; DataError for rows that cannot be used;
        UsageError for a task whose labels are no classes
    """
    make = _solver()
    task = opened.bound.task
    if not task.fixed_words:
        found = f"--method linear-probe, but the candidates of {task.name} differ from row to row"
        raise UsageError(found, "a probe needs the same labels in each row")
    train = _points(opened, data.train)
    dev = _points(opened, data.dev)
    test = _points(opened, data.test)
    if len(np.unique(train.labels)) < 2:
        hint = "a probe tells labels apart: give rows of two or more"
        raise DataError("the training rows all have one label", hint)
    fitted = []
    losses = []
    for penalty in PENALTIES:
        solver = make(C=penalty, max_iter=ITERATIONS)
        fitted.append(solver.fit(*train))
        losses.append(_loss(solver, dev))
    best = fitted[int(np.argmin(losses))]
    right = best.predict(test.states) == test.labels
    accuracy = float(right.mean())
    return Evaluation(len(right), accuracy, _loss(best, test))


# scikit-learn has no types: Any is its class, and what that makes.
def _solver() -> Any:
    """LogisticRegression; raises ConfigError where it cannot be had."""
    try:
        from sklearn.linear_model import LogisticRegression
    except Exception as error:
        why = "it is not installed" if is_missing(error, "sklearn") else in_a_line(error)
        found = f"--method linear-probe needs scikit-learn: {why}"
        raise ConfigError(found, "pip install 'tinyzo[probe]'") from None
    return LogisticRegression


def _loss(fitted: Any, points: Points) -> float:
    """The mean of -log p of each point's label."""
    odds = fitted.predict_proba(points.states)
    is_gold = fitted.classes_ == points.labels[:, None]
    of_label = odds.sum(axis=1, where=is_gold)
    log_p = np.log(np.maximum(of_label, LEAST))
    return -float(log_p.mean())


def _points(opened: Opened, examples: Sequence[Example]) -> Points:
    """The hidden states and labels of examples."""
    model = opened.model
    states = []
    for part in micro_batches(examples, opened.settings.micro_batch_tokens):
        batch = _packed(opened, part)
        with model.weights.lock, np.errstate(under="ignore"):
            h = model.architecture.hidden(model.weights.view(), model.config, batch)
        states.append(np.asarray(h)[0].astype(np.float64))
    labels = [example.label for example in examples]
    return Points(np.concatenate(states), np.array(labels))


def _packed(opened: Opened, examples: Sequence[Example]) -> Batch:
    """The prompts, of which the mask or the last token is read."""
    objective = opened.loss().objective
    if opened.model.family == "roberta":
        return objective.pack(examples)
    batch = pack_sequences([example.prompt for example in examples])
    return opened.model.check(replace(batch, read=batch.starts[1:] - 1))
