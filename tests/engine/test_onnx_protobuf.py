"""The writer of ONNX's messages against the package `onnx`, which reads them back."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from tinyzo.engine.onnx import protobuf
from tinyzo.engine.onnx.protobuf import BFLOAT16, TYPES, Described, External

onnx = pytest.importorskip("onnx", reason="the oracle is the package onnx")

from onnx import numpy_helper  # noqa: E402

INTEGERS = st.integers(-(2**63), 2**63 - 1)
NAMES = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=200)
DIMENSIONS = st.lists(st.integers(0, 2**40) | NAMES, max_size=4).map(tuple)


def parsed(kind, data: bytes):
    """A message of the package's, which writes the same bytes again: nothing of them is unknown."""
    message = kind.FromString(data)
    assert len(message.SerializeToString()) == len(data)
    return message


@pytest.mark.parametrize(
    ("number", "data"),
    [(0, "00"), (1, "01"), (127, "7f"), (128, "8001"), (300, "ac02"), (-1, "ff" * 9 + "01")],
)
def test_a_varint_is_that_of_the_specification(number, data):
    assert protobuf.varint(number).hex() == data


@given(INTEGERS)
def test_any_integer_comes_back(number):
    attribute = parsed(onnx.AttributeProto, protobuf.attribute("a", number))
    assert onnx.helper.get_attribute_value(attribute) == number and attribute.name == "a"


@given(st.floats(width=32))
def test_any_real_number_comes_back(number):
    attribute = parsed(onnx.AttributeProto, protobuf.attribute("a", float(number)))
    assert np.array_equal(attribute.f, number, equal_nan=True)
    assert attribute.type == onnx.AttributeProto.FLOAT


@given(st.lists(INTEGERS).map(tuple))
def test_any_list_of_integers_comes_back(numbers):
    attribute = parsed(onnx.AttributeProto, protobuf.attribute("a", numbers))
    assert tuple(attribute.ints) == numbers and attribute.type == onnx.AttributeProto.INTS


@given(NAMES)
def test_any_text_comes_back(text):
    attribute = parsed(onnx.AttributeProto, protobuf.attribute(text, text))
    assert attribute.s.decode() == attribute.name == text
    assert attribute.type == onnx.AttributeProto.STRING


def test_the_types_are_those_of_onnx():
    for dtype, number in TYPES.items():
        assert onnx.helper.np_dtype_to_tensor_dtype(dtype) == number
    assert onnx.TensorProto.BFLOAT16 == BFLOAT16


@given(st.sampled_from(list(TYPES)).flatmap(lambda t: arrays(t, array_shapes(min_dims=0))))
def test_any_tensor_comes_back_to_the_bit(values):
    tensor = parsed(onnx.TensorProto, protobuf.tensor("w", values))
    found = numpy_helper.to_array(tensor)
    assert tensor.name == "w" and found.dtype == values.dtype and found.shape == values.shape
    assert found.tobytes() == values.tobytes()


@given(st.lists(st.integers(0, 2**40), max_size=4).map(tuple), st.integers(0, 2**62), NAMES)
def test_any_place_in_a_file_comes_back(shape, offset, name):
    written = External(name, BFLOAT16, shape, "model.safetensors", offset, 12)
    tensor = parsed(onnx.TensorProto, protobuf.external(written))
    places = {entry.key: entry.value for entry in tensor.external_data}
    assert places == {"location": "model.safetensors", "offset": str(offset), "length": "12"}
    assert tuple(tensor.dims) == shape and tensor.name == name
    assert tensor.data_type == BFLOAT16
    assert tensor.data_location == onnx.TensorProto.EXTERNAL


@given(NAMES, st.sampled_from([*TYPES.values(), BFLOAT16]), DIMENSIONS)
def test_any_description_comes_back(name, kind, shape):
    value = parsed(onnx.ValueInfoProto, protobuf.described(Described(name, kind, shape)))
    found = value.type.tensor_type
    sizes = [d.dim_param if d.HasField("dim_param") else d.dim_value for d in found.shape.dim]
    assert value.name == name and found.elem_type == kind and tuple(sizes) == shape


@given(st.lists(NAMES), st.lists(NAMES, min_size=1), st.dictionaries(NAMES, INTEGERS), NAMES)
def test_any_node_comes_back(inputs, outputs, attributes, domain):
    node = parsed(onnx.NodeProto, protobuf.node("Add", inputs, outputs, attributes, domain))
    found = {each.name: onnx.helper.get_attribute_value(each) for each in node.attribute}
    assert (list(node.input), list(node.output), found) == (inputs, outputs, attributes)
    assert (node.op_type, node.domain, node.name) == ("Add", domain, outputs[0])


def test_a_model_names_its_opsets_and_metadata():
    x, y = (Described(name, TYPES[np.dtype("f4")], ("n",)) for name in "xy")
    add = protobuf.node("Add", ["x", "one"], ["y"], {})
    one = protobuf.tensor("one", np.float32([1]))
    data = protobuf.model([add], [one], [x], [y], {"": 21, "com.microsoft": 1}, {"a": "b"})
    model = parsed(onnx.ModelProto, data)
    onnx.checker.check_model(model, full_check=True)
    assert {each.domain: each.version for each in model.opset_import} == {
        "": 21,
        "com.microsoft": 1,
    }
    assert {each.key: each.value for each in model.metadata_props} == {"a": "b"}
    assert model.ir_version == onnx.helper.find_min_ir_version_for(model.opset_import[:1])
    assert model.producer_name == model.graph.name == "tinyzo"
