"""A folder from which an app tunes a model with an inference engine, and without tinyzo.

step.onnx           a step: rows, seeds and the adapter in; losses and the adapter out
eval.onnx           the scores of rows
model.safetensors   the base, which both graphs read in place; a model's folder with what follows
config.json, ...    the small files of that
adapter/            the adapter as peft loads it; the graphs read from it what stands still
rows.json           the task's rows as token ids
tinyzo.json         all that an app has to know: inputs, outputs, the task, hashes

tinyzo.json gets its name last. A folder without it is none, whatever else is in it.
"""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import IO, NamedTuple

import numpy as np

from tinyzo import __version__
from tinyzo.checkpoints import peft
from tinyzo.checkpoints.directory import fingerprint, open_weights, weights_file
from tinyzo.checkpoints.groups import scales_of
from tinyzo.checkpoints.safetensors import SafetensorsFile
from tinyzo.checkpoints.sources import Source
from tinyzo.dtypes import STORAGE
from tinyzo.engine import noise
from tinyzo.engine.adapters import scale_of
from tinyzo.engine.onnx.graph import Graph
from tinyzo.engine.onnx.protobuf import BFLOAT16, TYPES, Described, External
from tinyzo.engine.onnx.tensors import Floats, Groups, Tensor
from tinyzo.engine.terms import Direction
from tinyzo.errors import CheckpointError, ConfigError, DataError, UsageError, refuse
from tinyzo.models.model import Model, names_of_tensors, open_model
from tinyzo.packages import say_once
from tinyzo.parsing import JsonObject
from tinyzo.runs import export
from tinyzo.runs.data import Data, bind_task, load_data
from tinyzo.runs.export import OTHER_OUTPUT, TAKEN, WEIGHTS
from tinyzo.runs.named import open_tuned
from tinyzo.runs.opened import OF_TASK, check_no_base
from tinyzo.runs.run import Tuned, prepare
from tinyzo.runs.settings import RunSettings, Settings
from tinyzo.runs.snapshots import tuned_model
from tinyzo.runs.start import LED
from tinyzo.system import OPENER, is_at, lock, new_directory, os_errors, put_in_place, sync
from tinyzo.text.tasks import BoundTask, Example
from tinyzo.zo import graphs
from tinyzo.zo.graphs import CANDIDATES, GOLD, WORDS, Reading, Sizes, Written
from tinyzo.zo.methods import ADAPTERS

FORMAT = 1
ABOUT = "tinyzo.json"
ROWS = "rows.json"
ADAPTER = "adapter"
ADAPTER_WEIGHTS = f"{ADAPTER}/{peft.WEIGHTS}"
PAD = 1  # what published rows are filled up with; a graph takes any token where the mask is 0
STEP, EVAL = "step.onnx", "eval.onnx"
# The files that make a folder a model, an adapter or an export: none stays of one that failed.
WHOLE = [WEIGHTS, "config.json", STEP, EVAL, ROWS]
WHOLE += [f"{ADAPTER}/{name}" for name in (peft.WEIGHTS, peft.CONFIG, peft.ORIGIN)]
# What is the same in a run and in an app that goes on with it.
OF_RUN = ("train", "lora_rank", "lora_alpha", "lora_targets")
SHARED = [*OF_TASK, *OF_RUN, "queries", "batch_size", "lr", "eps", "seed"]
SHARED += ["data_seed", "k_shot", "train_rows", "limit"]
METHOD = "p-rge"  # the step of the graph: n-SPSA, two-sided, all probes in one pass
OF_GRAPH = ("two-sided", "cross-entropy")  # its estimator and its objective
TYPE_NAMES = {number: dtype.name for dtype, number in TYPES.items()} | {BFLOAT16: "bfloat16"}


def export_onnx(
    given: Settings, output: Path, tokens: int | None = None, base: str | None = None
) -> Path:
    """Write the folder.

    given:   model, task, data, train (lora or lora-fa), queries, and what else a run would go by;
             a batch_size fixes the rows of the graphs' batches
    tokens:  the tokens of a row, which are fixed then
    base:    of a run, where the model that it began with is now; None: where run.toml says
    returns: the directory
    raises: ConfigError for what no graph is made of; CheckpointError when `output` has a model
        already or cannot be written; UsageError, DataError
    """
    model, settings = opened(given, base)
    bound = bound_within(tokens, model, settings)
    if not bound.task.labels:
        found = f"{bound.task.name} has no labels in common, of which an app's graphs are made"
        raise ConfigError(found, "export a task with labels, or COPA")
    data = load_data(bound, settings)
    reading = reading_of(bound, [*data.train, *data.dev, *data.test])
    check_masks(reading, data)
    with new_folder(output) as file:
        write_base(model.directory, output)
        adapted = Model(model.family, model.config, model.weights, output)
        new_directory(output / ADAPTER, CheckpointError, ())
        export.write_adapter(output / ADAPTER, adapted)
        examples = settings.batch_size if given.batch_size else None
        batches = Batches(examples, tokens, len(bound.task.labels))
        written = graphs_of(adapted, reading, settings, batches)
        for name, graph in written.items():
            export.write_small(output / name, graph.data)
        export.write_json(output / ROWS, encoded_rows(reading, data))
        about = about_folder(adapted, settings, bound, reading, written)
        with os_errors(CheckpointError, output / ABOUT, OTHER_OUTPUT, f"or {OTHER_OUTPUT}"):
            file.write(export.as_json(about))
    return output


# -- what is exported


def opened(given: Settings, base: str | None = None) -> tuple[Model, RunSettings]:
    """A model with the adapter that is tuned in front of it, and the settings.

    The model is a folder, a PEFT folder, whose adapter is gone on with, or a run of LoRA, at its
    best step.

    base:   as for `export_onnx`
    raises: ConfigError, UsageError
    """
    check_adapter(given.train)
    run = open_tuned(given.model, base)
    if run is None:
        check_no_base(given, base)
        model = open_model(given.model_path)
        settings = given.replace(method=METHOD).resolve(model.family)
        if settings.train in LED:
            found = f"--train {settings.train} of a model: the rows of a run make its A"
            raise ConfigError(found, f"finetune --train {settings.train}, and export the run")
        return prepare(model, settings), settings
    settings = settings_after(run, given)
    model = tuned_model(run, None, "numpy", "streamed")
    model.weights.direction = Direction()
    return model, settings


def check_adapter(train: str | None) -> None:
    """raises: ConfigError for a set of trained tensors that no app is handed"""
    if train not in (None, *ADAPTERS):
        why = "an app keeps the model as it is, and writes an adapter beside it"
        raise ConfigError(f"--train {train} is not exported: {why}", "take lora-fa or lora")


def settings_after(run: Tuned, given: Settings) -> RunSettings:
    """The settings of a run, for an app that goes on with its adapter.

    raises: ConfigError for a run without one; UsageError for another adapter than it has
    """
    known = run.settings
    if known.train not in ADAPTERS:
        hint = f"tinyzo replay {run.path} --output DIR writes its model: export that"
        raise ConfigError(f"{run.path} has no adapter, but --train {known.train}", hint)
    for name in OF_RUN:
        if getattr(given, name) not in (None, getattr(known, name)):
            option = name.replace("_", "-")
            hint = f"its adapter is gone on with: leave out --{option}"
            raise UsageError(f"the run's {option} is {getattr(known, name)}", hint)
    if (known.estimator, known.objective) != OF_GRAPH:
        found = f"{run.path} has {known.estimator} and {known.objective}"
        say_once(f"{found}; a graph's step is {' and '.join(OF_GRAPH)}")
    kept = {name: getattr(known, name) for name in SHARED}
    if given.task or given.is_custom:
        kept |= dict.fromkeys(OF_TASK)
    choices = given.given() | {"model": known.model, "method": METHOD}
    return Settings(**kept).replace(**choices).resolve(run.about["family"])


def bound_within(tokens: int | None, model: Model, settings: RunSettings) -> BoundTask:
    """The task, whose texts are cut to the tokens that the graphs take; None: to the model's.

    raises: UsageError for more tokens than the model has positions
    """
    bound = bind_task(model, settings)
    if tokens is None:
        return bound
    longest = model.config.max_length
    if tokens > longest:
        raise UsageError(f"--tokens {tokens}; the model has {longest} positions", "give fewer")
    return replace(bound, max_length=min(tokens, bound.max_length))


# -- what its rows are asked


def reading_of(bound: BoundTask, examples: Sequence[Example]) -> Reading:
    """What the rows of a task are asked. examples: all that there are."""
    if bound.task.family == "roberta":
        mask = bound.tokenizer.word_id("<mask>")
        return Reading(WORDS, tuple(bound.label_word_ids), mask)
    if bound.task.loss == "lm":
        return Reading(GOLD)
    words = {example.candidates for example in examples}
    if len(words) == 1 and all(len(word) == 1 for word in examples[0].candidates):
        return Reading(WORDS, tuple(word for (word,) in examples[0].candidates))
    return Reading(CANDIDATES)


def check_masks(reading: Reading, data: Data) -> None:
    """raises: DataError for a row whose text has a mask before the template's"""
    if reading.mask_id is None:
        return
    for example in (*data.train, *data.test):
        if example.prompt.index(reading.mask_id) != example.mask_at:
            found = f"{example.text[:40]!r} has a mask of its own before the template's"
            raise DataError(found, "a graph reads the first of a row: change the text")


def encoded_rows(reading: Reading, data: Data) -> JsonObject:
    """rows.json."""
    every = {"train": data.train, "test": data.test}
    return {split: [encoded(reading, each) for each in rows] for split, rows in every.items()}


def encoded(reading: Reading, example: Example) -> JsonObject:
    """A row as an app feeds it."""
    if reading.kind == WORDS:
        return {"input_ids": list(example.prompt), "label": example.label}
    sequences = [[*example.prompt, *candidate] for candidate in example.candidates]
    targets = [[0] * len(example.prompt) + [1] * len(candidate) for candidate in example.candidates]
    return {"input_ids": sequences, "targets": targets, "label": example.label}


# -- graphs


class Batches(NamedTuple):
    """Sizes of an app's batches; None: any.

    examples:   of a batch
    tokens:     of a row
    candidates: of an example
    """

    examples: int | None
    tokens: int | None
    candidates: int

    def sizes(self, kind: str, queries: int) -> Sizes:
        rows = self.examples
        if rows is not None and kind == CANDIDATES:
            rows *= self.candidates
        return Sizes(queries, self.examples or "examples", rows or "rows", self.tokens or "tokens")


def graphs_of(
    model: Model, reading: Reading, settings: RunSettings, batches: Batches
) -> dict[str, Written]:
    """The graphs of a folder, in which the base and the adapter are already. model: of it"""
    metadata = {"noise_format": str(noise.FORMAT), "tinyzo": __version__}
    scored = Reading(CANDIDATES) if reading.kind == GOLD else reading
    with ExitStack() as files:
        stored = Tensors(model, files).stored
        sizes = batches.sizes(reading.kind, settings.queries)
        step = graphs.step_graph(model, reading, sizes, stored, metadata)
        sizes = batches.sizes(scored.kind, settings.queries)
        return {STEP: step, EVAL: graphs.eval_graph(model, scored, sizes, stored, metadata)}


class Tensors:
    """The tensors of a folder's files, which its graphs read in place."""

    def __init__(self, model: Model, files: ExitStack) -> None:
        """model: the folder's; files: in which they stay open"""
        folder = model.directory
        self._weights = model.weights
        self._base = files.enter_context(SafetensorsFile(folder / WEIGHTS))
        self._names = names_of_tensors(self._base, model.architecture, model.config)
        self._adapter = files.enter_context(SafetensorsFile(folder / ADAPTER_WEIGHTS))

    def stored(self, graph: Graph, name: str) -> Tensor:
        """A tensor as its file has it."""
        if name not in self._names:
            place = external(name, ADAPTER_WEIGHTS, self._adapter, peft.PREFIX + name)
            return Floats(graph.stored(place), is_wide=True)
        place = external(name, WEIGHTS, self._base, self._names[name])
        value = graph.stored(place)
        if place.type != TYPES[np.dtype("u1")]:
            return Floats(value, is_wide=place.type == TYPES[np.dtype("f4")])
        scales = external(scales_of(name), WEIGHTS, self._base, scales_of(name))
        return Groups(value, graph.stored(scales), self._weights.shape(name)[1])


def external(name: str, file: str, source: Source, own_name: str) -> External:
    """A tensor of a file.

    name: in the graph; file: from the graph's folder; own_name: in the file
    """
    info = source.info(own_name)
    kind = BFLOAT16 if info.dtype == "BF16" else TYPES[STORAGE[info.dtype]]
    return External(name, kind, info.shape, file, source.offset(own_name), info.nbytes)


# -- tinyzo.json


def about_folder(
    model: Model,
    settings: RunSettings,
    bound: BoundTask,
    reading: Reading,
    written: dict[str, Written],
) -> JsonObject:
    """What tinyzo.json says."""
    weights = model.weights
    task = bound.task
    return {
        "format": FORMAT,
        "tinyzo": __version__,
        "noise_format": noise.FORMAT,
        "base": fingerprint(model.directory),
        "graphs": {name: hashlib.sha256(each.data).hexdigest() for name, each in written.items()},
        "signatures": {name: signature(each) for name, each in written.items()},
        "family": model.family,
        "task": settings.task or "custom",
        "template": task.template,
        "labels": list(task.labels),
        "label_words": list(task.words),
        "kind": reading.kind,
        "words": list(reading.words),
        "mask_id": reading.mask_id,
        "pad_id": PAD,
        "max_tokens": bound.max_length,
        "train": settings.train,
        "rank": rank_of(model),
        "alpha": scale_of(weights) * rank_of(model),
        "scale": scale_of(weights),
        "queries": settings.queries,
        "batch_size": settings.batch_size,
        "lr": settings.lr,
        "eps": settings.eps,
        "seed": settings.seed,
        "adapter": ADAPTER_WEIGHTS,
        "trained": {
            name: {"key": peft.PREFIX + name, "shape": list(weights.shape(name))}
            for name in weights.trained
        },
    }


def signature(graph: Written) -> JsonObject:
    """Names, types and shapes of what a graph takes and gives; a size that is any has a name."""
    return {"inputs": described(graph.inputs), "outputs": described(graph.outputs)}


def described(values: Sequence[Described]) -> JsonObject:
    return {
        each.name: {"type": TYPE_NAMES[each.type], "shape": list(each.shape)} for each in values
    }


def rank_of(model: Model) -> int:
    """The rank of the first adapter."""
    weights = model.weights
    first = next(name for name in weights.trained if ".lora_B." in name)
    return weights.shape(first)[1]


# -- files


def write_base(directory: Path, output: Path) -> None:
    """model.safetensors, linked if it can be, and the small files of a model's folder."""
    source = weights_file(directory)
    if source.name == WEIGHTS:
        link_or_copy(source, output / WEIGHTS)
        export.copy_companions(directory, output)
    else:
        with open_weights(directory) as tensors:
            export.rewrite(tensors, directory, output)


def link_or_copy(source: Path, target: Path) -> None:
    """Give a file, which nobody changes, a second name; or copy it, on other disks.

    raises: CheckpointError
    """
    with os_errors(CheckpointError, source, "check the model's folder"):
        size = source.stat().st_size
    try:
        os.link(source.resolve(), target)
    except OSError:
        with os_errors(CheckpointError, target, OTHER_OUTPUT, size=size):
            shutil.copyfile(source, target)
            with open(target, "ab") as file:
                sync(file)


@contextmanager
def new_folder(output: Path) -> Iterator[IO[bytes]]:
    """A new folder, and the file in it that becomes tinyzo.json when all else is there.

    One that was interrupted is begun anew. What fails leaves neither a model nor an adapter.

    raises: CheckpointError when there is a model already, another process writes, or the folder
        cannot be made
    """
    partial = output / f".{ABOUT}.partial"
    new_directory(output, CheckpointError, () if partial.exists() else (ABOUT, *TAKEN, *WHOLE))
    with ExitStack() as unfinished:
        with os_errors(CheckpointError, partial, OTHER_OUTPUT, f"or {OTHER_OUTPUT}"):
            file = unfinished.enter_context(open(partial, "ab", opener=OPENER))
        lock(file, CheckpointError, f"{output}: another process is writing it")
        if not is_at(file, partial) or (output / ABOUT).exists():
            refuse(output, "another process has written it meanwhile", OTHER_OUTPUT)
        unfinished.callback(partial.unlink, missing_ok=True)
        unfinished.callback(remove_whole, output)
        remove_whole(output)
        file.truncate(0)
        yield file
        with os_errors(CheckpointError, output / ABOUT, OTHER_OUTPUT, f"or {OTHER_OUTPUT}"):
            put_in_place(file, partial, output / ABOUT)
        unfinished.pop_all()


def remove_whole(output: Path) -> None:
    """Remove what makes a folder look whole."""
    for name in WHOLE:
        (output / name).unlink(missing_ok=True)
