"""Is a folded model right, tensor by tensor, where it is too big to run twice?

``python -m benchmarks.cost_check BEFORE AFTER`` prints one line and exits 0 when all of this holds:

- Every BN is gone, all other nodes are there, in the same order and with the same attributes.
- A node whose output fed a BN has ``W·γ/√(σ²+ε)`` and ``β + (b − μ)·γ/√(σ²+ε)`` for a weight and a bias,
  computed here in float64, to within what one rounding leaves: half a unit in the last place.
- Every other tensor has the bytes it had.

With one model, ``python -m benchmarks.cost_check MODEL``, it prints how many BN and how many nodes are left.

It shares no code with bnfuse: it finds the tensors by a protobuf walk of its own and maps them, so that
6 GB are compared in little memory.
"""

from __future__ import annotations

import mmap
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, numpy_helper

GRAPH, INITIALIZER, RAW_DATA = 7, 5, 9
COMPARE_BYTES = 1 << 24
MOST_ULPS = 0.51  # one rounding is half a unit, and float64 has its own

Maps = dict[Path, mmap.mmap]


@dataclass(frozen=True, slots=True)
class Loaded:
    """A model's graph without its large tensors, and views of all its initializers by name."""

    graph: onnx.GraphProto
    arrays: dict[str, np.ndarray]


def varint(data: mmap.mmap, at: int) -> tuple[int, int]:
    """(value, position after it)."""
    value = shift = 0
    while True:
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
        shift += 7


def fields(data: mmap.mmap, start: int, end: int) -> Iterator[tuple[int, int, int, int]]:
    """(field number, start of field, start of content, end of content) of one message."""
    at = start
    while at < end:
        tag, content = varint(data, at)
        match tag & 7:
            case 0:
                stop = varint(data, content)[1]
            case 1:
                stop = content + 8
            case 2:
                size, content = varint(data, content)
                stop = content + size
            case 5:
                stop = content + 4
            case wire:
                raise ValueError(f"wire type {wire} at byte {at}")
        yield tag >> 3, at, content, stop
        at = stop


def tensor_view(data: mmap.mmap, start: int, end: int, folder: Path, maps: Maps) -> tuple[str, np.ndarray]:
    """(name, data where it lies) of the TensorProto at ``start``..``end``."""
    head, raw = bytearray(), None
    for number, at, content, stop in fields(data, start, end):
        if number == RAW_DATA:
            raw = (content, stop - content)
        else:
            head += data[at:stop]
    tensor = TensorProto.FromString(bytes(head))
    if tensor.data_location == TensorProto.EXTERNAL:
        where = {entry.key: entry.value for entry in tensor.external_data}
        side = folder / where["location"]
        if side not in maps:
            maps[side] = mapped(side)
        return tensor.name, view(maps[side], tensor, int(where.get("offset", 0)), int(where["length"]))
    return tensor.name, view(data, tensor, *raw) if raw else numpy_helper.to_array(tensor)


def view(data: mmap.mmap, tensor: TensorProto, offset: int, size: int) -> np.ndarray:
    """A tensor's data where it lies, without a copy."""
    dtype = onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type)
    return np.frombuffer(data, dtype, size // dtype.itemsize, offset).reshape(tuple(tensor.dims))


def mapped(path: Path) -> mmap.mmap:
    """The file as read-only memory."""
    with path.open("rb") as file:
        return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)


def load(path: Path) -> Loaded:
    """Open a model; raises ``ValueError`` where the file holds no graph."""
    data, rest = mapped(path), bytearray()
    arrays: dict[str, np.ndarray] = {}
    maps: Maps = {}
    bounds = [(content, stop) for number, _, content, stop in fields(data, 0, len(data)) if number == GRAPH]
    if not bounds:
        raise ValueError(f"{path} holds no graph")
    for number, at, content, stop in fields(data, *bounds[-1]):
        if number == INITIALIZER:
            name, array = tensor_view(data, content, stop, path.parent, maps)
            arrays[name] = array
        else:
            rest += data[at:stop]
    return Loaded(onnx.GraphProto.FromString(bytes(rest)), arrays)


def folded_pair(before: Loaded, node: onnx.NodeProto, norm: onnx.NodeProto) -> tuple[np.ndarray, np.ndarray]:
    """The float64 weight and bias that ``norm`` leaves in ``node``, whose output channel comes first."""
    scale, shift, mean, variance = (before.arrays[name].astype(np.float64) for name in norm.input[1:5])
    epsilon = next((a.f for a in norm.attribute if a.name == "epsilon"), 1e-5)
    gain = scale / np.sqrt(variance + epsilon)
    weight = before.arrays[node.input[1]].astype(np.float64)
    bias = before.arrays[node.input[2]].astype(np.float64) if len(node.input) > 2 else 0.0
    return weight * gain.reshape(-1, *[1] * (weight.ndim - 1)), shift + (bias - mean) * gain


def ulps(actual: np.ndarray, exact: np.ndarray) -> float:
    """Largest distance in units in the last place of the exact value, rounded to ``actual``'s dtype."""
    unit = np.spacing(np.abs(exact.astype(actual.dtype)))
    return float(np.max(np.abs(actual.astype(np.float64) - exact) / unit))


def same_bytes(a: np.ndarray, b: np.ndarray) -> bool:
    """Whether two tensors are equal bit by bit, shape and type included."""
    if a.shape != b.shape or a.dtype != b.dtype:
        return False
    x, y = a.reshape(-1).view(np.uint8), b.reshape(-1).view(np.uint8)
    return all(
        np.array_equal(x[at : at + COMPARE_BYTES], y[at : at + COMPARE_BYTES])
        for at in range(0, len(x), COMPARE_BYTES)
    )


def matched_nodes(before: Loaded, after: Loaded) -> list[tuple[onnx.NodeProto, onnx.NodeProto]]:
    """(before, after) of every node that is no BN; raises ``ValueError`` where they do not match."""
    old = [node for node in before.graph.node if node.op_type != "BatchNormalization"]
    new = list(after.graph.node)
    same = len(old) == len(new) and all(
        (a.name, a.op_type, a.attribute) == (b.name, b.op_type, b.attribute)
        for a, b in zip(old, new, strict=True)
    )
    if not same:
        raise ValueError("the nodes other than BatchNormalization are not what they were")
    return list(zip(old, new, strict=True))


def compare(before: Loaded, after: Loaded) -> str:
    """One line on what was compared; raises ``ValueError`` at the first difference."""
    norms = {node.input[0]: node for node in before.graph.node if node.op_type == "BatchNormalization"}
    worst, touched, untouched = 0.0, 0, 0
    for node, now in matched_nodes(before, after):
        norm = norms.get(node.output[0])
        if norm is not None:
            for name, exact in zip(now.input[1:3], folded_pair(before, node, norm), strict=True):
                worst = max(worst, ulps(after.arrays[name], exact))
                touched += after.arrays[name].nbytes
            continue
        for name, now_name in zip(node.input, now.input, strict=True):
            if name not in before.arrays:
                continue
            if not same_bytes(before.arrays[name], after.arrays[now_name]):
                raise ValueError(f"{name} should have stayed and differs")
            untouched += before.arrays[name].nbytes
    if worst > MOST_ULPS:
        raise ValueError(f"a folded weight or bias is off by {worst:.2f} units in the last place")
    return (
        f"{len(norms)} BN folded, {touched / 1e6:.0f} MB of weights within {worst:.2f} ulp of float64, "
        f"{untouched / 1e6:.0f} MB of others identical"
    )


def left_over(model: Loaded) -> str:
    """BN and nodes in the main graph."""
    norms = sum(node.op_type == "BatchNormalization" for node in model.graph.node)
    return f"{norms} / {len(model.graph.node)}"


def main() -> None:
    """Compare two models named on the command line, or count the nodes of one."""
    models = [load(Path(argument)) for argument in sys.argv[1:]]
    try:
        print(left_over(models[0]) if len(models) == 1 else compare(*models))
    except ValueError as error:
        sys.exit(f"different: {error}")


if __name__ == "__main__":
    main()
