"""A loaded model: configuration, tokenizer, weights, and plain forward passes on them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from tinyzo.checkpoints.directory import match_names, open_weights, read_json, typed_config
from tinyzo.checkpoints.sources import Source
from tinyzo.engine.engines import choose_engine
from tinyzo.engine.weights import Weights, narrow, widen
from tinyzo.errors import CheckpointError, ConfigError, DataError
from tinyzo.models import opt, roberta
from tinyzo.text.batches import Batch, pack_sequences
from tinyzo.text.tokenizer import Tokenizer, load_tokenizer

MODELS: dict[str, ModuleType] = {"roberta": roberta, "opt": opt}
DTYPES = {"f32": "<f4", "f16": "<f2", "bf16": "<u2"}


class Model:
    """A checkpoint ready to compute. `family` is "roberta" or "opt"."""

    def __init__(
        self, family: str, config: Any, weights: Weights, directory: Path, engine: str
    ) -> None:
        self.family, self.config, self.weights = family, config, weights
        self.directory, self.engine = directory, engine
        self.architecture = MODELS[family]
        self._tokenizer: Tokenizer | None = None

    @property
    def tokenizer(self) -> Tokenizer:
        """The folder's tokenizer, loaded when first asked for."""
        if self._tokenizer is None:
            self._tokenizer = load_tokenizer(self.directory)
        return self._tokenizer

    def check(self, batch: Batch) -> Batch:
        """raises: DataError when a token id or a length is beyond the model's tables"""
        ids = np.concatenate([a for a in (batch.ids, batch.words, batch.targets) if a is not None])
        if ids.min() < 0 or ids.max() >= self.config.vocab_size:
            bad = ids.max() if ids.min() >= 0 else ids.min()
            raise DataError(
                f"token id {bad} is outside the vocabulary of {self.config.vocab_size}",
                "the tokenizer's files and the weights are of two different models",
            )
        if (length := int(batch.positions.max()) + 1) > self.config.max_length:
            raise DataError(
                f"a sequence of {length} tokens; the model has {self.config.max_length} positions",
                "shorten the text",
            )
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


def load(
    path: str | Path,
    engine: str = "auto",
    residency: str = "auto",
    dtype: str | None = None,
    threads: int | None = None,
) -> Model:
    """Open a Hugging Face folder of RoBERTa (masked LM) or OPT (causal LM).

    engine: "auto", "numba" or "numpy". residency: "auto" or "resident": weights in memory.
    dtype: what they are stored as, "f32", "bf16" or "f16"; None or "auto": as in the file.
    threads: of the numba engine; None: one on each fast CPU. NumPy's BLAS has its own.
    raises: CheckpointError, ConfigError (also for a choice that is not built)
    """
    if residency not in ("auto", "resident"):
        raise ConfigError(f"residency {residency!r} is not built", "one of auto, resident")
    name, views = choose_engine(engine, threads)
    if dtype not in (None, "auto", *DTYPES):
        raise ConfigError(f"dtype {dtype!r} is not built", f"one of auto, {', '.join(DTYPES)}")
    directory = Path(path)
    with open_weights(directory) as source:
        family, config = read_config(directory)
        tensors = read_tensors(source, MODELS[family], config, dtype)
    return Model(family, config, Weights(tensors, views), directory, name)


def read_config(directory: Path) -> tuple[str, Any]:
    """The family and the checked configuration of a model folder.

    raises: ConfigError
    """
    raw = read_json(directory / "config.json")
    family = str(raw.get("model_type"))
    if family not in MODELS:
        raise ConfigError(
            f"{directory}: model_type {family!r} is not built", f"built: {', '.join(MODELS)}"
        )
    config = typed_config(raw, MODELS[family].Config, MODELS[family].ALLOWED)
    if config.hidden_size % config.num_attention_heads:
        raise ConfigError(
            f"config.json: hidden_size {config.hidden_size} is not a multiple of "
            f"num_attention_heads {config.num_attention_heads}",
            "copy config.json from the model's page",
        )
    return family, config


def read_tensors(
    source: Source, architecture: ModuleType, config: Any, dtype: str | None
) -> dict[str, np.ndarray]:
    """All parameters of the model, one at a time into their final storage type.

    raises: CheckpointError for tensors missing, unexpected, misshapen, untied or not floating
    """
    layers, held = config.num_hidden_layers, len(source.names())
    if layers > held:  # else listing the parameters of a billion layers would take for ever
        raise CheckpointError(
            f"{source.path}: {held} tensors for the {layers} layers of config.json",
            "config.json and the weights are of two different models",
        )
    shapes = dict(architecture.shapes(config))
    names, twins = match_names(source, shapes, architecture.LAYOUT)
    tensors = {name: _read(source, file, dtype) for name, file in names.items()}
    for second, first in twins.items():
        if not np.array_equal(_read(source, second, dtype), tensors[first]):
            raise CheckpointError(
                f"{second} is not tied to {first}: their values differ",
                "a model with an output projection of its own is not built",
            )
    return tensors


def _read(source: Source, name: str, dtype: str | None) -> np.ndarray:
    info = source.info(name)
    if info.dtype not in ("F32", "F16", "BF16", "F64"):
        raise CheckpointError(f"{name}: {info.dtype} weights", "only F32, F16, BF16, F64 are read")
    raw = source.read(name)
    same = raw.dtype if info.dtype != "F64" else np.dtype(np.float32)
    target = same if dtype in (None, "auto") else np.dtype(DTYPES[dtype])
    if raw.dtype == target:
        return raw
    with np.errstate(over="ignore"):
        values = narrow(widen(raw), target, None)
    if np.isinf(widen(values)).any() and not np.isinf(raw).any():
        raise CheckpointError(f"{name}: values too large for {target.name}", "use another --dtype")
    return values
