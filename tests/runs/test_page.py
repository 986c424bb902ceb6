"""`tinyzo report`: one page, of runs in any state, that nothing in them can break."""

from __future__ import annotations

import errno
import json
import os
import re
import shlex
import shutil
from html.parser import HTMLParser
from pathlib import Path

import pytest
from folders import finetune, lines, write_jsonl, write_model, write_reviews

import tinyzo
from tinyzo import system
from tinyzo.cli.main import build_parser
from tinyzo.cli.options import given_settings
from tinyzo.errors import RunError, UsageError
from tinyzo.runs.commands import finetune_command
from tinyzo.runs.lines import sealed
from tinyzo.runs.page import BEGINNING, html_page, write_report
from tinyzo.runs.recorded import read_run
from tinyzo.runs.run import Run
from tinyzo.runs.settings import Settings

VOID = ("meta", "br")
RUNS = {
    "mezo": (),
    "fzoo": ("--method", "fzoo", "--steps", "3"),
    "lozo": ("--method", "lozo", "--train", "full", "--steps", "4"),
    "adam": ("--method", "adam", "--engine", "numpy", "--lr", "1e-4"),
}


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    home = tmp_path_factory.mktemp("home")
    write_model(home / "model")
    write_reviews(home / "data")
    for name, options in RUNS.items():
        assert finetune(home / "model", home / "data", home / name, *options) == 0
    return home


@pytest.fixture
def run(home: Path, tmp_path: Path) -> Path:
    """A copy of a run, to damage."""
    return shutil.copytree(home / "mezo", tmp_path / "mezo")


class Page(HTMLParser):
    """A page as a browser reads it: its elements, all closed in turn, and its text."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text: list[str] = []
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text.append(data)

    def count(self, tag: str) -> int:
        return sum(name == tag for name, _ in self.tags)


def page_of(*paths: Path) -> str:
    return html_page([read_run(path) for path in paths])


def check(text: str) -> Page:
    """What holds for every page."""
    page = Page(text)
    assert page.text and text.startswith(BEGINNING) and len(text.encode()) < 1 << 20
    assert text.replace("\n", "").isprintable()
    assert not page.count("script") + page.count("link") + page.count("img")
    addresses = [v for _, attrs in page.tags for k, v in attrs.items() if k in ("src", "href")]
    assert addresses == [] and "url(#" in text and "http" not in text.replace("http-equiv", "")
    assert not [k for _, attrs in page.tags for k in attrs if k.startswith("on")]
    ids = [attrs["id"] for _, attrs in page.tags if "id" in attrs]
    assert len(set(ids)) == len(ids)
    for tag, attrs in page.tags:
        if tag == "svg" and attrs.get("role") == "img":
            assert set(str(attrs["aria-labelledby"]).split()) <= set(ids)
        assert tag != "th" or attrs.get("scope") in ("row", "col")
    return page


def cells(text: str, name: str) -> list[str]:
    """The cells of a row of a table, the first of that name."""
    row, *_ = re.findall(rf'<th scope="row">{name}</th>(.*?)</tr>', text)
    return re.findall(r"<td>(.*?)</td>", row)


def test_one_run(home):
    text = page_of(home / "mezo")
    page = check(text)
    result = Run.open(home / "mezo").result
    assert cells(text, "state") == ["finished"]
    assert cells(text, "accuracy before") == [f"{result['accuracy_zero_shot']:.3f}"]
    assert cells(text, "accuracy after") == [f"{result['accuracy']:.3f}"]
    assert cells(text, "loss after") == [f"{result['loss']:.4f}"]
    assert cells(text, "best step on dev") == [f"{result['best_step']}"]
    assert cells(text, "forward passes") == ["12"]
    assert cells(text, "journal") == [f"{(home / 'mezo' / 'journal').stat().st_size} bytes"]
    titles = re.findall(r"<figcaption><b>(.*?)</b>", text)
    assert titles == [
        "Loss", "Dev loss", "Dev accuracy", "Loss in time", "Dev accuracy in time",
        "Projected gradients", "Memory", "Loss of the probes",
    ]  # fmt: skip
    assert text.count('class="text"') == 8 and page.count("figure") == len(titles)
    assert cells(text, "engine")[0].endswith("from step 0")
    assert (
        "differs" not in text.partition("</style>")[2]
        and "problems" not in text.partition("</style>")[2]
    )


def test_several_runs_are_compared(home):
    text = page_of(*(home / name for name in RUNS))
    check(text)
    assert cells(text, "method") == [f"<bdi>{name}</bdi>" for name in RUNS]
    settings = text.partition("<h2>Settings</h2>")[2]
    stressed = re.findall(r'<tr class="differs"><th scope="row">(.*?)</th>', settings)
    rows = re.findall(r'<th scope="row">(.*?)</th>', settings)
    assert {"method", "steps", "queries", "lr"} <= set(stressed)
    assert not {"model", "batch-size", "task"} & set(stressed)
    assert rows[: len(stressed)] == stressed
    assert "<b>Norms of gradients</b>" in text and "mean of the probes" in text


def test_the_steps_of_one_run_lie_behind_their_mean(home):
    """Of several they would hide one another."""
    one = page_of(home / "mezo").partition("</style>")[2]
    assert one.count('class="faint') == 2  # against passes, and in time
    assert 'class="faint' not in page_of(home / "mezo", home / "fzoo").partition("</style>")[2]


def test_runs_of_one_name_are_told_apart_and_one_is_shown_once(home, run, tmp_path):
    page = write_report([home / "mezo", run, run / "journal", run], tmp_path / "r.html").path
    text = page.read_text()
    assert re.findall(r"<h2><bdi>(.*?)</bdi></h2>", text) == [str(home / "mezo"), str(run)]


def test_answers_that_are_written_have_f1_and_no_probability(run):
    """Beside a run of another task, which has none."""
    text = page_of(run)
    assert "F1" not in text
    events = [event for event in lines(run / "events.jsonl") if event["event"] != "answer"]
    answer = {"event": "answer", "step": 0, "split": "test", "row": 0, "text": "P | Q?",
              "label": "x", "said": "", "probability": None, "is_right": False}  # fmt: skip
    for event in events:
        if event["split"] == "test":
            event.update(f1=0.25, exact_match=event["accuracy"])
    records = [sealed({k: v for k, v in e.items() if k != "crc"}) for e in [answer, *events]]
    write_jsonl(run / "events.jsonl", records)
    text = page_of(run)
    check(text)
    assert cells(text, "F1 before") == cells(text, "F1 after") == ["0.250"]
    assert '<td data-name="before">' in text and "<bdi>(nothing)</bdi></td>" in text


# --- what is unfinished or damaged ---


def test_an_unfinished_run(run):
    (run / "result.json").unlink()
    metrics = (run / "metrics.jsonl").read_text().splitlines(keepends=True)
    (run / "metrics.jsonl").write_text("".join(metrics[:4]) + metrics[4][:20])
    found = read_run(run)
    assert found.problems == ["not finished"]
    text = html_page([found])
    check(text)
    assert cells(text, "state") == ["unfinished, 6 of 6 steps"] and cells(text, "steps") == ["6"]
    assert cells(text, "forward passes") == ["8"]
    assert cells(text, "accuracy after") == ["-"] and text.count('data-name="after">-</td>') == 8


def test_a_run_that_has_only_begun(run):
    for name in ("metrics.jsonl", "events.jsonl", "result.json"):
        (run / name).unlink()
    (run / "journal").write_bytes((run / "journal").read_bytes()[:52])
    text = page_of(run)
    check(text.replace("</main>", "<i>url(#</i></main>"))
    assert "No step is on record yet." in text and "no answers are kept" in text
    assert cells(text, "state") == ["unfinished, 0 of 6 steps"]
    assert cells(text, "accuracy before") == ["-"] and "<figure" not in text


DAMAGE = {
    "run.toml": "run.toml is not as it was written",
    "metrics.jsonl": "metrics.jsonl: line 3 is damaged, and what follows unread",
    "events.jsonl": "events.jsonl: line 3 is damaged, and what follows unread",
    "journal": "journal: record 2 of 6 is corrupt",
    "result.json": "not finished",
}


@pytest.mark.parametrize("name", DAMAGE)
def test_a_damaged_file_is_said_by_name_and_the_others_shown(run, name):
    data = (run / name).read_bytes()
    if name.endswith("jsonl"):
        parts = data.split(b"\n")
        parts[2] = b"\xff" + parts[2]
        data = b"\n".join(parts)
    elif name == "result.json":
        data = data[:-9]
    else:
        at = 52 + 56 + 20 if name == "journal" else data.index(b"steps = 6") + 8
        data = data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]
    (run / name).write_bytes(data)
    found = read_run(run)
    assert DAMAGE[name] in found.problems[0]
    assert len(found.problems) == 1 and str(run) not in found.problems[0]
    text = html_page([found])
    check(text)
    assert '<ul class="problems">' in text and DAMAGE[name] in text


@pytest.mark.parametrize("name", DAMAGE)
def test_a_file_that_is_gone(run, name):
    (run / name).unlink()
    text = page_of(run)
    Page(text)
    assert "<h2>Results</h2>" in text


def test_a_run_that_diverged_says_so(run):
    event = {"event": "error", "step": 6, "message": "the run has diverged: losses [nan, nan]"}
    with open(run / "events.jsonl", "a") as events:
        events.write(json.dumps(sealed(event)) + "\n")
    assert "the run has diverged: losses [nan, nan]" in page_of(run)


def test_numbers_that_cannot_be_drawn(run):
    """JSON has integers of any size, and true."""
    line = {"step": 7, "loss": 10**400, "seconds": None, "forwards": 10**310, "peak_bytes": "x"}
    with open(run / "metrics.jsonl", "a") as metrics:
        metrics.write(json.dumps(line | {"projected_gradient": None, "loss_plus": True}) + "\n")
    for event in ({"step": 10**30, "accuracy": 10**400}, {"step": -1, "accuracy": True}):
        whole = {"event": "evaluation", "split": "dev", "examples": 1, "loss": 1e308} | event
        with open(run / "events.jsonl", "a") as events:
            events.write(json.dumps(sealed(whole)) + "\n")
    check(page_of(run))


def test_a_folder_without_a_run(tmp_path):
    with pytest.raises(RunError, match=r"there is no run\n  hint: name the --output of finetune"):
        read_run(tmp_path)


# --- hostile texts ---

HOSTILE = "</title><script>alert(1)</script><img src=x onerror=a>\"'&\u202eevil\u2066\x07"


def test_texts_and_settings_of_any_letters(home, tmp_path):
    data = tmp_path / "rows.jsonl"
    write_jsonl(data, [{"text": f"{HOSTILE}\0 {n}", "label": n % 2} for n in range(20)])
    place = tmp_path / "a <b>&'\" \u202e run"
    own = tinyzo.finetune(
        place, model=home / "model", data=data, steps=2, batch_size=2, engine="numpy",
        template="</pre><script>{text}'\"$(rm) <mask>.", label_words=["bad", "good"],
    )  # fmt: skip
    text = page_of(own.path)
    page = check(text)
    assert page.count("title") > 1 and "\\u202e" in text and "\\x00" in text
    assert any("alert(1)" in data for data in page.text)


def test_a_policy_forbids_all_that_could_be_loaded(home):
    text = page_of(home / "mezo")
    policy = "default-src 'none'; style-src 'unsafe-inline'"
    assert f'http-equiv="Content-Security-Policy" content="{policy}"' in text
    assert "prefers-color-scheme: dark" in text and "@media print" in text
    assert 'name="viewport"' in text and '<html lang="en">' in text


@pytest.mark.exhaustive
def test_a_long_run_is_a_small_page(run):
    """20,000 steps, an evaluation at each fifth, and a peak that no thinning loses."""
    metrics = lines(run / "metrics.jsonl")
    many = [
        metrics[n % 6] | {"step": n + 1, "projected_gradient": 1e6 if n == 777 else 0.001 * n}
        for n in range(20_000)
    ]
    write_jsonl(run / "metrics.jsonl", many)
    dev = {"event": "evaluation", "split": "dev", "examples": 8, "accuracy": 0.5, "loss": 0.7}
    with open(run / "events.jsonl", "a") as events:
        events.writelines(json.dumps(sealed(dev | {"step": n})) + "\n" for n in range(7, 20_000, 5))
    text = page_of(run)
    check(text)
    assert len(text) < 150_000 and "1e+06" in text
    several = html_page([read_run(run)._replace(name=f"run {n}") for n in range(12)])
    assert len(several) < 1 << 20
    assert cells(text, "forward passes") == ["40,000"]


# --- the file ---


def test_a_page_of_before_is_replaced_and_no_other_file(home, tmp_path):
    page = tmp_path / "new" / "folder" / "r.html"
    assert tinyzo.report(home / "mezo", page) == page
    first = page.read_bytes()
    assert tinyzo.report([home / "fzoo", Run.open(home / "mezo")], str(page)) == page
    assert page.read_bytes() != first
    assert write_report([home / "mezo"], page).size == len(first) and page.read_bytes() == first
    page.write_text("<!doctype html>\nmy own page")
    with pytest.raises(RunError, match=r"another file of that name\n  hint: name another --output"):
        tinyzo.report(home / "mezo", page)
    with pytest.raises(RunError, match="Is a directory"):
        tinyzo.report(home / "mezo", page.parent)
    assert page.read_text() == "<!doctype html>\nmy own page"


def test_a_report_of_no_runs(tmp_path):
    with pytest.raises(UsageError, match=r"a report of no runs\n  hint: name the --output of"):
        tinyzo.report([], tmp_path / "r.html")
    with pytest.raises(UsageError, match="a path is empty"):
        tinyzo.report("", tmp_path / "r.html")


def test_a_full_disk_leaves_the_page_of_before(home, tmp_path, monkeypatch):
    page = tinyzo.report(home / "mezo", tmp_path / "r.html")
    before = page.read_bytes()

    def full(file):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(system, "sync", full)
    with pytest.raises(RunError, match=r"r.html: No space left on device\n  hint: make room"):
        tinyzo.report(home / "fzoo", page)
    assert page.read_bytes() == before and list(tmp_path.iterdir()) == [page]


def test_a_folder_that_cannot_be_made(home, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(RunError, match=r"Not a directory|File exists"):
        tinyzo.report(home / "mezo", tmp_path / "file" / "r.html")


# --- the command that makes a run again ---


def words(command: str) -> list[str]:
    """The arguments of a command, as a shell reads its lines."""
    return shlex.split(command.replace("\\\n", ""))[1:]


@pytest.mark.parametrize("name", RUNS)
def test_the_command_gives_the_same_settings(home, name):
    settings = Run.open(home / name).settings
    text = page_of(home / name)
    said = finetune_command(settings, "roberta", f"{home / name}-again")
    assert said in text
    options = build_parser().parse_args(words(said))
    assert given_settings(options).resolve("roberta") == settings
    assert said.count("--") < 14 and options.output == f"{home / name}-again"


def test_the_command_of_the_shipped_job_is_short():
    settings = Settings().resolve("roberta")
    assert finetune_command(settings, "roberta", "a b") == (
        "tinyzo finetune \\\n  --model roberta-tiny \\\n  --task topics \\\n  --method mezo \\\n"
        "  --steps 400 \\\n  --output 'a b'"
    )


def test_the_command_of_a_task_of_ones_own_and_of_a_model_that_is_gone(tmp_path):
    given = Settings(
        model=str(tmp_path / "gone"), data=str(tmp_path), template="-{text}:it's<mask>",
        label_words=["bad", "good"], train="lora", lora_targets=["query", "key"], seed=3,
    )  # fmt: skip
    settings = given.resolve("roberta")
    said = finetune_command(settings, "roberta", "run")
    options = build_parser().parse_args(words(said))
    assert given_settings(options).resolve("roberta") == settings
    unknown = settings.replace(task="no such task", template=None, label_words=None)
    assert "--lora-alpha 16.0" in finetune_command(unknown, "roberta", "run")
