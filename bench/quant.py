"""What quantised matrices cost: in loss on the shipped models, and in a step of a large one.

    python bench/quant.py --seeds 3                                     # some minutes
    python bench/quant.py --step checkpoints/opt-6.7b-int4 --residency streamed

The first: bytes of the weights; loss and accuracy on the shipped topics before tuning; the mean
-log p of a token of the shipped texts that no model was tuned on (OPT: of each token; RoBERTa: of
each seventh, masked); and what runs of LoRA-FA on such a base end at, for each seed.

The second: steps of LoRA-FA on a batch of random tokens, as a run plans them, and the peak of the
process. Such a folder is made by

    python bench/checkpoint.py --model opt-6.7b --dtype f16 checkpoints/opt-6.7b
    tinyzo convert checkpoints/opt-6.7b --dtype int4 --output checkpoints/opt-6.7b-int4
"""

from __future__ import annotations

import argparse
import math
import statistics
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import common
import numpy as np
from ours import random_batch

import tinyzo
from tinyzo.engine.noise import step_seed
from tinyzo.machine.memory import peak_bytes
from tinyzo.models.model import Model, open_model
from tinyzo.models.trainable import train_only
from tinyzo.runs import memory
from tinyzo.runs.bounded import BoundedLoss
from tinyzo.runs.settings import SHIPPED, Settings
from tinyzo.text.packing import packed_size
from tinyzo.zo.mezo import mezo_step
from tinyzo.zo.objectives import Objective

MODELS = ("roberta-tiny", "opt-tiny")
TYPES = (None, "int8", "int4")
MASK_EVERY = 7
EPS, LR = 1e-2, 1e-4


# -- loss ----------------------------------------------------------------------------------------


def texts() -> list[str]:
    """The first column of the rows that no run is tuned on."""
    lines: list[str] = []
    for split in ("dev", "test"):
        lines += (SHIPPED / "reviews" / f"{split}.tsv").read_text("utf-8").splitlines()[1:]
    return [line.split("\t")[0] for line in lines]


def nll(model: Model) -> float:
    """The mean -log p of a token."""
    losses = np.concatenate([nll_of_text(model, text) for text in texts()])
    return float(losses.mean())


def nll_of_text(model: Model, text: str) -> np.ndarray:
    """Of each token after the first, or of each that is masked: f64[.]"""
    tokenizer = model.tokenizer
    ids = [0, *tokenizer.encode(text), 2]
    if model.family == "opt":
        (scores,) = model.logits([ids[:-1]])
        return minus_log_p(scores[:-1], ids[1:-1])
    places = list(range(1 + len(ids) % MASK_EVERY, len(ids) - 1, MASK_EVERY))
    masked = [tokenizer.mask_id if i in places else token for i, token in enumerate(ids)]
    (scores,) = model.logits([masked])
    return minus_log_p(scores[places], [ids[i] for i in places])


def minus_log_p(scores: np.ndarray, targets: list[int]) -> np.ndarray:
    y = scores.astype(np.float64)
    top = y.max(axis=1)
    total = np.log(np.exp(y - top[:, None]).sum(axis=1)) + top
    return total - y[np.arange(len(targets)), targets]


def quality(name: str, base_dtype: str | None, options: argparse.Namespace) -> dict[str, Any]:
    model = tinyzo.load(name, base_dtype=base_dtype)
    before = tinyzo.evaluate(model)
    found: dict[str, Any] = {
        "model": name, "type": base_dtype or "as in the file", "bytes": model.weights.nbytes(),
        "nll": nll(model), "loss": before.loss, "accuracy": before.accuracy,
    }  # fmt: skip
    runs = list(results(name, base_dtype, options))
    found["tuned_losses"] = [run["loss"] for run in runs]
    found["tuned_accuracies"] = [run["accuracy"] for run in runs]
    tuned = statistics.mean(found["tuned_accuracies"]) if runs else None
    tuned_loss = statistics.mean(found["tuned_losses"]) if runs else None
    numbers = [found[key] for key in ("bytes", "nll", "loss", "accuracy")]
    common.row(f"{name} {base_dtype or ''}", *numbers, tuned_loss, tuned)
    return found


def results(
    name: str, base_dtype: str | None, options: argparse.Namespace
) -> Iterator[dict[str, Any]]:
    """The summaries of runs of LoRA-FA."""
    for seed in range(options.seeds):
        with TemporaryDirectory() as place:
            run = tinyzo.finetune(
                Path(place) / "run", model=name, train="lora-fa", steps=options.steps or 400,
                eval_every=100, seed=seed, base_dtype=base_dtype,
            )  # fmt: skip
            yield run.result


# -- a step --------------------------------------------------------------------------------------


def step(options: argparse.Namespace) -> None:
    """Steps on one batch, each timed; the first is a warm-up."""
    given = Settings(model=str(options.step), train="lora-fa", residency=options.residency)
    model = open_model(options.step, base_dtype=options.base_dtype)
    settings = given.resolve(model.family, needs_data=False)
    setup = {"family": model.family, "batch_size": options.batch_size, "tokens": options.tokens}
    bound, examples = random_batch(setup, model.config)
    train_only(model, "lora-fa", 0, settings.lora_rank, settings.lora_alpha)
    sizes = [packed_size(example) for example in examples]
    plan = memory.choose(model, settings, [memory.Load(sum(sizes), max(sizes), 2)])
    print(f"plan: {plan}", flush=True)
    model.settle(plan.engine, plan.residency, options.threads, plan.tiles)
    loss = BoundedLoss(Objective(model, bound), plan.micro_batch_tokens)
    seconds: list[float] = []
    cpu_seconds: list[float] = []
    common.row("", "s", "CPU s", "peak MB")
    for number in range(1 + (options.steps or 2)):
        arguments = (model.weights, loss, examples, step_seed(0, number), EPS, LR)
        before = time.process_time()
        seconds.append(common.timed(partial(mezo_step, *arguments)))
        cpu_seconds.append(time.process_time() - before)
        peak = peak_bytes() / common.MEGABYTE
        common.row(f"step {number}", seconds[-1], cpu_seconds[-1], peak)
    common.finish(
        folder=str(options.step), weight_bytes=model.weights.nbytes(), plan=plan._asdict(),
        packed_tokens=sum(sizes), seconds=seconds, cpu_seconds=cpu_seconds, peak_bytes=peak_bytes(),
    )  # fmt: skip


def main() -> None:
    parser = common.arguments(__doc__)
    parser.add_argument("--seeds", type=int, default=1, help="runs of each kind")
    parser.add_argument("--steps", type=int, help="default: 400 of a run, 2 that are timed")
    parser.add_argument("--step", type=Path, metavar="FOLDER", help="a step of this model instead")
    parser.add_argument("--base-dtype", choices=("int4", "int8"), help="of that one's matrices")
    parser.add_argument("--residency", choices=("auto", "resident", "streamed"), default="auto")
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--tokens", type=int, default=64)
    options = parser.parse_args()
    if options.step:
        step(options)
        return
    common.row("", "bytes", "nll", "loss", "accuracy", "tuned loss", "tuned acc.")
    found = [quality(name, kind, options) for name in MODELS for kind in TYPES]
    common.finish(results=[each | {"perplexity": math.exp(each["nll"])} for each in found])


if __name__ == "__main__":
    main()
