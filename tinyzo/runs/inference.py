"""A folder from which an app tunes a model with an inference engine, and without tinyzo.

step.onnx           a step: rows, seeds and the adapter in; losses and the adapter out
eval.onnx           the scores of rows
model.safetensors   the base, which both graphs read in place; a model's folder with what follows
config.json, ...    the small files of that
adapter/            the adapter as peft loads it; the graphs read from it what stands still
rows.json           the task's rows as token ids
tinyzo.json         all that an app has to know: inputs, outputs, the task, hashes
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from pathlib import Path

from tinyzo import __version__
from tinyzo.checkpoints import peft
from tinyzo.checkpoints.directory import fingerprint, weights_file
from tinyzo.checkpoints.groups import scales_of
from tinyzo.checkpoints.safetensors import open_safetensors
from tinyzo.dtypes import STORAGE
from tinyzo.engine import noise
from tinyzo.engine.adapters import scale_of
from tinyzo.engine.onnx.graph import Graph, Value
from tinyzo.engine.onnx.protobuf import BFLOAT16, TYPES, External
from tinyzo.engine.onnx.tensors import Floats, Groups, Tensor
from tinyzo.engine.weights import Weights
from tinyzo.errors import ConfigError
from tinyzo.models.model import Model, open_model
from tinyzo.parsing import JsonObject
from tinyzo.runs import export
from tinyzo.runs.data import bind_task, load_data
from tinyzo.runs.run import prepare
from tinyzo.runs.settings import RunSettings, Settings
from tinyzo.text.tasks import BoundTask, Example
from tinyzo.zo.graphs import CANDIDATES, GOLD, WORDS, Reading, Sizes, eval_graph, step_graph

FORMAT = 1
ADAPTER = "adapter"
STEP, EVAL = "step.onnx", "eval.onnx"


def export_onnx(
    given: Settings, output: Path, rows: int | None = None, tokens: int | None = None
) -> Path:
    """Write the folder.

    given:  model, task, data, train (lora or lora-fa), queries, and what else a run would go by
    rows, tokens: of a batch of step.onnx, whose sizes are fixed then
    returns: the directory
    """
    model = open_model(given.model_path)
    settings = given.resolve(model.family)
    if settings.train not in ("lora", "lora-fa"):
        raise ConfigError(f"--train {settings.train} is no adapter", "take lora-fa or lora")
    prepare(model, settings)
    bound = bind_task(model, settings)
    data = load_data(bound, settings)
    reading = reading_of(bound, data.train)
    export._make_new(output)
    _link_base(model, output)
    adapted = Model(model.family, model.config, model.weights, output)
    (output / ADAPTER).mkdir()
    export._write_adapter(output / ADAPTER, adapted)
    stored = Tensors(output, model.weights).stored
    sizes = Sizes(settings.queries, rows or "rows", tokens or "tokens")
    metadata = {"noise_format": str(noise.FORMAT), "tinyzo": __version__}
    score = Reading(CANDIDATES) if reading.kind == GOLD else reading
    graphs = {
        STEP: step_graph(adapted, reading, sizes, stored, metadata),
        EVAL: eval_graph(adapted, score, Sizes(settings.queries), stored, metadata),
    }
    for name, graph in graphs.items():
        export._write(output / name, graph)
    every = {"train": data.train, "test": data.test}
    export._write_json(
        output / "rows.json",
        {split: [encoded(reading, example) for example in each] for split, each in every.items()},
    )
    export._write_json(output / "tinyzo.json", about(adapted, settings, bound, reading, graphs))
    return output


class Tensors:
    """The files of an export's folder that its graphs read in place."""

    def __init__(self, folder: Path, weights: Weights) -> None:
        self._columns = lambda name: weights.shape(name)[1]
        self._files = {
            "model.safetensors": open_safetensors(folder / "model.safetensors"),
            f"{ADAPTER}/{peft.WEIGHTS}": open_safetensors(folder / ADAPTER / peft.WEIGHTS),
        }

    def stored(self, graph: Graph, name: str) -> Tensor:
        """A tensor as its file has it. raises: ConfigError where no file has it"""
        for file, source in self._files.items():
            for own in {name, peft.PREFIX + name} & set(source.names()):
                return self._read(graph, name, file, own)
        raise ConfigError(f"{name} is in no file", "")

    def _read(self, graph: Graph, name: str, file: str, own: str) -> Tensor:
        raw = self._external(graph, name, file, own)
        tag = self._files[file].info(own).dtype
        if tag != "U8":
            return Floats(raw, is_wide=tag == "F32")
        scales = self._external(graph, scales_of(name), file, scales_of(own))
        return Groups(raw, scales, self._columns(name))

    def _external(self, graph: Graph, name: str, file: str, own: str) -> Value:
        place = self._files[file]._tensors[own]
        dtype, shape = place.info
        kind = BFLOAT16 if dtype == "BF16" else TYPES[STORAGE[dtype]]
        return graph.stored(External(name, kind, shape, file, place.start, place.info.nbytes))


def reading_of(bound: BoundTask, examples: Sequence[Example]) -> Reading:
    """What the rows of a task are asked."""
    if bound.task.family == "roberta":
        mask = bound.tokenizer.word_id("<mask>")
        return Reading(WORDS, tuple(bound.label_word_ids), mask)
    if bound.task.loss == "lm":
        return Reading(GOLD)
    words = {example.candidates for example in examples}
    if len(words) == 1 and all(len(word) == 1 for word in examples[0].candidates):
        return Reading(WORDS, tuple(word for (word,) in examples[0].candidates))
    return Reading(CANDIDATES)


def encoded(reading: Reading, example: Example) -> JsonObject:
    """A row as an app feeds it."""
    if reading.kind == WORDS:
        return {"input_ids": list(example.prompt), "label": example.label}
    sequences = [[*example.prompt, *candidate] for candidate in example.candidates]
    targets = [[0] * len(example.prompt) + [1] * len(candidate) for candidate in example.candidates]
    return {"input_ids": sequences, "targets": targets, "label": example.label}


def about(
    model: Model,
    settings: RunSettings,
    bound: BoundTask,
    reading: Reading,
    graphs: dict[str, bytes],
) -> JsonObject:
    """What tinyzo.json says."""
    weights = model.weights
    return {
        "format": FORMAT,
        "tinyzo": __version__,
        "noise_format": noise.FORMAT,
        "base": fingerprint(model.directory),
        "graphs": {name: hashlib.sha256(graph).hexdigest() for name, graph in graphs.items()},
        "task": settings.task or "custom",
        "labels": list(bound.task.labels),
        "kind": reading.kind,
        "words": list(reading.words),
        "mask_id": reading.mask_id,
        "train": settings.train,
        "rank": settings.lora_rank,
        "alpha": settings.lora_alpha,
        "scale": scale_of(weights),
        "queries": settings.queries,
        "batch_size": settings.batch_size,
        "lr": settings.lr,
        "eps": settings.eps,
        "adapter": f"{ADAPTER}/{peft.WEIGHTS}",
        "trained": {
            name: {"key": peft.PREFIX + name, "shape": list(weights.shape(name))}
            for name in weights.trained
        },
    }


def _link_base(model: Model, output: Path) -> None:
    """model.safetensors and the small files of the model's folder."""
    source = weights_file(model.directory)
    if source.name != export.WEIGHTS:
        raise ConfigError(f"{source} is not one model.safetensors", "tinyzo convert it first")
    os.link(source, output / export.WEIGHTS)
    export._copy_companions(model.directory, output)
