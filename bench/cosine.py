"""How much of the gradient is in a method's step? The cosine of the two, over all parameters.

    python bench/cosine.py --out FILE.jsonl --threads 1

A step of each method is taken at the model as it came, on one batch of `topics`, again and again
with other seeds; theta is put back after each. Its change of theta, adapters as what they change
of their matrices (s B A), against the gradient of that batch's loss by backpropagation:

    one step   the cosine of a step, mean and standard deviation over --steps steps
    their mean the cosine of the steps' mean, which is what would be left if noise averaged out

    gain       where a step has two sides: the mean of g^2 over that of the curvature along z,
               which estimates |g|^2 / tr H; twice what a step of the best length takes off the loss

An exact gradient has a cosine of 1. A whole random direction in d dimensions has about
sqrt(2 / (pi d)), and a step along s directions sqrt(s) times that. Methods that look back see the
steps before at this same theta. LOZO's V stays. zo-head's step is its first one, at its own rate,
with the rows that it fits before.

FILE.jsonl gets a line a (task, method); those that are there are not made again. The last line of
stdout is one JSON document.
"""

from __future__ import annotations

import json
import statistics
import sys
from pathlib import Path
from typing import Any

import common
import numpy as np
from convergence import Method, Task, method, tasks

from tinyzo.autodiff.reverse_mode import GradientView
from tinyzo.engine.adapters import adapter, scale_of
from tinyzo.engine.weights import Weights
from tinyzo.models.model import Model, open_model
from tinyzo.runs.bounded import BoundedLoss
from tinyzo.runs.data import Data, bind_task, load_data
from tinyzo.runs.history import History
from tinyzo.runs.methods import RunMethod, method_of
from tinyzo.runs.run import prepare
from tinyzo.runs.settings import Settings
from tinyzo.runs.start import LED, as_it_came, make_start
from tinyzo.text.packing import batch_rows
from tinyzo.zo.mezo import Step
from tinyzo.zo.objectives import Objective

RATE = 1.0  # so large that rounding theta loses nothing of the change
METHODS = (
    method("mezo", RATE),
    method("n-spsa", RATE, queries=4),
    method("fzoo", RATE),
    method("adamezo", RATE),
    method("lozo", RATE),
    method("sparse-mezo", RATE),
    method("mezo, lora-fa", RATE, "mezo", train="lora-fa", eps=1e-2),
    method("zo-act", RATE),
    method("zo-act, r=1", RATE, "zo-act", lora_rank=1),
    method("zo-act, q=4", RATE, "zo-act", queries=4),
    method("zo-fit", RATE),
    method("fzoo, lora-fit", RATE, "fzoo", train="lora-fit", eps=1e-2),
    method("zo-head", 1e-3),
)
TASKS = ("topics", "OPT topics")

Change = dict[str, np.ndarray]


def opened(
    task: Task, how: Method, threads: int | None
) -> tuple[Model, RunMethod, BoundedLoss, Data]:
    """A model as a run of the method would begin it, with its loss and its rows."""
    given = Settings(**task.settings, **how.settings, lr=how.rate, batch_size=16, data_seed=42)
    model = open_model(given.model_path, "f32")
    settings = given.resolve(model.family)
    prepare(model, settings)
    bound = bind_task(model, settings)
    loss = BoundedLoss(Objective(model, bound), settings.micro_batch_tokens)
    data = load_data(bound, settings)
    if settings.train in LED:
        make_start(loss, data, settings)
    model.settle("auto", "resident", threads)
    return model, method_of(settings), loss, data


def gradient(task: Task) -> Change:
    """Of the batch's loss, in every parameter."""
    model, _, loss, data = opened(task, method("mezo", RATE), None)
    theta = GradientView(model.weights)
    return loss.objective(theta, batch_of(data)).backward()


def batch_of(data: Data) -> list[Any]:
    return [data.train[row] for row in batch_rows(0, len(data.train), 16, 42)]


def change(weights: Weights, before: Change) -> Change:
    """Of each parameter of the model, since its trained tensors were `before`."""
    found = {}
    for name in weights.names():
        halves = adapter(name)
        if halves.b in weights and ".lora_" not in name:
            after = weights.stored(halves.b) @ weights.stored(halves.a)
            a = before.get(halves.a, weights.stored(halves.a))
            b = before.get(halves.b, weights.stored(halves.b))
            found[name] = scale_of(weights) * (after - b @ a)
        elif name in before and ".lora_" not in name:
            found[name] = weights.stored(name) - before[name]
    return found


def dot(a: Change, b: Change) -> float:
    return sum(float(np.vdot(a[name], b[name])) for name in a.keys() & b.keys())


def cosine(step: Change, true: Change) -> float:
    """Of a step with the way down."""
    return -dot(step, true) / (dot(step, step) * dot(true, true)) ** 0.5


def measure(
    task: Task, how: Method, true: Change, steps: int, threads: int | None
) -> dict[str, Any]:
    """The cosines of a method."""
    model, run_method, loss, data = opened(task, how, threads)
    weights, batch = model.weights, batch_of(data)
    head = adapter(model.architecture.TOKENS).a
    with as_it_came(model):
        parts = [*weights.trained, head] if head in weights else weights.trained
        before = {name: weights.stored(name).copy() for name in parts}
    done = History()
    cosines, total = [], {}
    for number in range(steps):
        done.steps.append(run_method.step(number, weights, loss, batch, done))
        moved = change(weights, before)
        cosines.append(cosine(moved, true))
        for name, values in moved.items():
            total[name] = total.get(name, 0) + values / dot(moved, moved) ** 0.5
        for name in weights.trained:
            weights.stored(name)[...] = before[name]
    is_two_sided = how.forwards == 2
    at_theta = float(loss(weights.view(), batch)[0])
    return {
        "gain": gain(done.steps, at_theta, run_method.settings.eps) if is_two_sided else None,
        "trained": weights.elements(weights.trained),
        "passes": how.forwards,
        "cosine": statistics.mean(cosines),
        "cosine_sd": statistics.stdev(cosines),
        "cosine_of_mean": cosine(total, true),
    }


def gain(steps: list[Step], at_theta: float, eps: float) -> float:
    """|g|^2 / tr H of what is trained, from the losses on both sides of theta."""
    slopes = [step.projected_gradient**2 for step in steps]
    bends = [(sum(step.losses) - 2 * at_theta) / eps**2 for step in steps]
    return statistics.mean(slopes) / statistics.mean(bends)


def main() -> None:
    parser = common.arguments(__doc__)
    parser.add_argument("--out", type=Path, required=True, help="a line a task and method")
    parser.add_argument("--steps", type=int, default=64, help="that are taken")
    options = parser.parse_args()
    known, rows = tasks(None), common.on_record(options.out)
    done = {(row["task"], row["method"]) for row in rows}
    for name in TASKS:
        waiting = [how for how in METHODS if (name, how.name) not in done]
        true = gradient(known[name]) if waiting else {}
        for how in waiting:
            found = measure(known[name], how, true, options.steps, options.threads)
            row = {"task": name, "method": how.name, "steps": options.steps} | found
            rows.append(row | {"commit": common.commit()})
            with options.out.open("a") as file:
                file.write(json.dumps(rows[-1]) + "\n")
            print(*row.values(), sep="  ", file=sys.stderr, flush=True)
    common.finish(cosines=rows)


if __name__ == "__main__":
    main()
