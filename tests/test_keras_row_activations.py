"""What rows of the table make of activations, attention and SpectralNormalization; without Keras."""

from __future__ import annotations

from collections.abc import Callable
from math import erf, exp, log, tanh
from typing import Any

import numpy as np
import pytest

from bnfuse.core.rules.base import Pass
from bnfuse.core.rules.clamp import Clamp
from bnfuse.formats.keras.graph.network import Call, Shape
from bnfuse.formats.keras.rows.ops import ROWS
from bnfuse.formats.keras.rows.site import Site
from bnfuse.formats.keras.rows.stored import ClampStore, FusedClampStore, LinearStore
from tests.keras_sites import called, drawn, parts, rule_of, rules, site

X = (None, 6, 5)
KERAS3: dict[str, Any] = {"args": [], "kwargs": {}}
NONLINEAR, RELU, FREE = "opaque: NONLINEAR", "clamp 0.0 inf", "pass, any"
PLAIN = "pass, non-negative, no shift: SHIFT_THROUGH_ACTIVATION"


def _called(
    kind: str, config: dict[str, Any], raw: Any = KERAS3, shape: Shape | None = X, **told: Any
) -> Site:
    """A layer that is called once, as Keras 3 writes it or as Keras 2 does."""
    at = site(kind, shape, config, out=told.pop("out", shape), **told)
    assert at.call is not None
    made = at.call
    at.call = Call(made.inputs, made.keywords, {}, {}, made.shapes, made.dtypes, raw)
    at.layer.calls.append(at.call)
    return at


def _object(name: Any, config: Any = None, **more: Any) -> dict[str, Any]:
    return {"class_name": name, "config": config, **more}


ACTIVATIONS: list[tuple[Any, str]] = [
    ("relu", RELU), ("relu6", "clamp 0.0 6.0"), ("hard_tanh", "clamp -1.0 1.0"), ("linear", FREE),
    (None, FREE),
    ("leaky_relu", PLAIN), ("elu", NONLINEAR), ("tanh", NONLINEAR), ("softmax", NONLINEAR), (3, NONLINEAR),
    (_object("ReLU", {"max_value": 6.0}), "clamp 0.0 6.0"),
    (_object("ReLU", {"negative_slope": 0.1}), PLAIN),
    (_object("LeakyReLU", {}), PLAIN), (_object("PReLU", {}), PLAIN),
    (_object("ReLU"), RELU), (_object(3), NONLINEAR),
    (_object("function", "relu"), RELU), (_object(None), NONLINEAR), (["relu"], NONLINEAR),
    (_object("function", "relu", registered_name="relu"), RELU),
    (_object("function", "relu", registered_name="function"), RELU),
    (_object("function", "relu", module="builtins"), RELU),
    (_object("function", "relu", module="keras.activations"), RELU),
    (_object("function", "relu", module="mine"), NONLINEAR),
    (_object("ReLU", {}, registered_name="ReLU"), RELU),
    (_object("ReLU", {}, registered_name="Mine>ReLU"), NONLINEAR),
]  # fmt: skip


@pytest.mark.parametrize(("stored", "expected"), ACTIVATIONS)
def test_activations_by_name_and_as_objects(stored: Any, expected: str) -> None:
    """As a layer of their own, and as what a Dense ends in."""
    at = _called("Activation", {"activation": stored})
    assert rules(at) == [expected]
    (part,) = parts(at)
    assert isinstance(part.stored, ClampStore) == expected.startswith("clamp")
    dense = _called("Dense", {"activation": stored})
    dense.layer.variables = site("Dense", X, {}, {"kernel": drawn(5, 5)}).layer.variables
    assert rules(dense) == ["i5o5 2→2, no bias", *([] if expected == FREE else [expected])]


RELUS: list[tuple[dict[str, Any], str]] = [
    ({}, RELU), ({"max_value": 6.0}, "clamp 0.0 6.0"), ({"max_value": 6}, "clamp 0.0 6.0"),
    ({"max_value": 0.0}, "clamp 0.0 0.0"), ({"max_value": -1.0}, NONLINEAR), ({"max_value": "6"}, NONLINEAR),
    ({"max_value": 0.1}, f"clamp 0.0 {float(np.float32(0.1))}"),
    ({"negative_slope": 0.1}, PLAIN), ({"negative_slope": 0.1, "max_value": 6.0}, NONLINEAR),
    ({"threshold": 0.5}, NONLINEAR), ({"threshold": 0.5, "max_value": 6.0}, NONLINEAR),
    ({"negative_slope": 0.1, "threshold": 0.0}, PLAIN),
]  # fmt: skip


@pytest.mark.parametrize(("config", "expected"), RELUS)
def test_settings_of_a_relu(config: dict[str, Any], expected: str) -> None:
    assert rules(_called("ReLU", config)) == [expected]


def test_layers_that_are_activations() -> None:
    found = {
        kind: rules(_called(kind, {})) for kind in ("LeakyReLU", "PReLU", "ELU", "Softmax", "ThresholdedReLU")
    }
    assert found == {
        "LeakyReLU": [PLAIN], "PReLU": [PLAIN], "ELU": [NONLINEAR], "Softmax": [NONLINEAR],
        "ThresholdedReLU": [NONLINEAR],
    }  # fmt: skip
    assert ROWS["PReLU"].variables({})[0].name == "alpha"  # type: ignore[index]


def test_where_no_node_can_stand_for_an_activation() -> None:
    """In Keras 2, in a step, in a type that numpy has not, of several values, and in a layer called twice."""
    twice = _called("Activation", {"activation": "relu"})
    twice.layer.calls *= 2
    for at in (
        _called("Activation", {"activation": "relu"}, raw=None),
        _called("Activation", {"activation": "relu"}, lead=1),
        _called("Activation", {"activation": "relu", "dtype": "bfloat16"}, dtype="bfloat16"),
        _called("Activation", {"activation": "relu"}, more=(X,)),
        twice,
    ):
        assert rules(at) == [PLAIN]
    assert rules(_called("ReLU", {"max_value": 6.0}, raw=None)) == [NONLINEAR]
    assert rules(_called("Dense", {"activation": "relu"}, raw=None))[1:] == [PLAIN]
    (part,) = parts(_called("ReLU", {"max_value": 0.1}, raw=None))
    assert part.constant is not None and part.constant(2.0) == 0.1  # Keras 2 reads it as it is


def test_bounds_of_a_fused_activation() -> None:
    """They need no node while they stay; where the output's rank is not known they cannot vary."""
    at = _called("Dense", {"activation": "relu6"})
    linear, behind = parts(at)
    rule = rule_of(behind)
    assert isinstance(rule, Clamp) and isinstance(behind.stored, FusedClampStore)
    assert (rule.fused, rule.spreads, str(rule.dtype)) == (True, True, "float32")
    assert behind.role == "activation"
    assert (linear.outputs, behind.inputs, behind.outputs) == (("y/linear",), ("y/linear",), ("y",))
    alone = rule_of(parts(_called("Activation", {"activation": "relu6"}))[0])
    assert isinstance(alone, Clamp) and not alone.fused and alone.spreads
    spread = rule_of(parts(_called("Activation", {"activation": "relu6"}, shape=None))[0])
    assert isinstance(spread, Clamp) and not spread.spreads
    _, unknown = parts(_called("Dense", {"activation": "relu6"}, out=None))
    assert isinstance(rule_of(unknown), type(rule_of(parts(_called("Softmax", {}))[0])))


def _sigmoid(x: float) -> float:
    return 1.0 / (1.0 + exp(-x))


CURVES: dict[str, Callable[[float], float]] = {
    "relu": lambda x: x, "relu6": lambda x: min(x, 6.0), "hard_tanh": lambda x: min(x, 1.0),
    "leaky_relu": lambda x: x, "elu": lambda x: x, "celu": lambda x: x,
    "selu": lambda x: 1.0507009873554805 * x, "sigmoid": _sigmoid, "tanh": tanh,
    "softplus": lambda x: log(1 + exp(x)), "softsign": lambda x: x / (1 + x), "exponential": exp,
    "gelu": lambda x: 0.5 * x * (1 + erf(x / 2**0.5)), "mish": lambda x: x * tanh(log(1 + exp(x))),
    "swish": lambda x: x * _sigmoid(x), "silu": lambda x: x * _sigmoid(x),
}  # fmt: skip


@pytest.mark.parametrize("name", [*CURVES, "softmax", "hard_sigmoid", "linear"])
def test_what_becomes_of_a_constant(name: str) -> None:
    (part,) = parts(_called("Activation", {"activation": name}))
    assert (part.constant is not None) == (name in CURVES)
    for x in (0.25, 2.5, 8.0):
        if part.constant is not None:
            assert part.constant(x) == pytest.approx(CURVES[name](x), rel=1e-12)


def test_what_becomes_of_a_constant_in_a_layer() -> None:
    becomes: list[tuple[str, dict[str, Any], float | None]] = [
        ("ReLU", {}, 2.5),
        ("ReLU", {"max_value": 2.0}, 2.0),
        ("ReLU", {"negative_slope": 0.5}, 2.5),
        ("ReLU", {"threshold": 1.0}, None),
        ("ReLU", {"max_value": 2.0, "negative_slope": 0.5}, None),
        ("LeakyReLU", {}, 2.5),
        ("ELU", {}, 2.5),
        ("Softmax", {}, None),
    ]
    for kind, config, expected in becomes:
        (part,) = parts(_called(kind, config))
        assert (None if part.constant is None else part.constant(2.5)) == expected, (kind, config)


# --- attention

PROJECTED = {f"{role}/kernel": drawn(5, 2, 3) for role in ("query", "key", "value", "gate")}
PROJECTED |= {"attention_output/kernel": drawn(2, 3, 5)}
HEADS, OUT = "i5o2o3 2→2, no bias", "i2i3o5 2→2, no bias"


def _attention(*keywords: str, config: dict[str, Any] | None = None, **told: Any) -> Site:
    more = (X,) * (len(keywords) - 1)
    return site(
        "MultiHeadAttention", X, config or {}, PROJECTED, more=more, call=called(keywords=keywords), **told
    )


READ: list[tuple[tuple[str, ...], tuple[str, str, str], tuple[str, ...]]] = [
    # how the tensors are given, which are query, key and value, and what else the scores read
    (("", ""), ("x0", "x1", "x1"), ()),
    (("", "", ""), ("x0", "x2", "x1"), ()),
    (("query", "value"), ("x0", "x1", "x1"), ()),
    (("value", "query"), ("x1", "x0", "x0"), ()),
    (("", "value", "key"), ("x0", "x2", "x1"), ()),
    (("", "", "attention_mask"), ("x0", "x1", "x1"), ("x2",)),
]


@pytest.mark.parametrize(("keywords", "read", "rest"), READ)
def test_who_is_projected(
    keywords: tuple[str, ...], read: tuple[str, str, str], rest: tuple[str, ...]
) -> None:
    at = _attention(*keywords)
    *projected, attention, out = parts(at)
    assert rules(at) == [HEADS, HEADS, HEADS, NONLINEAR, OUT]
    assert [(part.role, part.inputs) for part in projected] == [
        (role, (source,)) for role, source in zip(("query", "key", "value"), read, strict=True)
    ]
    roles = ("query", "key", "value", "attention", "attention_output")
    assert [part.op.removeprefix("MultiHeadAttention.") for part in parts(at)] == list(roles)
    assert attention.inputs == ("y/query", "y/key", "y/value", *rest)
    assert (attention.outputs, out.inputs, out.outputs) == (("y/context",), ("y/context",), ("y",))
    assert isinstance(out.stored, LinearStore)
    stored = (out.stored.weight, out.stored.bias, out.stored.enables)
    assert stored == ("attention_output/kernel", "attention_output/bias", {})


def test_a_gate_and_biases() -> None:
    assert rules(_attention("", "", config={"use_gate": True})) == [HEADS] * 4 + [NONLINEAR, OUT]
    assert parts(_attention("", "", config={"use_gate": True}))[3].inputs == ("x0",)
    unbiased = rules(_attention("", "", config={"use_bias": False}))
    assert unbiased == [f"{HEADS} ever"] * 3 + [NONLINEAR, f"{OUT} ever"]


def test_attention_that_is_not_looked_into() -> None:
    unknown = "opaque: SHAPE_UNKNOWN"
    lone = site("MultiHeadAttention", X, {}, PROJECTED, call=called(keywords=("",)))
    other = site("MultiHeadAttention", X, {}, PROJECTED, more=((None, 5),))
    masked = _attention("", "attention_mask")
    nowhere = site("MultiHeadAttention", None, {}, PROJECTED, more=(X,))
    for at in (lone, other, masked, nowhere):
        assert rules(at) == [unknown]


def test_weights_that_sum_to_one() -> None:
    """The value alone passes, and no shift, since a mask makes zeros of rows."""
    for kind in ("Attention", "AdditiveAttention"):
        for keywords, training, expected in (
            (("", "", ""), False, "pass, any, no shift: SHIFT_REFUSED, mixes [1], of [1]"),
            (("", "", ""), True, NONLINEAR),
            (("", ""), False, NONLINEAR),
            (("", "", "mask"), False, NONLINEAR),
        ):
            more = (X,) * (len(keywords) - 1)
            at = site(kind, X, {}, more=more, call=called(keywords=keywords), training=training)
            assert rules(at) == [expected]
    rule = rule_of(parts(site("Attention", X, {}, more=(X, X)))[0])
    assert isinstance(rule, Pass) and rule.in_port == 1
    assert rules(site("Attention", None, {}, more=(X, X))) == [NONLINEAR]


# --- a layer whose kernel is divided by its norm

KERNEL = {"kernel": drawn(5, 4)}


def _spectral(inner: Any, *, raw: Any = KERAS3, dtype: str | None = "float32", **told: Any) -> list[str]:
    at = _called("SpectralNormalization", {"layer": inner}, raw, dtype=dtype, **told)
    at.layer.variables = site("Dense", X, {}, KERNEL).layer.variables
    return rules(at)


def test_what_a_spectral_normalization_wraps() -> None:
    dense = _object("Dense", {"name": "d"})
    assert _spectral(dense) == ["i5o4 2→2, no bias"]
    assert _spectral(_object("Dense", {"activation": "tanh"})) == ["i5o4 2→2, no bias", NONLINEAR]
    assert _spectral(dense, training=True) == ["opaque: TRAINING_MODE"]
    for other in (
        _object("LSTM", {}), _object("Dense", {}, registered_name="Mine>Dense"), None,
        _object("Dense", {}, shared_object_id=3), _object("Dense", {"lora_rank": 2}),
        _object("Embedding", {"mask_zero": True}),
    ):  # fmt: skip
        assert _spectral(other) == ["opaque: UNSUPPORTED_OP"]


def test_types_in_a_spectral_normalization() -> None:
    """Keras 3 casts what comes out to the type of what went in; Keras 2 does not."""
    dense = _object("Dense", {"name": "d"})
    assert _spectral(dense, dtype="float16") == ["opaque: OTHER_TYPE"]
    assert _spectral(dense, dtype="float16", raw=[["x", 0, 0, {}]]) == ["i5o4 2→2, no bias"]
    assert _spectral(_object("Dense", {"dtype": "float16"}), dtype="float16") == ["opaque: OTHER_TYPE"]


def test_what_a_spectral_normalization_holds() -> None:
    """The kernel twice, of which the one of the layer in it wins; a vector; the bias."""
    variables = ROWS["SpectralNormalization"].variables
    slots = variables({"layer": _object("Dense", {})})
    assert slots is not None
    assert [(s.name, s.place, s.copy, s.trainable) for s in slots] == [
        ("kernel", "vars/0", "layer/vars/0", True),
        ("vector_u", "vars/1", "", False),
        ("bias", "layer/vars/1", "", True),
    ]
    frozen = variables({"layer": _object("Dense", {"trainable": False})})
    assert frozen is not None and not any(slot.trainable for slot in frozen)
    assert variables({"layer": _object("LSTM", {})}) is None
    assert variables({}) is None
