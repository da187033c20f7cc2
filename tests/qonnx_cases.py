"""Networks of one operator whose weight comes out of a Quant, and a BatchNormalization beside it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper

from bnfuse.core.reasons import Reason

C = 4
QONNX, BREVITAS = "qonnx.custom_op.general", "onnx.brevitas"


@dataclass(frozen=True)
class Case:
    """One operator whose weight comes out of a Quant, a BatchNormalization behind it or in front of it."""

    name: str
    op: str = "Conv"
    scales: str = "axis 0"
    gamma: str = "positive"
    zero: float = 0.0
    bits: float = 4.0
    signed: int = 1
    narrow: int = 1
    mode: str = "ROUND"
    kind: str = "Quant"
    domain: str = QONNX
    behind: bool = True
    groups: int = 1
    pads: tuple[int, ...] = (0, 0, 0, 0)
    reason: Reason | None = None
    extremes: bool = False
    zeros: bool = False
    floats: str = "float32"


SHARED, UNREAD = Reason.QUANTISED_WEIGHT, Reason.WEIGHT_NOT_CONSTANT
CASES = [
    Case("per channel"),
    Case("of Brevitas", domain=BREVITAS, gamma="mixed"),
    Case("IntQuant", kind="IntQuant", gamma="mixed"),
    Case("signs", gamma="mixed"),
    Case("zeros", gamma="zeros"),
    Case("padded", gamma="mixed", pads=(1, 1, 1, 1)),
    Case("per tensor becomes per channel", scales="tensor", gamma="mixed"),
    Case("per tensor, a scalar", scales="scalar"),
    Case("a wide grid, −8 stays", narrow=0, gamma="mixed", extremes=True, reason=SHARED),
    Case("a wide grid, −8 where nothing is mirrored", narrow=0, extremes=True),
    Case("a wide grid without −8", narrow=0, gamma="mixed"),
    Case("unsigned, no sign", signed=0, narrow=0),
    Case("unsigned, a sign", signed=0, narrow=0, gamma="mixed", reason=SHARED),
    Case("unsigned around 7, a sign", signed=0, zero=7.0, gamma="mixed"),
    Case("unsigned around 7, zeros", signed=0, zero=7.0, gamma="zeros"),
    Case("unsigned, narrow: 15 is 14", signed=0, extremes=True),
    Case("2 bits", bits=2.0, gamma="mixed"),
    Case("16 bits", bits=16.0, gamma="mixed"),
    Case("16 bits, gone", bits=16.0, gamma="gone"),
    *(Case(f"rounded {mode}", mode=mode, gamma="mixed")
      for mode in ("CEIL", "floor", "UP", "DOWN", "ROUND_TO_ZERO", "HALF_UP", "HALF_DOWN", "HALF_EVEN")),
    Case("as good as gone", gamma="gone"),
    Case("grouped", groups=2, gamma="mixed"),
    Case("depthwise", groups=4, gamma="mixed"),
    Case("Gemm", "Gemm", gamma="mixed"),
    Case("MatMul", "MatMul", scales="axis 1", gamma="mixed"),
    Case("along the inputs", scales="axis 1", reason=SHARED),
    Case("before: along the inputs", scales="axis 1", behind=False, gamma="mixed"),
    Case("before: per tensor", scales="tensor", behind=False, gamma="mixed"),
    Case("before: unsigned, narrow", scales="axis 1", behind=False, signed=0, extremes=True),
    Case("before: along the outputs", behind=False, reason=SHARED),
    Case("along two axes", scales="both", gamma="mixed"),
    # no such weight
    Case("1 bit, signed", bits=1.0, reason=UNREAD),
    Case("a bit and a half", bits=1.5, reason=UNREAD),
    Case("a zero point beside the grid", zero=9.0, reason=UNREAD),
    Case("a zero point below the grid", zero=-8.0, reason=UNREAD),
    Case("several zero points around one scale", scales="scalar", zeros=True, reason=UNREAD),
    Case("a zero point between integers", zero=0.5, reason=UNREAD),
    Case("a rounding that nobody knows", mode="STOCHASTIC", reason=UNREAD),
    Case("another domain", domain="my.ops", reason=UNREAD),
    Case("in float64", floats="float64", reason=UNREAD),
]  # fmt: skip
IDS = [case.name for case in CASES]


def gamma_of(kind: str, rng: np.random.Generator) -> np.ndarray:
    factors = {"mixed": [1, -1, 1, -1], "zeros": [1, 0, 1, 1], "gone": [1, 1e-38, 1, 1]}
    return rng.uniform(0.5, 2, C) * np.asarray(factors.get(kind, [1] * C), np.float64)


def build(case: Case) -> onnx.ModelProto:
    """x → (BN →) op with a weight out of a Quant (→ BN) → y; weights lie off the ties of rounding."""
    rng = np.random.default_rng(IDS.index(case.name))
    dtype = np.dtype(case.floats)
    image = case.op == "Conv"
    shape = (C, C // case.groups, 3, 3) if image else (C, C)
    rank = len(shape)
    axes = {"tensor": (), "scalar": (), "both": (0, 1)}.get(case.scales, (int(case.scales[-1]),) if
                                                           case.scales[-1].isdigit() else ())  # fmt: skip
    scale = rng.uniform(0.5, 2.0, [n if k in axes else 1 for k, n in enumerate(shape)]) / 2**case.bits
    half = 2 ** (max(2, int(case.bits)) - 1)
    low, high = (1 - half, half) if case.signed else (1, 2 * half - 1)
    q = rng.integers(low, high, shape).astype(float)
    if case.extremes:
        q[:, 0] = -half if case.signed else 2 * half - 1
    if case.signed or case.zero:
        q[:, -1] = case.zero
    w = ((q - case.zero + rng.uniform(-0.4, 0.4, shape)) * scale).astype(dtype)
    scale = scale.astype(dtype).reshape(() if case.scales == "scalar" else scale.shape)
    floats = {
        "w": w, "scale": scale, "zero": np.full((1,) * rank if case.scales == "tensor" else (), case.zero),
        "bits": np.array(case.bits), "bias": rng.normal(size=C), "gamma": gamma_of(case.gamma, rng),
        "beta": rng.normal(size=C), "mean": rng.normal(size=C), "var": rng.uniform(0.5, 2, C),
    }  # fmt: skip
    flags: dict[str, Any] = {"signed": case.signed, "narrow": case.narrow, "rounding_mode": case.mode}
    if case.op == "MatMul":
        del floats["bias"]
    if case.zeros:
        floats["zero"] = np.arange(C).reshape(C, *[1] * (rank - 1)) % 2
    ends = ("x", "c", "y") if case.behind else ("n", "y", "n")
    quant = helper.make_node(case.kind, ["w", "scale", "zero", "bits"], ["wq"], name="quant",
                             domain=case.domain, **flags)  # fmt: skip
    more: dict[str, Any] = {"group": case.groups, "pads": case.pads} if image else {}
    bias = [] if case.op == "MatMul" else ["bias"]
    more |= {"transB": 1} if case.op == "Gemm" else {}
    op = helper.make_node(case.op, [ends[0], "wq", *bias], [ends[1]], name="op", **more)
    read = "c" if case.behind else "x"
    bn = helper.make_node("BatchNormalization", [read, "gamma", "beta", "mean", "var"], [ends[2]], name="bn",
                          epsilon=1e-3)  # fmt: skip
    size = [2, C, 6, 5] if image else [3, C]
    of = helper.np_dtype_to_tensor_dtype(dtype)
    out: list[int | None] = [2, C, None, None] if image else [3, C]
    infos = [helper.make_tensor_value_info(name, of, shape) for name, shape in (("x", size), ("y", out))]
    graph = helper.make_graph(
        [quant, op, bn] if case.behind else [quant, bn, op], "g", infos[:1], infos[1:],
        [numpy_helper.from_array(np.asarray(a, dtype), n) for n, a in floats.items()],
    )  # fmt: skip
    imports = [helper.make_opsetid("", 13), helper.make_opsetid(case.domain, 1)]
    return helper.make_model(graph, opset_imports=imports, ir_version=8)
