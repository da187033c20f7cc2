"""Steps of random graphs: linear operators whose weights are integers with scales.

``packed_matmul`` writes a MatMulNBits as its definition has it; tables and tests of its own use it, too.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from tests.random_nets import Net, Step, Value
from tests.runtime_versions import TWO_BITS


def packed(q: np.ndarray, bits: int) -> np.ndarray:
    """Rows of small numbers as bytes, the first in the lowest bits; a row is filled up to whole bytes."""
    each = 8 // bits
    q = np.pad(q, ((0, 0), (0, -q.shape[1] % each))).astype(np.uint8)
    parts = [q[:, k::each] << np.uint8(k * bits) for k in range(each)]
    made: np.ndarray = np.bitwise_or.reduce(parts)
    return made


def packed_matmul(
    net: Net, x: Value, out: int, *, bits: int = 4, zero: str = "", bias: bool = False, **attributes: Any
) -> tuple[Value, np.ndarray]:
    """MatMulNBits over the last axis of x, and the weight (out, K) that it stands for, float64.

    ``zero``: "" for none, "packed" or "fractions". Blocks are of 16 where ``attributes`` do not say.
    """
    k, block = x.shape[-1], attributes.setdefault("block_size", 16)
    blocks = -(-k // block)
    q = net.rng.integers(0, 1 << bits, (out, blocks * block))
    scale = net.mixed(out, blocks) / ((1 << bits) * np.sqrt(k))
    points: np.ndarray = np.full((out, blocks), float(1 << (bits - 1)))
    names = [x.name, net.const(packed(q, bits).reshape(out, blocks, -1)), net.const(scale), "", "", ""]
    if zero == "packed":
        points = net.rng.integers(0, 1 << bits, (out, blocks))
        names[3] = net.const(packed(points, bits))
    elif zero:
        points = net.rng.uniform(0.0, 1 << bits, (out, blocks)).astype(net.dtype)
        names[3] = net.const(points.astype(np.float64))
    if bias:
        names[5] = net.const(net.normal(out))
    while not names[-1]:
        names.pop()
    y = net.node("MatMulNBits", names, (*x.shape[:-1], out), domain="com.microsoft", K=k, N=out, bits=bits,
                 **attributes)  # fmt: skip
    place = np.arange(k) // block
    return y, (q[:, :k] - points[:, place]) * scale.astype(net.dtype).astype(np.float64)[:, place]


def few_bits(net: Net, x: Value) -> Value | None:
    """A MatMulNBits of 2, 4 or 8 bits; most blocks are larger than the axis."""
    if net.double:
        return None
    bits = net.pick(2 if TWO_BITS else 4, 4, 8)
    zero = net.pick("", "packed", "fractions") if bits == 4 else net.pick("", "packed")
    return packed_matmul(net, x, net.pick(5, x.shape[-1]), bits=bits, zero=zero, bias=bool(net.dice(2)))[0]


def unpacked(net: Net, x: Value) -> Value | None:
    """A 1×1 Conv, a MatMul or a Gemm whose weight stands behind a DequantizeLinear."""
    if net.double or x.rank < 2:
        return None
    op = net.pick("MatMul", *(("Conv",) if x.rank > 2 else ("Gemm",)))
    n, out = (x.channels if op == "Conv" else x.shape[-1]), net.pick(4, 6)
    shape = (out, n, *[1] * (x.rank - 2)) if op == "Conv" else (n, out)
    along = net.pick("tensor", "outputs", "outputs", "inputs", "blocks")
    axis = int((along == "outputs") == (op != "Conv"))
    scales: tuple[int, ...] = () if along == "tensor" else (shape[axis],)
    more: dict[str, int] = {} if along == "tensor" else {"axis": axis}
    if along == "blocks":
        if net.opset < 21 or n % 2 or op == "Conv":
            return None
        scales, more = (n // 2, out), {"axis": 0, "block_size": 2}
    kind, low, high = net.pick((np.int8, -127, 128), (np.int8, -128, 128), (np.uint8, 0, 256))
    q = net.rng.integers(low, high, shape).astype(kind)
    scale = net.const(net.rng.uniform(0.5, 2.0, scales) / (100.0 * np.sqrt(n)))
    names = [net.const(q), scale]
    if kind is np.uint8 or net.dice(2):
        names.append(net.const(net.rng.integers(-4, 5, scales).astype(kind) + kind(100 * (low == 0))))
    w = net.node("DequantizeLinear", names, shape, **more)
    net.values.remove(w)  # a constant, from which nothing goes on
    inputs = [x.name, w.name, *([net.const(net.normal(out))] if op != "MatMul" and net.dice(2) else [])]
    sizes = (x.shape[0], out, *x.space) if op == "Conv" else (*x.shape[:-1], out)
    return net.node(op, inputs, sizes)


QUANTISED: dict[str, tuple[int, Step]] = {"few_bits": (2, few_bits), "unpacked": (4, unpacked)}
