"""z as nodes of a graph: the bits of engine/noise.py on ONNX Runtime, and on onnx's evaluator."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

import tinyzo
from tinyzo.engine import noise
from tinyzo.engine.onnx import noise as nodes
from tinyzo.engine.onnx.graph import Graph
from tinyzo.engine.onnx.protobuf import TYPES, Described

onnx = pytest.importorskip("onnx", reason="the oracle is the package onnx")
onnxruntime = pytest.importorskip("onnxruntime", reason="ONNX Runtime is not here")

from onnx.reference import ReferenceEvaluator  # noqa: E402

VECTORS = json.loads(Path(__file__).with_name("vectors_v1.json").read_text())
NAME = "roberta.encoder.layer.3.output.dense.weight"
SEEDS = np.array([0, 1, 5, 2**32 - 1, 2**32, 2**53 - 1, 2**63, 2**64 - 1], np.uint64)
Run = Callable[..., np.ndarray]


def checked(graph: Graph, name: str, dtype: str, shape: tuple) -> bytes:
    """A graph of one output as a model that the checker and shape inference accept."""
    model = graph.model([Described(name, TYPES[np.dtype(dtype)], shape)])
    onnx.checker.check_model(model, full_check=True)
    return model


def by_runtime(model: bytes, **inputs: np.ndarray) -> np.ndarray:
    (found,) = onnxruntime.InferenceSession(model).run(None, inputs)
    return found


def by_reference(model: bytes, **inputs: np.ndarray) -> np.ndarray:
    with np.errstate(over="ignore"):  # of whole numbers, which is meant
        (found,) = ReferenceEvaluator(onnx.load_from_string(model)).run(None, inputs)
    return found


runtimes = pytest.mark.parametrize("run", [by_runtime, by_reference])
kinds = pytest.mark.parametrize("kind", ["gaussian", "rademacher"])


@functools.cache
def z_model(kind: str, seeds: int) -> bytes:
    """keys u32[U, 2], index u32[R, D] -> z f32[U, R, D]."""
    graph = Graph()
    keys = graph.given("keys", "u4", (seeds, 2))
    index = graph.given("index", "u4", ("R", "D"))
    name = graph.name(nodes.KINDS[kind](keys, index), "z")
    return checked(graph, name, "f4", (seeds, "R", "D"))


def keys_of(seeds: np.ndarray, tensor: str | int, kind: str) -> np.ndarray:
    return np.array([noise.key(int(seed), tensor, kind) for seed in seeds], np.uint32)


@runtimes
@kinds
def test_z_is_that_of_all_engines_bit_by_bit(run, kind):
    shape = (37, 53)
    keys = keys_of(SEEDS, NAME, kind)
    z = run(z_model(kind, len(SEEDS)), keys=keys, index=noise.counters(0, shape))
    for seed, found in zip(SEEDS, z, strict=True):
        assert found.tobytes() == tinyzo.noise(int(seed), NAME, shape, kind).tobytes()


@runtimes
@kinds
def test_the_frozen_vectors_are_met(run, kind):
    """At the first elements, in the middle, and at the last ones of 2^32."""
    for vector in VECTORS[kind]:
        keys = keys_of(np.array([vector["seed"]], np.uint64), vector["tensor"], kind)
        index = vector["start"] + np.arange(len(vector["f32"]), dtype=np.uint64)
        found = run(z_model(kind, 1), keys=keys, index=index.astype(np.uint32)[None])
        assert [f"{word:08x}" for word in found.view(np.uint32).ravel()] == vector["f32"]


@runtimes
@kinds
def test_keys_are_made_of_any_seed_of_64_bits(run, kind):
    graph = Graph()
    seeds = graph.given("seeds", "u8", (len(SEEDS),))
    name = graph.name(nodes.keys(seeds, NAME, kind), "keys")
    found = run(checked(graph, name, "u4", (len(SEEDS), 2)), seeds=SEEDS)
    assert found.dtype == np.uint32
    assert found.tobytes() == keys_of(SEEDS, NAME, kind).tobytes()


@runtimes
def test_counters_count(run):
    graph = Graph()
    x = graph.given("x", "u4", (1,))
    name = graph.name(nodes.counters(graph, 300) + x, "n")
    found = run(checked(graph, name, "u4", (300,)), x=np.array([2**32 - 2], np.uint32))
    assert found.tolist() == [2**32 - 2, 2**32 - 1, *range(298)]
