"""A BatchNormalization behind or before every layer that has a kernel.

It goes up into the kernel and down into it; zeros at the borders keep a shift out, activations everything."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from bnfuse.core.reasons import Reason
from tests.keras_channels_first import channels_first_on_a_cpu
from tests.keras_kernels import KERNELS, Kernel, kernels
from tests.keras_nets import Keras, both_containers, chain, check
from tests.keras_together import Network, Outcome, outcomes

pytestmark = pytest.mark.slow
biases = pytest.mark.parametrize("biased", ["bias", "no bias"])


Steps = Callable[[Any, Kernel, str], list[Any]]  # keras.layers, the kernel, a name for the BN
Become = Callable[[str, Kernel], Outcome]


def _norm(layers: Any, kernel: Kernel, name: str, **more: Any) -> Any:
    return layers.BatchNormalization(axis=kernel.axis, name=name, **more)


def _behind(**settings: Any) -> Steps:
    return lambda k, kernel, name: [kernel.make(k, **settings), _norm(k, kernel, name)]


def _before(**settings: Any) -> Steps:
    return lambda k, kernel, name: [_norm(k, kernel, name), kernel.make(k, **settings)]


PLACES: dict[str, Steps] = {
    "behind, bias": _behind(use_bias=True),
    "behind, no bias": _behind(use_bias=False),
    "before, bias": _before(use_bias=True, activation="tanh"),
    "before, no bias": _before(use_bias=False, activation="tanh"),
    "scale": lambda k, kernel, name: [_norm(k, kernel, name, center=False), kernel.make(k)],
    "behind tanh": _behind(activation="tanh"),
    "behind relu": _behind(activation="relu"),
    "between": lambda k, kernel, name: [
        *_behind(activation="tanh")(k, kernel, name),
        k.Flatten(),
        k.Dense(3),
    ],
}
ACTIVATED = ("behind tanh", "behind relu", "between")


@pytest.fixture(scope="module")
def become(keras3: Keras, tmp_path_factory: pytest.TempPathFactory) -> Become:
    """What becomes of the BN at a place beside a kernel; all are in one model."""
    networks = {
        f"{place}: {k.name}": Network(
            k.shape, partial(_steps, place, k), gamma="scale" if place == "scale" else "mixed"
        )
        for k in KERNELS.values()
        for place in PLACES
        if not (place == "scale" and k.shift is None)  # it enters with a shift, too
        and not (place in ACTIVATED and k.channels_first)  # activations know no layout
        and not (place == "between" and None in k.shape)  # no Dense behind sizes that are not known
    }
    with channels_first_on_a_cpu():
        made = outcomes(keras3, networks, tmp_path_factory.mktemp("kernels"))
    return lambda place, kernel: made[f"{place}: {kernel.name}"]


def _steps(place: str, kernel: Kernel, layers: Any, name: str) -> list[Any]:
    return PLACES[place](layers, kernel, name)


@kernels
@biases
def test_bn_after_a_kernel(become: Become, kernel: Kernel, biased: str) -> None:
    """It goes up into the kernel; a bias is made where there was none; the output keeps its name."""
    found = become(f"behind, {biased}", kernel)
    found.assert_equal()
    assert found.kept is None
    assert found.outputs[1].startswith("norm")


@kernels
@biases
def test_bn_before_a_kernel(become: Become, kernel: Kernel, biased: str) -> None:
    """It goes down, γ = 0 included, unless zeros at the borders keep the shift from it."""
    found = become(f"before, {biased}", kernel)
    found.assert_equal()
    assert found.kept == (None if kernel.shift is None else {Reason.GRAPH_INPUT, kernel.shift})


@pytest.mark.parametrize("kernel", [k for k in KERNELS.values() if k.shift], ids=lambda k: k.name)
def test_a_scale_enters_every_kernel(become: Become, kernel: Kernel) -> None:
    """Zero padding is no obstacle where there is no shift."""
    found = become("scale", kernel)
    found.assert_equal()
    assert found.kept is None


@pytest.mark.parametrize(
    "kernel", [k for k in KERNELS.values() if not k.channels_first], ids=lambda k: k.name
)
def test_nothing_goes_up_through_an_activation(become: Become, kernel: Kernel) -> None:
    """A fused tanh is nonlinear, a fused relu passes no shift; into a Dense behind, both BNs go."""
    for activation, why in (("tanh", Reason.NONLINEAR), ("relu", Reason.SHIFT_THROUGH_ACTIVATION)):
        stays = become(f"behind {activation}", kernel)
        stays.assert_equal()
        assert stays.kept is not None and why in stays.kept
        assert stays.kept <= {
            why,
            Reason.GRAPH_OUTPUT,
            Reason.NEGATIVE_SCALE,
            Reason.SHIFT_THROUGH_ACTIVATION,
        }
    if None not in kernel.shape:
        goes = become("between", kernel)
        goes.assert_equal()
        assert goes.kept is None


_refused, _wide, _other, _open = Reason.SHIFT_REFUSED, Reason.BROADCAST, Reason.AXIS, Reason.SHAPE_UNKNOWN
Why = dict[int, Reason | None]
EINSUMS: dict[str, tuple[tuple[int, ...], tuple[int, ...], Why, Why]] = {
    # equation and bias_axes: output and input shape; by axis why a BN before it stays, and one behind it
    "ab,bc->ac": ((4,), (5,), {1: None}, {1: None}),
    "abc,cd->abd d": ((6, 4), (6, 5), {1: _other, 2: None}, {1: _other, 2: None}),
    "abc,dc->abd d": ((6, 4), (6, 5), {2: None}, {2: None}),
    "abc,bd->adc": ((4, 5), (6, 5), {1: None, 2: _other}, {1: None}),
    "abc,cd->adb": ((4, 6), (6, 5), {2: None}, {1: None}),
    "...x,xy->...y y": ((4,), (6, 5), {2: None}, {2: None}),
    # several axes are contracted: side by side they are one
    "abc,bcd->ad": ((4,), (6, 5), {1: None, 2: None}, {1: None}),
    "abc,bcd->ad d": ((4,), (6, 5), {1: None, 2: None}, {1: None}),
    "abcd,cde->abe e": ((6, 4), (6, 3, 5), {1: _other, 2: None, 3: None}, {2: None}),
    # heads: a bias along both axes where it has to be
    "abc,cde->abde": ((6, 2, 4), (6, 5), {1: _other, 2: None}, {1: _other, 2: None, 3: None}),
    "abc,cde->abde e": ((6, 2, 4), (6, 5), {2: None}, {2: None, 3: None}),
    "abc,cde->abde de": ((6, 2, 4), (6, 5), {2: None}, {2: None, 3: None}),
    "abc,cde->abde bde": ((6, 2, 4), (6, 5), {2: None}, {1: _other, 2: None, 3: None}),
    "abc,cde->abde d": ((6, 2, 4), (6, 5), {2: _wide}, {2: None, 3: _wide}),
    "abc,cde->adeb": ((2, 4, 6), (6, 5), {2: None}, {1: None, 2: None, 3: _other}),
    "abcd,cdef->abef ef": ((6, 2, 4), (6, 3, 5), {1: _other, 2: None, 3: None}, {2: None, 3: None}),
    "abcd,efcd->abef": ((6, 2, 4), (6, 3, 5), {2: None, 3: None}, {2: None, 3: None}),
    # in another order than the kernel's, or apart, the last is the axis
    "abc,cde->abed": ((6, 4, 2), (6, 5), {2: _refused}, {2: _other, 3: None}),
    "abc,ced->abde de": ((6, 2, 4), (6, 5), {2: _refused}, {2: _other, 3: None}),
    "abcd,dcef->abef": ((6, 2, 4), (6, 3, 5), {3: _refused}, {2: _other, 3: None}),
    "abc,cde->adbe": ((2, 6, 4), (6, 5), {2: _refused}, {1: _other, 3: None}),
    # a kernel of its own for every b, or c
    "abc,bcd->abd": ((6, 4), (6, 5), {1: None, 2: None}, {1: None, 2: None}),
    "abc,bcd->abd d": ((6, 4), (6, 5), {1: None, 2: None}, {1: None, 2: None}),
    "abc,cbd->abd": ((6, 4), (6, 5), {2: _refused}, {2: None}),
    "abcd,cde->abce e": ((6, 3, 4), (6, 3, 5), {1: _other, 2: None, 3: None}, {2: None, 3: None}),
    # element by element
    "abc,c->abc c": ((6, 5), (6, 5), {2: None}, {2: None}),
    "abc,bc->abc": ((6, 5), (6, 5), {1: None, 2: None}, {1: None, 2: None}),
    # a bias along other axes, or more of them
    "abc,cd->abd bd": ((6, 4), (6, 5), {2: None}, {2: None}),
    "abc,cd->abd b": ((6, 4), (6, 5), {2: _wide}, {2: _wide}),
    # b is summed without a kernel: a shift would count b times
    "abc,cd->ad": ((4,), (6, 5), {2: _open}, {1: _open}),
}


@both_containers
def test_einsums(keras3: Keras, suffix: str, tmp_path: Path) -> None:
    """Behind tanh and in front of it; a scale alone goes where a shift is refused.

    Every second equation in either container: what is stored of them is the same in both.
    """

    def network(name: str, gamma: str, axis: int, *, behind: bool) -> Network:
        shape, given, *_ = EINSUMS[name]
        equation, _, bias = name.partition(" ")

        def steps(layers: Any, norm: str) -> list[Any]:
            tanh = layers.Activation("tanh"), layers.Activation("tanh")
            dense = layers.EinsumDense(equation, output_shape=shape, bias_axes=bias or None)
            batchnorm = layers.BatchNormalization(axis=axis, name=norm)
            return [dense, batchnorm, tanh[0]] if behind else [tanh[0], batchnorm, dense, tanh[1]]

        return Network(given, steps, gamma=gamma)

    networks: dict[str, Network] = {}
    why: dict[str, Reason | None] = {}
    for name, (_, _, before, behind) in list(EINSUMS.items())[suffix == ".h5" :: 2]:
        for axis, reason in before.items():
            networks[f"before {name} {axis}"] = network(name, "mixed", axis, behind=False)
            why[f"before {name} {axis}"] = reason
            if reason is _refused:
                networks[f"scale {name} {axis}"] = network(name, "signed scale", axis, behind=False)
        for axis, reason in behind.items():
            networks[f"behind {name} {axis}"] = network(name, "mixed", axis, behind=True)
            why[f"behind {name} {axis}"] = reason
    for name, outcome in outcomes(keras3, networks, tmp_path, suffix=suffix).items():
        outcome.assert_told(why.get(name))


def test_a_bias_has_no_more_axes_than_it_needs(keras: Keras, tmp_path: Path) -> None:
    """What is alike for all heads stays one number for all of them."""

    def biases(bias: str | None, axis: int) -> tuple[Any, tuple[int, ...]]:
        layers = keras.layers
        dense = layers.EinsumDense("abc,cde->abde", output_shape=(6, 2, 4), bias_axes=bias, name="heads")
        steps = [dense, layers.BatchNormalization(axis=axis), layers.Activation("tanh")]
        folded, loaded = check(keras, chain(keras, (6, 5), *steps), tmp_path / f"{bias} {axis}")
        assert folded.kept == {}
        made = loaded.get_layer("heads")
        return made.bias_axes, tuple(made.bias.shape)

    for bias in (None, "e"):
        assert biases(bias, 3) == ("e", (4,))
        assert biases(bias, 2) == ("de", (2, 4))
    assert biases("de", 3) == ("de", (2, 4))


def test_a_kernel_for_each_place(keras2: Keras, tmp_path: Path) -> None:
    """Its sums differ from place to place: a scale goes in, a shift out, where there is a bias to take it."""
    layers: list[tuple[str, tuple[int, ...], dict[str, Any]]] = [
        ("LocallyConnected1D", (8, 3), {"kernel_size": 3, "strides": 2}),
        ("LocallyConnected2D", (7, 6, 3), {"kernel_size": (3, 2)}),
    ]

    def network(layer: str, shape: Any, gamma: str, behind: bool, **settings: Any) -> Network:
        def steps(k: Any, norm: str) -> list[Any]:
            tanh = [k.Activation("tanh"), k.Activation("tanh")]
            local, batchnorm = getattr(k, layer)(4, **settings), k.BatchNormalization(name=norm)
            return [local, batchnorm, tanh[0]] if behind else [tanh[0], batchnorm, local, tanh[1]]

        return Network(shape, steps, "float32", gamma)

    tried: dict[str, Network] = {}
    why: dict[str, Reason | None] = {}
    for layer, shape, settings in layers:
        for biased, behind, gamma, reason in (
            (True, True, "mixed", None),
            (False, True, "signed scale", None),
            (False, True, "mixed", Reason.SHIFT_REFUSED),
            (True, False, "signed scale", None),
            (True, False, "mixed", Reason.SHIFT_REFUSED),
        ):
            name = f"{layer}, {biased}, {behind}, {gamma}"
            tried[name] = network(layer, shape, gamma, behind, use_bias=biased, **settings)
            why[name] = reason
    for name, outcome in outcomes(keras2, tried, tmp_path, suffix=".h5").items():
        outcome.assert_told(why[name])
