"""Writes golden/peft/: adapters as peft saves them, and the logits that they have there.

    PYTHONPATH=. python tests/golden/make_peft.py    # with torch 2, transformers 5, peft; not in CI

The bases are seeded.py's, in a folder `base` that the adapters name and that is not kept. Both
halves of an adapter are seeded too, since peft begins with B at 0. Logits as in make_golden.py:
float64's, rounded, and the largest error of the float32 run. Written with torch 2.13.0,
transformers 5.24.0 and peft 0.21.2, on one thread.
"""

from __future__ import annotations

import math
import os
import tempfile
from pathlib import Path

import numpy as np
import torch
from make_golden import build
from peft import LoraConfig, get_peft_model
from seeded import ADAPTERS, IN_BIN, SEED, TINY

from tinyzo import noise

HERE = Path(__file__).resolve().parent / "peft"


def logits(model: torch.nn.Module, sequences: list[list[int]]) -> np.ndarray:
    """Of all sequences, one after another: [N, V]."""
    with torch.no_grad():
        found = [model.eval()(input_ids=torch.tensor([ids])).logits[0] for ids in sequences]
    return torch.cat(found).double().numpy()


def main() -> None:
    torch.set_num_threads(1)
    for name, (base, settings) in ADAPTERS.items():
        os.chdir(tempfile.mkdtemp())
        built = build(TINY[base])
        built.save_pretrained("base")
        model = get_peft_model(type(built).from_pretrained("base"), LoraConfig(**settings))
        with torch.no_grad():
            for each, parameter in model.named_parameters():
                if ".lora_" in each:
                    z = noise(SEED, each, tuple(parameter.shape)) / math.sqrt(parameter.shape[1])
                    parameter.copy_(torch.from_numpy(z))
        model.save_pretrained(HERE / name, safe_serialization=name not in IN_BIN)
        (HERE / name / "README.md").unlink()  # a form to fill in
        single = logits(model, TINY[base].sequences)
        exact = logits(model.double(), TINY[base].sequences)
        bare = logits(build(TINY[base]), TINY[base].sequences)
        errors = {"logits.error": np.abs(single - exact).max(), "moved": np.abs(exact - bare).max()}
        golden = {name: np.float32(value) for name, value in {"logits": exact, **errors}.items()}
        np.savez_compressed(HERE / name / "logits.npz", **golden)


if __name__ == "__main__":
    main()
