"""A run whose losses are asked of clients; all but Flower's transport, in this process."""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("flwr", reason="flwr carries the messages of a fleet")

from flwr.app import Context, RecordDict
from folders import finetune, lines, write_model, write_reviews
from in_process import InProcess, simulated

import tinyzo
from tinyzo.cli import main
from tinyzo.errors import ConfigError, RunError, UsageError
from tinyzo.fleet import client, server
from tinyzo.runs import report
from tinyzo.runs.journal import read_journal
from tinyzo.runs.run import Run

STEPS = 4


@pytest.fixture(autouse=True)
def apart(tmp_path, monkeypatch):
    """Each test has clients of its own."""
    monkeypatch.setattr(client, "CACHE", tmp_path / "clients")
    monkeypatch.setattr(client, "held", {})
    monkeypatch.setattr(report, "plot", lambda path: "not drawn")


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    home = tmp_path_factory.mktemp("home")
    write_model(home / "model")
    write_reviews(home / "data", train=24)
    return home


@pytest.fixture
def config(home, tmp_path):
    """The run's config, as pyproject.toml has it."""
    return {
        "model": str(home / "model"), "task": "reviews", "data": str(home / "data"),
        "engine": "numpy", "steps": STEPS, "batch-size": 12, "lr": 1e-2, "eval-every": 2,
        "output": str(tmp_path / "run"), "alpha": 1.0, "timeout": 0.1,
    }  # fmt: skip


def serve(grid, config):
    """Run the server as Flower does; returns the run."""
    server.app(grid, Context(1, 0, {}, RecordDict(), config))
    return Run.open(Path(config["output"]))


def journal_of(config, **changes):
    """The journal of an undisturbed fleet, in a directory beside."""
    config = config | changes | {"output": config["output"] + "-undisturbed"}
    return serve(simulated(6, config), config).journal_path.read_bytes()


def dropped(run):
    return [e for e in lines(run.path / "events.jsonl") if e["event"] == "dropped"]


# -- the run is an ordinary one


def test_a_fleet_leaves_an_ordinary_run(config, tmp_path, capsys):
    grid = simulated(6, config)
    run = serve(grid, config)
    assert run.result["steps"] == STEPS == len(lines(run.path / "metrics.jsonl"))
    assert run.result["loss"] < run.result["loss_zero_shot"]
    assert grid.messages == 6 * STEPS and dropped(run) == []
    assert main(["evaluate", "--model", str(run.path), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["accuracy"] == run.result["accuracy"]
    for command in (
        ["predict", "--model", str(run.path), "No 1, 1"],
        ["replay", str(run.path), "--output", str(tmp_path / "model")],
        ["report", str(run.path), "--output", str(tmp_path / "page.html")],
        ["inspect", str(run.path)],
    ):
        assert main(command) == 0


@pytest.mark.parametrize(
    "changes",
    [
        {"method": "fzoo"},
        pytest.param({"method": "momentum", "window": 3}, marks=pytest.mark.exhaustive),
        pytest.param({"method": "lozo", "window": 2}, marks=pytest.mark.exhaustive),
        pytest.param({"train": "lora-fa", "queries": 2}, marks=pytest.mark.exhaustive),
    ],
    ids=str,
)
def test_the_step_of_all_rows_is_that_of_one_machine(home, config, changes, tmp_path):
    """Each client holds rows of its own, and all are asked for all: the batch is the whole set."""
    config |= changes | {"batch-size": 600}
    fleet = serve(simulated(4, config), config)
    options = [part for key, value in changes.items() for part in (f"--{key}", str(value))]
    central = tmp_path / "central"
    arguments = (
        "--engine",
        "numpy",
        "--steps",
        f"{STEPS}",
        "--lr",
        "1e-2",
        "--batch-size",
        "600",
        *options,
    )
    assert finetune(home / "model", home / "data", central, *arguments) == 0
    for ours, theirs in zip(
        read_journal(fleet.journal_path).steps, read_journal(central / "journal").steps, strict=True
    ):
        np.testing.assert_allclose(ours.losses, theirs.losses, rtol=1e-4)
        assert [seed for seed, _ in ours.terms] == [seed for seed, _ in theirs.terms]


@pytest.mark.exhaustive
def test_a_client_has_the_weights_of_the_server(config):
    run = serve(simulated(3, config), config)
    own = Run.open(client.CACHE / "1" / "2")
    steps = len(read_journal(own.journal_path).steps)
    assert steps == STEPS - 1  # what it was asked last began from
    assert run.journal_path.read_bytes().startswith(own.journal_path.read_bytes())
    held = next(iter(client.held.values()))
    model = tinyzo.load(run.path)
    assert held.step == steps and held.weights.names() == model.weights.names()


def test_a_visit_costs_a_tail_of_the_journal(config):
    grid = simulated(3, config)
    sizes = []
    grid.is_there = lambda node, message: sizes.append(message.content["question"]) is None
    run = serve(grid, config)
    record = read_journal(run.journal_path).header.record.size
    tails = [len(question["journal"]) for question in sizes]
    assert tails[3:] == [record] * (3 * STEPS - 3)
    assert ["run" in question for question in sizes] == [True] * 3 + [False] * (3 * STEPS - 3)


# -- clients come, go, lag and lie


def test_who_loses_its_state_catches_up_to_the_same_bytes(config):
    grid = simulated(6, config)

    def forget(node, message):
        if node == 2 and message.content["question"]["number"] == 3:
            shutil.rmtree(client.CACHE / "1" / "2", ignore_errors=True)
            client.held.clear()
        return True

    grid.is_there = forget
    assert serve(grid, config).journal_path.read_bytes() == journal_of(config)
    assert grid.messages == 6 * STEPS + 1


@pytest.mark.exhaustive
def test_who_has_another_history_is_told_all_of_it(config):
    grid = simulated(6, config)

    def distort(node, message):
        question = message.content["question"]
        path = client.CACHE / "1" / "2" / "journal"
        if node == 2 and question["number"] == 3 and question["offset"]:
            path.write_bytes(path.read_bytes()[:-9] + b"123456789")
        return True

    grid.is_there = distort
    assert serve(grid, config).journal_path.read_bytes() == journal_of(config)


@pytest.mark.exhaustive
def test_a_client_that_is_new_or_comes_back_is_let_in(config):
    grid = simulated(6, config)
    grid.is_there = lambda node, message: node != 5 or message.content["question"]["number"] > 2
    run = serve(grid, config)
    assert {(event["step"], event["node"], event["why"]) for event in dropped(run)} == {
        (step, "5", "no answer in time") for step in (1, 2, 3)
    }


@pytest.mark.exhaustive
def test_a_step_with_too_few_answers_is_asked_for_again(config):
    grid = simulated(6, config)
    asked = []
    grid.is_there = lambda node, message: asked.append(node) is None and len(asked) > 5
    assert serve(grid, config | {"fewest": 2}).journal_path.read_bytes() == journal_of(config)


@pytest.mark.exhaustive
def test_a_server_without_enough_answers_stops_and_goes_on_later(config):
    grid = simulated(6, config)
    grid.is_there = lambda node, message: message.content["question"]["number"] < 3 or node == 1
    scarce = config | {"fewest": 2, "tries": 2}
    with pytest.raises(RunError, match="step 4: 1 of 6 clients answered, 2 times") as error:
        serve(grid, scarce)
    assert error.value.hint == "events.jsonl says why; the run goes on when it is begun again"
    run = serve(simulated(6, config), config)
    assert run.journal_path.read_bytes() == journal_of(config)


@pytest.mark.exhaustive
def test_no_client_at_all_is_an_error(config):
    with pytest.raises(RunError, match="step 1: 0 of 0 clients answered"):
        serve(InProcess({}, config), config | {"tries": 1})


@pytest.mark.exhaustive
def test_a_crash_of_the_server_changes_no_byte(config, monkeypatch):
    def crash(training, number, step, seconds):
        if number == 3:
            raise KeyboardInterrupt
        return record(training, number, step, seconds)

    record = server.FleetTraining._record
    with monkeypatch.context() as patch:
        patch.setattr(server.FleetTraining, "_record", crash)
        with pytest.raises(KeyboardInterrupt):
            serve(simulated(6, config), config)
    client.held.clear()
    assert serve(simulated(6, config), config).journal_path.read_bytes() == journal_of(config)


def test_liars_are_named_and_change_nothing_much(config):
    grid = simulated(6, config)
    grid.lies = lambda node, losses: [math.nan] * 2 if node == 4 else losses
    run = serve(grid, config)
    assert {(event["node"], event["why"]) for event in dropped(run)} == {
        ("4", "a loss is not finite")
    }
    assert len(dropped(run)) == STEPS


@pytest.mark.parametrize(
    "answer",
    [{}, {"number": 99, "losses": [1.0, 1.0], "rows": 1}, {"number": 0, "losses": 1.0, "rows": 1},
     {"number": 0, "losses": ["1", "2"], "rows": 1}, {"number": 0, "losses": [1.0], "rows": "2"}],
    ids=str,
)  # fmt: skip
def test_an_answer_that_is_none_is_left_out(config, answer):
    grid = simulated(3, config)
    training = server.FleetTraining.__new__(server.FleetTraining)
    training.run = run = serve(grid, config | {"steps": 0})
    assert training._counting({7: answer}, 0, 2) == {}
    assert dropped(run)[0]["why"] == "no answer to this question"


@pytest.mark.exhaustive
def test_a_part_of_the_clients_is_asked_each_time_another(config):
    grid = simulated(6, config)
    asked = []
    grid.is_there = lambda node, message: asked.append(node) is None
    serve(grid, config | {"asked": 0.5})
    assert len(asked) == 3 * STEPS and set(asked) == set(range(1, 7))


# -- who cannot take part


def test_a_client_of_another_base_is_refused_by_name_and_not_asked_again(config, tmp_path):
    other = shutil.copytree(config["model"], tmp_path / "other")
    weights = other / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"x")
    nodes = {n: {"partition-id": n, "num-partitions": 4} for n in range(4)}
    nodes[3]["model"] = str(other)
    run = serve(InProcess(nodes, config), config)
    (event,) = dropped(run)
    assert event["node"] == "3" and "not the model that the run began with" in event["why"]


def test_a_client_of_another_format_is_refused_by_name(config, monkeypatch):
    grid = simulated(2, config)
    made = serve(grid, config | {"steps": 1}).journal_path.read_bytes()
    journal = made[:8] + b"\7" + made[9:]
    settings = (client.CACHE / "1" / "1" / "run.toml").read_bytes()
    question = {"number": 0, "steps": 0, "rows": 2, "offset": 0, "journal": journal}
    question["run"] = settings
    found = answered(grid, question)
    assert "its header says journal format 7 and z format" in found["refused"]


def answered(grid, question, node=1):
    """What a client says to a question."""
    from flwr.app import ConfigRecord, Message

    message = Message(RecordDict({"question": ConfigRecord(question)}), node, "train")
    return dict(client.app(message, grid.contexts[node]).content["answer"])


def test_a_node_without_rows_is_refused(config):
    run = serve(InProcess({1: {}, 2: {"partition-id": 0, "num-partitions": 1}}, config), config)
    assert [event["why"] for event in dropped(run)] == ["a node without rows"]


def test_a_node_has_rows_and_a_folder_of_its_own(config, tmp_path):
    mine = write_reviews(tmp_path / "mine")
    nodes = {1: {"data": str(mine), "folder": str(tmp_path / "kept"), "threads": 1}}
    serve(InProcess(nodes, config), config)
    own = Run.open(tmp_path / "kept")
    assert own.settings.data == str(mine)
    assert len(read_journal(own.journal_path).steps) == STEPS - 1
    assert main(["predict", "--model", str(own.path), "No 1, 1"]) == 0


def test_a_node_with_a_folder_writes_its_weights_now_and_then(config, tmp_path, monkeypatch):
    monkeypatch.setattr(client, "SNAPSHOT_EVERY", 2)
    kept = tmp_path / "kept"
    nodes = {1: {"partition-id": 0, "num-partitions": 1, "folder": str(kept)}}
    serve(InProcess(nodes, config), config)
    assert [file.name for file in kept.glob("weights-*")] == ["weights-2.safetensors"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"method": "adam"}, "--method adam takes derivatives, which a fleet does not send"),
        ({"method": "forward-gradient"}, "--method forward-gradient takes derivatives"),
        ({"method": "zo-act"}, "--train lora-act begins with what rows say of a model"),
    ],
    ids=str,
)
def test_methods_that_losses_alone_do_not_make_are_refused(config, changes, message, tmp_path):
    with pytest.raises(UsageError, match=message):
        serve(simulated(2, config), config | changes)
    assert not (tmp_path / "run").exists()


def test_who_evaluates_is_one_of_two(config):
    with pytest.raises(ConfigError, match="evaluated-by 'nobody' is not built"):
        serve(simulated(2, config), config | {"evaluated-by": "nobody"})


@pytest.mark.exhaustive
def test_a_run_goes_on_with_its_own_settings(config):
    serve(simulated(3, config), config | {"steps": 2})
    with pytest.raises(UsageError, match="--resume keeps the run's settings; lr cannot change"):
        serve(simulated(3, config), config | {"lr": 1.0})
    assert serve(simulated(3, config), config).result["steps"] == STEPS


@pytest.mark.exhaustive
def test_clients_may_evaluate(config):
    run = serve(simulated(3, config), config | {"evaluated-by": "clients"})
    assert run.evaluations("dev").keys() == {0, 2, 4}
    central = serve(simulated(3, config), config | {"output": config["output"] + "2"})
    for step, event in run.evaluations("dev").items():
        theirs = central.evaluations("dev")[step]
        assert (event["examples"], event["accuracy"]) == (theirs["examples"], theirs["accuracy"])
        assert event["loss"] == pytest.approx(theirs["loss"], rel=1e-5)
