"""How many tokens a second does greedy generation give, beside transformers on PyTorch?

    python bench/generate.py --model opt-125m --batch-size 1
    python bench/generate.py --model opt-125m --batch-size 16

Synthetic weights of the real shapes, resident, and prompts of random ids and one length, so that
the peer has no padding. Both keep keys and values, both are a process each, and generate in turns;
the first generation of each is not timed. `GB/s` is the weights' bytes times the tokens of a
sequence over the time: at batch 1 the rate at which memory gives them is the ceiling.
"""

from __future__ import annotations

import argparse
from typing import Any

import common
from step import SHAPES, Child, model_setup

COLUMNS = {
    "tokens/s": "tokens_per_second",
    "best": "best_tokens_per_second",
    "GB/s": "gb_per_second",
}


def measure(options: argparse.Namespace) -> list[dict[str, Any]]:
    """Ours and the peer's figures; the peer gets our prompts."""
    setup = model_setup(options.model) | vars(options)
    children = [Child("generate_ours", setup)]
    if options.no_peer or not common.has("torch", "transformers"):
        print("peer: not asked for" if options.no_peer else "peer: no torch or no transformers")
    else:
        setup["prompts"] = children[0].about["prompts"]
        children.append(Child("generate_peer", setup))
    for child in children:
        child.about.pop("prompts", None)
    for turn in range(options.turns):
        for child in children:
            child.step(turn)
    weight_bytes = children[0].about["weight_bytes"]
    return [rates(child.close(), options, weight_bytes) for child in children]


def rates(found: dict[str, Any], options: argparse.Namespace, weight_bytes: int) -> dict[str, Any]:
    """The same, as tokens a second."""
    tokens = options.batch_size * options.new
    return found | {
        "tokens_per_second": tokens / found["seconds_per_step"],
        "best_tokens_per_second": tokens / found["min_seconds_per_step"],
        "gb_per_second": weight_bytes * options.new / found["min_seconds_per_step"] / 1e9,
    }


def parse() -> argparse.Namespace:
    parser = common.arguments(__doc__)
    known = [name for name, (family, *_) in SHAPES.items() if family == "opt"]
    parser.add_argument("--model", choices=known, default="opt-125m")
    parser.add_argument("--dtype", choices=("f32", "bf16", "f16"), default="f32")
    parser.add_argument("--batch-size", type=int, default=1, help="prompts at once")
    parser.add_argument("--tokens", type=int, default=32, help="of each prompt")
    parser.add_argument("--new", type=int, default=64, help="tokens after each prompt")
    parser.add_argument("--turns", type=int, default=5, help="of each that are timed")
    parser.add_argument("--no-peer", action="store_true")
    return parser.parse_args()


def main() -> None:
    options = parse()
    ours, *rest = measure(options)
    common.row("", *COLUMNS, "peak MB")
    for name, side in zip(("ours", "peer"), (ours, *rest), strict=False):
        peak = side["peak_bytes"] / common.MEGABYTE
        common.row(name, *map(side.get, COLUMNS.values()), peak)
    peer = rest[0] if rest else None
    ratios = {}
    if peer:
        for name in ("tokens_per_second", "best_tokens_per_second"):
            ratios[name] = ours[name] / peer[name]
        common.row("ours / peer", *ratios.values())
    common.finish("torch", "transformers", **(vars(options) | ours), peer=peer, ratios=ratios)


if __name__ == "__main__":
    main()
