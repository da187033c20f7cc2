"""Initializers that are inputs too: an old exporter's habit, or meant."""

from __future__ import annotations

from collections.abc import Callable

import onnx
from onnx import helper

from bnfuse.core.reasons import Reason
from bnfuse.formats.base import ReadOptions
from tests.onnx_graphs import Net
from tests.traps.table import IMAGE, trap


def listed(net: Net, names: Callable[[str], bool], ir_version: int) -> onnx.ModelProto:
    """Conv → BN whose initializers are inputs as far as ``names`` says."""
    made = net.build(IMAGE, net.bn(net.conv("x", 3, 5, 3, 3), 5), ir_version=ir_version, opset=8)
    for tensor in made.graph.initializer:
        if names(tensor.name):
            made.graph.input.append(
                helper.make_tensor_value_info(tensor.name, tensor.data_type, list(tensor.dims))
            )
    return made


def everything(name: str) -> bool:
    return True


trap("IR 3: all initializers must be inputs")(lambda n: listed(n, everything, 3))
trap("IR 4: all initializers are inputs")(lambda n: listed(n, everything, 4))
trap("IR 4: γ may be overridden", Reason.PARAMETER_OVERRIDABLE)(lambda n: listed(n, {"c2"}.__contains__, 4))
trap("IR 4: the weight may be overridden", Reason.WEIGHT_NOT_CONSTANT)(
    lambda n: listed(n, {"c0"}.__contains__, 4)
)
trap("IR 4: γ and weight are frozen", options=ReadOptions(freeze_inputs=True))(
    lambda n: listed(n, {"c0", "c2"}.__contains__, 4)
)
