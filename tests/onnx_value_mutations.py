"""Mutations of an ONNX model's constants and declarations, by one change each."""

from __future__ import annotations

import random

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from tests.onnx_node_mutations import FLOATS


def reshape_constant(rng: random.Random, model: onnx.ModelProto) -> bool:
    """The same elements in another shape."""
    if not model.graph.initializer:
        return False
    tensor = rng.choice(list(model.graph.initializer))
    dims = list(tensor.dims)
    how = rng.randrange(4)
    if how == 0:
        rng.shuffle(dims)
    elif how == 1:
        dims.insert(rng.randint(0, len(dims)), 1)
    elif how == 2:
        dims = [int(np.prod(dims, dtype=int))]
    else:
        dims = [d for d in dims if d != 1]
    del tensor.dims[:]
    tensor.dims.extend(dims)
    return True


def resize_constant(rng: random.Random, model: onnx.ModelProto) -> bool:
    """Some elements more or fewer, with the data to go with it or without."""
    if not model.graph.initializer:
        return False
    tensor = rng.choice(list(model.graph.initializer))
    array = _array(tensor)
    if array is None or rng.random() < 0.3:  # only the dims
        dims = [*tensor.dims] or [1]
        dims[rng.randrange(len(dims))] = rng.choice((-1, 0, 1, 2, 5, 2**40))
        del tensor.dims[:]
        tensor.dims.extend(dims)
        return True
    array = numpy_helper.to_array(tensor)
    if not array.ndim:
        return False
    axis = rng.randrange(array.ndim)
    size = rng.choice((0, 1, max(0, array.shape[axis] - 1), array.shape[axis] + 1))
    tensor.CopyFrom(numpy_helper.from_array(np.resize(array, _with(array.shape, axis, size)), tensor.name))
    return True


def _array(tensor: onnx.TensorProto) -> np.ndarray | None:
    """The values; None where an earlier mutation left none that fit."""
    try:
        return numpy_helper.to_array(tensor).copy()
    except (ValueError, TypeError, KeyError):
        return None


def _with(shape: tuple[int, ...], axis: int, size: int) -> tuple[int, ...]:
    return (*shape[:axis], size, *shape[axis + 1 :])


def retype_constant(rng: random.Random, model: onnx.ModelProto) -> bool:
    """Another element type, or odd values."""
    if not model.graph.initializer:
        return False
    tensor = rng.choice(list(model.graph.initializer))
    array = _array(tensor)
    how = rng.randrange(4)
    if array is None:
        return False
    if how == 0:
        array = array.astype(rng.choice(("float16", "float64", "int64", "int32", "bool", "float32")))
    elif how == 1 and array.size:
        odd = FLOATS if array.dtype.kind == "f" else (0, -1, 1, 3)
        array.reshape(-1)[rng.randrange(array.size)] = rng.choice(odd)
    elif how == 2:
        tensor.data_type = rng.choice((0, 1, 2, 7, 10, 11, 16, 17, 22, 99))
        return True
    else:
        array = np.zeros_like(array)
    tensor.CopyFrom(numpy_helper.from_array(array, tensor.name))
    return True


def change_opset(rng: random.Random, model: onnx.ModelProto) -> bool:
    """Another version of the operators."""
    model.opset_import[0].version = rng.choice((1, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 17, 18, 20, 21, 22))
    return True


def change_input_shape(rng: random.Random, model: onnx.ModelProto) -> bool:
    """An input of another size, rank or none; or a false word about a value inside."""
    infos = list(model.graph.input)
    if rng.random() < 0.4:
        inside = [o for n in model.graph.node for o in n.output if o]
        shape = [rng.choice((None, 1, 2, 3, 4, 5, 8)) for _ in range(rng.randint(0, 5))]
        if inside:
            info = helper.make_tensor_value_info(rng.choice(inside), TensorProto.FLOAT, shape)
            model.graph.value_info.append(info)
        return bool(inside)
    shape_proto = rng.choice(infos).type.tensor_type.shape
    if not shape_proto.dim or rng.random() < 0.2:
        shape_proto.dim.add(dim_value=rng.choice((1, 3)))
    elif rng.random() < 0.3:
        shape_proto.dim.pop()
    else:
        dim = rng.choice(list(shape_proto.dim))
        dim.Clear()
        if rng.random() < 0.7:
            dim.dim_value = rng.choice((-1, 0, 1, 2, 3, 4, 5, 6, 8, 9))
    return True
