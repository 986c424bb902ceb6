r"""PocketLLM's tables and figure (arXiv 2407.01031): MeZO against Adam, ours and PyTorch's.

    python bench/pocketllm.py --steps 10                  # tables 1 and 2; hours for the slow cells
    python bench/pocketllm.py --model roberta-large --batch-size 8 --side ours streamed --steps 3
    python bench/pocketllm.py --train lora --dtype bf16 --folder checkpoints       # LoRA beside it
    python bench/pocketllm.py --figure --data k-shot/SST-2/16-42 --steps 300       # figure 1

Tables: peak memory and seconds of a step, all parameters in float32, or --train lora of rank 8 on
queries and values beside weights of --dtype (int4: a folder of `tinyzo convert`); random ids of
--tokens each (the paper does not say how long its sequences are), synthetic weights of the real
shapes.

    ours       the Numba engine, weights in memory; Adam: tinyzo.autodiff
    streamed   the same with the weights in their file; of Adam with --train lora alone
    pytorch    MeZO: peer.py, as published; Adam: torch.optim.Adam, without dropout; LoRA: peft's

Each cell is a process of its own, killed when it holds more than --most-gb ("more than"); one of
which theta, gradient and both moments alone pass that is not begun. A cell takes --steps steps, or
fewer when --seconds have passed; the first is a warm-up, unless there is no other. `cpu s` is the
processor time of a step on all cores, which says more on a shared machine. GB are 2^30 bytes.

Figure: the loss on the training rows of a shipped model's SST-2, after each --every steps.
"""

from __future__ import annotations

import argparse
import itertools
import json
import math
import os
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import common
from step import SHAPES, model_setup

from tinyzo.__main__ import BLAS_WAITS

SIDES, METHODS = ("ours", "streamed", "pytorch"), ("mezo", "adam")
GIGABYTE = 1 << 30
EPS, LR = 1e-3, 1e-6
RANK = 8  # of LoRA
PUBLISHED = {  # on an OPPO Reno6 with 12 GB; its tables have two rows for each batch size
    ("roberta-large", 8, "mezo"): ("4.8, 4.6", "97, 83"),
    ("roberta-large", 8, "adam"): ("6.5, 6.7", "74, 85"),
    ("roberta-large", 64, "mezo"): ("4.0, 4.5", "123, 121"),
    ("roberta-large", 64, "adam"): ("out of memory", "out of memory"),
    ("opt-1.3b", 8, "mezo"): ("6.5", "1800"),  # of which batch size, the paper does not say
}
FIGURE = {"mezo": (1e-4, EPS), "adam": (1e-5, 0.0)}  # lr, eps of a shipped model
ROWS = 32  # of the figure's batches


@dataclass(frozen=True)
class Cell:
    """One entry of both tables."""

    model: str
    batch_size: int
    method: str
    side: str
    train: str = "full"
    dtype: str = "f32"

    def least_bytes(self) -> int:
        """Of Adam: theta, the gradient and two moments."""
        is_all = (self.method, self.train) == ("adam", "full")
        return 16 * parameters(self.model) if is_all else 0


def parameters(model: str) -> int:
    from tinyzo.models.model import MODELS

    setup = model_setup(model)
    architecture = MODELS[setup["family"]]
    shapes = architecture.shapes(architecture.Config(**setup["config"]))
    return sum(math.prod(shape) for _, shape in shapes)


# -- one cell, in a process of its own: a JSON object in, a line out for each step -----------------


def work() -> None:
    setup = json.load(sys.stdin)
    step = (torch_stepper if setup["side"] == "pytorch" else our_stepper)(setup)
    for seed in range(setup["steps"]):
        cpu, start = time.process_time(), time.perf_counter()
        loss = step(seed)
        seconds, cpu = time.perf_counter() - start, time.process_time() - cpu
        print(json.dumps({"loss": loss, "seconds": seconds, "cpu": cpu}), flush=True)


def our_stepper(setup: dict[str, Any]) -> Callable[[int], float]:
    """Steps as a run takes them."""
    from ours import random_batch

    from tinyzo.models.model import open_model
    from tinyzo.models.trainable import train_only
    from tinyzo.runs.bounded import BoundedLoss
    from tinyzo.runs.settings import RunSettings
    from tinyzo.zo.mezo import mezo_step
    from tinyzo.zo.objectives import Objective

    model = open_model(setup["folder"])
    train_only(model, setup["train"], 0, RANK, 2 * RANK)
    residency = "streamed" if setup["side"] == "streamed" else "resident"
    model.settle("numba", residency, setup["threads"])
    bound, examples = random_batch(setup, model.config)
    objective = BoundedLoss(Objective(model, bound), RunSettings.micro_batch_tokens)
    weights = model.weights
    if setup["method"] == "mezo":
        return lambda seed: mezo_step(weights, objective, examples, seed, EPS, LR).loss
    from tinyzo.autodiff.adam import first_order_step

    state: dict[str, Any] = {}
    return lambda seed: first_order_step(weights, objective, examples, state, LR).loss


def torch_stepper(setup: dict[str, Any]) -> Callable[[int], float]:
    """The published MeZO step, or Adam's on the same model and batch."""
    import peer
    import torch
    from torch.nn.functional import cross_entropy

    class Adam(peer.Stepper):
        """step(0), by which the base class warms up, is left out."""

        def step(self, seed: int) -> dict[str, float]:
            if not seed and setup["train"] == "lora":
                self.parameters = adapted(self.model)
            if seed:
                self.optimizer.zero_grad()
                loss = self.differentiable()
                loss.backward()
                self.optimizer.step()
                return {"loss": loss.item()}
            self.optimizer = torch.optim.Adam(self.parameters, LR)
            return {}

        def differentiable(self) -> torch.Tensor:
            batch = self.loss
            if setup["family"] == "roberta":
                h = self.model.roberta(batch.ids, attention_mask=batch.mask).last_hidden_state
                return cross_entropy(self.model.lm_head(h[batch.places])[:, batch.words],
                                     batch.labels)  # fmt: skip
            logits = self.model(input_ids=batch.ids, attention_mask=batch.mask).logits
            return cross_entropy(logits[:, -2], batch.ids[:, -1])

    class MeZO(peer.Stepper):
        def step(self, seed: int) -> dict[str, float]:
            return super().step(seed) if seed else {}

    setup |= {"task": None}
    stepper = (MeZO if setup["method"] == "mezo" else Adam)(setup)
    return lambda seed: stepper.step(seed + 1)["loss"]


def adapted(model: Any) -> list[Any]:
    """peft's LoRA in a model, and its parameters, which alone have a gradient."""
    from peft import LoraConfig, inject_adapter_in_model

    model.requires_grad_(False)
    targets = ["query", "value", "q_proj", "v_proj"]
    config = LoraConfig(r=RANK, lora_alpha=2 * RANK, target_modules=targets)
    inject_adapter_in_model(config, model)
    return [parameter for parameter in model.parameters() if parameter.requires_grad]


# -- the parent's side -------------------------------------------------------------------------


class Watch:
    """Kills a process that holds too much, and knows the most that it held."""

    def __init__(self, process: subprocess.Popen, most: int) -> None:
        self.process, self.most = process, most
        self.peak, self.is_over = 0, False
        self.thread = threading.Thread(target=self.run, daemon=True)
        self.thread.start()

    def run(self) -> None:
        while self.process.poll() is None:
            self.look()
            time.sleep(0.02)

    def look(self) -> None:
        status = Path(f"/proc/{self.process.pid}/status")
        try:
            lines = dict(x.split(":", 1) for x in status.read_text().splitlines())
        except OSError:
            return
        self.peak = max(self.peak, int(lines.get("VmHWM", "0").split()[0]) << 10)
        if int(lines.get("VmRSS", "0").split()[0]) << 10 > self.most:
            self.is_over = True
            self.process.kill()


def batch(setup: dict[str, Any]) -> dict[str, Any]:
    """The examples that ours makes, for a process that does not import ours."""
    from ours import random_batch

    from tinyzo.models.model import MODELS

    bound, examples = random_batch(setup, MODELS[setup["family"]].Config(**setup["config"]))
    return {"examples": [asdict(e) for e in examples], "words": bound.label_word_ids}


def measure(cell: Cell, options: argparse.Namespace) -> dict[str, Any]:
    """The cell's peak and its seconds, or why it has none."""
    if reason := reason_against(cell, options):
        return asdict(cell) | {"reason": reason}
    setup = model_setup(cell.model) | asdict(cell) | {"threads": options.threads}
    setup |= {"steps": options.steps, "tokens": options.tokens}
    if cell.side == "pytorch":
        setup |= batch(setup)
    else:
        setup["folder"] = str(checkpoint(options.folder, cell.model, cell.dtype))
    command, pipe = [sys.executable, __file__, "--worker"], subprocess.PIPE
    environment = dict(os.environ)
    if cell.side != "pytorch":  # as the command `tinyzo` has it
        environment.setdefault(*BLAS_WAITS)
    process = subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True, env=environment)
    watch, start, steps = Watch(process, int(options.most_gb * GIGABYTE)), time.monotonic(), []
    with process:
        process.stdin.write(json.dumps(setup))
        process.stdin.close()
        for line in process.stdout:
            watch.look()
            steps.append(json.loads(line))
            if time.monotonic() - start > options.seconds:
                process.kill()
    watch.thread.join()
    found = asdict(cell) | {"peak_bytes": watch.peak, "steps": steps}
    if watch.is_over:
        return found | {"reason": f"more than {options.most_gb:g} GB"}
    if not steps:
        return found | {"reason": f"ended with exit code {process.returncode}"}
    timed = steps[1:] or steps
    medians = {name: statistics.median(s[name] for s in timed) for name in ("seconds", "cpu")}
    return found | {
        "timed_steps": len(timed),
        "has_warm_up": len(steps) > 1,
        "seconds_per_step": medians["seconds"],
        "cpu_per_step": medians["cpu"],
    }


def reason_against(cell: Cell, options: argparse.Namespace) -> str | None:
    """Why a cell is not begun."""
    if cell.side == "pytorch" and not common.has("torch", "transformers"):
        return "no torch or no transformers"
    if cell.least_bytes() > options.most_gb * GIGABYTE:
        least = cell.least_bytes() / GIGABYTE
        return f"more than {options.most_gb:g} GB: {least:.1f} without activations"
    return None


def checkpoint(folder: Path, model: str, dtype: str) -> Path:
    """The model's folder, made when it is not there, by a process of its own."""
    place, script = folder / f"{model}-{dtype}", Path(__file__).with_name("checkpoint.py")
    if dtype != "int4":
        made = [sys.executable, str(script), "--model", model, "--dtype", dtype, str(place)]
        subprocess.run(made, check=True)
    return place


def cells(options: argparse.Namespace) -> Iterator[Cell]:
    named = (options.model, options.batch_size, options.method, options.side)
    for choice in itertools.product(*named, [options.train], options.dtype):
        cell = Cell(*choice)
        has_moments = (cell.method, cell.train) == ("adam", "full")  # in memory, as is theta
        is_peers = cell.side == "pytorch"
        lacks = is_peers and (cell.dtype == "int4" or (cell.method, cell.train) == ("mezo", "lora"))
        if not lacks and not (has_moments and cell.side == "streamed"):
            yield cell


def tables(options: argparse.Namespace) -> dict[str, Any]:
    """Both tables in one, in Markdown."""
    print("| | batch | | peak GB | s/step | cpu s | steps | PocketLLM: GB | s/step |")
    print("|---|---|---|---|---|---|---|---|---|", flush=True)
    found = []
    for cell in cells(options):
        found.append(measure(cell, options))
        print(markdown(cell, found[-1]), flush=True)
    return {"cells": found}


def markdown(cell: Cell, found: dict[str, Any]) -> str:
    """A line of the table."""
    peak = f"{found['peak_bytes'] / GIGABYTE:.2f}" if found.get("peak_bytes") else ""
    shown = [found.get("reason", peak)]
    if "seconds_per_step" in found:
        steps = f"{found['timed_steps']}" + ("" if found["has_warm_up"] else ", the first")
        shown += [f"{found['seconds_per_step']:.3g}", f"{found['cpu_per_step']:.3g}", steps]
    else:
        shown += ["", "", ""]
    published = PUBLISHED.get((cell.model, cell.batch_size, cell.method), ("", ""))
    name = f"{cell.method}, {cell.train}, {cell.dtype}, {cell.side}"
    return "| " + " | ".join([cell.model, str(cell.batch_size), name, *shown, *published]) + " |"


# -- the figure --------------------------------------------------------------------------------


def figure(options: argparse.Namespace) -> dict[str, Any]:
    """Loss curves of both methods from the same model and batches."""
    curves = {}
    for method in METHODS:
        curves[method] = list(curve(method, options))
        for step, loss, seconds in curves[method]:
            common.row(method, step, loss, seconds)
    if options.plot and curves:
        print(plot(curves, options))
    settings = {method: {"lr": lr, "eps": eps} for method, (lr, eps) in FIGURE.items()}
    return {"shipped": options.shipped, "task": "SST-2", "rows": ROWS, "settings": settings,
            "curves": curves}  # fmt: skip


def curve(method: str, options: argparse.Namespace) -> Iterator[tuple[int, float, float]]:
    """(step, loss on all training rows, seconds of training so far)."""
    import tinyzo
    from tinyzo.runs.bounded import BoundedLoss
    from tinyzo.runs.defaults import SHIPPED
    from tinyzo.text.datasets import load_splits
    from tinyzo.text.packing import batch_rows
    from tinyzo.text.tasks import get_task
    from tinyzo.zo.mezo import mezo_step
    from tinyzo.zo.objectives import Objective

    model = tinyzo.load(options.shipped, residency="resident", dtype="f32",
                        threads=options.threads)  # fmt: skip
    task = get_task("SST-2" if model.family == "roberta" else "SST2", model.family)
    bound = task.bind(model.tokenizer, model.config.max_length)
    examples = [bound.encode(row) for row in load_splits(task, options.data).train]
    objective = BoundedLoss(Objective(model, bound), SHIPPED["micro_batch_tokens"])
    weights = model.weights
    (lr, eps), state, seconds = FIGURE[method], {}, 0.0

    def step(number: int) -> None:
        batch = [examples[i] for i in batch_rows(number, len(examples), ROWS, data_seed=0)]
        if method == "mezo":
            mezo_step(weights, objective, batch, number, eps, lr)
        else:
            from tinyzo.autodiff.adam import first_order_step

            first_order_step(weights, objective, batch, state, lr)

    for number in range(options.steps + 1):
        if number % options.every == 0:
            yield number, float(objective(weights.view(), examples)[0]), seconds
        if number < options.steps:
            start = time.perf_counter()
            step(number)
            seconds += time.perf_counter() - start


def plot(curves: dict[str, list], options: argparse.Namespace) -> str:
    """Draw the curves."""
    if not common.has("matplotlib"):
        return "no plot: no matplotlib"
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    axes = Figure(figsize=(6, 3.5)).subplots()
    for method, points in curves.items():
        label = {"mezo": "MeZO", "adam": "Adam"}[method]
        axes.plot([p[0] for p in points], [p[1] for p in points], label=label)
    axes.set(xlabel="step", ylabel="loss on the training rows",
             title=f"{options.shipped}, SST-2, {ROWS} rows a step")  # fmt: skip
    axes.legend()
    options.plot.parent.mkdir(parents=True, exist_ok=True)
    with rc_context({"svg.hashsalt": "tinyzo"}):
        axes.figure.savefig(options.plot, bbox_inches="tight", metadata={"Date": None})
    return f"drawn in {options.plot}"


def parse() -> argparse.Namespace:
    parser = common.arguments(__doc__)
    parser.add_argument("--folder", type=Path, help="of checkpoints; default: temporary")
    models = ["roberta-large", "opt-1.3b"]
    parser.add_argument("--model", choices=SHAPES, nargs="+", default=models)
    parser.add_argument("--batch-size", type=int, nargs="+", default=[8, 64])
    parser.add_argument("--method", choices=METHODS, nargs="+", default=METHODS)
    parser.add_argument("--side", choices=SIDES, nargs="+", default=SIDES)
    parser.add_argument("--train", choices=["full", "lora"], default="full")
    parser.add_argument("--dtype", choices=["f32", "bf16", "int4"], nargs="+", default=["f32"])
    parser.add_argument("--tokens", type=int, default=64, help="of each sequence")
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--seconds", type=float, default=math.inf, help="of a cell, at most")
    parser.add_argument("--most-gb", type=float, default=14.0, help="that a cell may hold")
    parser.add_argument("--figure", action="store_true", help="the loss curves instead")
    parser.add_argument("--shipped", default="roberta-tiny", help="model of the figure")
    parser.add_argument("--data", type=Path, help="the figure's SST-2: a folder with a train file")
    parser.add_argument("--every", type=int, default=10, help="steps between the figure's points")
    parser.add_argument("--plot", type=Path, help="file of the figure: .svg, .png")
    parser.add_argument("--worker", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.figure and not options.data:
        parser.error("--figure needs --data")
    return options


def main() -> None:
    options = parse()
    if options.worker:
        work()
        return
    with ExitStack() as stack:
        if not options.folder:
            options.folder = Path(stack.enter_context(TemporaryDirectory()))
        results = figure(options) if options.figure else tables(options)
    setup = {"tokens": options.tokens, "most_gb": options.most_gb, "threads": options.threads}
    common.finish("torch", "transformers", shared_machine=True, **setup, **results)


if __name__ == "__main__":
    main()
