"""What is planned of steps and evaluations is what they then compute."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from questions import ROWS, write_questions

from tinyzo.batch import Batch
from tinyzo.models.model import load, open_model
from tinyzo.runs import memory
from tinyzo.runs import start as start_of
from tinyzo.runs.bounded import BoundedLoss
from tinyzo.runs.data import Data, bind_task, load_data
from tinyzo.runs.evaluate import evaluate
from tinyzo.runs.loads import loads_of
from tinyzo.runs.memory import Load
from tinyzo.runs.methods import method_of
from tinyzo.runs.run import prepare
from tinyzo.runs.settings import SHIPPED, RunSettings, Settings
from tinyzo.text.packing import packed_size
from tinyzo.text.tasks import Example
from tinyzo.zo.objectives import Objective

BATCH = 4


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_questions(tmp_path_factory.mktemp("home"), 25)


class Opened:
    """A task with its data, the loads that are planned, and the batches that are then made."""

    def __init__(self, home: Path, name: str, patch: pytest.MonkeyPatch, **choices: Any) -> None:
        data = str(home / f"{name}.jsonl")
        given = Settings(task=name, data=data, batch_size=BATCH, **choices)
        settings: RunSettings = given.resolve("opt")
        model = load(home / "opt", engine="numpy")
        bound = bind_task(model, settings)
        self.data: Data = load_data(bound, settings)
        self.objective = Objective(model, bound, settings.objective)
        self.loads = loads_of(self.objective, self.data, BATCH, method_of(settings))
        self.batches: list[Batch] = []
        pack = Objective.pack

        def packed(objective: Objective, examples: list[Example]) -> Batch:
            self.batches.append(pack(objective, examples))
            return self.batches[-1]

        patch.setattr(Objective, "pack", packed)

    def loss(self, most: int) -> BoundedLoss:
        return BoundedLoss(self.objective, most)

    def longest(self) -> list[Example]:
        """A batch of the longest examples, by what the objective reads."""
        read = self.objective.read

        def size(example: Example) -> int:
            return packed_size(read([example])[0])

        return sorted(self.data.train, key=size, reverse=True)[:BATCH]


def tokens_of(batch: Batch) -> int:
    return len(batch.ids)


def most_targets(opened: Opened) -> int:
    """Of the batch whose gold candidates are the longest."""
    sizes = [len(each.candidates[each.label]) for each in opened.data.train]
    return sum(sorted(sizes, reverse=True)[:BATCH])


TASKS = pytest.mark.parametrize("name", [*ROWS, "COPA"])


@TASKS
def test_a_step_computes_what_is_planned(
    name: str, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The gold candidate alone, where the loss is a language model's."""
    opened = Opened(home, name, monkeypatch)
    opened.loss(4096)(opened.objective.model.weights.view(), opened.longest())
    (batch,) = opened.batches
    step = opened.loads[0]
    assert (step.tokens, step.probes) == (tokens_of(batch), 2)
    if opened.objective.is_lm:
        assert batch.counts.tolist() == [1] * BATCH
        assert step.targets == most_targets(opened)
    else:
        assert (name, batch.counts.tolist(), step.targets) == ("MultiRC", [2] * BATCH, 0)


@pytest.mark.parametrize("name", ["ReCoRD", "COPA"])
def test_a_step_of_accuracy_reads_all_candidates(
    name: str, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened = Opened(home, name, monkeypatch, objective="accuracy")
    opened.loss(4096)(opened.objective.model.weights.view(), opened.longest())
    (batch,) = opened.batches
    assert opened.loads[0].tokens == tokens_of(batch)
    assert batch.counts.min() >= 2


@pytest.mark.parametrize("name", ["SQuAD", "DROP"])
def test_a_step_of_answers_is_one_of_writing(
    name: str, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened = Opened(home, name, monkeypatch, objective="f1")
    step = opened.loads[0]
    sizes = [len(example.prompt) + 50 for example in opened.longest()]
    assert step == Load(sum(sizes), max(sizes), 1, targets=BATCH, is_written=True)


@TASKS
def test_an_evaluation_computes_what_is_planned(
    name: str, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened = Opened(home, name, monkeypatch)
    _, dev, test, *written = opened.loads
    for load_, examples in ((dev, opened.data.dev), (test, opened.data.test)):
        opened.batches.clear()
        evaluate(opened.loss(4096), examples, is_writing=False)
        assert load_.tokens == tokens_of(opened.batches[0])
        assert load_.longest == max(map(packed_size, examples))
        longest = max(len(e.prompt) + max(map(len, e.candidates)) - 1 for e in examples)
        assert load_.sight == longest <= load_.longest
    assert [each.is_written for each in written] == [True] * (name in ("SQuAD", "DROP"))


@pytest.mark.parametrize("name", ["ReCoRD", "COPA", "SQuAD"])
def test_parts_of_a_batch_are_as_large_as_may_be(
    name: str, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Other candidates, which a step does not compute, make its micro-batches no smaller."""
    opened = Opened(home, name, monkeypatch)
    examples = opened.longest()
    sizes = [packed_size(each) for each in opened.objective.read(examples)]
    opened.loss(sum(sizes[:2]))(opened.objective.model.weights.view(), examples)
    assert list(map(tokens_of, opened.batches[:1])) == [sum(sizes[:2])]
    assert len(opened.batches) == 2
    step = opened.loads[0]
    for batch in opened.batches:
        assert len(batch.targets) <= step.scored(tokens_of(batch))


@pytest.mark.parametrize("train", ["lora-act", "lora-fit", "head-fit"])
def test_what_comes_before_the_first_step_is_planned(train):
    """Its inputs are of at most so many rows, and of the widest matrix that is adapted."""
    model = open_model(SHIPPED / "opt-tiny")
    settings = Settings(model="opt-tiny", train=train, batch_size=BATCH).resolve("opt")
    prepare(model, settings)
    bound = bind_task(model, settings)
    data = load_data(bound, settings)
    found = loads_of(Objective(model, bound), data, BATCH, method_of(settings))
    (start,) = (each for each in found if each.widest)
    rows = BATCH if train == "lora-act" else start_of.ROWS
    longest = sorted(map(packed_size, data.train), reverse=True)
    assert start.tokens == sum(longest[:rows])
    config = model.config
    assert start.widest == (config.hidden_size if train == "lora-act" else config.ffn_dim)
    plain = settings.replace(train="lora-fa")
    others = loads_of(Objective(model, bound), data, BATCH, method_of(plain))
    assert not any(each.widest for each in others)
    choices = {"engine": "numba", "residency": "resident"}
    with_start, without = (
        memory.choose(model, settings.replace(**choices), loads).parts for loads in (found, others)
    )
    assert "fit" not in without
    assert train == "lora-act" or "fit" in with_start
