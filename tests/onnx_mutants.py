"""Damaged variants of a small ONNX model, each by one change that the file format allows.

``mutants`` draws them from a seed: attributes of another value, length or type, inputs that are
missing, swapped or another's, constants of other dims or types, other operator sets, other shapes."""

from __future__ import annotations

import random
from collections.abc import Iterator

import onnx

from tests.onnx_node_mutations import (
    Mutation,
    add_attribute,
    change_attribute,
    change_operator,
    change_outputs,
    drop_attribute,
    drop_input,
    retype_attribute,
    rewire,
)
from tests.onnx_value_mutations import (
    change_input_shape,
    change_opset,
    reshape_constant,
    resize_constant,
    retype_constant,
)

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
