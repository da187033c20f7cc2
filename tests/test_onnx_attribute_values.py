"""Values of attributes against those that onnx tells of them."""

from __future__ import annotations

import onnx
import pytest

from bnfuse.formats.onnx.graph.attribute_values import attribute_value

ATTRIBUTES = [
    1.5,
    3,
    b"text",
    onnx.helper.make_tensor("t", 1, [1], [2.0]),
    onnx.helper.make_graph([], "g", [], []),
    onnx.helper.make_tensor_type_proto(1, [2]),
    [1.5, 2.5],
    [1, 2],
    [b"a", b"b"],
    [onnx.helper.make_tensor("t", 1, [1], [2.0])],
    [onnx.helper.make_graph([], "g", [], [])],
    [onnx.helper.make_tensor_type_proto(1, [2])],
]


@pytest.mark.parametrize("value", ATTRIBUTES)
def test_an_attribute_s_value_is_that_of_onnx(value: object) -> None:
    attribute = onnx.helper.make_attribute("a", value)
    found = attribute_value(attribute)
    assert found == value == onnx.helper.get_attribute_value(attribute)
    assert type(found) is type(value)


def test_sparse_and_absent_values_and_those_of_a_caller() -> None:
    kind = onnx.AttributeProto
    sparse = onnx.SparseTensorProto(dims=[3])
    assert attribute_value(kind(type=kind.SPARSE_TENSOR, sparse_tensor=sparse)) == sparse
    assert attribute_value(kind(type=kind.SPARSE_TENSORS, sparse_tensors=[sparse])) == [sparse]
    assert attribute_value(kind()) is None
    with pytest.raises(ValueError, match="a caller gives as 'outer'"):
        attribute_value(kind(name="a", type=kind.INT, ref_attr_name="outer"))
