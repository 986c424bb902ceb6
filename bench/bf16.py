"""Do products in bfloat16 harm? Projected gradients and runs, against products in float32.

    python bench/bf16.py --steps 200 --seeds 3 --run-steps 500          # some minutes

On the shipped models, stored as bfloat16, and the shipped topics. First the trajectory of a run
with float32 products: at each of its steps, on the same theta, batch and z, the projected gradient
is measured with bfloat16 products too. `slope` is that of the latter on the former, `rms` the root
mean square of their difference over that of the former. Then whole runs by each engine, for each
seed: the accuracies after the last step. A CPU without the instruction has it emulated.
"""

from __future__ import annotations

import dataclasses
import statistics

import common
import numpy as np

from tinyzo.engine.noise import step_seed
from tinyzo.engine.numba.engine import NumbaEngine
from tinyzo.engine.terms import Probe
from tinyzo.engine.weights import Weights
from tinyzo.models.model import Model, load
from tinyzo.runs.bounded import BoundedLoss
from tinyzo.runs.data import Data, bind_task, load_data
from tinyzo.runs.evaluate import evaluate
from tinyzo.runs.settings import Settings
from tinyzo.text.packing import batch_rows
from tinyzo.text.tasks import Example
from tinyzo.zo.mezo import mezo_step
from tinyzo.zo.objectives import Objective

MODELS = ("roberta-tiny", "opt-tiny")
PRODUCTS = {"f32": False, "bf16": True}


def on(model: Model, engine: NumbaEngine) -> Model:
    """The same weights in memory, multiplied by another engine."""
    tensors = {name: model.weights.stored(name) for name in model.weights.names()}
    return Model(model.family, model.config, Weights(tensors, engine), model.directory)


class Trial:
    """A shipped model as it came, its task's rows, and the settings of the shipped run."""

    def __init__(self, name: str, engine: NumbaEngine, seed: int) -> None:
        settings = Settings(model=name, seed=seed)
        model = on(load(settings.model_path, "numpy", dtype="bf16"), engine)
        self.settings = settings.resolve(model.family)
        bound = bind_task(model, self.settings)
        self.data: Data = load_data(bound, self.settings)
        self.objective = BoundedLoss(Objective(model, bound), self.settings.micro_batch_tokens)

    def batch(self, number: int) -> tuple[list[Example], int]:
        """The rows and the seed of a step."""
        s, train = self.settings, self.data.train
        rows = batch_rows(number, len(train), s.batch_size, s.data_seed)
        return [train[row] for row in rows], step_seed(s.seed, number)

    def step(self, number: int) -> float:
        """Take a step; returns its projected gradient."""
        s, (batch, seed) = self.settings, self.batch(number)
        weights = self.objective.objective.model.weights
        return mezo_step(weights, self.objective, batch, seed, s.eps, s.lr).projected_gradient

    def gradient(self, engine: NumbaEngine, number: int) -> float:
        """What another engine finds for the projected gradient of a step that is not yet taken."""
        (batch, seed), eps = self.batch(number), self.settings.eps
        objective = self.objective.objective
        model = on(objective.model, engine)
        theta = model.weights.view([Probe(seed, eps), Probe(seed, -eps)])
        plus, minus = dataclasses.replace(
            self.objective, objective=dataclasses.replace(objective, model=model)
        )(theta, batch)
        return float(plus - minus) / (2 * eps)


def trajectory(name: str, engines: dict[str, NumbaEngine], steps: int) -> dict:
    """How bfloat16's projected gradients relate to float32's along a run."""
    trial, pairs = Trial(name, engines["f32"], seed=0), []
    for number in range(steps):
        rough = trial.gradient(engines["bf16"], number)
        pairs.append((trial.step(number), rough))
    exact, rough = np.array(pairs).T
    covariance = np.cov(exact, rough)
    found = {
        "model": name, "steps": steps, "correlation": float(np.corrcoef(exact, rough)[0, 1]),
        "slope": float(covariance[0, 1] / covariance[0, 0]),
        "rms": float(np.sqrt(np.mean((rough - exact) ** 2) / np.mean(exact**2))),
    }  # fmt: skip
    common.row(*found.values())
    return found


def run(name: str, products: str, engine: NumbaEngine, seed: int, steps: int) -> dict:
    """A whole run, and its accuracies at the end."""
    trial = Trial(name, engine, seed)
    for number in range(steps):
        trial.step(number)
    dev, test = (evaluate(trial.objective, rows) for rows in (trial.data.dev, trial.data.test))
    found = {
        "model": name, "products": products, "seed": seed, "steps": steps,
        "dev": dev.accuracy, "test": test.accuracy, "test_loss": test.loss,
    }  # fmt: skip
    common.row(*found.values())
    return found


def means(runs: list[dict]) -> list[dict]:
    """The mean accuracies over the seeds."""
    found = []
    for name in MODELS:
        for products in PRODUCTS:
            same = [r for r in runs if (r["model"], r["products"]) == (name, products)]
            dev, test = (statistics.mean(r[split] for r in same) for split in ("dev", "test"))
            common.row(name, products, "mean", "", dev, test)
            found.append({"model": name, "products": products, "dev": dev, "test": test})
    return found


def main() -> None:
    parser = common.arguments(__doc__)
    parser.add_argument("--steps", type=int, default=200, help="of the trajectory")
    parser.add_argument("--seeds", type=int, default=3, help="runs by each engine")
    parser.add_argument("--run-steps", type=int, default=500, help="of each run")
    options = parser.parse_args()
    engines = {name: NumbaEngine(options.threads, bf16) for name, bf16 in PRODUCTS.items()}
    common.row("projected gradients", "steps", "correlation", "slope", "rms")
    gradients = [trajectory(name, engines, options.steps) for name in MODELS]
    common.row("\nruns", "products", "seed", "steps", "dev", "test", "test loss")
    runs = [
        run(name, products, engines[products], seed, options.run_steps)
        for name in MODELS for products in PRODUCTS for seed in range(options.seeds)
    ]  # fmt: skip
    common.finish(gradients=gradients, runs=runs, means=means(runs))


if __name__ == "__main__":
    main()
