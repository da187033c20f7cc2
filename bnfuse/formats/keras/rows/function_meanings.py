"""What the arguments of a function are for the row of the op table that means the same.

Each is told by a function of a ``Called``: the name of the row, and what its config would say. It raises
``Malformed`` where the call means something else.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from bnfuse.formats.keras.graph.arguments import Tensor
from bnfuse.formats.keras.graph.call_constants import Constant
from bnfuse.formats.keras.rows.function_calls import Arguments, Called, tf_layout
from bnfuse.formats.keras.rows.placing_functions import integer
from bnfuse.formats.table import Malformed, counted, curried


@curried
def stated(call: Called, /, row: str, **more: Any) -> tuple[str, Arguments]:
    """The arguments by their names, and some that are always the same."""
    return row, {**call.given, **more}


@curried
def only(call: Called, /, row: str, **wanted: Any) -> tuple[str, Arguments]:
    """Only where arguments have certain values."""
    for name, value in wanted.items():
        if call.given[name] != value:
            raise Malformed(f"{name}={call.given[name]}")
    return row, call.given


@curried
def arithmetic(call: Called, /, row: str, *, as_bias: bool = False) -> tuple[str, Arguments]:
    """Of two tensors, or of one and a constant, which Keras may add where a layer's bias goes."""
    x, y = call.given["x"], call.given["y"]
    if not isinstance(x, Constant) and not isinstance(y, Constant):
        return row, {}
    first = isinstance(x, Constant)
    config = {"op": row, "constant_first": first, "as_bias": as_bias and not first}
    return "Arithmetic", {**config, "operand": x if first else y}


def pointwise(call: Called) -> tuple[str, Arguments]:
    """Of two, element by element, and not looked into."""
    config = _operands(call)
    return ("Pointwise" if config["left"] is None is config["right"] else "Pointwise with a constant"), config


def bias(call: Called) -> tuple[str, Arguments]:
    """A constant along the last axis."""
    if call.given["data_format"] not in (None, "NHWC"):
        raise Malformed("a bias along another axis")
    return arithmetic("Add")(call)


def _operands(call: Called) -> Arguments:
    """Two operands; None for a tensor."""
    x, y = (None if isinstance(v := call.given[k], Tensor) else v.value for k in ("x", "y"))
    return {"left": x, "right": y}


def side_by_side(call: Called) -> tuple[str, Arguments]:
    """Along an axis, counted from zero."""
    return "Concatenate", {"axis": counted(call.given["axis"], call.rank("xs"))[0]}


@curried
def greatest(call: Called, /, row: str) -> tuple[str, Arguments]:
    """Of two tensors; with a number it is a clamp with one bound."""
    config = _operands(call)
    given = [v for v in config.values() if v is not None]
    if not given:
        return row, {}
    if type(given[0]) not in (int, float):
        return "Nonlinear with a constant", config
    bound = float(given[0])
    low, high = (bound, np.inf) if row == "Maximum" else (-np.inf, bound)
    return "Clamp", {"low": low, "high": high}


RELU, RELU6 = (stated("Clamp", low=0.0, high=high) for high in (np.inf, 6.0))


def clip(call: Called) -> tuple[str, Arguments]:
    """Between two numbers."""
    low, high = call.given["x_min"], call.given["x_max"]
    if not {type(low), type(high)} <= {int, float}:
        return "Nonlinear", {}
    return "Clamp", {"low": float(low), "high": float(high)}


@curried
def pool(call: Called, /, kind: str, windows: str = "pool_size") -> tuple[str, Arguments]:
    """A layer's pooling, for each number of spatial axes."""
    config = dict(call.given)
    if config["data_format"] is None or config.get("padding", "valid") not in ("valid", "same"):
        raise Malformed("pooling of another kind")
    n = call.rank("x") - 2
    if isinstance(config[windows], list) and len(config[windows]) != n:
        raise Malformed(f"{windows} {config[windows]}")
    return f"{kind}Pooling{n}D", config


@curried
def tf_pool(call: Called, /, kind: str) -> tuple[str, Arguments]:
    """The same with TensorFlow's names of data formats, and windows for each axis."""
    windows = {k: call.given[k] for k in ("pool_size", "strides")}
    return f"{kind}Pooling{call.rank('x') - 2}D", tf_layout(call, **windows)


def resize(call: Called) -> tuple[str, Arguments]:
    """To a size; Keras may leave it to who runs the model which axis holds the channels."""
    config = dict(call.given)
    size = config.pop("size")
    height, width = (integer(n, 1) for n in size)
    if config.get("fill_mode", "constant") != "constant" or config.get("preserve_aspect_ratio"):
        raise Malformed("borders of another kind")
    config["interpolation"] = str(config["interpolation"])
    return "Resize", {"data_format": "channels_last", **config, "height": height, "width": width}


@curried
def reduce(call: Called, /, row: str) -> tuple[str, Arguments]:
    """Over axes, from no initial value."""
    if call.given.get("initial") is not None:
        raise Malformed("an initial value")
    return row, call.given


def split(call: Called) -> tuple[str, Arguments]:
    """Keras counts in pieces, or tells where to cut."""
    given = call.given.get("sections")
    at = {"at": given} if isinstance(given, list) else {"sections": given}
    return "Split", {**call.given, **at}


def split_sizes(call: Called) -> tuple[str, Arguments]:
    """TensorFlow counts in pieces, or in their sizes."""
    return "Split", {"axis": call.given["axis"], "sizes": call.given["sizes"]}


def slice_(call: Called) -> tuple[str, Arguments]:
    """From where, how many; -1 for all that are left."""
    begin, size = call.given["begin"], call.given["size"]
    pairs = [(integer(b, 0), integer(n, -1)) for b, n in zip(begin, size, strict=True)]
    return "GetItem", {"key": [slice(b, None if n == -1 else b + n) for b, n in pairs]}


def strided_slice(call: Called) -> tuple[str, Arguments]:
    """Bounds with masks: bit k of one speaks of axis k."""
    given = call.given
    masks = [integer(given[k], 0) for k in ("begin_mask", "end_mask", "shrink_axis_mask")]
    if given["ellipsis_mask"] or given["new_axis_mask"]:
        raise Malformed("a mask of another kind")
    strides = given["strides"] or [1] * len(given["begin"])
    key: list[Any] = []
    for k, (a, b, step) in enumerate(zip(given["begin"], given["end"], strides, strict=True)):
        start, end, shrink = (mask >> k & 1 for mask in masks)
        bounds = slice(None if start else integer(a), None if end else integer(b), integer(step))
        key.append(integer(a) if shrink else bounds)
    return "GetItem", {"key": key}


def cast(call: Called) -> tuple[str, Arguments]:
    """To a type, if one is given."""
    return ("Identity", {}) if call.given["dtype"] is None else ("Cast", call.given)


def average(call: Called) -> tuple[str, Arguments]:
    """A mean without weights."""
    if call.given["weights"] is not None:
        raise Malformed("weights")
    return "Mean", {"axis": call.given["axis"], "keepdims": False}


def gather(call: Called) -> tuple[str, Arguments]:
    """Elements along one axis."""
    if call.given["batch_dims"] or call.given["validate_indices"]:
        raise Malformed("a gather of another kind")
    axis = call.given["axis"]
    return "Take", {"axis": 0 if axis is None else axis, "indices": call.given["indices"]}
