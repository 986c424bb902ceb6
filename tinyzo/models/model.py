"""A loaded model: configuration, tokenizer, weights, and plain forward passes on them."""

from collections.abc import Sequence
from contextlib import ExitStack
from functools import cached_property
from pathlib import Path

import numpy as np

from tinyzo.batch import Batch
from tinyzo.checkpoints import peft
from tinyzo.checkpoints.directory import match_names, open_weights, typed_config
from tinyzo.checkpoints.sources import Source
from tinyzo.dtypes import DTYPES, Array
from tinyzo.engine.numpy_engine import NumpyEngine
from tinyzo.engine.protocols import Engine, View
from tinyzo.engine.select import ENGINES, choose_engine
from tinyzo.engine.stores.overlay import Overlay
from tinyzo.engine.stores.streamed import TILES, Streamed
from tinyzo.engine.weights import Weights
from tinyzo.errors import CheckpointError, ConfigError, DataError, check_choice, refuse
from tinyzo.models import opt, roberta
from tinyzo.models.architecture import Architecture, ModelConfig
from tinyzo.parsing import read_json
from tinyzo.system import free_bytes
from tinyzo.text.packing import pack_sequences
from tinyzo.text.tokenizer import Tokenizer, load_tokenizer

MODELS: dict[str, Architecture] = {"roberta": roberta, "opt": opt}
RESIDENCIES = ("auto", "resident", "streamed")


class Model:
    """A checkpoint ready to compute.

    family:       "roberta" or "opt"
    architecture: the module of that name: its functions
    config:       the fields of config.json that change the result
    weights:      the parameters, which training changes
    directory:    the model's folder
    """

    def __init__(self, family: str, config: ModelConfig, weights: Weights, directory: Path) -> None:
        self.family = family
        self.architecture = MODELS[family]
        self.config = config
        self.weights = weights
        self.directory = directory

    @property
    def engine(self) -> Engine:
        """The engine that computes; its `name` is "numpy" or "numba"."""
        return self.weights.engine

    @cached_property
    def tokenizer(self) -> Tokenizer:
        """The folder's tokenizer, loaded when first asked for."""
        return load_tokenizer(self.directory)

    def settle(
        self,
        engine: str = "auto",
        residency: str = "auto",
        threads: int | None = None,
        tiles: int = TILES,
    ) -> "Model":
        """Choose what computes, and whether the weights, still in their file, come into memory.

        engine, residency, threads: as for `load`
        tiles: the size of a block, where the weights are streamed
        returns: the same model
        """
        weights = self.weights
        weights.engine = choose_engine(engine, threads)
        is_small = weights.nbytes() < free_bytes() / 2
        if residency == "resident" or (residency == "auto" and is_small):
            weights.store = weights.store.load()
            weights.fold()  # what a run has added since
        else:
            weights.store.resize(tiles)
        return self

    def check(self, batch: Batch) -> Batch:
        """Check that the model's tables have every token and position of a batch.

        returns: the same batch
        raises: DataError for a token id or a length beyond the tables
        """
        vocabulary = self.config.vocab_size
        longest = self.config.max_length
        ids = np.concatenate([batch.ids, batch.words, batch.targets])
        outside = ids[(ids < 0) | (ids >= vocabulary)]
        if outside.size:
            found = f"token id {outside[0]} is outside the vocabulary of {vocabulary}"
            why = "a tokenizer that gives others is another model's"
            hint = f"ids go from 0 to {vocabulary - 1}; {why}"
            raise DataError(found, hint)
        length = int(batch.positions.max()) + 1
        if length > longest:
            found = f"a sequence of {length} tokens; the model has {longest} positions"
            raise DataError(found, "shorten the text")
        return batch

    def hidden(self, input_ids: Sequence[Sequence[int]]) -> list[Array]:
        """The last hidden states of each sequence (OPT-350m: after project_out).

        input_ids, raises: as for `logits`
        returns: f32[T_i, D] of each
        """
        _, h, starts = self._forward(input_ids)
        return np.split(h[0], starts)

    def logits(self, input_ids: Sequence[Sequence[int]]) -> list[Array]:
        """The scores of the whole vocabulary at every token, as transformers' `.logits`.

        input_ids: lists of token ids, of any lengths
        returns: f32[T_i, V] of each
        raises: DataError for an empty or too long sequence or an unknown id
        """
        theta, h, starts = self._forward(input_ids)
        return np.split(self.architecture.logits(theta, self.config, h)[0], starts)

    def _forward(self, input_ids: Sequence[Sequence[int]]) -> tuple[View, Array, np.ndarray]:
        """A view, the hidden states of all tokens, f32[1, N, D], and the places to split them."""
        batch = self.check(pack_sequences(input_ids))
        theta = self.weights.view()
        h = self.architecture.hidden(theta, self.config, batch)
        return theta, h, batch.starts[1:-1]


def load(
    path: str | Path,
    engine: str = "auto",
    residency: str = "auto",
    dtype: str | None = None,
    threads: int | None = None,
) -> Model:
    """Open a Hugging Face folder of RoBERTa (masked LM) or OPT (causal LM), or PEFT's of LoRA.

    engine:    "auto", "numba" or "numpy"
    residency: "resident": weights in memory; "streamed": read from the file in every pass;
               "auto": resident if they take less than half of the free memory
    dtype:     what they are stored as, "f32", "bf16" or "f16"; None or "auto": as in the file
    threads:   of the numba engine; None: one on each fast CPU. NumPy's BLAS has its own
    raises: CheckpointError, ConfigError (also for a choice that is not built)
    """
    check_choice("engine", engine, ENGINES)
    check_choice("residency", residency, RESIDENCIES)
    return open_model(path, dtype).settle(engine, residency, threads)


def open_model(path: str | Path, dtype: str | None = None) -> Model:
    """A checked model whose weights are still in their file; `settle` makes it ready.

    Of a PEFT folder: its base, with the adapter in front of it.
    """
    check_choice("dtype", dtype or "auto", ("auto", *DTYPES))
    storage = DTYPES[dtype].str if dtype in DTYPES else None
    directory, *adapter = peft.parts(Path(path))
    with ExitStack() as opened:
        source = opened.enter_context(open_weights(directory))
        family, config = read_config(directory)
        store = open_tensors(source, MODELS[family], config, storage)
        weights = Weights(store, NumpyEngine())
        if adapter:
            attach_adapter(weights, *adapter)
        opened.pop_all()
    return Model(family, config, weights, directory)


def read_config(directory: Path) -> tuple[str, ModelConfig]:
    """The family and the checked configuration of a model folder.

    raises: ConfigError
    """
    raw = read_json(directory / "config.json")
    family = str(raw.get("model_type"))
    if family not in MODELS:
        found = f"{directory}: model_type {family!r} is not built"
        raise ConfigError(found, f"built: {', '.join(MODELS)}")
    config: ModelConfig = typed_config(raw, MODELS[family].Config, MODELS[family].ALLOWED)
    size, heads = config.hidden_size, config.num_attention_heads
    if size % heads:
        found = f"hidden_size {size} is not a multiple of num_attention_heads {heads}"
        raise ConfigError(f"config.json: {found}", "copy config.json from the model's page")
    return family, config


def open_tensors(
    source: Source, architecture: Architecture, config: ModelConfig, dtype: str | None
) -> Streamed:
    """All parameters of the model, by its own names.

    dtype: to hold them in; None: the file's
    raises: CheckpointError for tensors missing, unexpected, misshapen, untied or not floating
    """
    layers = config.num_hidden_layers
    held = len(source.names())
    if layers > held:  # else listing the parameters of a billion layers would take for ever
        found = f"{held} tensors for the {layers} layers of config.json"
        refuse(source.path, found, "config.json and the weights are of two different models")
    shapes = dict(architecture.shapes(config))
    names, twins = match_names(source, shapes, architecture.LAYOUT)
    for second, first in twins.items():
        check_tie(source, first, names[first], second, dtype)
    return Streamed(source, names, dtype)


def check_tie(source: Source, name: str, first: str, second: str, dtype: str | None) -> None:
    """Compare the two tensors of a file that are both the parameter `name`.

    raises: CheckpointError when their values differ
    """
    one = Streamed(source, {name: first}, dtype).blocks(name)
    other = Streamed(source, {name: second}, dtype).blocks(name)
    for (_, a), (_, b) in zip(one, other, strict=True):
        if not np.array_equal(a, b):
            found = f"{second} is not tied to {name}: their values differ"
            raise CheckpointError(
                found, "a model with an output projection of its own is not built"
            )


def attach_adapter(weights: Weights, config: Path, file: Path) -> None:
    """PEFT's LoRA in front of its base, in memory as float32; z reaches it alone."""
    source, names, scale = peft.open_adapter(config, file, weights.store.shapes)
    adapter = Streamed(source, names, "<f4").load()
    weights.store = Overlay(weights.store, adapter.tensors)
    weights.trained = weights.saved = dict.fromkeys(names)
    weights.adapter_scale = scale
