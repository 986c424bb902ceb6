"""A loaded model: configuration, tokenizer, weights, and plain forward passes on them."""

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path

import numpy as np

from tinyzo.batch import Batch
from tinyzo.checkpoints import peft
from tinyzo.checkpoints.directory import match_names, open_weights, typed_config
from tinyzo.checkpoints.groups import GROUP_TYPES, kind_of
from tinyzo.checkpoints.layout import Layout
from tinyzo.checkpoints.sources import Source
from tinyzo.dtypes import DTYPES, Array, Rows
from tinyzo.engine.numpy_engine import NumpyEngine
from tinyzo.engine.protocols import Engine, LayeredView, View
from tinyzo.engine.select import ENGINES, choose_engine
from tinyzo.engine.stores.overlay import Overlay
from tinyzo.engine.stores.streamed import TILES, Streamed
from tinyzo.engine.weights import Weights
from tinyzo.errors import CheckpointError, ConfigError, DataError, check_choice, refuse
from tinyzo.machine.memory import free_bytes
from tinyzo.models import opt, roberta
from tinyzo.models.architecture import Architecture, ModelConfig
from tinyzo.parsing import read_json
from tinyzo.text.packing import pack_sequences
from tinyzo.text.tokenizer import Tokenizer, load_tokenizer
from tinyzo.unique import Unique

MODELS: dict[str, Architecture] = {"roberta": roberta, "opt": opt}
RESIDENCIES = ("auto", "resident", "streamed")


class Model(Unique):
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
        self._tokenizer: Tokenizer | None = None

    @property
    def engine(self) -> Engine:
        """The engine that computes; its `name` is "numpy", "numba" or "onnx"."""
        return self.weights.engine

    @property
    def tokenizer(self) -> Tokenizer:
        """The folder's tokenizer, loaded when first asked for."""
        with self.weights.lock:
            if self._tokenizer is None:
                self._tokenizer = load_tokenizer(self.directory)
            return self._tokenizer

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
        chosen = choose_engine(engine, threads)
        most = free_bytes() / 2
        if chosen.name == "onnx":
            from tinyzo.engine.onnx.places import residency_for

            residency = residency_for(weights, residency, most)
        elif residency == "auto" and weights.nbytes() < most:
            residency = "resident"
        with weights.lock:
            weights.engine = chosen
            if residency == "resident":
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
        batch = self.check(pack_sequences(input_ids))
        with self.weights.lock, np.errstate(under="ignore"):
            h = self.architecture.hidden(self.weights.view(), self.config, batch)
        return np.split(np.asarray(h)[0], batch.starts[1:-1])

    def logits(self, input_ids: Sequence[Sequence[int]]) -> list[Array]:
        """The scores of the whole vocabulary at every token, as transformers' `.logits`.

        input_ids: lists of token ids, of any lengths
        returns: f32[T_i, V] of each
        raises: DataError for an empty or too long sequence or an unknown id
        """
        batch = self.check(pack_sequences(input_ids))
        scores = self.scores(self.weights.view(), batch)
        return np.split(scores[0], batch.starts[1:-1])

    # -- passes: one at a time, and none while the weights change

    def scores(self, theta: View, batch: Batch, rows: Rows = None) -> Array:
        """The scores of the vocabulary, or of some rows of it, at each token that the batch reads.

        theta: a view of these weights; returns f32[P, M, V or R]
        """
        with self.weights.lock, np.errstate(under="ignore"):
            h = self._hidden(theta, batch)
            return self.architecture.logits(theta, self.config, h, rows)

    def nll(self, theta: View, batch: Batch) -> Array:
        """-log p of each target token of the batch: f32[P, K]."""
        with self.weights.lock, np.errstate(under="ignore"):
            h = self._hidden(theta, batch)
            return self.architecture.nll(theta, self.config, h, batch.at, batch.targets)

    def _hidden(self, theta: View, batch: Batch) -> Array:
        """The last hidden states, by layers as the view wants to compute them."""
        layer = self.architecture.layer
        if isinstance(theta, LayeredView):
            layer = theta.layered(layer)
        return self.architecture.hidden(theta, self.config, batch, layer)


def load(
    path: str | Path,
    engine: str = "auto",
    residency: str = "auto",
    dtype: str | None = None,
    threads: int | None = None,
    base_dtype: str | None = None,
) -> Model:
    """Open a Hugging Face folder of RoBERTa (masked LM) or OPT (causal LM), or PEFT's of LoRA.

    engine:    "auto", "numba", "numpy" or "onnx"
    residency: "resident": weights in memory; "streamed": read from the file in every pass;
               "auto": resident if they take less than half of the free memory
    dtype:     what they are stored as, "f32", "bf16" or "f16"; None or "auto": as in the file
    threads:   of the numba or onnx engine; None: one on each fast CPU. NumPy's BLAS has its own
    base_dtype: "int4" or "int8": matrices become that as they are read, and stand still
    raises: CheckpointError, ConfigError (also for a choice that is not built)
    """
    check_choice("engine", engine, ENGINES)
    check_choice("residency", residency, RESIDENCIES)
    return open_model(path, dtype, base_dtype).settle(engine, residency, threads)


def open_model(path: str | Path, dtype: str | None = None, base_dtype: str | None = None) -> Model:
    """A checked model whose weights are still in their file; `settle` makes it ready.

    Of a PEFT folder: its base, with the adapter in front of it.
    """
    check_choice("dtype", dtype or "auto", ("auto", *DTYPES))
    if base_dtype is not None:
        check_choice("base_dtype", base_dtype, GROUP_TYPES)
    directory, *adapter = peft.parts(Path(path))
    with ExitStack() as opened:
        source = opened.enter_context(open_weights(directory))
        family, config = read_config(directory)
        names = names_of_tensors(source, MODELS[family], config)
        weights = weights_of(source, names, MODELS[family], config, dtype, base_dtype)
        if adapter:
            attach_adapter(weights, source, names, MODELS[family].LAYOUT, *adapter)
        opened.pop_all()
    return Model(family, config, weights, directory)


def weights_of(
    source: Source,
    names: dict[str, str],
    architecture: Architecture,
    config: ModelConfig,
    dtype: str | None,
    base_dtype: str | None,
) -> Weights:
    """The weights in a file, as floats or in groups. The other arguments are those of the model.

    raises: ConfigError for types that do not go together
    """
    stored = kind_of(source)
    kind = stored or base_dtype
    if kind is None:
        storage = DTYPES[dtype].str if dtype in DTYPES else None
        return Weights(Streamed(source, names, storage), NumpyEngine())
    if dtype in DTYPES:
        found = f"--dtype {dtype}, and the matrices of {source.path} are {kind}"
        raise ConfigError(found, "leave out --dtype: all other tensors are as in the file")
    if base_dtype not in (None, kind):
        hint = "leave it out, or convert the model that this one was made of"
        raise ConfigError(f"--base-dtype {base_dtype}, but {source.path} is {kind} already", hint)
    from tinyzo.models.quantised import open_grouped  # few models are

    return open_grouped(source, names, dict(architecture.shapes(config)), architecture.TABLES, kind)


def read_config(directory: Path) -> tuple[str, ModelConfig]:
    """The family and the checked configuration of a model folder.

    raises: ConfigError
    """
    raw = read_json(directory / "config.json")
    family = str(raw.get("model_type", "(none)"))
    if family not in MODELS:
        found = f"{directory}: model_type {family!r:.80} is not built"
        raise ConfigError(found, f"built: {', '.join(MODELS)}")
    file = directory / "config.json"
    config: ModelConfig = typed_config(raw, MODELS[family].Config, MODELS[family].ALLOWED, file)
    size, heads = config.hidden_size, config.num_attention_heads
    if size % heads:
        found = f"hidden_size {size} is not a multiple of num_attention_heads {heads}"
        raise ConfigError(f"{file}: {found}", "copy config.json from the model's page")
    return family, config


def names_of_tensors(
    source: Source, architecture: Architecture, config: ModelConfig
) -> dict[str, str]:
    """The name in the file of each parameter of the model.

    raises: CheckpointError for tensors missing, unexpected, misshapen, untied or not floating
    """
    layers = config.num_hidden_layers
    held = len(source.names())
    if layers > held:  # else listing the parameters of a billion layers would take for ever
        found = f"{held} tensors for the {layers} layers of config.json"
        refuse(source.path, found, "config.json and the weights are of two different models")
    shapes = dict(architecture.shapes(config))
    if kind_of(source):
        return {name: name for name in shapes}
    names, twins = match_names(source, shapes, architecture.LAYOUT)
    for second, first in twins.items():
        if not are_equal(first, (source, names[first]), (source, second)):
            found = f"{source.path}: {second} is not tied to {first}: their values differ"
            hint = "a model with an output projection of its own is not built"
            raise CheckpointError(found, hint)
    return names


def are_equal(name: str, *tensors: tuple[Source, str]) -> bool:
    """Whether two tensors of the same shape, each a name in a file, have the same values.

    name: the parameter that both are
    raises: CheckpointError for a tensor that is not of floats
    """
    one, other = (Streamed(source, {name: file}, "<f4") for source, file in tensors)
    blocks = zip(one.blocks(name), other.blocks(name), strict=True)
    return all(np.array_equal(a, b, equal_nan=True) for (_, a), (_, b) in blocks)


def attach_adapter(
    weights: Weights,
    base: Source,
    names: Mapping[str, str],
    layout: Layout,
    config: Path,
    file: Path,
) -> None:
    """PEFT's LoRA in front of its base, in memory as float32; z reaches it alone.

    base, names: the file of the base, and the name in it of each parameter
    raises: CheckpointError for tensors beside the adapter that are not the base's own
    """
    adapter = peft.open_adapter(config, file, weights.store.shapes, layout)
    with adapter.source:
        for copy, own in adapter.copies.items():
            if not are_equal(own, (base, names[own]), (adapter.source, copy)):
                peft.refuse_copy(file, copy, own)
        tensors = Streamed(adapter.source, adapter.names, "<f4").load().tensors
    for half, factor in adapter.factors.items():
        tensors[half] = (tensors[half].astype(np.float64) * factor).astype(np.float32)
    weights.store = Overlay(weights.store, tensors)
    weights.trained = weights.saved = dict.fromkeys(adapter.names)
    weights.adapter_scale = adapter.scale
