"""What steps and evaluations compute, of which a memory plan is made.

A step of training reads what its objective does: of a language model's loss the gold candidates
alone. An evaluation reads all candidates, or has answers written.
"""

from collections.abc import Sequence
from operator import truediv

from tinyzo.models.activations import widest
from tinyzo.runs.data import Data
from tinyzo.runs.memory import Load
from tinyzo.runs.methods import RunMethod
from tinyzo.runs.settings import RunSettings
from tinyzo.runs.start import LED, rows_read
from tinyzo.text.packing import packed_size
from tinyzo.text.tasks import Example
from tinyzo.zo.objectives import Objective


def loads_of(objective: Objective, data: Data, batch_size: int, method: RunMethod) -> list[Load]:
    """All that a run computes, its steps first."""
    evaluations = [_scoring(objective, rows) for rows in (data.dev, data.test)]
    loads = [step_load(objective, data.train, batch_size, method), *evaluations]
    if method.settings.train in LED:
        loads.append(_start(objective, data.train, method.settings))
    if objective.bound.task.is_generated:
        loads.append(_writing(objective, data.test))
    return loads


def _start(objective: Objective, examples: Sequence[Example], settings: RunSettings) -> Load:
    """What is read before the first step: at most its longest examples."""
    longest_first = sorted(examples, key=packed_size, reverse=True)
    load = _scoring(objective, longest_first[: rows_read(settings)])
    return load._replace(widest=widest(objective.model.weights))


def step_load(
    objective: Objective, examples: Sequence[Example], batch_size: int, method: RunMethod
) -> Load:
    """The most that a step computes: a batch of the longest examples."""
    if objective.is_of_answers:
        longest_first = sorted(examples, key=lambda each: len(each.prompt), reverse=True)
        return _writing(objective, longest_first[:batch_size])
    read = objective.read(examples)
    every = _scoring(objective, read)
    longest_first = sorted(read, key=packed_size, reverse=True)
    batch = _scoring(objective, longest_first[:batch_size])
    most_targets = sorted((_targets(objective, each) for each in read), reverse=True)
    return every._replace(
        tokens=batch.tokens,
        probes=method.probes,
        keeps_gradients=method.keeps_gradients,
        targets=sum(most_targets[:batch_size]),
    )


def _scoring(objective: Objective, examples: Sequence[Example]) -> Load:
    """Of candidates or label words, by one copy of the model."""
    sizes = [packed_size(example) for example in examples]
    targets = [_targets(objective, example) for example in examples]
    return Load(
        tokens=sum(sizes),
        longest=max(sizes, default=0),
        probes=1,
        targets=sum(targets),
        share=max(map(truediv, targets, sizes), default=0.0),
        seen=max(map(_sight, examples), default=0),
    )


def _writing(objective: Objective, examples: Sequence[Example]) -> Load:
    """Of answers, which one copy of the model writes."""
    most_new = objective.bound.task.max_new_tokens
    sizes = [len(example.prompt) + most_new for example in examples]
    return Load(
        tokens=sum(sizes),
        longest=max(sizes, default=0),
        probes=1,
        targets=len(sizes),
        is_written=True,
    )


def _targets(objective: Objective, example: Example) -> int:
    """Tokens that are scored against the whole vocabulary: where a candidate has several."""
    sizes = [len(candidate) for candidate in example.candidates]
    is_of_words = max(sizes, default=0) < 2 and objective.bound.task.loss != "lm"
    return 0 if is_of_words else sum(sizes)


def _sight(example: Example) -> int:
    return len(example.prompt) + max(map(len, example.candidates), default=1) - 1
