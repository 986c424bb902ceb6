"""In-context learning, calibration and the linear probe, against prompts scored one by one."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
from folders import write_jsonl, write_model
from questions import record_rows, squad_rows
from tiny import ENGINES

import tinyzo
from tinyzo.errors import ConfigError, DataError, UsageError
from tinyzo.models.model import Model
from tinyzo.runs.opened import Opened, open_for_task
from tinyzo.runs.settings import Settings
from tinyzo.runs.untrained import Way, score
from tinyzo.text.datasets import draw
from tinyzo.text.tasks import get_task

SST_2 = [{"sentence": f" {n} {'no' * (n % 3)} ", "label": n % 2} for n in range(20)]
COPA = [
    {
        "premise": f"No {n}.",
        "question": ("cause", "effect")[n % 2],
        "choice1": "It is",
        "choice2": f"I no {n}",
        "label": n // 2 % 2,
    }
    for n in range(12)
]
ENDINGS = {
    "SST-2": lambda row: [" terrible", " great"],
    "COPA": lambda row: [" " + row["choice1"].replace("It", "it"), " " + row["choice2"]],
    "ReCoRD": lambda row: [" " + row["query"].replace("@placeholder", e) for e in row["entities"]],
}
PROMPTS = {
    "SST-2": lambda row: row["sentence"].strip() + " It was",
    "COPA": lambda row: row["premise"].strip(".") + conjunction(row),
    "ReCoRD": lambda row: row["passage"].replace("@highlight\n", "- ") + "\n-",
}
BLANKS = {
    "SST-2": lambda row: "It was",
    "COPA": lambda row: conjunction(row).strip(),
    "ReCoRD": lambda row: "-",
}
ROWS = {"SST-2": SST_2, "COPA": COPA, "ReCoRD": record_rows(12)}


def conjunction(row: dict) -> str:
    return {"cause": " because", "effect": " so"}[row["question"]]


def gold(task: str, row: dict) -> list[int]:
    if task == "ReCoRD":
        return [row["entities"].index(answer) for answer in row["answers"]]
    return [row["label"]]


@pytest.fixture(scope="module")
def opt(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("model") / "opt", "opt")


def folder(path: Path, task: str, train: int = 8) -> Path:
    rows = ROWS.get(task, squad_rows(12))
    path.mkdir()
    write_jsonl(path / "train.jsonl", rows[:train])
    write_jsonl(path / "dev.jsonl", rows[train:])
    return path


def opened(model: Path | str, task: str, data: Path | None, **more: object) -> Opened:
    return open_for_task(Settings(model=str(model), task=task, data=data and str(data), **more))


def log_p(model: Model, prompt: str, ending: str, before: str = "", room: int = 0) -> np.ndarray:
    """log p of each token of an ending, by one pass over all that is before it."""
    encode = model.tokenizer.encode
    count = len(encode(prompt + ending)) - len(encode(prompt))
    ids = encode((before + prompt + ending).strip(" "))
    ids = [0, *ids[max(0, len(ids) - room) if room else 0 :]]
    (logits,) = model.logits([ids])
    logits = logits.astype(np.float64)
    log = logits - np.logaddexp.reduce(logits, axis=-1, keepdims=True)
    return log[np.arange(len(ids) - count - 1, len(ids) - 1), ids[len(ids) - count :]]


def shown(task: str, count: int, seed: int = 0) -> str:
    rows = draw(ROWS[task][:8], count, seed)
    texts = [PROMPTS[task](row) + ENDINGS[task](row)[gold(task, row)[0]] for row in rows]
    return "\n\n".join(text.strip() for text in texts).strip() + "\n\n"


def expected(
    model: Model, task: str, before: str = "", calibrate: bool = False
) -> list[np.ndarray]:
    """The scores of each row's candidates, by the published rules."""
    found = []
    for row in ROWS[task][8:]:
        scores = [log_p(model, PROMPTS[task](row), e, before) for e in ENDINGS[task](row)]
        blank = [log_p(model, BLANKS[task](row), e) for e in ENDINGS[task](row)]
        means = [each.mean() for each in scores]
        sums = [each.sum() - none.sum() for each, none in zip(scores, blank, strict=True)]
        found.append(np.array(sums if calibrate else means))
    return found


def right(task: str, scores: list[np.ndarray]) -> float:
    rows = ROWS[task][8:]
    return float(np.mean([s.argmax() in gold(task, r) for s, r in zip(scores, rows, strict=True)]))


def entropy(task: str, scores: list[np.ndarray]) -> float:
    rows = zip(scores, ROWS[task][8:], strict=True)
    return float(np.mean([np.logaddexp.reduce(s) - s[gold(task, r)[0]] for s, r in rows]))


@pytest.mark.parametrize("engine", ENGINES)
def test_demonstrations_before_each_row(opt: Path, tmp_path: Path, engine: str) -> None:
    data = opened(opt, "SST-2", folder(tmp_path / "data", "SST-2"), engine=engine)
    found = score(data, Way(icl=2))
    scores = expected(data.model, "SST-2", shown("SST-2", 2))
    assert (found.split, found.evaluation.examples) == ("dev", 12)
    assert found.evaluation.accuracy == right("SST-2", scores)
    assert found.evaluation.loss == pytest.approx(entropy("SST-2", scores), rel=1e-5)
    assert found.evaluation.loss != pytest.approx(score(data, Way()).evaluation.loss, rel=1e-3)


@pytest.mark.parametrize("task", ["COPA", "ReCoRD"])
def test_tasks_whose_candidates_have_several_tokens(opt: Path, tmp_path: Path, task: str) -> None:
    data = opened(opt, task, folder(tmp_path / "data", task))
    scores = expected(data.model, task, shown(task, 1))
    assert score(data, Way(icl=1)).evaluation.accuracy == right(task, scores)


@pytest.mark.parametrize("task", ["SST-2", "COPA", "ReCoRD"])
@pytest.mark.parametrize("icl", [0, 1])
def test_calibrated_scores(opt: Path, tmp_path: Path, task: str, icl: int) -> None:
    data = opened(opt, task, folder(tmp_path / "data", task))
    before = shown(task, 1) if icl else ""
    scores = expected(data.model, task, before, calibrate=True)
    found = score(data, Way(icl=icl, calibrate=True)).evaluation
    assert found.accuracy == right(task, scores)
    assert found.loss == pytest.approx(entropy(task, scores), rel=1e-5)


def test_demonstrations_that_do_not_fit_lose_their_beginning(opt: Path, tmp_path: Path) -> None:
    """All of the longest row fits, and each row sees as much of them as that one."""
    data = opened(opt, "SST-2", folder(tmp_path / "data", "SST-2"))
    model, before = data.model, shown("SST-2", 8)
    encode, rows = model.tokenizer.encode, ROWS["SST-2"][8:]
    tails = [encode("\n\n" + PROMPTS["SST-2"](row) + " great") for row in rows]
    room = 63 - max(map(len, tails))
    assert len(encode(before.strip())) > room
    scores = [
        np.array(
            [
                log_p(model, PROMPTS["SST-2"](row), end, before, room + len(tail))[-1]
                for end in (" terrible", " great")
            ]
        )
        for row, tail in zip(rows, tails, strict=True)
    ]
    found = score(data, Way(icl=8)).evaluation
    assert found.loss == pytest.approx(entropy("SST-2", scores), rel=1e-5)


def test_answers_are_written_after_demonstrations(opt: Path, tmp_path: Path) -> None:
    """Rows that leave no room for demonstrations are written to without them."""
    data = opened(opt, "SQuAD", folder(tmp_path / "data", "SQuAD"))
    found = score(data, Way(icl=2)).evaluation
    assert found.f1 is not None and found.examples == 4


def test_the_seed_of_the_data_draws_the_demonstrations(opt: Path, tmp_path: Path) -> None:
    data = folder(tmp_path / "data", "SST-2")
    found = tinyzo.evaluate(opt, "SST-2", data, icl=2, data_seed=3).loss
    scores = expected(tinyzo.load(opt), "SST-2", shown("SST-2", 2, 3))
    assert found == pytest.approx(entropy("SST-2", scores), rel=1e-5)


def test_a_run_is_scored_in_the_same_ways(opt: Path, tmp_path: Path) -> None:
    data = folder(tmp_path / "data", "SST-2")
    more = {"steps": 2, "lr": 1e-3, "batch_size": 4, "train_rows": 6}
    run = tinyzo.finetune(tmp_path / "run", model=opt, task="SST-2", data=data, **more)
    scores = expected(tinyzo.load(run.path), "SST-2", shown("SST-2", 2), calibrate=True)
    found = tinyzo.evaluate(run.path, icl=2, calibrate=True)
    assert found.loss == pytest.approx(entropy("SST-2", scores), rel=1e-5)


def test_the_words_after_the_last_field_are_a_prompt_without_content() -> None:
    assert get_task("reviews", "opt").without_content().template == " It was"
    assert get_task("BoolQ", "opt").without_content().template == ""
    custom = tinyzo.text.tasks.custom_task("Say {text}", ["a", "b"], "opt", "label")
    assert custom.without_content().template == ""


# -- the probe


@pytest.mark.parametrize("family", ["roberta", "opt"])
def test_a_probe_of_hidden_states(family: str) -> None:
    sklearn = pytest.importorskip("sklearn.linear_model")
    name = f"{family}-tiny"
    found = tinyzo.evaluate(name, method="linear-probe", k_shot=8, limit=30)
    data = opened(name, "topics", None, k_shot=8, limit=30)
    rows = tinyzo.runs.data.load_data(data.bound, data.settings)

    def points(examples: list) -> tuple[np.ndarray, np.ndarray]:
        states = data.model.hidden([example.prompt for example in examples])
        read = [h[e.mask_at].astype(np.float64) for h, e in zip(states, examples, strict=True)]
        return np.array(read), np.array([example.label for example in examples])

    x, y = points(rows.dev)
    fits = [
        sklearn.LogisticRegression(C=c, max_iter=5000).fit(*points(rows.train))
        for c in np.logspace(-4, 4, 10)
    ]
    losses = [-np.log(fit.predict_proba(x)[np.arange(len(y)), y]).mean() for fit in fits]
    best = fits[int(np.argmin(losses))]
    assert found.accuracy == pytest.approx(best.score(*points(rows.test)), abs=0.04)
    assert found.accuracy > 0.45 and found.examples == 30


def test_a_label_that_no_training_row_has_is_unlikely(tmp_path: Path) -> None:
    pytest.importorskip("sklearn")
    words, data = ["movie", "phone", "food"], tmp_path / "data"
    data.mkdir()
    for split, labels in (("train", words[:2] * 8), ("dev", words[:2]), ("test", words)):
        rows = [{"text": f"{n} no", "label": label} for n, label in enumerate(labels)]
        write_jsonl(data / f"{split}.jsonl", rows)
    own = {"template": "{text} <mask>", "label_words": words, "data": data}
    found = tinyzo.evaluate("roberta-tiny", method="linear-probe", **own)
    assert 100 < found.loss < 1000


# -- refusals


def test_what_a_mask_has_no_place_for(tmp_path: Path) -> None:
    data = opened("roberta-tiny", "topics", None)
    with pytest.raises(UsageError, match="--icl with a roberta model"):
        score(data, Way(icl=2))
    with pytest.raises(UsageError, match="--calibrate with a roberta model"):
        score(data, Way(calibrate=True))


def test_tasks_that_have_no_such_way(opt: Path, tmp_path: Path) -> None:
    pytest.importorskip("sklearn")
    squad = opened(opt, "SQuAD", folder(tmp_path / "squad", "SQuAD"))
    with pytest.raises(UsageError, match="the answers of SQuAD are written"):
        score(squad, Way(calibrate=True))
    copa = opened(opt, "COPA", folder(tmp_path / "copa", "COPA"), train_rows=8)
    with pytest.raises(UsageError, match="the candidates of COPA differ from row to row"):
        score(copa, Way("linear-probe"))


@pytest.mark.parametrize("calibrate", [False, True])
def test_ways_that_do_not_go_together(calibrate: bool) -> None:
    given = Settings()
    with pytest.raises(UsageError, match="linear-probe with --icl or --calibrate"):
        Way("linear-probe", icl=1 - calibrate, calibrate=calibrate).check(given)
    with pytest.raises(UsageError, match="icl = -1"):
        Way(icl=-1, calibrate=calibrate).check(given)
    with pytest.raises(ConfigError, match="method 'probe' is not built"):
        tinyzo.evaluate("opt-tiny", method="probe")
    for name in ("k_shot", "train_rows"):
        with pytest.raises(UsageError, match=f"{name} counts for nothing here"):
            Way(calibrate=calibrate).check(Settings(**{name: 4}))


def test_rows_to_demonstrate_are_not_those_reported_on(opt: Path, tmp_path: Path) -> None:
    data = folder(tmp_path / "data", "SST-2")
    with pytest.raises(DataError, match="8 rows to demonstrate, which are not reported on"):
        tinyzo.evaluate(opt, "SST-2", data, icl=9)
    with pytest.raises(DataError, match="0 rows to demonstrate, which are not reported on"):
        tinyzo.evaluate(opt, "SST-2", data / "train.jsonl", icl=1)


def test_training_rows_of_one_label(tmp_path: Path) -> None:
    pytest.importorskip("sklearn")
    data = tmp_path / "data"
    data.mkdir()
    for split in ("train", "dev", "test"):
        write_jsonl(data / f"{split}.jsonl", [{"sentence": f"{n}", "label": 1} for n in range(9)])
    with pytest.raises(DataError, match="the training rows all have one label"):
        tinyzo.evaluate("roberta-tiny", "SST-2", data, method="linear-probe")


@pytest.mark.parametrize("broken", [False, True])
def test_without_scikit_learn(
    monkeypatch: pytest.MonkeyPatch, broken: bool, tmp_path: Path
) -> None:
    found = "it is not installed"
    if broken:
        (tmp_path / "sklearn").mkdir()
        (tmp_path / "sklearn" / "__init__.py").write_text("raise OSError('no libgomp')")
        monkeypatch.syspath_prepend(tmp_path)
        found = "OSError: no libgomp"
    for name in [name for name in sys.modules if name.split(".")[0] == "sklearn"]:
        monkeypatch.delitem(sys.modules, name)
    if not broken:
        monkeypatch.setattr(sys, "meta_path", [Missing(), *sys.meta_path])
    with pytest.raises(ConfigError, match=f"needs scikit-learn: {found}"):
        tinyzo.evaluate("roberta-tiny", method="linear-probe")


class Missing:
    """A finder to which there is no scikit-learn."""

    def find_spec(self, name: str, path: object = None, target: object = None) -> None:
        if name.split(".")[0] == "sklearn":
            raise ModuleNotFoundError("No module named 'sklearn'", name="sklearn")
