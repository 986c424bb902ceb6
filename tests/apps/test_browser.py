"""The page of examples/onnx_browser tunes a model in headless Chromium as tinyzo would.

It runs where Chromium is, and `npm ci` was called in the example's folder. Its tokenizer and its
seeds need Node.js alone.
"""

from __future__ import annotations

import json
import re
import runpy
import shutil
import subprocess
import sys
from collections.abc import Iterator
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple

import chromium
import numpy as np
import pytest
from folders import ROOT

import tinyzo
from tinyzo.checkpoints.peft import PREFIX
from tinyzo.checkpoints.safetensors import open_safetensors
from tinyzo.engine import noise
from tinyzo.engine.terms import Probe
from tinyzo.models.model import Model, open_model
from tinyzo.runs.data import Data, bind_task, load_data
from tinyzo.runs.run import prepare
from tinyzo.runs.settings import Settings
from tinyzo.zo.objectives import Objective

EXAMPLE = ROOT / "examples" / "onnx_browser"
PAGE = EXAMPLE / "page"
STEPS = 30
SMALL = 320  # pixels, the width of the smallest phones
TEXT = "The camera's too slow; 2 of 3 pictures are blurred. Don't — it ain't 日本語!"
ODD = [
    "", " ", "  two  spaces \n\nI'm we'll\r\n", "e\u0301 日本語 😀 x\u00a0y\u3000z",
    "'s 'S it's1st", "a\x85b\x1cc\ufeffd", "supercalifragilistic" * 9,
    "½ ² Ⅷ ٣ _a_ --- ... !?", "tab\there",
]  # fmt: skip

node = pytest.mark.skipif(not shutil.which("node"), reason="no Node.js")
HAS_RUNTIME = (EXAMPLE / "node_modules" / "onnxruntime-web").is_dir()
browser = pytest.mark.skipif(
    not (chromium.program() and HAS_RUNTIME),
    reason="no Chromium, or no `npm ci` in examples/onnx_browser",
)


# -- what needs no browser


def in_node(module: str, names: str, expression: str, given: Any) -> Any:
    """The value of an expression over `given` and names of a module of the page."""
    address = (PAGE / module).as_uri()
    script = f"""
        import {{ readFileSync }} from "node:fs";
        import {{ {names} }} from "{address}";
        const given = JSON.parse(readFileSync(0, "utf8"));
        console.log(JSON.stringify({expression}));
    """
    command = ["node", "--input-type=module", "-e", script]
    found = subprocess.run(command, input=json.dumps(given), capture_output=True, text=True)
    assert found.returncode == 0, found.stderr
    return json.loads(found.stdout)


IDS_AND_TEXTS = """
    ((tokenizer) => [
      given.texts.map((text) => encodeRow(given.about, tokenizer, given.first, text)),
      given.texts.map((text) => tokenizer.decode(tokenizer.encode(text))),
    ])(new Tokenizer(given.vocabulary, given.merges))
"""


@node
@pytest.mark.parametrize("task", ["topics", "reviews"])
@pytest.mark.parametrize("name", ["roberta-tiny", "opt-tiny"])
def test_the_page_makes_tinyzo_s_ids(name, task):
    folder = ROOT / "weights" / name
    model = open_model(folder)
    bound = bind_task(model, Settings(task=task).resolve(model.family))
    data = load_data(bound, Settings(task=task).resolve(model.family))
    texts = [example.text for example in (*data.train, *data.dev, *data.test)] + ODD
    column = bound.fields[0]
    wanted = [list(bound.encode({column: text}, labelled=False).prompt) for text in texts]
    mask = bound.tokenizer.mask_id if model.family == "roberta" else None
    given = {
        "about": {"template": bound.task.template, "mask_id": mask},
        "vocabulary": json.loads((folder / "vocab.json").read_text("utf-8")),
        "merges": (folder / "merges.txt").read_text("utf-8"),
        "first": wanted[0][0],
        "texts": texts,
    }
    ids, again = in_node("tokenizer.js", "Tokenizer, encodeRow", IDS_AND_TEXTS, given)
    assert ids == wanted
    assert again == texts


@node
def test_a_template_of_two_columns_is_left_alone():
    given = {"template": "{text} {title} It was", "mask_id": None}
    assert in_node("tokenizer.js", "encodeRow", "encodeRow(given, null, 0, '')", given) is None


@node
def test_the_page_makes_tinyzo_s_seeds():
    given = [[0, 0], [0, 1], [7, 123456], [2**53 - 1, 2**32]]
    found = in_node("seeds.js", "stepSeed", "given.map(([s, n]) => Number(stepSeed(s, n)))", given)
    assert found == [noise.step_seed(seed, number) for seed, number in given]


@node
def test_each_epoch_reads_every_row_once_in_an_order_of_its_own():
    expression = "given.map((step) => batchRows(step, 50, 16, 3))"
    found = in_node("seeds.js", "batchRows", expression, [*range(8), 0])
    assert found.pop() == found[0]
    assert [len(rows) for rows in found] == [16, 16, 16, 2] * 2
    epochs = [list(chain(*found[:4])), list(chain(*found[4:]))]
    assert all(sorted(epoch) == list(range(50)) for epoch in epochs)
    assert epochs[0] != epochs[1]


def test_the_page_has_all_that_it_names_and_nothing_from_elsewhere():
    names = {path.name for path in PAGE.iterdir()}
    texts = {path.name: path.read_text("utf-8") for path in PAGE.iterdir()}
    for name, text in texts.items():
        addresses = set(re.findall(r"https?://[^\"'`\s]+", text))
        assert addresses <= {"http://www.w3.org/2000/svg"}, name
    named = set(re.findall(r"[\"'](?:\./)?([a-z]+\.(?:js|css|svg))[\"']", "".join(texts.values())))
    assert named == names - {"index.html"}


def test_the_build_spares_what_it_did_not_build(tmp_path, monkeypatch):
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "letter.txt").write_text("dear")
    build = runpy.run_path(str(EXAMPLE / "build.py"))
    monkeypatch.setitem(build["main"].__globals__, "RUNTIME", tmp_path)
    monkeypatch.setattr(sys, "argv", ["build.py", str(mine)])
    with pytest.raises(FileExistsError):
        build["main"]()
    assert (mine / "letter.txt").read_text() == "dear"


def test_the_build_names_npm_where_it_is_not(tmp_path, monkeypatch):
    build = runpy.run_path(str(EXAMPLE / "build.py"))
    monkeypatch.setitem(build["main"].__globals__, "RUNTIME", tmp_path / "none")
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(sys, "argv", ["build.py", str(tmp_path / "site")])
    with pytest.raises(SystemExit, match=r"npm is not here: it comes with Node\.js"):
        build["main"]()


# -- in Chromium


class Tuned(NamedTuple):
    """What a run in the page left, whose server had gone before the first step.

    site:    the page's folder; files: what was downloaded
    answers: for TEXT, each label with "Now" and "Before", as the page says them
    width:   of the page, in pixels, on a screen of SMALL
    controls: role and name of what is on the page, as a screen reader has it
    """

    site: Path
    address: str
    journal: dict[str, Any]
    adapter: Path
    answers: list[list[str]]
    numbers: dict[str, str]
    again: dict[str, Any]
    width: int
    controls: list[tuple[str, str]]
    requests: list[str]
    errors: list[str]


@pytest.fixture(scope="module")
def site(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("browser") / "site"
    command = [sys.executable, str(EXAMPLE / "build.py"), str(folder)]
    subprocess.run(command, check=True, cwd=ROOT, capture_output=True)
    return folder


def is_ready(page: chromium.Page) -> None:
    page.wait("document.querySelector('#start')?.disabled === false", 120)


def status(page: chromium.Page) -> str:
    return str(page.evaluate(chromium.STATUS))


def click(page: chromium.Page, name: str) -> None:
    page.evaluate(f"document.querySelector('{name}').click()")


def tune(page: chromium.Page, steps: int) -> None:
    """Press Start, and Stop after so many steps at least."""
    click(page, "#start")
    page.wait(f"Number(document.querySelector('#steps').textContent) >= {steps}", 300)
    click(page, "#start")
    page.wait(f"{chromium.STATUS}.startsWith('Stopped')", 60)


def journal_of(page: chromium.Page, folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(page.downloaded(folder, "#journal").read_text())
    return found


ROWS_OF_TABLE = """
    Array.from(document.querySelector('#answers').rows, (row) =>
      Array.from(row.cells, (cell) => cell.innerText.trim()))
"""
NUMBERS = """
    Object.fromEntries(Array.from(document.querySelectorAll('dt'), (name) =>
      [name.innerText, name.nextElementSibling.innerText]))
"""


@pytest.fixture(scope="module")
def tuned(site, tmp_path_factory) -> Tuned:
    folder = tmp_path_factory.mktemp("tuned")
    with chromium.browser(folder / "profile") as page:
        with chromium.served(site) as address:
            page.open(address)
            is_ready(page)
        tune(page, STEPS)
        journal = journal_of(page, folder / "journal")
        adapter = page.downloaded(folder / "adapter", "#adapter")
        page.evaluate(f"document.querySelector('#text').value = {json.dumps(TEXT)}")
        before = page.evaluate(f"JSON.stringify({ROWS_OF_TABLE})")
        page.evaluate("document.querySelector('#text').dispatchEvent(new Event('input'))")
        page.wait(f"JSON.stringify({ROWS_OF_TABLE}) !== {json.dumps(before)}", 60)
        answers = page.evaluate(ROWS_OF_TABLE)
        numbers = page.evaluate(NUMBERS)
        click(page, "#again")
        page.wait(f"{chromium.STATUS}.startsWith('Ready')", 60)
        tune(page, 2)
        again = journal_of(page, folder / "again")
        page.show(SMALL, 600)
        page.evaluate("document.querySelectorAll('details').forEach((each) => (each.open = true))")
        width = page.evaluate("document.documentElement.scrollWidth")
        controls = page.controls()
    ran = (journal, adapter, answers, numbers, again)
    return Tuned(site, address, *ran, width, controls, page.requests, page.errors)


class Reference(NamedTuple):
    """The same model and rows, on tinyzo's numpy engine."""

    model: Model
    data: Data
    loss: Objective


@pytest.fixture
def reference() -> Reference:
    settings = Settings(model="opt-tiny", task="topics", method="p-rge").resolve("opt")
    model = open_model(settings.model_path)
    prepare(model, settings)
    model.settle("numpy", "resident", 1)
    bound = bind_task(model, settings)
    return Reference(model, load_data(bound, settings), Objective(model, bound, "cross-entropy"))


def add_step(weights: Any, step: dict[str, Any]) -> None:
    """A step of the journal, as tinyzo adds it."""
    queries = len(step["seeds"])
    pairs = zip(step["seeds"], step["projected_gradients"], strict=True)
    weights.add([(seed, -step["lr"] * (g / queries)) for seed, g in pairs])
    weights.fold()


@browser
@pytest.mark.exhaustive
def test_losses_are_the_numpy_engine_s(tuned, reference):
    model, data, loss = reference
    for number, step in enumerate(tuned.journal["steps"][:5]):
        q = len(step["seeds"])
        assert step["seeds"] == [noise.step_seed(0, number * q + query) for query in range(q)]
        points = [Probe(seed, side * step["eps"]) for seed in step["seeds"] for side in (+1, -1)]
        wanted = loss(model.weights.view(points), [data.train[row] for row in step["rows"]])
        np.testing.assert_allclose(step["losses"], wanted, rtol=0, atol=1e-5)
        add_step(model.weights, step)


@browser
@pytest.mark.exhaustive
def test_the_adapter_is_what_the_journal_adds_up_to(tuned, reference):
    weights = reference.model.weights
    for step in tuned.journal["steps"]:
        add_step(weights, step)
    adapter = open_safetensors(tuned.adapter)
    for name in weights.trained:
        found = adapter.read(PREFIX + name)
        assert found.any()
        assert np.array_equal(found, weights.read(name))


@browser
@pytest.mark.exhaustive
def test_the_model_learns(tuned):
    first, *_, last = tuned.journal["evaluations"]
    assert (first["step"], last["step"]) == (0, len(tuned.journal["steps"]))
    assert len(tuned.journal["steps"]) >= STEPS
    assert last["loss"] < first["loss"] - 0.05
    assert last["accuracy"] > first["accuracy"] + 0.05


@browser
@pytest.mark.exhaustive
def test_the_page_tells_what_it_did(tuned):
    steps = len(tuned.journal["steps"])
    first, *_, last = tuned.journal["evaluations"]
    assert tuned.numbers["Steps"] == str(steps)
    assert tuned.numbers["Forward passes"] == f"{8 * steps:,}"
    assert tuned.numbers["Accuracy before"] == f"{100 * first['accuracy']:.1f} %"
    assert tuned.numbers["Accuracy now"] == f"{100 * last['accuracy']:.1f} %"
    assert float(tuned.numbers["Seconds a step"]) > 0
    assert re.fullmatch(r"\d+ MB", tuned.numbers["WASM memory"])


@browser
@pytest.mark.exhaustive
def test_tinyzo_loads_the_adapter_and_agrees_on_the_test_rows(tuned, tmp_path):
    last = tuned.journal["evaluations"][-1]
    model = shutil.copytree(tuned.site / "model", tmp_path / "model")
    shutil.copy(tuned.adapter, model / "adapter")
    found = tinyzo.evaluate(model / "adapter", task="topics")
    assert found.accuracy == pytest.approx(last["accuracy"])
    assert found.loss == pytest.approx(last["loss"], abs=1e-5)
    for folder, column in ((model / "adapter", 1), (model, 2)):
        (row,) = tinyzo.predict(folder, [TEXT], task="topics")
        said = {line[0]: float(line[column].removesuffix(" %")) / 100 for line in tuned.answers}
        assert said == pytest.approx(row.scores, abs=6e-4)  # tenths of a per cent


@browser
@pytest.mark.exhaustive
def test_nothing_leaves_the_device_and_nothing_goes_wrong(tuned):
    others = [
        address
        for address in tuned.requests
        if not address.startswith((tuned.address, "blob:" + tuned.address, "data:"))
    ]
    assert others == []
    assert any(address.endswith("step.onnx") for address in tuned.requests)  # the worker's too
    assert tuned.errors == []


@browser
@pytest.mark.exhaustive
def test_it_fits_a_small_screen_and_has_a_name_for_what_can_be_used(tuned):
    assert tuned.width <= SMALL
    used = {"button", "textbox", "spinbutton", "image", "DisclosureTriangle"}
    named = [(role, name) for role, name in tuned.controls if role in used]
    assert {role for role, _ in named} >= used
    assert all(name for _, name in named)


@browser
@pytest.mark.exhaustive
def test_beginning_again_takes_the_same_steps(tuned):
    for step, before in zip(tuned.again["steps"][:2], tuned.journal["steps"], strict=False):
        assert step == before


@pytest.fixture
def opened(site, tmp_path) -> Iterator[tuple[chromium.Page, Path, str]]:
    """A page, a copy of the site's folder that can be broken, and its address."""
    folder = shutil.copytree(site, tmp_path / "copy")
    with (
        chromium.served(folder) as address,
        chromium.browser(tmp_path / "profile") as page,
    ):
        yield page, folder, address


@browser
@pytest.mark.exhaustive
def test_what_goes_wrong_is_said(opened):
    page, _, address = opened
    page.open(address)
    is_ready(page)
    for name, value, message in (
        ("size", 0, "It stopped: one of the settings is out of range"),
        ("lr", 1e300, "It stopped: a loss is not finite: begin again with a smaller learning rate"),
    ):
        page.evaluate(f"document.querySelector('[name={name}]').value = {value}")
        click(page, "#start")
        page.wait(f"{chromium.STATUS}.startsWith('It stopped')", 60)
        assert status(page) == message
        page.evaluate("document.querySelector('[name=size]').value = 4")
    assert page.evaluate("document.querySelector('#start').textContent") == "Start"
    page.evaluate("document.querySelector('#text').value = '\u2741'.repeat(300)")
    page.evaluate("document.querySelector('#text').dispatchEvent(new Event('input'))")
    page.wait(f"{chromium.STATUS}.startsWith('The text')", 60)
    assert re.fullmatch(r"The text is of \d+ tokens; the model takes 256.", status(page))


@browser
@pytest.mark.exhaustive
def test_a_folder_of_something_else_is_refused(opened):
    page, folder, address = opened
    about = json.loads((folder / "model" / "tinyzo.json").read_text())
    graph = (folder / "model" / "eval.onnx").read_bytes()
    weights = (folder / "model" / "model.safetensors").read_bytes()

    def refused() -> str:
        page.open(address)
        page.wait(f"{chromium.STATUS}?.startsWith('It stopped')", 60)
        assert page.evaluate("document.querySelector('#start').disabled")
        return status(page)

    (folder / "model" / "eval.onnx").write_bytes(graph[:-1])
    assert "model/eval.onnx is not the one that tinyzo.json names" in refused()
    (folder / "model" / "model.safetensors").write_bytes(weights[:-1])
    assert "model/model.safetensors is not the one that tinyzo.json names" in refused()
    other = json.dumps(about | {"format": 9})
    (folder / "model" / "tinyzo.json").write_text(other)
    assert "model/ has format 9 and rows of kind words: this page reads format 1" in refused()
    (folder / "model" / "tinyzo.json").unlink()
    assert "model/tinyzo.json: 404. Build the page first: python build.py" in refused()
