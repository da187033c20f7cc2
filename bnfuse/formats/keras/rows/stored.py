"""How a layer stores the scale and shift that it absorbed: one way for each rule that absorbs.

    LinearStore   y = W·x + b, in the layout that the layer keeps its kernel in
    ProductStore  the same of a function, whose b is a sum behind it
    OperandStore  x + k, x·k, k − x, x/k: the constant of a function
    ClampStore    max(x, low), min(x, high): nodes of ``keras.ops``
    AffineStore   y = a·x + c: γ and β, around the statistics of a BatchNormalization, or numbers of a config
    TableStore    a table of constants

A store names the variables; a part of a layer has one, and calls of one layer are tied by it. What it
does not find it makes, and says so in the layer's config. When it does not act: rounding, and which call
of a shared layer speaks, is the editor's.
"""

from __future__ import annotations

from collections.abc import Mapping
from math import prod
from typing import TYPE_CHECKING, Any

import numpy as np
from msgspec import Struct, field

from bnfuse.core.reparam import arithmetic_constant
from bnfuse.core.weights.tensor import Array

if TYPE_CHECKING:
    from bnfuse.core.apply import Moved, NewAffine, NewClamp, NewLinear, NewSource
    from bnfuse.core.widened import WidenedLinear
    from bnfuse.formats.keras.edit.apply_patch import ConfigEditor
    from bnfuse.formats.keras.graph.network import Variable
    from bnfuse.formats.keras.rows.site import Site, VariableTensor


class Store(Struct, frozen=True):
    """Nothing is stored: calls of one layer are tied all the same."""


class LinearStore(Store, frozen=True):
    """A kernel and a bias.

    Attributes:
        weight, bias: names of its variables; no bias is made where it has no name.
        enables: what to set in the config when a bias is made.
        bias_rows: the bias has so many rows, of which the first is the one meant (GRU); 0: just one.
        bias_shape: that of a bias which is no vector (EinsumDense).
    """

    weight: str = "kernel"
    bias: str = "bias"
    enables: Mapping[str, Any] = field(default_factory=lambda: {"use_bias": True})
    bias_rows: int = 0
    bias_shape: tuple[int, ...] = ()

    def bias_of(self, site: Site) -> VariableTensor | None:
        """The bias as core reads it."""
        return site.tensor(self.bias, first_row=self.bias_rows > 0)

    def store(self, site: Site, new: NewLinear, out: ConfigEditor) -> None:
        """The kernel is worked out when it is written, the bias at once."""
        if new.weight is not None:
            self.store_weight(site, new, out)
        if new.makes_bias:
            self.store_bias(site, out.rounded(new.bias(), new.rule.weight.dtype), out)

    def store_bias(self, site: Site, bias: Array, out: ConfigEditor) -> None:
        """In the shape that it has."""
        old = site.variable(self.bias)
        out.put(site, self.bias, self._shaped(bias, old))
        if old is None:
            out.configure(site, self.enables)

    def store_weight(self, site: Site, new: NewLinear, out: ConfigEditor) -> None:
        """As it is."""
        assert new.weight is not None
        out.put(site, self.weight, new.weight)

    def widen(self, site: Site, new: WidenedLinear, count: Mapping[str, int], out: ConfigEditor) -> None:
        """Another kernel and bias, one channel larger; ``count`` is what the config says of that."""
        rule = new.new.rule
        out.rounded(new.weight, rule.computes or rule.weight.dtype)  # to see whether it fits
        out.put(site, self.weight, out.rounded(new.weight, rule.weight.dtype))
        if new.bias is not None:
            out.put(site, self.bias, out.rounded(new.bias, rule.weight.dtype))
            if site.variable(self.bias) is None:
                out.configure(site, self.enables)
        out.configure(site, count)

    def _shaped(self, bias: Array, old: Variable | None) -> Array:
        """A bias as the layer stores it."""
        if not self.bias_rows:
            return bias.reshape((self.bias_shape or (-1,)) if old is None else old.shape)
        rows = np.zeros((self.bias_rows, bias.size), bias.dtype) if old is None else np.array(old.read())
        rows[0] = bias
        return rows


class ProductStore(LinearStore, frozen=True):
    """A kernel that stands in a call, and a sum behind it where there is something to add."""

    def store(self, site: Site, new: NewLinear, out: ConfigEditor) -> None:
        """All at once: it stands in the config."""
        if new.weight is not None:
            out.put(site, self.weight, new.weight)
        if new.makes_bias:
            rank = site.out_rank()
            assert rank is not None, "values of unknown shape are not added to (linear_layers)"
            bias = out.rounded(new.bias(), new.rule.weight.dtype)
            out.add(site, bias.reshape(self.bias_shape or (-1, *(1,) * (rank - 1 - new.rule.out_axis))))


class AffineStore(Store, frozen=True):
    """γ and β, made where the layer had none.

    Attributes:
        gamma, beta: names of its variables; "" where it has none (and then takes none: the rule says so).
        switches: what to set in the config when one is made.
    """

    gamma: str = "gamma"
    beta: str = "beta"
    switches: tuple[str, str] = ("scale", "center")

    def store(self, site: Site, new: NewAffine, out: ConfigEditor) -> None:
        """As they are."""
        self._pair(site, new.a, new.c, out)

    def _pair(self, site: Site, gamma: Array, beta: Array, out: ConfigEditor) -> None:
        like = site.holds or site.variable_dtype
        names = zip((self.gamma, self.beta), (gamma, beta), (1.0, 0.0), self.switches, strict=True)
        for name, values, neutral, switch in names:
            old = site.variable(name)
            if not name or (old is None and (values == neutral).all()):
                continue
            out.put(site, name, out.rounded(values, like if old is None else old.dtype))
            if old is None:
                out.configure(site, {switch: True})


class BatchNormStore(AffineStore, frozen=True):
    """γ' = a·√(σ² + ε), β' = c + μ·a: the statistics stay."""

    def store(self, site: Site, new: NewAffine, out: ConfigEditor) -> None:
        """Around all statistics."""
        mean, variance = _statistics(site)
        self._pair(site, new.a * np.sqrt(variance + _epsilon(site)), new.c + mean * new.a, out)

    def move(self, site: Site, new: Moved, out: ConfigEditor) -> None:
        """Around those of the channels that stay with it."""
        mean, variance = (values[new.channels] for values in _statistics(site))
        gamma, beta = new.a * np.sqrt(variance + _epsilon(site)), new.c + mean * new.a
        # What the layer computes without γ or β comes back from a and c up to roundings of float64.
        gamma = np.where(np.abs(gamma - 1.0) < 1e-14, 1.0, gamma)
        beta = np.where(np.abs(beta) < 1e-14 * np.abs(new.c), 0.0, beta)
        self._pair(site, gamma, beta, out)
        for name in ("moving_mean", "moving_variance"):
            variable = site.variable(name)
            assert variable is not None
            out.put(site, name, np.asarray(variable.read())[new.channels])


def _statistics(site: Site) -> tuple[Array, Array]:
    mean, variance = site.vector("moving_mean"), site.vector("moving_variance")
    assert mean is not None
    assert variance is not None
    return mean, variance


def _epsilon(site: Site) -> float:
    return float(site.config.get("epsilon", 1e-3))


class OperandStore(AffineStore, frozen=True):
    """The constant of arithmetic, by the name of the operation.

    Attributes:
        op: what the function does with x and the constant.
        first: whether the constant comes first.
    """

    op: str = "Add"
    first: bool = False

    def store(self, site: Site, new: NewAffine, out: ConfigEditor) -> None:
        """In a shape that broadcasts against x, no axis longer than it was where that does."""
        (variable,) = site.layer.variables
        rank, dtype = site.rank(), site.dtypes[0]
        assert rank is not None
        operand = arithmetic_constant(self.op, new.a, new.c, first=self.first)
        if new.axes:
            ndim = max(len(variable.shape), rank - new.axes[0])
            operand = operand.reshape([-1 if k == new.axes[0] else 1 for k in range(rank - ndim, rank)])
        elif operand.size == prod(variable.shape):
            operand = operand.reshape(variable.shape)  # one channel: a bias of TensorFlow is no number
        out.put(site, variable.name, out.rounded(operand, dtype or "float32"))


class ConfigStore(AffineStore, frozen=True):
    """Numbers of the config, or lists of them, by the names of ``gamma`` and ``beta``."""

    def store(self, site: Site, new: NewAffine, out: ConfigEditor) -> None:
        """As Keras reads them: no variable changes."""
        settings = rescaling_of(site, new)
        out.configure(site, {self.gamma: settings["scale"], self.beta: settings["offset"]})


_IMAGE = 3  # axes of an image without the batch


def rescaling_of(site: Site, new: NewAffine) -> dict[str, Any]:
    """y = a·x + c as the settings of a Rescaling: numbers, or nested lists that broadcast against x.

    A Keras whose image format is "channels_first" takes a list of less than three levels for one along the
    first axis of an image: where x has so many axes, so has the list.
    """
    rank = site.rank()
    if new.a.ndim == 0:
        return {"scale": float(new.a), "offset": float(new.c)}
    assert rank is not None, "where the rank is unknown a Rescaling holds numbers (affine_layers, call_nodes)"
    (axis,) = new.axes
    behind, seen = rank - 1 - axis, rank - site.lead - 1
    before = _IMAGE - 1 - behind if seen >= _IMAGE else 0
    shape = (*(1,) * before, -1, *(1,) * behind)
    return {"scale": new.a.reshape(shape).tolist(), "offset": new.c.reshape(shape).tolist()}


class ClampStore(Store, frozen=True):
    """max(x, low), min(x, high), or one behind the other: nodes of ``keras.ops`` in the layer's place."""

    def store(self, site: Site, new: NewClamp, out: ConfigEditor) -> None:
        """With one number for each channel, in a shape that broadcasts against x."""
        out.compute(site, self._ops(site, new, out))

    def _ops(self, site: Site, new: NewClamp, out: ConfigEditor) -> list[tuple[str, Array]]:
        bounds = {"Max": ("Maximum", new.low), "Min": ("Minimum", new.high)}
        made = [bounds[op] for op in new.rule.operators(new.low, new.high)]
        return [(op, self._rounded(bound, site, new, out)) for op, bound in made]

    def _rank(self, site: Site) -> int | None:
        """Axes of the value that is clamped."""
        return site.rank()

    def _rounded(self, bound: Array, site: Site, new: NewClamp, out: ConfigEditor) -> Array:
        """In the type of the value; a bound that is none is the largest number of that type."""
        most = float(np.finfo(new.rule.dtype).max)
        rounded = out.rounded(np.clip(bound, -most, most), new.rule.dtype)
        if not new.axes:
            return rounded
        rank = self._rank(site)
        assert rank is not None, "bounds of a value of unknown rank are numbers (Clamp.spreads)"
        sizes = dict(zip(new.axes, rounded.shape, strict=True))
        return rounded.reshape([sizes.get(axis, 1) for axis in range(new.axes[0], rank)])


class FusedClampStore(ClampStore, frozen=True):
    """The same behind a layer that did it itself: it is told to do nothing more than its own work."""

    def store(self, site: Site, new: NewClamp, out: ConfigEditor) -> None:
        """The layer's ``activation`` goes."""
        out.configure(site, {"activation": "linear"})
        out.follow(site, self._ops(site, new, out))

    def _rank(self, site: Site) -> int | None:
        return site.out_rank()


class TableStore(Store, frozen=True):
    """A table of rows."""

    table: str

    def store(self, site: Site, new: NewSource, out: ConfigEditor) -> None:
        """It is worked out when it is written."""
        out.put(site, self.table, new.values)
