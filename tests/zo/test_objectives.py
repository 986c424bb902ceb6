"""The losses, by hand and against float64; micro-batches change nothing."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from tiny import ENGINES, MODELS, VOCABULARY, WORDS, Float64View, examples_for, toy_task

from tinyzo.engine.numpy_engine import NumpyEngine, present
from tinyzo.engine.terms import Probe
from tinyzo.engine.weights import Weights
from tinyzo.errors import DataError
from tinyzo.runs.bounded import BoundedLoss
from tinyzo.text.packing import pack_candidates, pack_sequences
from tinyzo.text.tasks import Example
from tinyzo.zo.objectives import Objective

CASES = [
    ("roberta", "classification"),
    *((name, loss) for name in ("opt", "opt-post") for loss in ("classification", "lm")),
]
cases = pytest.mark.parametrize(("name", "loss"), CASES)
cross_entropy = Weights({}, NumpyEngine()).view().cross_entropy
PAIR = [Probe(5, 1e-2), Probe(5, -1e-2)]


def log_softmax(row: np.ndarray) -> np.ndarray:
    row = row.astype(np.float64)
    return row - math.log(np.exp(row).sum())


def test_cross_entropy_by_hand():
    scores = np.log([[[0.25, 0.75], [0.5, 0.5]], [[0.9, 0.1], [0.2, 0.8]]])
    expected = [-math.log(0.75) - math.log(0.5), -math.log(0.1) - math.log(0.2)]
    found = cross_entropy(scores, np.array([1, 0]), np.array([2, 2]))
    assert found == pytest.approx(expected, rel=1e-12)


def test_cross_entropy_ignores_absent_candidates_and_large_offsets():
    scores = np.array([[[1000.0, 1000 + math.log(3), 5.0]]])
    found = cross_entropy(scores, np.array([0]), np.array([2]))
    assert found == pytest.approx([math.log(4)], rel=1e-12)


def test_roberta_scores_the_label_words_at_the_mask():
    model, examples = MODELS["roberta"](), examples_for("roberta")
    expected = 0.0
    for example in examples:
        (logits,) = model.logits([example.prompt])
        at_mask = log_softmax(logits[example.mask_at][WORDS])
        expected -= at_mask[example.label] / len(examples)
    found = Objective(model, toy_task("roberta"))(model.weights.view(), examples)
    assert found == pytest.approx([expected], rel=1e-6)


def token_log_p(model, example: Example, c: int) -> np.ndarray:
    """log p of each token of a candidate, from the plain logits of prompt + candidate."""
    candidate = example.candidates[c]
    (logits,) = model.logits([example.prompt + candidate])
    places = range(len(example.prompt) - 1, len(example.prompt) - 1 + len(candidate))
    return np.array([log_softmax(logits[i])[t] for i, t in zip(places, candidate, strict=True)])


@pytest.mark.parametrize("name", ["opt", "opt-post"])
def test_opt_scores_a_candidate_by_the_mean_of_its_tokens(name):
    model, examples = MODELS[name](), examples_for("opt")
    expected = 0.0
    for example in examples:
        means = np.array([token_log_p(model, example, c).mean() for c in range(3)])
        expected -= log_softmax(means)[example.label] / len(examples)
    found = Objective(model, toy_task("opt"))(model.weights.view(), examples)
    assert found == pytest.approx([expected], rel=1e-6)


@pytest.mark.parametrize("name", ["opt", "opt-post"])
def test_the_language_model_loss_is_a_mean_over_tokens(name):
    model, examples = MODELS[name](), examples_for("opt")
    tokens = np.concatenate([token_log_p(model, e, e.label) for e in examples])
    assert len(tokens) > len(examples)
    found = Objective(model, toy_task("opt", "lm"))(model.weights.view(), examples)
    assert found == pytest.approx([-tokens.mean()], rel=1e-6)


@pytest.mark.parametrize("sizes", [(1, 1, 1), (3, 1, 2), (4, 4), (2,)])
def test_candidates_of_any_number_and_length(sizes):
    model, task = MODELS["opt"](), toy_task("opt")
    random = np.random.RandomState(0)
    candidates = tuple(tuple(random.randint(2, VOCABULARY, n)) for n in sizes)
    ragged = [
        Example((2, 5, 7), candidates, -1, 0, ""),
        Example((2, 9), ((3,), (4, 5), (6,), (7,), (8,)), -1, 4, ""),
    ]
    objective = Objective(model, task)
    table = objective.scores(model.weights.view(), pack_candidates(ragged))
    assert table.shape == (1, 2, 5)
    for example, row in zip(ragged, table[0], strict=True):
        n = len(example.candidates)
        means = [token_log_p(model, example, c).mean() for c in range(n)]
        assert row[:n] == pytest.approx(means, rel=1e-6)
        assert np.isneginf(present(row[None], np.array([n]))[0, n:]).all()


def one_token_examples() -> list[Example]:
    candidates = [((5,), (9,)), ((9,), (5,)), ((3,), (4,), (28,))]
    return [Example((2, 7 + i, 11), c, -1, i % 2, "") for i, c in enumerate(candidates)]


def test_candidates_of_one_token_read_only_their_rows(monkeypatch):
    """The same loss as from log p, without the sum over the vocabulary, which they share."""
    model, examples = MODELS["opt"](), one_token_examples()
    expected = 0.0
    for example in examples:
        number = range(len(example.candidates))
        log_p = np.array([token_log_p(model, example, c)[0] for c in number])
        expected -= log_softmax(log_p)[example.label] / len(examples)
    monkeypatch.setattr(model.architecture, "nll", None)
    asked = []
    logits = model.architecture.logits
    monkeypatch.setattr(
        model.architecture, "logits", lambda *a: [asked.append(a[3].tolist()), logits(*a)][1]
    )
    found = Objective(model, toy_task("opt"))(model.weights.view(), examples)
    assert found == pytest.approx([expected], rel=1e-6)
    assert asked == [[3, 4, 5, 9, 28]]


def test_one_candidate_of_two_tokens_needs_all_log_p():
    """Their means are compared with those of one token, so the sums over the vocabulary matter."""
    model, task = MODELS["opt"](), toy_task("opt")
    longer = Example((2, 7, 11), ((5,), (9, 6)), -1, 0, "")
    together = Objective(model, task)(model.weights.view(), [*one_token_examples(), longer])
    alone = [Objective(model, task)(model.weights.view(), [e])[0]
             for e in [*one_token_examples(), longer]]  # fmt: skip
    assert together == pytest.approx([np.mean(alone)], rel=1e-6)


@cases
@pytest.mark.parametrize("dtype", ["f32", "bf16", "f16"])
def test_losses_agree_with_float64(name, loss, dtype):
    found, exact = (
        Objective(model, toy_task(model.family, loss))(
            model.weights.view(PAIR), examples_for(model.family, 7)
        )
        for model in (MODELS[name](dtype), MODELS[name](dtype, Float64View))
    )
    assert found.dtype == np.float64 and found.shape == (2,)
    assert found == pytest.approx(exact, rel=16 * 2.0**-24)  # the tolerance of test_conformance.py


@cases
def test_micro_batches_change_nothing(name, loss):
    model = MODELS[name]()
    examples, task = examples_for(model.family, 7), toy_task(model.family, loss)
    theta = model.weights.view(PAIR)
    whole = BoundedLoss(Objective(model, task), 10**6)(theta, examples)
    for max_tokens in (1, 15, 30):
        assert BoundedLoss(Objective(model, task), max_tokens)(theta, examples) == pytest.approx(
            whole, rel=1e-6
        )


def test_a_sequence_or_token_beyond_the_model_is_refused():
    model = MODELS["opt"]()
    objective, theta = Objective(model, toy_task("opt")), model.weights.view()
    with pytest.raises(
        DataError, match=r"token id 29 is outside the vocabulary of 29\n.*another model"
    ):
        objective(theta, [Example((2, VOCABULARY), ((3,), (4,)), -1, 0, "")])
    with pytest.raises(DataError, match="a sequence of 21 tokens; the model has 20 positions"):
        objective(theta, [Example((2,) * 21, ((3,), (4,)), -1, 0, "")])


def test_a_target_or_label_word_beyond_the_vocabulary_is_refused():
    model = MODELS["opt"]()
    with pytest.raises(DataError, match="token id 29 is outside the vocabulary of 29"):
        Objective(model, toy_task("opt"))(
            model.weights.view(), [Example((2, 5), ((3,), (VOCABULARY,)), -1, 0, "")]
        )
    model = MODELS["roberta"](vocab_size=12)  # label word 17 is beyond it
    with pytest.raises(DataError, match="token id 17 is outside the vocabulary of 12"):
        Objective(model, toy_task("roberta"))(model.weights.view(), [Example((2, 5), (), 1, 0, "")])


# -- accuracy and f1 -------------------------------------------------------------------------


def errors_by_hand(kind: str, gold: list[int], predicted: list[int]) -> float:
    """1 - accuracy, or 1 - the mean F1 of the labels that occur, as scikit-learn's macro."""
    pairs = list(zip(gold, predicted, strict=True))
    if kind == "accuracy":
        return sum(g != p for g, p in pairs) / len(pairs)
    scores = []
    for label in sorted({*gold, *predicted}):
        right = sum(g == p == label for g, p in pairs)
        scores.append(2 * right / (gold.count(label) + predicted.count(label)))
    return 1 - sum(scores) / len(scores)


KINDS = pytest.mark.parametrize("kind", ["accuracy", "f1"])
TABLES = [
    ([0, 1, 2, 0], [0, 1, 2, 0]), ([0, 0, 0], [1, 1, 1]), ([0, 0, 1, 1, 2], [0, 1, 1, 1, 0]),
    ([1, 1], [1, 2]), ([2], [2]),
]  # fmt: skip


@KINDS
@pytest.mark.parametrize(("gold", "predicted"), TABLES)
def test_errors_of_a_table_by_hand(kind, gold, predicted):
    table = np.zeros((1, 3, 3))
    np.add.at(table[0], (gold, predicted), 1)
    objective = Objective(MODELS["roberta"](), toy_task("roberta"), kind=kind)
    assert objective.errors(table) == pytest.approx([errors_by_hand(kind, gold, predicted)])


@KINDS
@pytest.mark.parametrize("name", ["roberta", "opt", "opt-post"])
@pytest.mark.parametrize("engine", ENGINES.values(), ids=ENGINES)
def test_errors_are_those_of_each_probes_best_candidates(kind, name, engine):
    model, examples = MODELS[name]("f32", engine), examples_for(MODELS[name]().family, 6)
    probes = [Probe(5, 0.3), Probe(5, -0.3), Probe(6, 0.4)]
    objective, *others = (
        BoundedLoss(Objective(model, toy_task(model.family), kind), most) for most in (4096, 1)
    )
    expected = []
    for probe in probes:
        predicted = []
        for example in examples:
            batch = objective.objective.pack([example])
            scores = objective.objective.scores(model.weights.view([probe]), batch)
            predicted.append(int(present(scores, batch.counts).argmax()))
        expected.append(errors_by_hand(kind, [e.label for e in examples], predicted))
    assert len(set(expected)) > 1
    for each in (objective, *others):
        assert each(model.weights.view(probes), examples) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("name", ["opt", "opt-post"])
def test_errors_of_a_task_of_language_are_of_its_candidates(name):
    """Its loss is that of the gold tokens; its accuracy that of the best candidate."""
    found = [
        Objective(MODELS[name](), toy_task("opt", loss), kind="accuracy")(
            MODELS[name]().weights.view(), examples_for("opt"))
        for loss in ("classification", "lm")
    ]  # fmt: skip
    assert found[0].tolist() == found[1].tolist()


# -- a row's own candidates, and answers that are written -------------------------------------


def test_errors_of_candidates_of_a_row_count_any_gold_one():
    """Whatever the micro-batches, whose rows have other numbers of candidates."""
    model, bound = MODELS["opt"](), toy_task("opt", "lm")
    bound = replace(bound, task=replace(bound.task, labels=(), words=("",), choices="entities"))
    sizes = [2, 5, 3, 4, 1]
    examples = [
        Example((2, 5, 7 + n), tuple((3 + c, 9 + n) for c in range(size)), -1, 0, "")
        for n, size in enumerate(sizes)
    ]
    probes = [Probe(5, 0.3), Probe(6, 0.4)]
    theta = model.weights.view(probes)
    objective = Objective(model, bound, "accuracy")
    best = []
    for example in examples:
        batch = objective.pack([example])
        scores = present(objective.scores(theta, batch), batch.counts)
        best.append(scores.argmax(axis=-1)[:, 0])
    first, second = np.array(best).T.tolist()
    gold = [replace(e, label=b) for e, b in zip(examples, first, strict=True)]
    share = np.mean([a != b for a, b in zip(first, second, strict=True)])
    assert share > 0
    for most in (4096, 1):
        found = BoundedLoss(objective, most)(theta, gold)
        assert found == pytest.approx([0, share], abs=1e-12)
    both = [replace(e, also_gold=(b,)) for e, b in zip(gold, second, strict=True)]
    assert BoundedLoss(objective, 4096)(theta, both) == pytest.approx([0, 0], abs=1e-12)


class Letters:
    """A vocabulary of letters: 10 is the end of a line, 2 that of a text."""

    eos_id = 2

    def encode(self, text: str) -> list[int]:
        return [10 if letter == "\n" else ord(letter) - 80 for letter in text]

    def decode(self, ids: list[int]) -> str:
        return "".join(chr(number + 80) for number in ids)


def asked(*answers: str) -> Example:
    return Example((0, 20, 21), ((17, 10),), -1, 0, "", answers=answers)


def text_task(model):
    """A task whose answers are written, bound by hand; and examples of it."""
    bound = toy_task("opt", "lm")
    task = replace(bound.task, labels=(), words=("",), max_new_tokens=5)
    return replace(bound, task=task, tokenizer=Letters())


@pytest.mark.parametrize("engine", ENGINES.values(), ids=ENGINES)
def test_answers_are_what_each_probe_writes(engine):
    model = MODELS["opt"]("f32", engine)
    objective = Objective(model, text_task(model))
    for probe in (Probe(5, 0.0), Probe(5, 1.5)):
        text = [0, 20, 21]
        for _ in range(5):
            view = model.weights.view([probe])
            scores = model.scores(view, pack_sequences([text]))[0, -1]
            text.append(int(scores.argmax()))
        letters = Letters().decode(text[3:]).split(chr(90))[0].split(chr(82))[0].strip()
        assert objective.answers(model.weights.view([probe]), [asked("x")]) == [letters]


# F1: of red in "red car" 2/3, of red 1, of green in nothing 0; one of three matches.
@pytest.mark.parametrize(("kind", "expected"), [("accuracy", 2 / 3), ("f1", 4 / 9)])
def test_errors_of_answers_by_hand(kind, expected):
    model = MODELS["opt"]()
    written = ["red car ", "  reD", ""]
    calls = []

    def stand_in(model, prompts, max_new_tokens, stop=(), theta=None):
        calls.append((len(prompts), max_new_tokens, tuple(stop), len(theta.probes)))
        return [Letters().encode(text) for text in written][: len(prompts)]

    objective = Objective(model, text_task(model), kind, stand_in)
    examples = [asked("blue", "red"), asked("blue", "red"), asked("green")]
    theta = model.weights.view([Probe(5, 0.3), Probe(6, 0.4)])
    found = BoundedLoss(objective, 4096)(theta, examples)
    assert found == pytest.approx([expected, expected])
    assert calls == [(3, 5, (10, 2), 1)] * 2


def test_the_cross_entropy_of_answers_writes_none():
    model = MODELS["opt"]()
    bound = text_task(model)
    examples = [asked("x"), asked("y")]
    theta = model.weights.view(PAIR)
    found = Objective(model, bound, generate=NotImplemented)(theta, examples)
    expected = Objective(model, toy_task("opt", "lm"))(theta, examples)
    assert found == pytest.approx(expected, rel=1e-12)
