"""Mutations of an ONNX model's nodes: attributes, inputs, outputs, operators, by one change each."""

from __future__ import annotations

import random
from collections.abc import Callable

import onnx
from onnx import AttributeProto, helper

Mutation = Callable[[random.Random, onnx.ModelProto], bool]  # False: it does not apply here
_INTS = (-(2**63), -4096, -7, -3, -2, -1, 0, 1, 2, 3, 4, 5, 7, 64, 2**31, 2**62)
FLOATS = (0.0, -0.0, 1.0, -1.0, 0.5, 1e-3, -1e-3, 1e-30, 3e38, float("inf"), float("nan"))
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
            rng.choice(FLOATS),
            rng.choice(_STRINGS),
            [_some_int(rng) for _ in range(rng.randint(1, 9))],
            [rng.randint(0, 2) for _ in range(rng.randint(1, 9))],
            [rng.choice(FLOATS) for _ in range(rng.randint(1, 4))],
        )
    )
    attribute.CopyFrom(helper.make_attribute(name, value))


def some_node(rng: random.Random, model: onnx.ModelProto) -> onnx.NodeProto:
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
            attribute.f = rng.choice(FLOATS)
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
    node = some_node(rng, model)
    if node.attribute:
        del node.attribute[rng.randrange(len(node.attribute))]
        return True
    return False


def add_attribute(rng: random.Random, model: onnx.ModelProto) -> bool:
    """One that the operator may know, in any value; twice the same name, perhaps."""
    node = some_node(rng, model)
    name = rng.choice(_KNOWN.get(node.op_type, _DEFAULT_KNOWN))
    attribute = node.attribute.add(name=str(name))
    _fill(rng, attribute)
    return True


def drop_input(rng: random.Random, model: onnx.ModelProto) -> bool:
    """The last input, or any that becomes absent."""
    node = some_node(rng, model)
    if not node.input:
        return False
    if rng.random() < 0.5:
        node.input.pop()
    else:
        node.input[rng.randrange(len(node.input))] = ""
    return True


def rewire(rng: random.Random, model: onnx.ModelProto) -> bool:
    """An input becomes another value of the model, or one more is added, or two change places."""
    node = some_node(rng, model)
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
    node = some_node(rng, model)
    if rng.random() < 0.5:
        node.output.append(rng.choice(("", "spare", node.output[0] if node.output else "")))
    elif node.output:
        node.output.pop()
    return True


def change_operator(rng: random.Random, model: onnx.ModelProto) -> bool:
    """Another operator with the same inputs and attributes."""
    node = some_node(rng, model)
    node.op_type = rng.choice(
        ("Conv", "ConvTranspose", "Gemm", "MatMul", "BatchNormalization", "Mul", "Add", "Sub", "Div", "Sum",
         "Relu", "LeakyRelu", "PRelu", "Clip", "MaxPool", "AveragePool", "GlobalAveragePool", "Identity",
         "Dropout", "Transpose", "Flatten", "Reshape", "Squeeze", "Unsqueeze", "Pad", "Slice", "Gather",
         "Resize", "DepthToSpace", "SpaceToDepth", "Concat", "Split", "ReduceMean", "ReduceMax", "Shape",
         "InstanceNormalization", "LayerNormalization", "GroupNormalization", "Cast", "Neg", "Abs")
    )  # fmt: skip
    return True
