"""MultiRC, ReCoRD, SQuAD and DROP from rows to results; and answers that the model writes."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from folders import ROOT, lines, write_jsonl
from published import DATA, needs_data
from questions import ROWS, write_questions

import tinyzo
from tinyzo.cli import main
from tinyzo.errors import DataError, UsageError
from tinyzo.models.model import Model, load
from tinyzo.runs.bounded import BoundedLoss
from tinyzo.runs.data import Data, bind_task, choose_rows, load_data
from tinyzo.runs.evaluate import Evaluation, evaluate
from tinyzo.runs.settings import RunSettings, Settings
from tinyzo.text.datasets import load_splits
from tinyzo.text.tasks import Example, get_task
from tinyzo.zo.objectives import Objective

WRITTEN = ("SQuAD", "DROP")
Capture = pytest.CaptureFixture[str]


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_questions(tmp_path_factory.mktemp("home"), 15)


def settings_for(home: Path, name: str, **choices: Any) -> RunSettings:
    data = str(home / f"{name}.jsonl")
    return Settings(task=name, data=data, **choices).resolve("opt")


def run(home: Path, output: Path, name: str, *options: str) -> int:
    return main([
        "finetune", "--model", str(home / "opt"), "--task", name,
        "--data", str(home / f"{name}.jsonl"), "--output", str(output),
        "--steps", "2", "--batch-size", "3", "--lr", "1e-3", "--eval-every", "1", *options,
    ])  # fmt: skip


def last_line(capsys: Capture) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(capsys.readouterr().out.splitlines()[-1])
    return found


@pytest.mark.parametrize("name", ROWS)
def test_a_run_its_result_and_its_evaluation(
    name: str, home: Path, tmp_path: Path, capsys: Capture
) -> None:
    assert run(home, tmp_path / "run", name) == 0
    told = capsys.readouterr().out
    result = json.loads((tmp_path / "run" / "result.json").read_text())
    assert (result["task"], result["steps"], result["examples"]) == (name, 2, 3)
    answers = {"f1", "exact_match", "f1_zero_shot", "exact_match_zero_shot"}
    assert answers & result.keys() == (answers if name in WRITTEN else set())
    assert told.startswith("F1 on 3" if name in WRITTEN else "accuracy on 3")
    assert main(["evaluate", "--model", str(tmp_path / "run"), "--json"]) == 0
    found = last_line(capsys)
    for key in found.keys() & {"accuracy", "loss", "f1", "exact_match"}:
        assert found[key] == result[key]
    assert ("f1" in found) == (name in WRITTEN)
    assert main(["evaluate", "--model", str(tmp_path / "run")]) == 0
    line = capsys.readouterr().out
    assert line.startswith("F1 0." if name in WRITTEN else "accuracy ") and ", loss " in line


@pytest.mark.parametrize("name", ROWS)
def test_answers_are_written_only_where_they_are_reported(
    name: str, home: Path, tmp_path: Path
) -> None:
    assert run(home, tmp_path / "run", name) == 0
    for event in lines(tmp_path / "run" / "events.jsonl"):
        if event["event"] != "evaluation":
            continue
        is_written = name in WRITTEN and event["split"] == "test"
        assert ("f1" in event, "exact_match" in event) == (is_written, is_written)
        is_dev_of_written = name in WRITTEN and event["split"] == "dev"
        assert (event["accuracy"] is None) == is_dev_of_written
        assert event["loss"] > 0


@pytest.mark.parametrize("name", ["ReCoRD", *WRITTEN])
def test_a_resumed_run_is_the_same(name: str, home: Path, tmp_path: Path) -> None:
    assert run(home, tmp_path / "whole", name) == 0
    assert run(home, tmp_path / "parts", name, "--steps", "1") == 0
    assert main(["finetune", "--resume", str(tmp_path / "parts"), "--steps", "2"]) == 0
    results = [
        json.loads((tmp_path / each / "result.json").read_text()) for each in ("whole", "parts")
    ]
    for key in ("loss", "loss_zero_shot", "accuracy", "best_step"):
        assert results[0][key] == results[1][key]
    journals = [(tmp_path / each / "journal").read_bytes() for each in ("whole", "parts")]
    assert journals[0] == journals[1]


# A way to hold and to compute a model; by ONNX Runtime the base is streamed beside an adapter.
WAYS = {
    "numpy": ("--engine", "numpy", "--residency", "streamed", "--fold-every", "1"),
    "numba": ("--engine", "numba", "--residency", "streamed", "--fold-every", "1"),
    "onnx": ("--engine", "onnx", "--train", "lora-fa"),
}
KINDS = ("MultiRC", "COPA", "ReCoRD", "SQuAD", "DROP")
OFTEN = (("numba", "SQuAD"), ("numba", "ReCoRD"), ("numpy", "COPA"))
SELDOM = [each for each in product(WAYS, KINDS) if each not in OFTEN]


@pytest.mark.parametrize(
    ("way", "name"),
    [*OFTEN, *(pytest.param(*each, marks=pytest.mark.exhaustive) for each in SELDOM)],
)
def test_streamed_resumed_and_replayed_by_each_engine(
    way: str, name: str, home: Path, tmp_path: Path
) -> None:
    if way in ("numba", "onnx"):
        pytest.importorskip({"numba": "numba", "onnx": "onnxruntime"}[way], reason=f"no {way} here")
    options = WAYS[way]
    assert run(home, tmp_path / "whole", name, *options) == 0
    assert run(home, tmp_path / "parts", name, *options, "--steps", "1") == 0
    assert main(["finetune", "--resume", str(tmp_path / "parts"), "--steps", "2"]) == 0
    runs = [tmp_path / "whole", tmp_path / "parts"]
    for each in runs:
        assert main(["replay", str(each), "--output", str(each / "tuned")]) == 0
    one, other = ([path.read_bytes() for path in weights_of(each / "tuned")] for each in runs)
    assert one == other
    one, other = ((each / "journal").read_bytes() for each in runs)
    assert one == other
    first, second = (json.loads((each / "result.json").read_text()) for each in runs)
    for key in first.keys() - {"run", "seconds", "seconds_per_step", "peak_bytes", "steps"}:
        assert first[key] == second[key], key


def weights_of(folder: Path) -> list[Path]:
    """The tensors that a replay writes: of the model, or of an adapter beside it."""
    found = sorted(folder.rglob("*.safetensors"))
    assert found
    return found


@pytest.mark.parametrize(
    ("name", "objective"),
    [("SQuAD", "f1"), ("SQuAD", "accuracy"), ("DROP", "f1"), ("ReCoRD", "accuracy")],
)
def test_what_is_reported_can_be_trained_on(
    name: str, objective: str, home: Path, tmp_path: Path
) -> None:
    assert run(home, tmp_path / "run", name, "--objective", objective) == 0
    assert all(0 <= line["loss"] <= 1 for line in lines(tmp_path / "run" / "metrics.jsonl"))


def test_f1_over_labels_is_refused_where_there_are_none(home: Path) -> None:
    model = load(home / "opt")
    with pytest.raises(UsageError, match=r"f1 is over labels, which ReCoRD has not\n.*accuracy is"):
        bind_task(model, settings_for(home, "ReCoRD", objective="f1"))


# -- evaluation, with answers that are given


def opened(home: Path, name: str) -> tuple[Model, Data, Objective]:
    model = load(home / "opt")
    settings = settings_for(home, name)
    bound = bind_task(model, settings)
    return model, load_data(bound, settings), Objective(model, bound)


def saying(objective: Objective, answers: Sequence[str]) -> BoundedLoss:
    """A loss whose model writes these answers, one after another."""
    left = list(answers)
    encode = objective.bound.tokenizer.encode

    def generate(
        model: Model,
        prompts: Sequence[Sequence[int]],
        max_new_tokens: int,
        stop: Sequence[int] = (),
        theta: object = None,
    ) -> list[list[int]]:
        assert max_new_tokens == 50
        assert tuple(stop) == (*encode("\n"), objective.bound.tokenizer.eos_id)
        return [encode(f" {left.pop(0)} ") for _ in prompts]

    return BoundedLoss(replace(objective, generate=generate), max_tokens=20)


def test_answers_are_written_for_many_rows_together(home: Path) -> None:
    _, data, objective = opened(home, "SQuAD")
    sizes = [len(example.prompt) + 50 for example in data.test]
    assert len(sizes) == 3

    def rows(most: int) -> list[int]:
        return [len(part) for part in BoundedLoss(objective, most).written(data.test)]

    assert rows(1) == [1, 1, 1]
    assert rows(-(-sum(sizes) // 4)) == [3]
    assert rows(-(-sum(sizes[:2]) // 4)) == [2, 1]


@pytest.mark.parametrize("name", WRITTEN)
def test_f1_and_exact_match_of_answers(name: str, home: Path) -> None:
    _, data, objective = opened(home, name)
    gold = [example.answers[0] for example in data.test]
    answers = [gold[0].upper(), f"the {gold[1]}!", f"{gold[2]} and more"]
    found = evaluate(saying(objective, answers), data.test)
    words = len(gold[2].split())
    last = 2 * words / (words + words + 2)
    assert (found.examples, found.exact_match, found.accuracy) == (3, 2 / 3, 2 / 3)
    assert found.f1 == pytest.approx((1 + 1 + last) / 3)
    loss = BoundedLoss(objective, 4096)
    theta = objective.model.weights.view()
    assert found.loss == pytest.approx(float(loss(theta, data.test)[0]), rel=1e-6)
    assert found.record().keys() == {"examples", "accuracy", "loss", "f1", "exact_match"}
    silent = evaluate(loss, data.test, is_writing=False)
    assert silent == Evaluation(3, None, pytest.approx(found.loss, rel=1e-6))
    assert silent.record().keys() == {"examples", "accuracy", "loss"}


def test_any_gold_candidate_is_right(home: Path) -> None:
    _, data, objective = opened(home, "ReCoRD")
    loss = BoundedLoss(objective, 4096)
    everything = [replace(e, also_gold=tuple(range(len(e.candidates)))) for e in data.train]
    assert evaluate(loss, everything).accuracy == 1
    alone = [replace(e, also_gold=()) for e in data.train]
    nothing = [replace(e, label=0, candidates=e.candidates[:1]) for e in alone]
    assert evaluate(loss, nothing).accuracy == 1
    assert evaluate(loss, alone).accuracy < 1
    assert evaluate(loss, alone).loss == evaluate(loss, everything).loss


# -- data


def test_the_digest_knows_all_gold_answers_and_old_ones_stay() -> None:
    example = Example((0, 5), ((6,), (7,)), -1, 0, "")
    one = Data([example], [], [], "test")
    # SHA-256 of repr((train, dev, test)) as it was when an example had no more fields.
    old = (
        "([Example(prompt=(0, 5), candidates=((6,), (7,)), mask_at=-1, label=0, text='')], [], [])"
    )
    assert repr((one.train, one.dev, one.test)) == old
    digests = {
        Data([each], [], [], "test").digest()
        for each in (example, replace(example, also_gold=(1,)), replace(example, answers=("x",)))
    }
    assert len(digests) == 3 and one.digest() in digests


def test_rows_without_an_answer_leave_the_others_to_train_on(home: Path, tmp_path: Path) -> None:
    rows = [*ROWS["SQuAD"](9), {"title": "T", "context": "a", "question": "b"}]
    write_jsonl(tmp_path / "SQuAD.jsonl", rows)
    model = load(home / "opt")
    settings = settings_for(tmp_path, "SQuAD")
    data = load_data(bind_task(model, settings), settings)
    assert len(data.train) + len(data.dev) + len(data.test) == 9
    (line,) = data.left_out
    assert "line 10: 1 of 10 rows have no answers.text" in line


# -- predictions


def test_predictions_are_the_rows_own_candidates_or_what_is_written(home: Path) -> None:
    (row,) = ROWS["ReCoRD"](1)
    (found,) = tinyzo.predict(home / "opt", [row], task="record")
    assert found.scores.keys() == {"Al", "Bo"} and found.label in found.scores
    assert sum(found.scores.values()) == pytest.approx(1)
    (row,) = ROWS["DROP"](1)
    (found,) = tinyzo.predict(home / "opt", [row], task="drop")
    assert found.scores == {} and "\n" not in found.label
    with pytest.raises(DataError, match="'no': the task reads passage, query, entities"):
        tinyzo.predict(home / "opt", ["no"], task="record")


def test_the_line_of_an_answer_has_no_probability(home: Path, capsys: Capture) -> None:
    row = json.dumps({"passage": "No.", "question": "No?"})
    arguments = ["predict", "--model", str(home / "opt"), "--task", "DROP"]
    assert main([*arguments, row, "--json"]) == 0
    answer = last_line(capsys)
    assert answer.keys() == {"text", "label", "scores"} and answer["scores"] == {}
    assert main([*arguments, row]) == 0
    assert capsys.readouterr().out.count("\t") == 1


# -- the published rows, and a model that ships


@needs_data
def test_rows_are_drawn_as_published() -> None:
    """1,000 + 500 of one permutation of all answers in train, 1,000 of those in dev; seed 0."""
    task = get_task("MultiRC", "opt")
    splits = load_splits(task, DATA / "superglue" / "MultiRC")
    chosen, reported = choose_rows(task, splits, Settings().resolve("opt"))
    wanted = {}
    for split in ("train", "dev"):
        rows = getattr(splits, split)
        np.random.seed(0)
        wanted[split] = [rows[n].where for n in np.random.permutation(len(rows)).tolist()]
    assert [row.where for row in chosen.train] == wanted["train"][:1000]
    assert [row.where for row in chosen.dev] == wanted["train"][1000:1500]
    assert ([row.where for row in chosen.test], reported) == (wanted["dev"][:1000], "dev")


@needs_data
@pytest.mark.parametrize(
    ("name", "folder"),
    [
        ("MultiRC", "superglue-32shot/MultiRC"),
        ("ReCoRD", "superglue-32shot/ReCoRD"),
        ("SQuAD", "squad/squad_500.jsonl"),
    ],
)
def test_published_rows(name: str, folder: str, tmp_path: Path, capsys: Capture) -> None:
    options = [
        "--model", str(ROOT / "weights" / "opt-tiny"), "--task", name, "--data", str(DATA / folder),
        "--limit", "3",
    ]  # fmt: skip
    few = ["--steps", "2", "--batch-size", "2", "--train-rows", "8"]
    assert main(["finetune", *options, *few, "--output", str(tmp_path / "run")]) == 0
    result = json.loads((tmp_path / "run" / "result.json").read_text())
    assert result["examples"] == 3 and 0 < result["loss"] < 20
    capsys.readouterr()
    assert main(["evaluate", "--model", str(tmp_path / "run"), "--json"]) == 0
    assert last_line(capsys)["loss"] == result["loss"]
