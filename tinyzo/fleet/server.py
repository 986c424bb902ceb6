"""The server: an ordinary run, whose losses are those of the clients.

`flwr run --run-config` has finetune's settings, by their names, and

    output        the run's directory; if there is a run in it, that goes on
    asked         the share of the clients that each step asks
    fewest        answers, below which a step is asked for again; timeout: seconds to wait for them
    tries         how often
    evaluated-by  server, on its own rows of dev and test; or clients, on theirs
    alpha         of a simulation: how unlike the clients' labels are (rows.py)
"""

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from flwr.app import ConfigRecord, Context, Message, RecordDict
from flwr.serverapp import Grid, ServerApp

from tinyzo.checkpoints import peft
from tinyzo.errors import RunError, check_choice
from tinyzo.fleet import terms_of
from tinyzo.fleet.robust import Answer, mean, outliers
from tinyzo.models.model import read_config
from tinyzo.parsing import JsonObject
from tinyzo.runs.data import MOST_EVALUATED
from tinyzo.runs.run import RUN_TOML, Run, is_run
from tinyzo.runs.settings import Settings
from tinyzo.runs.train import FREE, Training, tune
from tinyzo.text.tasks import Example
from tinyzo.zo.mezo import Step

Answers = dict[int, Answer]
OPTIONS = ("asked", "fewest", "timeout", "tries", "evaluated_by")
PAUSE = 0.1  # seconds between two looks for clients
app = ServerApp()


@dataclass
class Fleet:
    """The clients, asked as said above.

    has:     how many bytes of the journal each has
    refused: those that are not asked again, since they cannot take part
    """

    grid: Grid
    asked: float = 1.0
    fewest: int = 1
    timeout: float = 600.0
    tries: int = 10
    evaluated_by: str = "server"
    has: dict[int, int] = field(default_factory=dict)
    refused: set[int] = field(default_factory=set)

    def choose(self, *seed: int) -> list[int]:
        """Clients that are there now, once there are enough, or time is over."""
        end = time.monotonic() + self.timeout
        nodes = self._there()
        while len(nodes) < self.fewest and time.monotonic() < end:
            time.sleep(PAUSE)
            nodes = self._there()
        count = max(self.fewest, math.ceil(self.asked * len(nodes)))
        order = np.random.RandomState(seed).permutation(len(nodes))
        return [nodes[place] for place in order[:count]]

    def _there(self) -> list[int]:
        return sorted(set(self.grid.get_node_ids()) - self.refused)

    def ask(
        self, run: Run, kind: str, question: JsonObject, nodes: Sequence[int]
    ) -> dict[int, Any]:
        """What the clients answer; one that is behind is asked again, with all there is."""
        found = self._exchange(run, kind, question, nodes)
        behind = [node for node, answer in found.items() if "behind" in answer]
        for node in behind:
            del self.has[node]
        if behind:
            found |= self._exchange(run, kind, question, behind)
        self.refused.update(node for node, answer in found.items() if "refused" in answer)
        return found

    def _exchange(
        self, run: Run, kind: str, question: JsonObject, nodes: Sequence[int]
    ) -> dict[int, Any]:
        journal = run.journal_path.read_bytes()
        messages = []
        for node in nodes:
            offset = self.has.get(node, 0)
            content = {**question, "offset": offset, "journal": journal[offset:]}
            if offset == 0:
                content["run"] = (run.path / RUN_TOML).read_bytes()
            records = RecordDict({"question": ConfigRecord(content)})
            messages.append(Message(records, node, kind, ttl=self.timeout))
        found: dict[int, Any] = {}
        for reply in self.grid.send_and_receive(messages, timeout=self.timeout):
            node = reply.metadata.src_node_id
            if reply.has_content():
                found[node] = reply.content.config_records.get("answer", {})
                self.has[node] = len(journal)
        return found


@dataclass
class FleetTraining(Training):
    """Training whose losses are asked for."""

    fleet: Fleet = field(kw_only=True)

    def _step_from_batch(self, number: int) -> Step:
        history = self.journal.history
        self.model.weights.fold()
        question = {"number": number, "steps": history.origin(number)}

        def loss(theta: Any, batch: Any) -> np.ndarray:
            return mean(*self._answers("train", question, self.method.probes))

        return self.method.step(number, self.model.weights, loss, [], history)

    def _evaluate(self, step: int, split: str, examples: list[Example]) -> JsonObject:
        event = self.run.evaluations(split).get(step, {})
        if event or self.fleet.evaluated_by == "server":
            return super()._evaluate(step, split, examples)
        answers, _ = self._answers("evaluate", {"number": step, "steps": step, "split": split}, 2)
        loss, accuracy = mean(answers, MOST_EVALUATED).tolist()
        rows = sum(answer.rows for answer in answers.values())
        event = {"event": "evaluation", "step": step, "split": split, "examples": rows}
        event |= {"accuracy": accuracy, "loss": loss}
        self.run.record("events.jsonl", event)
        if split == "dev":
            self.accuracy = accuracy
        return event

    def _answers(self, kind: str, question: JsonObject, points: int) -> tuple[Answers, int]:
        """The answers that count, and the most rows that were asked for.

        raises: RunError when they stay too few
        """
        s = self.run.settings
        for trial in range(max(1, self.fleet.tries)):
            nodes = self.fleet.choose(s.data_seed, question["number"], trial)
            rows = math.ceil(s.batch_size / max(1, len(nodes)))
            found = self.fleet.ask(self.run, kind, {**question, "rows": rows}, nodes)
            said = {node: found.get(node, {"refused": "no answer in time"}) for node in nodes}
            answers = self._counting(said, question["number"], points)
            if len(answers) >= max(1, self.fleet.fewest):
                return answers, rows
        counted = f"{len(answers)} of {len(nodes)} clients answered, {self.fleet.tries} times"
        hint = "events.jsonl says why; the run goes on when it is begun again"
        raise RunError(f"step {question['number'] + 1}: {counted}", hint)

    def _counting(self, found: Mapping[int, Any], number: int, points: int) -> Answers:
        """The answers that count; the others are recorded, with the reason."""
        answers = {}
        dropped = {}
        for node, said in found.items():
            losses, rows = said.get("losses"), said.get("rows")
            is_due = said.get("number") == number and isinstance(rows, int)
            if is_due and isinstance(losses, list) and all(isinstance(x, float) for x in losses):
                answers[node] = Answer(np.array(losses), rows)
            else:
                dropped[node] = str(said.get("refused", "no answer to this question"))
        dropped |= outliers(answers, points)
        for node, why in sorted(dropped.items()):
            event = {"event": "dropped", "step": number + 1, "node": f"{node}", "why": why}
            self.run.record("events.jsonl", event)
        return {node: answer for node, answer in answers.items() if node not in dropped}


@app.main()
def main(grid: Grid, context: Context) -> None:
    """Take the steps of a new run, or of the one that there is."""
    config = {key.replace("-", "_"): value for key, value in context.run_config.items()}
    config.pop("alpha", None)
    path = Path(str(config.pop("output", "runs/fleet")))
    chosen: dict[str, Any] = {key: config.pop(key) for key in OPTIONS if key in config}
    fleet = Fleet(grid, **chosen)
    check_choice("evaluated-by", fleet.evaluated_by, ("server", "clients"))
    settings = Settings.from_mapping(config, "run config")
    folder, *_ = peft.parts(settings.model_path)
    family, _ = read_config(folder)
    terms_of(settings.resolve(family))
    training = partial(FleetTraining, fleet=fleet)
    if not is_run(path):
        tune(settings, path, training=training)
        return
    tune(changes(settings, Run.open(path)), resume=path, training=training)


def changes(settings: Settings, run: Run) -> Settings:
    """The settings that a run that goes on has not, or that may change."""
    kept = vars(run.settings)
    given = settings.replace(model=None, data=None).given()
    return Settings(**{k: value for k, value in given.items() if k in FREE or value != kept[k]})
