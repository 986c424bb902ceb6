"""Model folders and data files, tiny and made by the tests themselves, and the commands on them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np

from tinyzo.checkpoints.safetensors import SafetensorsWriter
from tinyzo.checkpoints.sources import TensorInfo
from tinyzo.cli import main
from tinyzo.dtypes import DTYPES, narrow
from tinyzo.models.model import MODELS
from tinyzo.text.bpe import BYTE_OF

ROOT = Path(__file__).resolve().parents[1]
SPECIALS = ("<s>", "<pad>", "</s>", "<unk>", "<mask>")
ONE_TOKEN = ("Ġgreat", "Ġterrible", "Ġbad", "Ġgood", "ĠYes", "ĠNo", "Yes", "No")
SHAPES = {
    "roberta": {
        "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2,
        "intermediate_size": 24, "max_position_embeddings": 66, "type_vocab_size": 1,
    },
    "opt": {
        "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2,
        "ffn_dim": 24, "max_position_embeddings": 64, "word_embed_proj_dim": 16,
    },
}  # fmt: skip


def write_vocabulary(directory: Path) -> int:
    """vocab.json and merges.txt of a BPE that knows each byte and the words of ONE_TOKEN."""
    merges = [(word[:i], word[i]) for word in ONE_TOKEN for i in range(1, len(word))]
    merges = list(dict.fromkeys(merges))
    pieces = dict.fromkeys((*SPECIALS, *BYTE_OF, *map("".join, merges)))
    vocabulary = {piece: number for number, piece in enumerate(pieces)}
    (directory / "vocab.json").write_text(json.dumps(vocabulary))
    lines = ["#version: 0.2", *(f"{a} {b}" for a, b in merges), ""]
    (directory / "merges.txt").write_text("\n".join(lines), "utf-8")
    return len(vocabulary)


def random_tensors(family: str, dtype: str = "f32", **config: Any) -> dict[str, np.ndarray]:
    """The parameters of such a model, of values that tell the rows of the data apart."""
    architecture, random = MODELS[family], np.random.RandomState(7)
    tensors = {}
    for name, shape in architecture.shapes(architecture.Config(**config)):
        scale, centre = (0.3, 0.0) if len(shape) > 1 else (0.1, float("norm.weight" in name))
        values = centre + scale * random.standard_normal(shape)
        tensors[name] = narrow(values.astype(np.float32), np.dtype(DTYPES[dtype]), None)
    return tensors


def write_tensors(path: Path, tensors: dict[str, np.ndarray]) -> None:
    tags = {"float32": "F32", "float16": "F16", "uint16": "BF16"}
    infos = {name: TensorInfo(tags[t.dtype.name], t.shape) for name, t in tensors.items()}
    with SafetensorsWriter(path, infos) as writer:
        for name in writer.names():
            writer.write(name, tensors[name])


def write_model(directory: Path, family: str = "roberta", dtype: str = "f32") -> Path:
    """A folder as Hugging Face's, of 20 kB."""
    directory.mkdir(parents=True)
    config = SHAPES[family] | {"vocab_size": write_vocabulary(directory)}
    (directory / "config.json").write_text(
        json.dumps(config | {"model_type": family, "torch_dtype": "float16"})
    )
    write_tensors(directory / "model.safetensors", random_tensors(family, dtype, **config))
    return directory


def cached(cache: Path, name: str, model: Path, *refs: tuple[str, str]) -> Path:
    """A model in a cache of the hub: symbolic links to blobs. refs: a hash, and what refers to it.

    returns: the snapshot of the first hash
    """
    place = cache / f"models--{name.replace('/', '--')}"
    (place / "blobs").mkdir(parents=True)
    for commit, ref in refs:
        (place / "snapshots" / commit).mkdir(parents=True)
        (place / "refs" / ref).parent.mkdir(parents=True, exist_ok=True)
        (place / "refs" / ref).write_text(commit)
        for number, file in enumerate(sorted(model.iterdir())):
            blob = place / "blobs" / f"{number}"
            blob.write_bytes(file.read_bytes())
            (place / "snapshots" / commit / file.name).symlink_to(Path("../../blobs") / blob.name)
    return place / "snapshots" / refs[0][0]


def rows(count: int, start: int = 0) -> list[dict[str, str]]:
    """Rows of the task `reviews`, by turns of its two labels."""
    moods = ("terrible", "great")
    return [{"text": f"No {n}, {n % 2}", "mood": moods[n % 2]} for n in range(start, start + count)]


def write_reviews(directory: Path, train: int = 12, dev: int = 8, test: int = 8) -> Path:
    """Data of the task `reviews`, with three files."""
    directory.mkdir(parents=True)
    start = 0
    for name, count in (("train", train), ("dev", dev), ("test", test)):
        write_jsonl(directory / f"{name}.jsonl", rows(count, start))
        start += count
    return directory


def write_jsonl(path: Path, objects: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(o) + "\n" for o in objects))
    return path


def finetune(model: Path, data: Path, output: Path, *options: str) -> int:
    """A run of 6 steps with an evaluation every 2, of a few milliseconds each."""
    return main([
        "finetune", "--model", str(model), "--task", "reviews", "--data", str(data),
        "--steps", "6", "--batch-size", "4", "--lr", "1e-3", "--eval-every", "2",
        "--output", str(output), *options,
    ])  # fmt: skip


def shell(*arguments: object, **options: Any) -> subprocess.Popen:
    """`python -m tinyzo ...` as a process of its own."""
    return python("-m", "tinyzo", *arguments, **options)


def python(*arguments: object, **options: Any) -> subprocess.Popen:
    """A Python that finds the package, as a process of its own."""
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OPENBLAS_NUM_THREADS": "1"}
    environment.pop("PYTHONUNBUFFERED", None)  # most people have buffers
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    command = [sys.executable, *map(str, arguments)]
    return subprocess.Popen(command, env=environment, **pipes | options)


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]
