"""One call of one layer as the op table sees it, made by hand: no Keras and no file is needed for it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from msgspec import Struct

from bnfuse.core.rules.affine import Affine
from bnfuse.core.rules.base import Opaque, Pass, Rule
from bnfuse.core.rules.clamp import Clamp
from bnfuse.core.rules.joint import ConcatSplit, Product, Select
from bnfuse.core.rules.linear_rule import Linear
from bnfuse.core.rules.operands import Operand
from bnfuse.core.rules.weighted_sum import WeightedSum
from bnfuse.core.weights.tensor import Tensor, as_float64
from bnfuse.formats.keras.graph.network import Call, Layer, Ref, Shape
from bnfuse.formats.keras.rows.ops import ROWS, parts_of
from bnfuse.formats.keras.rows.site import Part, Site, nodes
from tests.keras_configs import node, tensor


class Held(Struct, eq=False):
    """A variable with these numbers."""

    name: str
    array: np.ndarray
    source: str = ""

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(self.array.shape)

    @property
    def dtype(self) -> np.dtype[Any]:
        return self.array.dtype

    def read(self) -> np.ndarray:
        return self.array


def drawn(*shape: int, dtype: Any = np.float32) -> np.ndarray:
    """Numbers of both signs."""
    return np.random.default_rng(4).normal(size=shape).astype(dtype)


def called(inputs: int = 1, keywords: tuple[str, ...] = (), **arguments: Any) -> Call:
    """A call with so many tensors by position, or with these keywords."""
    names = keywords or ("",) * inputs
    refs = tuple(Ref(f"x{k}", 0, 0) for k in range(len(names)))
    return Call(refs, names, arguments, {}, (None,) * len(names), (None,) * len(names), None)


def site(
    class_name: str,
    shape: Shape | None,
    config: Mapping[str, Any],
    arrays: Mapping[str, np.ndarray] = {},
    *,
    more: tuple[Shape | None, ...] = (),
    out: Shape | None = None,
    dtype: str | None = "float32",
    **told: Any,
) -> Site:
    """A call of a layer of Keras's own; ``told`` is what else a ``Site`` is told.

    ``more``: the shapes of inputs behind the first; ``out``: of the output.
    """
    layer = Layer("it", class_name, "keras.layers", "", {"name": "it", **config}, {})
    layer.variables = [Held(name, array) for name, array in arrays.items()]
    shapes = (shape, *more)
    inputs = tuple(f"x{k}" for k in range(len(shapes)))
    call = told.pop("call", called(len(shapes)))
    return Site(layer, ("it",), call, inputs, ("y",), shapes, (out,), (dtype,) * len(shapes), **told)


def function(
    name: str,
    shapes: Sequence[Shape | None],
    *args: Any,
    out: Sequence[Shape | None] = (None,),
    of_type: str = "float32",
    module: str = "keras.src.ops.numpy",
    kwargs: Mapping[str, Any] = {},
    **config: Any,
) -> Site:
    """A call of a function of ``keras.ops``: of tensors and ``args`` behind them, or of ``args`` alone."""
    tensors = [tensor(f"x{k}", shape=shape or ()) for k, shape in enumerate(shapes)]
    raw = node(*args, **kwargs) if "__keras_tensor__" in repr(args) else node(*tensors, *args, **kwargs)
    return _calling(Layer("it", name, module, "", {"name": "it", **config}, {}), raw, shapes, out, of_type)


def tf_function(
    name: str,
    shapes: Sequence[Shape | None],
    /,
    *,
    out: Sequence[Shape | None] = (None,),
    of_type: str = "float32",
    raw: Any = None,
    **kwargs: Any,
) -> Site:
    """A call of a function of TensorFlow as Keras 2 stores it: its first tensor, and arguments by name."""
    layer = Layer("it", "TFOpLambda", "", "", {"name": "it", "function": name}, {})
    return _calling(layer, raw or ["x0", 0, 0, kwargs], shapes, out, of_type)


def _calling(
    layer: Layer, raw: Any, shapes: Sequence[Shape | None], out: Sequence[Shape | None], of_type: str
) -> Site:
    count = len(shapes)
    refs = tuple(Ref(f"x{k}", 0, 0) for k in range(count))
    call = Call(refs, ("",) * count, {}, {}, tuple(shapes), (of_type,) * count, raw)
    layer.calls.append(call)
    ends = tuple(ref.layer for ref in refs), tuple(f"y{k}" if k else "y" for k in range(len(out)))
    return Site(layer, ("it",), call, *ends, tuple(shapes), tuple(out), (of_type,) * count)


def parts(at: Site) -> list[Part]:
    """The nodes that the row of its class, or what the function means, makes of it."""
    if at.layer.function:
        return list(parts_of(at))
    row = ROWS[at.layer.class_name].parts
    assert row is not None
    return list(nodes(row, at))


def rule_of(part: Part) -> Rule:
    return part.rule if isinstance(part.rule, Rule) else part.rule("it")


def rules(at: Site) -> list[str]:
    """The same in words."""
    return [_words(rule_of(part)) for part in parts(at)]


def _words(rule: Rule) -> str:
    match rule:
        case Opaque():
            return f"opaque: {rule.reason.name}"
        case Linear():
            bias = "bias" if rule.bias is not None else "no bias" if rule.has_bias else "no bias ever"
            shift = f", no shift: {rule.shift_in.name}" if rule.shift_in else ""
            narrow = f", in {rule.computes}" if rule.computes else ""
            form = "".join(
                f"{letter}{n}" for letter, n in zip(rule.form.letters, rule.form.dims, strict=True)
            )
            return f"{form} {rule.in_axis}→{rule.out_axis}, {bias}{shift}{narrow}"
        case Affine():
            if rule.broken is not None:
                return f"broken: {rule.broken.reason.name}"
            stores = " ".join(n for n, has in (("scale", rule.has_scale), ("shift", rule.has_shift)) if has)
            return f"affine {rule.axes}: {stores or 'nothing'}"
        case Pass():
            return _passing(rule)
        case ConcatSplit():
            return f"{rule.parts} side by side along {rule.axis}: {rule.sizes}"
        case WeightedSum():
            return f"{rule.signs} {_lying(rule.operands)}"
        case Product():
            return f"{rule.exponents} {_lying(rule.operands)}"
        case Clamp():
            return f"clamp {rule.low} {rule.high}"
        case Select():
            return f"one of {rule.ports}, {rule.sign.value}"
    return type(rule).__name__.lower()


def _passing(rule: Pass) -> str:
    shift = f", no shift: {rule.shift.name}" if rule.shift else ""
    mixed = [axis for axis in range(6) if rule.mixes is not None and rule.mixes(axis)]
    mixes = f", mixes {mixed}" if mixed else ""
    out = f", of {sorted(rule.mixed_out)}" if rule.mixed_out else ""
    return f"pass, {rule.sign.value}{shift}{mixes}{out}"


def _lying(operands: tuple[Operand, ...]) -> str:
    """Where each lies: from which axis on, and which axes it is repeated along."""
    return " ".join(f"{o.offset}{sorted(o.stretched) or ''}" for o in operands)


def numbers(tensor: Tensor | None) -> np.ndarray:
    """What a rule reads, in float64."""
    assert tensor is not None
    return as_float64(tensor)
