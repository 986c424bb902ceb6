"""What a model does without a step of training.

    prompt          the likeliest candidate after the prompt: zero-shot
      icl           after some training rows with their answers, too (Brown et al. 2020)
      calibrate     the candidate that the row makes likelier by most (Holtzman et al. 2021)
    linear-probe    a linear classifier of its hidden states (probe.py)

A tuned model is scored in the same ways; MeZO's tables compare with all of them.
"""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np

from tinyzo.errors import UsageError, check_choice
from tinyzo.models.context import after
from tinyzo.packages import say_once
from tinyzo.runs import evaluate as prompted
from tinyzo.runs import report
from tinyzo.runs.bounded import BoundedLoss
from tinyzo.runs.data import demonstrations, load_data
from tinyzo.runs.evaluate import Evaluation
from tinyzo.runs.opened import Opened
from tinyzo.runs.probe import probe
from tinyzo.runs.settings import Settings
from tinyzo.text.tasks import Example
from tinyzo.zo.objectives import Objective

METHODS = ("prompt", "linear-probe")
SEPARATOR = "\n\n"  # between demonstrations
OF_PROBE = ("k_shot", "train_rows")


class Way(NamedTuple):
    """How examples are scored.

    method:    one of METHODS
    icl:       training rows that the prompt demonstrates
    calibrate: whether candidates count by what the row adds to them
    """

    method: str = "prompt"
    icl: int = 0
    calibrate: bool = False

    def check(self, given: Settings) -> None:
        """raises: ConfigError or UsageError for what is not built, or goes with something else"""
        check_choice("method", self.method, METHODS)
        if self.icl < 0:
            raise UsageError(f"icl = {self.icl}", "it is a number of rows; 0: none")
        if self.method == "prompt":
            for name in OF_PROBE:
                if getattr(given, name) is not None:
                    hint = "it goes with --method linear-probe: choose that, or leave it out"
                    raise UsageError(f"{name} counts for nothing here", hint)
        elif self.icl or self.calibrate:
            found = f"--method {self.method} with --icl or --calibrate"
            raise UsageError(found, "a probe reads no candidates: leave them out")


class Scored(NamedTuple):
    """split: the one that the rows are of"""

    evaluation: Evaluation
    split: str


def score(opened: Opened, way: Way) -> Scored:
    """The quality of an opened model on the rows of its task.

    raises: as `evaluate` and `probe`; UsageError for a task or a model that has no such way;
        DataError for too few rows to demonstrate
    """
    _check_model(opened, way)
    if way.method == "linear-probe":
        data = load_data(opened.bound, opened.settings)
        report.say_all(data.left_out)
        return Scored(probe(opened, data), data.reported)
    data = opened.data()
    shown = Shown(opened.loss(), data.test)
    if way.icl:
        shown = _in_context(opened, way.icl)
    if way.calibrate:
        return Scored(_calibrated(opened, *shown), data.reported)
    return Scored(prompted.evaluate(*shown), data.reported)


def _check_model(opened: Opened, way: Way) -> None:
    family = opened.model.family
    option = "--icl" if way.icl else "--calibrate"
    if family != "opt" and (way.icl or way.calibrate):
        why = "its label words stand at a mask, and continue no text"
        raise UsageError(f"{option} with a {family} model", f"{why}: take an OPT model")
    if way.calibrate and opened.bound.task.is_generated:
        found = f"--calibrate, but the answers of {opened.bound.task.name} are written"
        raise UsageError(found, "only candidates can be calibrated: leave it out")


# -- in-context learning


class Shown(NamedTuple):
    """rows: they go on from the demonstrations, which the model of the loss has read"""

    loss: BoundedLoss
    rows: Sequence[Example]


def _in_context(opened: Opened, count: int) -> Shown:
    """The loss and the rows after `count` demonstrations, which are read once for all rows.

    differs: too many demonstrations lose their beginning until the longest row fits, so that all
        rows share them; published code cuts each row's own
    """
    settings = opened.settings
    texts = demonstrations(opened.bound.task, settings, count)
    text = SEPARATOR.join(texts).strip()
    ids = opened.bound.tokenizer.encode(text)
    bound = replace(opened.bound, lead=SEPARATOR)
    rows = opened.encoded(bound).test
    longest = max(_length(row, bound.task.max_new_tokens) for row in rows)
    room = bound.max_length - longest
    first = max(0, len(ids) - room)
    if first:
        say_once(f"of {len(ids)} tokens of demonstrations the last {room} fit before the rows")
    shown = (bound.bos_id, *ids[first:])
    model = after(opened.model, shown)
    objective = Objective(model, bound)
    loss = BoundedLoss(objective, settings.micro_batch_tokens)
    rest = [replace(row, prompt=row.prompt[1:]) for row in rows]
    return Shown(loss, rest)


def _length(example: Example, answer: int) -> int:
    """The tokens of an example with its longest candidate, or an answer of that many."""
    longest = max(map(len, example.candidates), default=0)
    return len(example.prompt) + max(longest, answer)


# -- calibration


def _calibrated(opened: Opened, loss: BoundedLoss, examples: Sequence[Example]) -> Evaluation:
    """Candidates by sum log p(candidate | prompt) - sum log p(candidate | no content).

    The prompt without content has no demonstrations, as published (`sfc`). The loss is the
    cross-entropy of softmax of these differences.
    raises: as `evaluate`
    """
    prompted.check_labelled(examples)
    task = opened.bound.task.without_content()
    bound = replace(opened.bound, task=task)
    without = opened.encoded(bound).test
    different = {_key(example): example for example in without}
    sums = _sums(opened.loss(), list(different.values()))
    known = dict(zip(different, sums, strict=True))
    right = 0
    total = 0.0
    rows = zip(examples, _sums(loss, examples), without, strict=True)
    for example, by_row, blank in rows:
        scores = by_row - known[_key(blank)]
        best = int(scores.argmax())
        right += example.is_right(best)
        whole = np.logaddexp.reduce(scores)
        total += float(whole - scores[example.label])
    count = len(examples)
    prompted.check_finite(total, count)
    return Evaluation(count, right / count, total / count)


def _key(example: Example) -> object:
    """The tokens of an example, by which one without content is known."""
    return example.prompt, example.candidates


def _sums(loss: BoundedLoss, examples: Sequence[Example]) -> Iterator[np.ndarray]:
    """The sums of log p of each example's candidates, up to a number that they share: f64[C]."""
    theta = loss.objective.model.weights.view()
    for part, scores, _, _ in prompted.scored(loss, theta, examples):
        for example, means in zip(part, scores, strict=True):
            lengths = [len(candidate) for candidate in example.candidates]
            yield means[: len(lengths)] * lengths
