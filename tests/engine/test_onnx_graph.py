"""Graphs that are written as NumPy is: what they compute, on onnx's own evaluator."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import broadcastable_shapes

from tinyzo.engine.onnx.graph import ANY, Graph, Value, broadcast, reshaped
from tinyzo.engine.onnx.protobuf import TYPES, Described, External
from tinyzo.errors import UsageError

onnx = pytest.importorskip("onnx", reason="the oracle is the package onnx")

from onnx.reference import ReferenceEvaluator  # noqa: E402

RANDOM = np.random.RandomState(0)
X, Y = (RANDOM.standard_normal((2, 3, 4)).astype(np.float32) for _ in range(2))
U = RANDOM.randint(0, 2**32, (2, 3, 4), np.uint64).astype(np.uint32)


def computed(graph: Graph, value: Value, **inputs: np.ndarray) -> np.ndarray:
    """What a value comes to, of a model that the checker accepts in full."""
    kinds = {"x": "f4", "y": "f4", "u": "u4"}
    kind = kinds[next(iter(inputs))]
    shape = tuple(f"s{axis}" if size == ANY else size for axis, size in enumerate(value.shape))
    model = graph.model([Described(graph.name(value, "out"), TYPES[np.dtype(kind)], shape)])
    onnx.checker.check_model(model, full_check=True)
    (found,) = ReferenceEvaluator(onnx.load_from_string(model)).run(None, inputs)
    assert len(found.shape) == len(value.shape)
    known = [(a, b) for a, b in zip(found.shape, value.shape, strict=True) if b != ANY]
    assert all(a == b for a, b in known)
    return found


ARITHMETIC = {
    "sum": lambda x: x + x,
    "sum with an array": lambda x: x + Y,
    "array and sum": lambda x: Y + x,
    "difference": lambda x: x - np.float32(2),
    "product": lambda x: x * Y,
    "array and product": lambda x: Y * x,
    "quotient": lambda x: x / (Y * Y + np.float32(1)),
    "transpose": lambda x: x.transpose(2, 0, 1),
    "reshape": lambda x: x.reshape(4, -1),
    "all rows": lambda x: x[:, np.array([2, 0, 2])],
}


@pytest.mark.parametrize("f", ARITHMETIC.values(), ids=ARITHMETIC)
@pytest.mark.parametrize("shape", [(2, 3, 4), ("a", "b", 4)], ids=["sizes", "names"])
def test_operators_are_those_of_numpy(f, shape):
    graph = Graph()
    found = computed(graph, f(graph.given("x", "f4", shape)), x=X)
    assert np.array_equal(found, f(X))


BITS = {
    "and": lambda u: u & np.uint32(0xFFFF),
    "xor": lambda u: u ^ (u >> np.uint32(15)),
    "product modulo 2^32": lambda u: u * np.uint32(0x7FEB352D),
    "sum modulo 2^32": lambda u: u + np.uint32(2**32 - 1),
}


@pytest.mark.parametrize("f", BITS.values(), ids=BITS)
def test_operators_on_bits_are_those_of_numpy(f):
    graph = Graph()
    with np.errstate(over="ignore"):
        found = computed(graph, f(graph.given("u", "u4", U.shape)), u=U)
        assert np.array_equal(found, f(U))


def test_a_product_of_stacks_of_matrices_is_that_of_numpy():
    graph = Graph()
    x, y = (graph.given(name, "f4", (2, 3, 4)) for name in "xy")
    found = computed(graph, x @ y.transpose(0, 2, 1), x=X, y=Y)
    assert np.allclose(found, X @ Y.transpose(0, 2, 1), rtol=1e-6, atol=1e-6)


def test_a_row_is_taken_and_a_type_changed():
    graph = Graph()
    x = graph.given("x", "f4", X.shape)
    found = computed(graph, x.gather(1).cast("f8").cast("f4"), x=X)
    assert np.array_equal(found, X[1])


def test_sizes_that_are_not_known_stay_as_they_are():
    graph = Graph()
    x = graph.given("x", "f4", ("a", "b", 4))
    y = x.reshape(*x.shape[:2], 2, -1)
    assert y.shape == (ANY, ANY, 2, 2)
    assert np.array_equal(computed(graph, y, x=X), X.reshape(2, 3, 2, 2))


@given(broadcastable_shapes((2, 1, 3), max_dims=4, max_side=3))
def test_the_shape_of_a_sum_is_that_of_numpy(shape):
    try:
        expected = np.broadcast_shapes((2, 1, 3), shape)
    except ValueError:
        return
    assert broadcast((2, 1, 3), shape) == broadcast(shape, (2, 1, 3)) == expected


@given(st.permutations([2, 3, 4]), st.integers(0, 2))
def test_the_rest_of_a_shape_is_that_of_numpy(shape, at):
    new = list(shape)
    new[at] = -1
    assert reshaped((4, 6), new) == np.empty((4, 6)).reshape(new).shape


def test_what_is_asked_for_twice_is_computed_once():
    graph = Graph()
    x = graph.given("x", "f4", (3,))
    assert ((x + 1.5) * x).name == ((x + 1.5) * x).name
    assert (x + 1.5).name != (x + 2.5).name and len(graph.nodes) == 3
    graph.op("Gelu", x, approximate="tanh")
    graph.op("Gelu", x)
    assert len(graph.nodes) == 5


def test_constants_of_the_same_bytes_are_one_only_if_their_types_are():
    graph = Graph()
    names = {
        graph.constant(value).name for value in (np.float32(0), np.int32(0), np.zeros(1, "i4"))
    }
    assert len(names) == 3 and graph.constant(np.float32(0)).name in names


def test_a_part_has_what_its_values_need_and_no_more():
    graph = Graph()
    x, y = (graph.given(name, "f4", (2, 3, 4)) for name in "xy")
    w = graph.stored(External("w", TYPES[np.dtype("f4")], (4,), "w", 0, 16))
    wanted = (x + np.float32(1)) * x
    _ = (y + np.float32(2)) * w
    part = graph.part([wanted.name])
    assert [node.op for node in part.nodes] == ["Add", "Mul"]
    assert (list(part.inputs), list(part.externals), len(part.constants)) == (["x"], [], 1)
    assert np.array_equal(computed(part, wanted, x=X), (X + 1) * X)
    assert list(graph.part([(y * w).name]).externals) == ["w"]


def test_a_graph_that_is_not_run_has_no_numbers():
    graph = Graph()
    x = graph.given("x", "f4", (3,))
    with pytest.raises(UsageError, match=r"x has no numbers before its graph runs\n.*to a file"):
        np.asarray(x)
