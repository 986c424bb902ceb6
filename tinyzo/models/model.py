"""A loaded model: configuration, tokenizer, weights, and plain forward passes on them."""

from collections.abc import Sequence
from contextlib import ExitStack
from functools import cached_property
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from tinyzo.batch import Batch
from tinyzo.checkpoints import peft
from tinyzo.checkpoints.directory import match_names, open_weights, read_json, typed_config
from tinyzo.checkpoints.sources import Source
from tinyzo.engine.numpy_engine import NumpyEngine
from tinyzo.engine.select import ENGINES, choose_engine
from tinyzo.engine.stores.overlay import Overlay
from tinyzo.engine.stores.streamed import TILES, Streamed
from tinyzo.engine.weights import Weights
from tinyzo.errors import CheckpointError, ConfigError, DataError, check_choice, refuse
from tinyzo.models import opt, roberta
from tinyzo.system import free_bytes
from tinyzo.text.packing import pack_sequences
from tinyzo.text.tokenizer import Tokenizer, load_tokenizer

MODELS: dict[str, ModuleType] = {"roberta": roberta, "opt": opt}
RESIDENCIES = ("auto", "resident", "streamed")
DTYPES = {"f32": "<f4", "f16": "<f2", "bf16": "<u2"}


class Model:
    """A checkpoint ready to compute. `family` is "roberta" or "opt"."""

    def __init__(self, family: str, config: Any, weights: Weights, directory: Path) -> None:
        self.family, self.config, self.weights = family, config, weights
        self.directory = directory
        self.architecture = MODELS[family]

    def settle(self, engine: str = "auto", residency: str = "auto", threads: int | None = None,
               tiles: int = TILES) -> "Model":  # fmt: skip
        """Choose what computes, and whether the weights, still in their file, come into memory."""
        self.weights.engine = choose_engine(engine, threads)
        is_small = self.weights.nbytes() < free_bytes() / 2
        if residency == "resident" or (residency == "auto" and is_small):
            self.weights.store = self.weights.store.load()
            self.weights.fold()  # what a run has added since
        else:
            self.weights.store.resize(tiles)
        return self

    @cached_property
    def tokenizer(self) -> Tokenizer:
        """The folder's tokenizer, loaded when first asked for."""
        return load_tokenizer(self.directory)

    def check(self, batch: Batch) -> Batch:
        """raises: DataError when a token id or a length is beyond the model's tables"""
        ids = np.concatenate([a for a in (batch.ids, batch.words, batch.targets) if a is not None])
        if ids.min() < 0 or ids.max() >= self.config.vocab_size:
            bad = ids.max() if ids.min() >= 0 else ids.min()
            raise DataError(f"token id {bad} is outside the vocabulary of {self.config.vocab_size}",
                            "the tokenizer's files and the weights are of two different models")
        if (length := int(batch.positions.max()) + 1) > self.config.max_length:
            why = f"a sequence of {length} tokens; the model has {self.config.max_length} positions"
            raise DataError(why, "shorten the text")
        return batch

    def hidden(self, input_ids: Sequence[Sequence[int]]) -> list[np.ndarray]:
        """The last hidden states of each sequence: f32[T_i, D] (OPT-350m: after project_out)."""
        batch = self.check(pack_sequences(input_ids))
        h = self.architecture.hidden(self.weights.view(), self.config, batch)
        return np.split(h[0], batch.starts[1:-1])

    def logits(self, input_ids: Sequence[Sequence[int]]) -> list[np.ndarray]:
        """The scores of the whole vocabulary at every token, as transformers' `.logits`.

        input_ids: lists of token ids, ragged allowed; returns f32[T_i, V] each
        raises: DataError for an empty or too long sequence or an unknown id
        """
        batch = self.check(pack_sequences(input_ids))
        theta = self.weights.view()
        h = self.architecture.hidden(theta, self.config, batch)
        return np.split(self.architecture.logits(theta, self.config, h)[0], batch.starts[1:-1])


def load(path: str | Path, engine: str = "auto", residency: str = "auto", dtype: str | None = None,
         threads: int | None = None) -> Model:  # fmt: skip
    """Open a Hugging Face folder of RoBERTa (masked LM) or OPT (causal LM), or PEFT's of LoRA.

    engine: "auto", "numba" or "numpy". residency: "resident": weights in memory; "streamed": read
    from the file in every pass; "auto": resident if they take less than half of the free memory.
    dtype: what they are stored as, "f32", "bf16" or "f16"; None or "auto": as in the file.
    threads: of the numba engine; None: one on each fast CPU. NumPy's BLAS has its own.
    raises: CheckpointError, ConfigError (also for a choice that is not built)
    """
    check_choice("engine", engine, ENGINES)
    check_choice("residency", residency, RESIDENCIES)
    return open_model(path, dtype).settle(engine, residency, threads)


def open_model(path: str | Path, dtype: str | None = None) -> Model:
    """A checked model whose weights are still in their file; `settle` makes it ready.

    Of a PEFT folder: its base, behind adapters in memory as float32, which z reaches alone.
    """
    check_choice("dtype", dtype or "auto", ("auto", *DTYPES))
    directory, *adapter = peft.parts(Path(path))
    with ExitStack() as opened:
        source = opened.enter_context(open_weights(directory))
        family, config = read_config(directory)
        store = open_tensors(source, MODELS[family], config, DTYPES.get(dtype))
        weights = Weights(store, NumpyEngine())
        if adapter:
            file, names, weights.adapter_scale = peft.open_adapter(*adapter, store.shapes)
            weights.store = Overlay(store, Streamed(file, names, "<f4").load().tensors)
            weights.trained = weights.saved = dict.fromkeys(names)
        opened.pop_all()
    return Model(family, config, weights, directory)


def read_config(directory: Path) -> tuple[str, Any]:
    """The family and the checked configuration of a model folder.

    raises: ConfigError
    """
    raw = read_json(directory / "config.json")
    family = str(raw.get("model_type"))
    if family not in MODELS:
        raise ConfigError(f"{directory}: model_type {family!r} is not built",
                          f"built: {', '.join(MODELS)}")  # fmt: skip
    config = typed_config(raw, MODELS[family].Config, MODELS[family].ALLOWED)
    size, heads = config.hidden_size, config.num_attention_heads
    if size % heads:
        why = f"hidden_size {size} is not a multiple of num_attention_heads {heads}"
        raise ConfigError(f"config.json: {why}", "copy config.json from the model's page")
    return family, config


def open_tensors(source: Source, architecture: ModuleType, config: Any,
                 dtype: str | None) -> Streamed:  # fmt: skip
    """All parameters of the model, by its own names.

    raises: CheckpointError for tensors missing, unexpected, misshapen, untied or not floating
    """
    layers, held = config.num_hidden_layers, len(source.names())
    if layers > held:  # else listing the parameters of a billion layers would take for ever
        why = f"{held} tensors for the {layers} layers of config.json"
        refuse(source.path, why, "config.json and the weights are of two different models")
    shapes = dict(architecture.shapes(config))
    names, twins = match_names(source, shapes, architecture.LAYOUT)
    for second, first in twins.items():
        both = (Streamed(source, {first: file}, dtype) for file in (second, names[first]))
        blocks = zip(*(each.blocks(first) for each in both), strict=True)
        if not all(np.array_equal(a, b) for (_, a), (_, b) in blocks):
            raise CheckpointError(f"{second} is not tied to {first}: their values differ",
                                  "a model with an output projection of its own is not built")
    return Streamed(source, names, dtype)
