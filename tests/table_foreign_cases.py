"""Cases of the op table: operators of onnxruntime and of ai.onnx.ml."""

from __future__ import annotations

from typing import Any

from bnfuse.core.reasons import Reason
from tests.random_nets import Net, Value
from tests.random_quantised import packed_matmul
from tests.table_cases import ALL, HOMOGENEOUS, PADDED, UNSUPPORTED, Build, Table, refused

FOREIGN = Table()
case = FOREIGN.case

_MS = "com.microsoft"
_FLAT: dict[str, Any] = {"shape": (2, 4)}
_TOKENS: dict[str, Any] = {"shape": (2, 4, 7)}
_NONLINEAR = refused(Reason.NONLINEAR)


def _fused_matmul(left: bool, trans_a: int, trans_b: int, **more: Any) -> Build:
    """x times a constant matrix or the reverse, either turned, from and to the axis that counts."""

    def build(net: Net, x: Value) -> Value:
        turned_x, turned_w = (trans_b, trans_a) if left else (trans_a, trans_b)
        first = left != bool(turned_x)
        n, rest = (x.shape[-2], x.shape[-1]) if first else (x.shape[-1], x.shape[-2])
        w = net.const(net.normal(*((6, n) if left != bool(turned_w) else (n, 6))) / 2)
        shape = (*x.shape[:-2], *((6, rest) if left else (rest, 6)))
        pair = [w, x.name] if left else [x.name, w]
        attributes = {"transA": trans_a, "transB": trans_b, "alpha": -1.5, **more}
        return net.node("FusedMatMul", pair, shape, domain=_MS, **attributes)

    return build


# (N, C, T): the channels are summed over where the matrix is on the left, or x is turned.
case(f"{_MS}.FusedMatMul", _fused_matmul(False, 0, 0), ALL, ALL, **_FLAT)
case(f"{_MS}.FusedMatMul, B turned", _fused_matmul(False, 0, 1), ALL, ALL, **_FLAT)
case(f"{_MS}.FusedMatMul, on the left", _fused_matmul(True, 0, 0), ALL, ALL, **_TOKENS)
case(f"{_MS}.FusedMatMul, on the left, turned", _fused_matmul(True, 1, 0), ALL, ALL, **_TOKENS)
case(f"{_MS}.FusedMatMul, x turned", _fused_matmul(False, 1, 1), ALL, refused(Reason.AXIS), **_TOKENS,
     axis_out=2)  # fmt: skip
case(f"{_MS}.FusedMatMul, both turned", _fused_matmul(True, 1, 1), refused(Reason.AXIS), ALL, **_TOKENS,
     axis_in=2)  # fmt: skip
case(
    f"{_MS}.FusedMatMul, over another axis",
    _fused_matmul(False, 0, 0),
    refused(Reason.AXIS),
    refused(Reason.AXIS),
    **_TOKENS,
)
case(
    f"{_MS}.TransposeMatMul",
    lambda net, x: _renamed(net, _fused_matmul(False, 0, 1)(net, x)),
    ALL,
    ALL,
    **_FLAT,
)


def _renamed(net: Net, y: Value) -> Value:
    """The older name of FusedMatMul."""
    net.nodes[-1].op_type = "TransposeMatMul"
    return y


def _fused_gemm(c: tuple[int, ...] | None, activation: str, **more: float) -> Build:
    def build(net: Net, x: Value) -> Value:
        inputs = [x.name, net.const(net.normal(6, x.channels) / 2)]
        inputs += [] if c is None else [net.const(net.normal(*c))]
        gains: dict[str, Any] = {"transB": 1, "alpha": 0.5, "beta": -1.5, "activation": activation, **more}
        return net.node("FusedGemm", inputs, (x.shape[0], 6), domain=_MS, **gains)

    return build


case(f"{_MS}.FusedGemm", _fused_gemm((6,), "Relu"), ALL, HOMOGENEOUS, **_FLAT)
case(f"{_MS}.FusedGemm, a matrix as C", _fused_gemm((2, 6), "Relu"), ALL, HOMOGENEOUS, **_FLAT)
case(
    f"{_MS}.FusedGemm, no C", _fused_gemm(None, "LeakyRelu", activation_alpha=0.2), ALL, HOMOGENEOUS, **_FLAT
)
case(f"{_MS}.FusedGemm, Tanh", _fused_gemm((6,), "Tanh"), ALL, _NONLINEAR, **_FLAT)


def _fused_conv(activation: str, added: bool = False, **more: Any) -> Build:
    def build(net: Net, x: Value) -> Value:
        space = tuple(n - 1 for n in x.space) if "pads" not in more else x.space
        inputs = [x.name, net.const(net.normal(6, x.channels, 2, 2) / 3)]
        shape = (x.shape[0], 6, *space)
        if added:
            inputs += [net.const(net.normal(6)), net.const(net.normal(*shape))]
        given = {"activation": activation, **more} if activation else more
        return net.node("FusedConv", inputs, shape, domain=_MS, **given)

    return build


case(f"{_MS}.FusedConv", _fused_conv("Relu"), ALL, HOMOGENEOUS)
case(f"{_MS}.FusedConv, padded", _fused_conv("Relu", pads=[1, 0, 0, 1]), PADDED, HOMOGENEOUS)
case(f"{_MS}.FusedConv, a slope", _fused_conv("LeakyRelu", activation_params=[0.3]), ALL, HOMOGENEOUS)
case(f"{_MS}.FusedConv, Sigmoid", _fused_conv("Sigmoid"), ALL, _NONLINEAR)
case(f"{_MS}.FusedConv, no activation", _fused_conv(""), ALL, ALL)
case(f"{_MS}.FusedConv, and a sum", _fused_conv("Relu", added=True), UNSUPPORTED, UNSUPPORTED)


def _nbits(out: int = 6, **how: Any) -> Build:
    return lambda net, x: packed_matmul(net, x, out, **how)[0]


# A factor for each of K varies within a block, and so does not go into the scales.
_IN_BLOCKS = {
    "scale": Reason.QUANTISED_WEIGHT, "shift": None, "both": Reason.QUANTISED_WEIGHT,
    "negative": Reason.QUANTISED_WEIGHT, "zero": Reason.QUANTISED_WEIGHT,
}  # fmt: skip
_NO_SHIFT = {**_IN_BLOCKS, "shift": Reason.SHIFT_REFUSED, "both": Reason.SHIFT_REFUSED}
_WIDE: dict[str, Any] = {"shape": (2, 20)}
case(f"{_MS}.MatMulNBits", _nbits(), _IN_BLOCKS, ALL, **_WIDE)
case(f"{_MS}.MatMulNBits, 2 bits, a bias", _nbits(bits=2, zero="packed", bias=True), _IN_BLOCKS, ALL, **_WIDE)
case(f"{_MS}.MatMulNBits, 8 bits", _nbits(bits=8, zero="packed"), _IN_BLOCKS, ALL, **_WIDE)
case(f"{_MS}.MatMulNBits, fractions", _nbits(zero="fractions"), _IN_BLOCKS, ALL, **_WIDE)
case(f"{_MS}.MatMulNBits, rounds activations", _nbits(accuracy_level=4), _NO_SHIFT, ALL, **_WIDE)
_ALONG = refused(Reason.AXIS)
case(f"{_MS}.MatMulNBits, of three axes", _nbits(), _ALONG, _ALONG, shape=(2, 4, 20))

_ML = "ai.onnx.ml"


def _scaler(n: int) -> Build:
    return lambda net, x: net.node(
        "Scaler",
        [x.name],
        x.shape,
        domain=_ML,
        offset=net.normal(n or x.channels).tolist(),
        scale=net.mixed(n or x.channels).tolist(),
    )


# It goes itself, and with it what it could not store.
case(f"{_ML}.Scaler", _scaler(0), ALL, ALL, **_FLAT)
case(f"{_ML}.Scaler, one number", _scaler(1), ALL, ALL, **_FLAT)


def _model(op: str, rows: int, *, intercepts: bool = True, **attributes: Any) -> Build:
    def build(net: Net, x: Value) -> Value:
        more = {"intercepts": net.normal(rows).tolist()} if intercepts else {}
        weights = net.normal(rows, x.channels).ravel().tolist()
        shape = (x.shape[0], rows)
        if op == "LinearRegressor":
            return net.node(op, [x.name], shape, domain=_ML, coefficients=weights, **more, **attributes)
        y = net.node(op, [x.name], shape, domain=_ML, coefficients=weights, classlabels_ints=[*range(rows)],
                     **more, **attributes)  # fmt: skip
        net.nodes[-1].output.insert(0, net.fresh())  # the label comes first
        return y

    return build


case(f"{_ML}.LinearRegressor", _model("LinearRegressor", 3, targets=3), ALL, ALL, **_FLAT)
_NO_INTERCEPTS = _model("LinearRegressor", 3, targets=3, intercepts=False)
case(f"{_ML}.LinearRegressor, no intercepts", _NO_INTERCEPTS, ALL, ALL, **_FLAT)
case(f"{_ML}.LinearClassifier", _model("LinearClassifier", 3), ALL, None, **_FLAT)
