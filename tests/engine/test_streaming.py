"""Weights in their file: the same bytes and the same losses as in memory, by few reads."""

from __future__ import annotations

import numpy as np
import pytest
from folders import random_tensors, write_tensors
from streams import PAIR, small_tiles, streamed  # noqa: F401 (small_tiles: used by all)
from tiny import ANY_STORE, DTYPE_NAMES, MODELS, examples_for, raw_bytes, toy_task

from tinyzo.checkpoints.safetensors import SafetensorsWriter, open_safetensors
from tinyzo.checkpoints.sources import Source, TensorInfo
from tinyzo.dtypes import narrow
from tinyzo.engine.stores.streamed import Streamed
from tinyzo.engine.terms import Probe
from tinyzo.errors import CheckpointError
from tinyzo.models.model import Model
from tinyzo.runs.snapshots import infos_of
from tinyzo.zo.mezo import mezo_step
from tinyzo.zo.objectives import Objective

engines = pytest.mark.parametrize("engine", ANY_STORE.values(), ids=ANY_STORE)
models = pytest.mark.parametrize("name", MODELS)
dtypes = pytest.mark.parametrize("dtype", DTYPE_NAMES)
PROBES = {
    "itself": [Probe(0, 0.0)],
    "one": [Probe(5, 1e-2)],
    "pair": PAIR,
    "three pairs": [Probe(seed, scale) for seed in (0, 5, 6) for scale in (1e-2, -1e-2)],
}


def objective(model: Model, loss: str = "classification") -> Objective:
    return Objective(model, toy_task(model.family, loss))


ONCE = {"f32": 1, "bf16": 2, "f16": 32}  # each size of a block with one type, and one with each
SWEEP = [
    pytest.param(dtype, tiles, marks=[] if tiles == ONCE[dtype] else pytest.mark.exhaustive)
    for dtype in DTYPE_NAMES
    for tiles in ONCE.values()
]


@engines
@models
@pytest.mark.parametrize(("dtype", "tiles"), SWEEP)
def test_losses_and_steps_are_those_in_memory_bit_by_bit(tmp_path, name, dtype, engine, tiles):
    here = MODELS[name](dtype, engine)
    there = streamed(here, tmp_path / "w", tiles)
    examples = examples_for(here.family)
    for step in range(3):
        for loss in ("classification",) if name == "roberta" else ("classification", "lm"):
            a, b = (objective(m, loss)(m.weights.view(PAIR), examples) for m in (here, there))
            assert np.array_equal(a, b)
        done = [
            mezo_step(m.weights, objective(m), examples, 70 + step, 1e-3, 1e-2, 0.1)
            for m in (here, there)
        ]
        assert done[0] == done[1]
    assert len(there.weights.pending) == 3 and not here.weights.pending
    for tensor in here.weights.names():
        assert np.array_equal(here.weights.read(tensor), there.weights.read(tensor))
    names = sorted(here.weights.names())
    written: list[bytes] = []
    for weights in (here.weights, there.weights):
        parts: list[bytes] = []
        weights.write(lambda _, raw, parts=parts: parts.append(raw.tobytes()), names)
        written.append(b"".join(parts))
    assert written[0] == written[1]


@engines
@models
@pytest.mark.parametrize("probes", PROBES.values(), ids=PROBES)
def test_any_number_of_probes(tmp_path, name, engine, probes):
    here = MODELS[name]("bf16", engine)
    there = streamed(here, tmp_path / "w")
    for model in (here, there):
        model.weights.add([(8, 1e-2)], fold=False)
    a, b = (objective(m)(m.weights.view(probes), examples_for(m.family)) for m in (here, there))
    assert np.array_equal(a, b) and len(a) == len(probes)


@engines
@dtypes
def test_what_was_written_is_read_from_then_on(tmp_path, dtype, engine):
    here = MODELS["opt"](dtype, engine)
    there = streamed(here, tmp_path / "w").weights
    for weights in (here.weights, there):
        weights.add([(1, 1e-2), (2, -1e-2)], 0.1)
    with SafetensorsWriter(tmp_path / "new", infos_of(there, there.saved)) as writer:
        there.write(writer.write, writer.names())
    assert len(there.pending) == 1
    there.move(tmp_path / "new")
    assert there.pending == [] and raw_bytes(there) == raw_bytes(here.weights)
    for weights in (here.weights, there):
        weights.add([(3, 1e-2)])
    for name in there.names():
        assert np.array_equal(there.read(name), here.weights.read(name))
    there.store.resize(1)
    loaded = there.store.load()
    assert loaded.is_resident and loaded.shapes == there.store.shapes


@pytest.mark.parametrize("dtype", ["<f4", "<f2", "<u2"])
def test_another_type_is_made_block_by_block(tmp_path, dtype):
    tensors = random_tensors("opt", "f32", **SIZES)
    write_tensors(tmp_path / "w", tensors)
    store = Streamed(open_safetensors(tmp_path / "w"), {n: n for n in tensors}, dtype, tiles=1)
    for name, tensor in tensors.items():
        expected = narrow(tensor, np.dtype(dtype), None)
        assert np.array_equal(store.read(name), expected)
        blocks = list(store.blocks(name))
        assert sum(len(raw) for _, raw in blocks) == len(tensor)
        rows = np.array([len(tensor) - 1, 0, 0])
        assert np.array_equal(store.gather(name, rows), expected[rows])


SIZES = {
    "vocab_size": 29, "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2,
    "ffn_dim": 24, "max_position_embeddings": 20,
}  # fmt: skip


def test_blocks_are_few_and_each_is_read_once_a_pass(tmp_path, monkeypatch):
    """From the second pass on, each block is the one that was read ahead."""
    model = streamed(MODELS["opt"](), tmp_path / "w")
    reads: list[tuple] = []
    read_into = Source.read_into

    def counting(self, name, out, start=0):
        reads.append((name, start, len(out)))
        read_into(self, name, out, start)

    monkeypatch.setattr(Source, "read_into", counting)
    examples, passes = examples_for("opt"), []
    for _ in range(4):
        objective(model)(model.weights.view(PAIR), examples)
        model.weights.store._reader.submit(int).result()  # until it has read ahead
        passes.append(len(reads))
        reads.clear()
    assert passes[0] == passes[2] == passes[3]
    assert passes[1] == passes[0] + 1  # the first of the next pass is foreseen from here on
    store = model.weights.store
    assert len(store._buffers) == 2
    assert all(len(buffer) == store.block_bytes(2) for buffer in store._buffers)


def test_writing_does_not_unlearn_the_order_of_a_pass(tmp_path):
    model = streamed(MODELS["opt"](), tmp_path / "w")
    store, examples = model.weights.store, examples_for("opt")
    for _ in range(2):
        objective(model)(model.weights.view(PAIR), examples)
        before = {place: store._follows[place] for place in store._follows if place[0] == ""}
        model.weights.write(lambda *_: None, sorted(model.weights.names()))
    after = {place: store._follows[place] for place in store._follows if place[0] == ""}
    assert {k: v for k, v in after.items() if k[1]} == {k: v for k, v in before.items() if k[1]}


def test_a_file_that_shrinks_is_an_error_also_when_read_ahead(tmp_path):
    model = streamed(MODELS["roberta"](), tmp_path / "w")
    examples = examples_for("roberta")
    objective(model)(model.weights.view(PAIR), examples)
    with open(tmp_path / "w", "r+b") as file:
        file.truncate(2500)
    with pytest.raises(CheckpointError, match="it is truncated"):
        objective(model)(model.weights.view(PAIR), examples)


def test_tensors_that_are_not_of_floats_are_refused(tmp_path):
    with SafetensorsWriter(tmp_path / "w", {"w": TensorInfo("I64", (2,))}) as writer:
        writer.write("w", np.zeros(2, np.int64))
    source = open_safetensors(tmp_path / "w")
    with pytest.raises(CheckpointError, match=r"w: w is of I64\n.*only F32, F16, BF16"):
        Streamed(source, {"w": "w"})
