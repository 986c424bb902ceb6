r"""How long does a MeZO step take, against its matmuls' floor and against PyTorch?

    python bench/step.py --model roberta-large --dtype bf16 --batch-size 64 --tokens 64
    python bench/step.py --model opt-1.3b --dtype bf16 --batch-size 16 \
        --task SST-2 --data glue/SST-2 --tokenizer opt

Synthetic weights of the real shapes, resident. The batch: random ids, every sequence full, so
that there is no padding to skip; or with --task real sentences (a classification task). Ours and
the peer are a process each, with a peak of its own, and step in turns; the first step of each
is not timed. `x floor` is the step over the time of its matmuls alone (see ours.py).
"""

from __future__ import annotations

import argparse
import importlib
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import common

ROBERTA = {
    "vocab_size": 50265, "max_position_embeddings": 514, "type_vocab_size": 1,
    "layer_norm_eps": 1e-5,
}  # fmt: skip
OPT = {"vocab_size": 50272, "max_position_embeddings": 2048}
SHAPES = {  # family, the rest of its config.json, layers, width, heads, feed-forward width
    "roberta-base": ("roberta", ROBERTA, 12, 768, 12, 3072),
    "roberta-large": ("roberta", ROBERTA, 24, 1024, 16, 4096),
    "opt-125m": ("opt", OPT, 12, 768, 12, 3072),
    "opt-1.3b": ("opt", OPT, 24, 2048, 32, 8192),
    "opt-6.7b": ("opt", OPT, 32, 4096, 32, 16384),
}
BATCH_SIZES = {"roberta": 64, "opt": 16}
COLUMNS = {
    "s/step": "seconds_per_step", "min": "min_seconds_per_step", "floor s": "matmul_floor_seconds",
    "x floor": "floor_ratio", "noise s": "noise_seconds", "forward s": "forward_seconds",
}  # fmt: skip


def model_setup(name: str) -> dict[str, Any]:
    """The family of a model and its config.json."""
    family, config, layers, width, heads, inner = SHAPES[name]
    sizes = {
        "num_hidden_layers": layers, "hidden_size": width, "num_attention_heads": heads,
        "intermediate_size" if family == "roberta" else "ffn_dim": inner,
    }  # fmt: skip
    return {"family": family, "batch_size": BATCH_SIZES[family], "config": config | sizes}


class Child:
    """A stepper in a process of its own: a line of JSON in, a line out."""

    def __init__(self, module: str, setup: dict[str, Any]) -> None:
        command = [sys.executable, __file__, "--worker", module]
        pipe = subprocess.PIPE
        self.process = subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True)
        self.about = self.ask(setup)
        self.steps: list[dict[str, float]] = []

    def ask(self, what: Any) -> dict[str, Any]:
        print(json.dumps(what), file=self.process.stdin, flush=True)
        if not (line := self.process.stdout.readline()):
            sys.exit(f"{self.process.args} ended with exit code {self.process.wait()}")
        return json.loads(line)

    def step(self, seed: int) -> None:
        self.steps.append(self.ask(seed))

    def close(self) -> dict[str, Any]:
        """All that was found; the process ends."""
        status = Path(f"/proc/{self.process.pid}/status")
        lines = status.read_text().splitlines() if status.exists() else []
        peak = next((int(x.split()[1]) * 1024 for x in lines if x.startswith("VmHWM")), 0)
        self.process.communicate()
        columns = {name: [s[name] for s in self.steps] for name in self.steps[0]}
        timings = {name: common.Timing.of(column) for name, column in columns.items()}
        facts = {k: v for k, v in self.about.items() if k not in ("examples", "words")}
        phases = {name: t.median for name, t in timings.items() if name != "seconds"}
        seconds = timings["seconds"]
        return facts | phases | {
            "seconds_per_step": seconds.median, "min_seconds_per_step": seconds.min,
            "seconds": columns["seconds"], "peak_bytes": peak,
        }  # fmt: skip


def work(module: str) -> None:
    """The child's side: a setup, then seeds; ours and peer are imported in one process only."""
    stepper = importlib.import_module(module).Stepper(json.loads(sys.stdin.readline()))
    print(json.dumps(stepper.about), flush=True)
    for line in sys.stdin:
        print(json.dumps(stepper.step(json.loads(line))), flush=True)


def measure(options: argparse.Namespace) -> tuple[dict[str, Any], dict[str, Any] | None]:
    """Ours and the peer's figures; the peer gets the ids that ours encoded."""
    given = {name: value for name, value in vars(options).items() if value is not None}
    setup = {"threads": None, "task": None} | model_setup(options.model) | given
    children = [Child("ours", setup)]
    if options.no_peer or not common.has("torch", "transformers"):
        print("peer: not asked for" if options.no_peer else "peer: no torch or no transformers")
    else:
        batch = {name: children[0].about[name] for name in ("examples", "words")}
        children.append(Child("peer", setup | batch))
    for seed in range(1, options.steps + 1):
        for child in children:
            child.step(seed)
    ours, *rest = [child.close() for child in children]
    return ours, rest[0] if rest else None


def parse() -> argparse.Namespace:
    parser = common.arguments(__doc__)
    parser.add_argument("--model", choices=SHAPES, default="roberta-large")
    parser.add_argument("--dtype", choices=("f32", "bf16", "f16"), default="f32")
    parser.add_argument("--batch-size", type=int, help="default: 64 for RoBERTa, 16 for OPT")
    parser.add_argument("--tokens", type=int, default=64, help="of each random sequence")
    parser.add_argument("--steps", type=int, default=3, help="of each that are timed")
    parser.add_argument("--no-peer", action="store_true")
    parser.add_argument("--task", help="real sentences of this task, with --data and --tokenizer")
    parser.add_argument("--data", help="the task's folder, with a train.tsv")
    parser.add_argument("--tokenizer", help="folder of vocab.json and merges.txt")
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.task and not (options.data and options.tokenizer):
        parser.error("--task needs --data and --tokenizer")
    options.tokens = None if options.task else options.tokens
    return options


def main() -> None:
    options = parse()
    if options.worker:
        work(options.worker)
        return
    ours, peer = measure(options)
    floor = ours.pop("floor_seconds")
    ours |= {"matmul_floor_seconds": floor, "floor_ratio": ours["seconds_per_step"] / floor}
    common.row("", *COLUMNS, "peak MB")
    for name, side in (("ours", ours), ("peer", peer)):
        if side:
            common.row(name, *map(side.get, COLUMNS.values()), side["peak_bytes"] / common.MEGABYTE)
    ratio = peer and peer["seconds_per_step"] / ours["seconds_per_step"]
    common.row("peer / ours", ratio)
    asked = {name: value for name, value in vars(options).items() if name != "worker"}
    common.finish("torch", "transformers", **(asked | ours), peer=peer, ratio=ratio)


if __name__ == "__main__":
    main()
