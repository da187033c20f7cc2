"""Damaged variants of a small ONNX model, each by one change that the file format allows.

``mutants`` draws them from a seed: attributes of another value, length or type, inputs that are
missing, swapped or another's, constants of other dims or types, other operator sets, other shapes.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator

import numpy as np
import onnx
from onnx import AttributeProto, TensorProto, helper, numpy_helper

Mutation = Callable[[random.Random, onnx.ModelProto], bool]  # False: it does not apply here

_INTS = (-(2**63), -4096, -7, -3, -2, -1, 0, 1, 2, 3, 4, 5, 7, 64, 2**31, 2**62)
_FLOATS = (0.0, -0.0, 1.0, -1.0, 0.5, 1e-3, -1e-3, 1e-30, 3e38, float("inf"), float("nan"))
_STRINGS = (b"", b"SAME_UPPER", b"SAME_LOWER", b"VALID", b"NOTSET", b"reflect", b"linear", b"\xff\xfe")
# Attributes that operators here know, so that one may turn up where the model had none.
_KNOWN: dict[str, tuple[object, ...]] = {
    "Conv": ("group", "pads", "strides", "dilations", "auto_pad", "kernel_shape"),
    "ConvTranspose": ("group", "pads", "strides", "output_padding", "output_shape", "auto_pad"),
    "Gemm": ("transA", "transB", "alpha", "beta"),
    "BatchNormalization": ("epsilon", "momentum", "training_mode", "spatial", "is_test"),
    "MaxPool": ("kernel_shape", "pads", "ceil_mode", "dilations", "storage_order"),
    "AveragePool": ("kernel_shape", "pads", "ceil_mode", "count_include_pad", "auto_pad"),
    "Pad": ("mode", "pads", "value"),
    "Reshape": ("allowzero", "shape"),
    "Resize": ("mode", "coordinate_transformation_mode", "axes", "keep_aspect_ratio_policy"),
    "ReduceMean": ("axes", "keepdims", "noop_with_empty_axes"),
    "LayerNormalization": ("axis", "epsilon"),
    "Dropout": ("ratio", "seed"),
    "DepthToSpace": ("blocksize", "mode"),
}
_DEFAULT_KNOWN = ("axis", "axes", "perm", "keepdims", "blocksize", "alpha", "broadcast", "to", "split")


def _some_int(rng: random.Random) -> int:
    return rng.choice(_INTS) if rng.random() < 0.5 else rng.randint(-6, 8)


def _fill(rng: random.Random, attribute: onnx.AttributeProto) -> None:
    """A random value of a random type, under the attribute's name."""
    name = attribute.name
    value: object = rng.choice(
        (
            _some_int(rng),
            rng.choice(_FLOATS),
            rng.choice(_STRINGS),
            [_some_int(rng) for _ in range(rng.randint(1, 9))],
            [rng.randint(0, 2) for _ in range(rng.randint(1, 9))],
            [rng.choice(_FLOATS) for _ in range(rng.randint(1, 4))],
        )
    )
    attribute.CopyFrom(helper.make_attribute(name, value))


def _node(rng: random.Random, model: onnx.ModelProto) -> onnx.NodeProto:
    return rng.choice(list(model.graph.node))


def change_attribute(rng: random.Random, model: onnx.ModelProto) -> bool:
    """Another value of the same type, or of the same list a longer or shorter one."""
    given = [a for node in model.graph.node for a in node.attribute]
    if not given:
        return False
    attribute = rng.choice(given)
    match attribute.type:
        case AttributeProto.INT:
            attribute.i = _some_int(rng)
        case AttributeProto.FLOAT:
            attribute.f = rng.choice(_FLOATS)
        case AttributeProto.STRING:
            attribute.s = rng.choice(_STRINGS)
        case AttributeProto.INTS:
            values = list(attribute.ints)
            how = rng.randrange(5)
            if how == 0 and values:
                values[rng.randrange(len(values))] = _some_int(rng)
            elif how == 1 and values:
                values.pop()
            elif how == 2:
                values.append(_some_int(rng))
            elif how == 3:
                rng.shuffle(values)
            else:
                values = []
            del attribute.ints[:]
            attribute.ints.extend(values)
        case _:
            return False
    return True


def retype_attribute(rng: random.Random, model: onnx.ModelProto) -> bool:
    """An attribute of another type."""
    given = [a for node in model.graph.node for a in node.attribute]
    if given:
        _fill(rng, rng.choice(given))
    return bool(given)


def drop_attribute(rng: random.Random, model: onnx.ModelProto) -> bool:
    """The default instead."""
    node = _node(rng, model)
    if node.attribute:
        del node.attribute[rng.randrange(len(node.attribute))]
        return True
    return False


def add_attribute(rng: random.Random, model: onnx.ModelProto) -> bool:
    """One that the operator may know, in any value; twice the same name, perhaps."""
    node = _node(rng, model)
    name = rng.choice(_KNOWN.get(node.op_type, _DEFAULT_KNOWN))
    attribute = node.attribute.add(name=str(name))
    _fill(rng, attribute)
    return True


def drop_input(rng: random.Random, model: onnx.ModelProto) -> bool:
    """The last input, or any that becomes absent."""
    node = _node(rng, model)
    if not node.input:
        return False
    if rng.random() < 0.5:
        node.input.pop()
    else:
        node.input[rng.randrange(len(node.input))] = ""
    return True


def rewire(rng: random.Random, model: onnx.ModelProto) -> bool:
    """An input becomes another value of the model, or one more is added, or two change places."""
    node = _node(rng, model)
    graph = model.graph
    names = [v.name for v in graph.input] + [t.name for t in graph.initializer]
    names += [o for n in graph.node for o in n.output] + ["nowhere"]
    how = rng.randrange(3)
    if how == 0 or not node.input:
        node.input.append(rng.choice(names))
    elif how == 1:
        node.input[rng.randrange(len(node.input))] = rng.choice(names)
    else:
        values = list(node.input)
        rng.shuffle(values)
        node.input[:] = values
    return True


def change_outputs(rng: random.Random, model: onnx.ModelProto) -> bool:
    """One output more or fewer, or one without a name."""
    node = _node(rng, model)
    if rng.random() < 0.5:
        node.output.append(rng.choice(("", "spare", node.output[0] if node.output else "")))
    elif node.output:
        node.output.pop()
    return True


def change_operator(rng: random.Random, model: onnx.ModelProto) -> bool:
    """Another operator with the same inputs and attributes."""
    node = _node(rng, model)
    node.op_type = rng.choice(
        ("Conv", "ConvTranspose", "Gemm", "MatMul", "BatchNormalization", "Mul", "Add", "Sub", "Div", "Sum",
         "Relu", "LeakyRelu", "PRelu", "Clip", "MaxPool", "AveragePool", "GlobalAveragePool", "Identity",
         "Dropout", "Transpose", "Flatten", "Reshape", "Squeeze", "Unsqueeze", "Pad", "Slice", "Gather",
         "Resize", "DepthToSpace", "SpaceToDepth", "Concat", "Split", "ReduceMean", "ReduceMax", "Shape",
         "InstanceNormalization", "LayerNormalization", "GroupNormalization", "Cast", "Neg", "Abs")
    )  # fmt: skip
    return True


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
        odd = _FLOATS if array.dtype.kind == "f" else (0, -1, 1, 3)
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


MUTATIONS: tuple[Mutation, ...] = (
    change_attribute, change_attribute, retype_attribute, drop_attribute, add_attribute, add_attribute,
    drop_input, rewire, change_outputs, change_operator, reshape_constant, resize_constant, retype_constant,
    change_opset, change_input_shape,
)  # fmt: skip


def mutants(model: onnx.ModelProto, seed: int, count: int) -> Iterator[tuple[str, onnx.ModelProto]]:
    """(what was done, the damaged copy), ``count`` times, the same for the same seed."""
    rng = random.Random(seed)
    made = 0
    while made < count:
        copy = onnx.ModelProto()
        copy.CopyFrom(model)
        names = []
        for mutation in rng.sample(MUTATIONS, rng.choice((1, 1, 1, 2, 3))):
            if mutation(rng, copy):
                names.append(mutation.__name__)
        if names:
            made += 1
            yield " + ".join(names), copy
