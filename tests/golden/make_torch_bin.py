"""Writes torch_save.bin with PyTorch, and the values a reader must find in it as torch_save.npz.

Run by hand: `python tests/golden/make_torch_bin.py` (made with torch 2.13.0, numpy 2.4.6).
"""

from __future__ import annotations

from collections import OrderedDict
from pathlib import Path

import numpy as np
import torch

HERE = Path(__file__).resolve().parent


def state_dict() -> OrderedDict:
    torch.manual_seed(0)
    layer = torch.nn.Linear(3, 4)  # a real state dict: it carries _metadata
    state = layer.state_dict()
    state["tied"] = state["weight"]
    state["transposed"] = state["weight"].t()
    state["columns"] = state["weight"][1:, ::2]
    state["half"] = torch.randn(5).half()
    state["bfloat16"] = torch.randn(2, 3).bfloat16()
    state["long"] = torch.tensor([[2**40, -1]])
    state["bool"] = torch.tensor([True, False, True])
    state["scalar"] = torch.tensor(0.5, dtype=torch.float64)
    state["empty"] = torch.zeros(0, 3)
    state["parameter"] = torch.nn.Parameter(torch.randn(2))
    return state


def values(tensor: torch.Tensor) -> np.ndarray:
    if tensor.dtype == torch.bfloat16:
        tensor = tensor.view(torch.uint16)
    return tensor.detach().numpy()


if __name__ == "__main__":
    state = state_dict()
    torch.save(state, HERE / "torch_save.bin")
    np.savez(HERE / "torch_save.npz", **{name: values(t) for name, t in state.items()})
