"""The tinyzo.json of an exported folder."""

from __future__ import annotations

import json
from pathlib import Path

from fuzz.reader import Reader

from tinyzo.runs.exported import read_about

ROWS = {"type": "int64", "shape": ["rows", 5]}
INPUTS = {"input_ids": ROWS, "attention_mask": ROWS, "w": {"type": "float32", "shape": [4, 8]}}
MORE = {"labels": ROWS, "seeds": ROWS, "lr": {"type": "float64", "shape": []}, "eps": ROWS}
OUTPUTS = {"losses": {"type": "float64", "shape": [4, 2]}}
SIGNATURES = {
    "step.onnx": {"inputs": INPUTS | MORE, "outputs": OUTPUTS},
    "eval.onnx": {"inputs": INPUTS, "outputs": OUTPUTS},
}
ABOUT = {
    "format": 1,
    "noise_format": 1,
    "base": "0" * 64,
    "graphs": {"step.onnx": "0" * 64, "eval.onnx": "1" * 64},
    "signatures": SIGNATURES,
    "family": "opt",
    "task": "topics",
    "labels": ["a", "b"],
    "label_words": [" a", " b"],
    "kind": "words",
    "words": [1, 2],
    "mask_id": None,
    "pad_id": 1,
    "max_tokens": 256,
    "train": "lora-fa",
    "rank": 8,
    "alpha": 16.0,
    "scale": 2.0,
    "queries": 4,
    "batch_size": 32,
    "lr": 1e-4,
    "eps": 1e-2,
    "seed": 0,
    "adapter": "adapter/adapter_model.safetensors",
    "trained": {"w": {"key": "base_model.model.w", "shape": [4, 8]}},
}


READER = Reader(
    lambda data: read_about(data, Path("tinyzo.json")),
    seeds=[json.dumps(ABOUT).encode(), json.dumps(ABOUT | {"mask_id": 7}, indent=2).encode()],
    words=[
        *b'null true NaN Infinity -1 1e999 [] {} "a" "\\ud800" ../ 99999999999999999999'.split(),
        *b'"shape" "type" "key" "step.onnx" "format" "noise_format"'.split(),
    ],
)
