"""The same random weights for the reference and for tinyzo, so that no weights are committed.

z is tinyzo.noise, whose bits are frozen. Every parameter is far from the value that would hide a
mistake: biases are not 0, LayerNorm vectors not 1 and 0, and the embeddings are small enough
for the epsilon of the first LayerNorm to show.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from tinyzo import noise
from tinyzo.dtypes import narrow

SHARED = Path(__file__).resolve().parents[3] / "shared" / "weights"
TRAINED_OPT = SHARED / "gpt-by-hand-opt"
SEED = 1
COLUMNS = 200  # how many of a real vocabulary's logits are kept


@dataclass(frozen=True)
class Case:
    """One model: config.json, the type its weights are stored as, and what it reads."""

    config: Mapping[str, Any]
    lengths: tuple[int, ...] = (12, 1, 7)
    storage: str = "<f4"

    @property
    def sequences(self) -> list[list[int]]:
        """Random tokens, without the special ones: transformers skips the positions of padding."""
        draw = np.random.RandomState(SEED).randint
        return [draw(3, self.config["vocab_size"], n).tolist() for n in self.lengths]

    @property
    def columns(self) -> np.ndarray:
        """The vocabulary's rows whose logits a real-sized model's golden file holds."""
        return np.linspace(0, self.config["vocab_size"] - 1, COLUMNS).astype(np.int64)

    def tensor(self, name: str, shape: tuple[int, ...]) -> np.ndarray:
        """One parameter: f32, f16 or u16 (bfloat16), as `storage` says."""
        z = noise(SEED, name, shape)
        if len(shape) == 1:
            values = 1 + 0.2 * z if name.endswith(".weight") else 0.2 * z
        elif "embed" in name:
            values = 0.2 * z
        else:
            values = z / math.sqrt(shape[1])
        return narrow(values, np.dtype(self.storage), None)


ROBERTA = {
    "model_type": "roberta",
    "vocab_size": 97,
    "hidden_size": 24,
    "num_hidden_layers": 3,
    "num_attention_heads": 3,
    "intermediate_size": 40,
    "max_position_embeddings": 40,
    "type_vocab_size": 2,
    "layer_norm_eps": 1e-5,
}
OPT = {
    "model_type": "opt",
    "vocab_size": 97,
    "hidden_size": 24,
    "word_embed_proj_dim": 24,
    "num_hidden_layers": 3,
    "num_attention_heads": 3,
    "ffn_dim": 40,
    "max_position_embeddings": 40,
}
TINY = {
    "roberta": Case(ROBERTA),
    "opt": Case(OPT),
    "opt_post_norm": Case({**OPT, "do_layer_norm_before": False, "word_embed_proj_dim": 10}),
    "opt_bare": Case({**OPT, "enable_bias": False, "layer_norm_elementwise_affine": False}),
    "opt_no_final_norm": Case({**OPT, "_remove_final_layer_norm": True}),
    "opt_gelu": Case({**OPT, "activation_function": "gelu"}),
}
REAL = {
    "roberta_base": Case(
        {
            "model_type": "roberta",
            "vocab_size": 50265,
            "max_position_embeddings": 514,
            "type_vocab_size": 1,
            "layer_norm_eps": 1e-5,
        },
        lengths=(9, 5),
    ),
    "opt_125m": Case(
        {"model_type": "opt", "vocab_size": 50272, "word_embed_proj_dim": 768},
        lengths=(9, 5),
        storage="<f2",
    ),
    "opt_350m": Case(
        {
            "model_type": "opt",
            "vocab_size": 50272,
            "hidden_size": 1024,
            "word_embed_proj_dim": 512,
            "num_hidden_layers": 24,
            "num_attention_heads": 16,
            "ffn_dim": 4096,
            "do_layer_norm_before": False,
        },
        lengths=(9, 5),
        storage="<u2",
    ),
}

# Adapters that peft writes on some of TINY: the base, and the fields of LoraConfig.
PROJECTIONS = ("q_proj", "k_proj", "v_proj", "out_proj", "fc1", "fc2", "project_in", "project_out")
ADAPTERS: dict[str, tuple[str, dict[str, Any]]] = {
    "roberta": ("roberta", {"r": 4, "lora_alpha": 16, "target_modules": ["query", "value"]}),
    "opt": (
        "opt",
        {
            "r": 4,
            "lora_alpha": 16,
            "target_modules": ["q_proj", "v_proj"],
            "task_type": "CAUSAL_LM",
        },
    ),
    "roberta_everywhere": (
        "roberta",
        {"r": 3, "lora_alpha": 5, "use_rslora": True, "target_modules": "all-linear"},
    ),
    "opt_everywhere": (
        "opt_post_norm",
        {"r": 2, "lora_alpha": 3, "target_modules": list(PROJECTIONS)},
    ),
    "opt_one_layer": (
        "opt_bare",
        {"r": 2, "lora_alpha": 1, "target_modules": ["fc1"], "layers_to_transform": [1]},
    ),
    "opt_patterns": (
        "opt",
        {
            "r": 4,
            "lora_alpha": 16,
            "use_rslora": True,
            "target_modules": r".*\.(q_proj|v_proj|fc1)",
            "rank_pattern": {"fc1": 2, r"layers\.1\.self_attn\.q_proj": 3},
            "alpha_pattern": {"^model.decoder.layers.0.fc1": 7, "fc1": 11, "v_proj": 5},
        },
    ),
    "roberta_with_more": (  # biases and a table that are the base's own, in adapter_model.bin
        "roberta",
        {
            "r": 2,
            "lora_alpha": 5,
            "target_modules": ["query", "dense"],
            "exclude_modules": r".*layer\.0\..*|lm_head.*",
            "bias": "all",
            "modules_to_save": ["position_embeddings"],
            "init_lora_weights": "orthogonal",
        },
    ),
}
IN_BIN = {"roberta_with_more"}  # adapters that are saved in adapter_model.bin


def windows() -> list[list[int]]:
    """Held-out tokens of TRAINED_OPT, 8 positions each, as its training saw them.

    It read the file's 32-bit numbers as 16-bit ones, so that a 0 follows every word.
    """
    ids = np.fromfile(TRAINED_OPT / "val.bin", "<u2")
    return ids[: len(ids) // 8 * 8].reshape(-1, 8).tolist()


# -- gradients: make_gradients.py ------------------------------------------------------------

SMALL = {"num_hidden_layers": 2, "vocab_size": 61}
GRADIENTS = {
    "roberta.classification": Case({**ROBERTA, **SMALL}),
    "opt.classification": Case({**OPT, **SMALL}),
    "opt.lm": Case({**OPT, **SMALL, "do_layer_norm_before": False, "word_embed_proj_dim": 10}),
}
WORDS = [11, 17, 5]  # the label words
STEPS, LR, DECAY = 3, 1e-2, 0.1
ADAPTER_RANK, ADAPTER_SCALE = 3, 2.0
ADAPTED_PARTS = ("query", "value", "intermediate.dense", "q_proj", "v_proj", "fc1")


def adapted(names: Iterable[str]) -> list[str]:
    """The modules that get an adapter, of all tensors."""
    ends = tuple(f".{part}.weight" for part in ADAPTED_PARTS)
    return [name.removesuffix(".weight") for name in names if name.endswith(ends)]


def lora_halves(module: str, shape: tuple[int, ...]) -> dict[str, np.ndarray]:
    """A and B of a module's matrix."""
    rows, width = shape
    sizes = {"A": (ADAPTER_RANK, width), "B": (rows, ADAPTER_RANK)}
    return {
        half: noise(SEED, f"{module}.lora_{half}", size) / np.float32(math.sqrt(size[1]))
        for half, size in sizes.items()
    }


def prompts() -> list[tuple[list[int], int, list[list[int]], int]]:
    """Rows of a batch: tokens, the mask's place, candidates of one to three tokens, the gold."""
    draw = np.random.RandomState(SEED + 1).randint
    rows = []
    for i in range(6):
        ids = draw(3, SMALL["vocab_size"], 5 + 3 * i).tolist()
        candidates = [draw(3, SMALL["vocab_size"], n).tolist() for n in (1 + i % 3, 2, 1)]
        rows.append((ids, 2 + i, candidates, i % 3))
    return rows


# -- generation: make_generated.py -----------------------------------------------------------

NEW_TOKENS = 80
GENERATED = {
    name: Case({**case.config, "max_position_embeddings": 128}, lengths=(12, 1, 30, 7))
    for name, case in TINY.items()
    if name.startswith("opt")
}
TEXTS = [
    "The camera",
    "I bought this phone because",
    "It was",
    "A film that I would not watch again",
]
