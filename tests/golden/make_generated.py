"""Writes generated.json beside it: what transformers' greedy generation gives.

    PYTHONPATH=. python tests/golden/make_generated.py     # with torch 2, transformers 5; not in CI

The OPT models of seeded.py, with room for more positions, and the one that ships, in float32; each
prompt alone, so that nothing is padded. `margin` is the least distance between the two best logits
of a choice, as a share of the largest logit: where it is below float32's rounding, the tokens that
follow would be chance. Written with torch 2.13.0 and transformers 5.24.0, on one thread.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from make_golden import build
from seeded import GENERATED, NEW_TOKENS, TEXTS
from transformers import AutoModelForCausalLM, AutoTokenizer

HERE = Path(__file__).resolve().parent
SHIPPED = HERE.parents[1] / "weights" / "opt-tiny"


def follow(model: torch.nn.Module, prompts: list[list[int]], count: int) -> dict[str, Any]:
    """What the model makes of each prompt, and the least margin of all choices."""
    model.generation_config.eos_token_id = None
    tokens, margins = [], []
    for prompt in prompts:
        found = model.generate(
            torch.tensor([prompt]),
            attention_mask=torch.ones(1, len(prompt), dtype=torch.int64),
            do_sample=False,
            max_new_tokens=count,
            pad_token_id=1,
            output_logits=True,
            return_dict_in_generate=True,
        )
        tokens.append(found.sequences[0, len(prompt) :].tolist())
        for logits in found.logits:
            best, second = logits[0].topk(2).values.tolist()
            margins.append((best - second) / logits.abs().max().item())
    return {"prompts": prompts, "tokens": tokens, "margin": min(margins)}


def main() -> None:
    torch.set_num_threads(1)
    golden = {}
    for name, case in GENERATED.items():
        golden[name] = follow(build(case).eval(), case.sequences, NEW_TOKENS)
    model = AutoModelForCausalLM.from_pretrained(SHIPPED, dtype=torch.float32).eval()
    tokenizer = AutoTokenizer.from_pretrained(SHIPPED)
    golden["opt-tiny"] = follow(model, [tokenizer(text).input_ids for text in TEXTS], NEW_TOKENS)
    for name, found in golden.items():
        print(name, found["margin"], [len(set(tokens)) for tokens in found["tokens"]])
    (HERE / "generated.json").write_text(json.dumps(golden) + "\n")


if __name__ == "__main__":
    main()
