"""A BatchNormalization behind or before every layer that has a kernel.

It goes up into the kernel and down into it; zeros at the borders keep a shift out, activations everything."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache, partial
from pathlib import Path
from typing import Any

import pytest

from bnfuse.core.reasons import Reason
from tests.keras_kernels import KERNELS, Kernel, kernels
from tests.keras_nets import Keras
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
    """What becomes of the BN at a place beside a kernel; all that run alike are in one model."""

    @cache
    def group(compiled: bool) -> dict[str, Outcome]:
        networks = {
            f"{place}: {k.name}": Network(
                k.shape, partial(_steps, place, k), gamma="scale" if place == "scale" else "mixed"
            )
            for k in KERNELS.values()
            for place in PLACES
            if k.compiled is compiled
            and not (place in ACTIVATED and compiled)  # XLA takes its time, and activations know no layout
            and not (place == "between" and None in k.shape)  # no Dense behind sizes that are not known
        }
        return outcomes(keras3, networks, tmp_path_factory.mktemp("kernels"), compiled=compiled)

    return lambda place, kernel: group(kernel.compiled)[f"{place}: {kernel.name}"]


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


@kernels
def test_a_scale_enters_every_kernel(become: Become, kernel: Kernel) -> None:
    """Zero padding is no obstacle where there is no shift."""
    found = become("scale", kernel)
    found.assert_equal()
    assert found.kept is None


@pytest.mark.parametrize("kernel", [k for k in KERNELS.values() if not k.compiled], ids=lambda k: k.name)
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


_refused, _wide = Reason.SHIFT_REFUSED, Reason.BROADCAST
EINSUMS: dict[str, tuple[Any, ...]] = {
    # equation and bias_axes: output shape, input shape, axis of the BN before it, why that stays with a
    # shift; axis of the BN behind it, why that stays
    "ab,bc->ac": ((4,), (5,), 1, None, 1, None),
    "abc,cd->abd d": ((6, 4), (6, 5), -1, None, -1, None),
    "abc,dc->abd d": ((6, 4), (6, 5), -1, None, -1, None),
    "abc,bd->adc": ((4, 5), (6, 5), 1, None, 1, None),
    "abc,cd->adb": ((4, 6), (6, 5), 2, None, 1, None),
    "...x,xy->...y y": ((4,), (6, 5), -1, None, -1, None),
    # several axes contracted, of which the last counts
    "abc,bcd->ad": ((4,), (6, 5), -1, None, -1, None),
    "abc,bcd->ad d": ((4,), (6, 5), -1, None, -1, None),
    # heads: what is read with a shift would ask for a bias along two axes
    "abc,cde->abde": ((6, 2, 4), (6, 5), -1, _refused, -1, None),
    "abc,cde->abde e": ((6, 2, 4), (6, 5), -1, _refused, -1, None),
    "abc,cde->abde de": ((6, 2, 4), (6, 5), -1, _refused, -1, None),
    "abcd,cde->abce e": ((6, 3, 4), (6, 3, 5), -1, _refused, -1, None),
    # a kernel of its own for every b
    "abc,bcd->abd": ((6, 4), (6, 5), -1, _refused, -1, None),
    # element by element
    "abc,c->abc c": ((6, 5), (6, 5), -1, None, -1, None),
    # a bias along other axes, or more of them
    "abc,cd->abd bd": ((6, 4), (6, 5), -1, None, -1, None),
    "abc,cd->abd b": ((6, 4), (6, 5), -1, _wide, -1, _wide),
    # b is summed without a kernel: a shift would count b times
    "abc,cd->ad": ((4,), (6, 5), -1, Reason.SHAPE_UNKNOWN, -1, Reason.SHAPE_UNKNOWN),
}


def test_einsums(keras3: Keras, tmp_path: Path) -> None:
    """Behind tanh and in front of it; a scale alone goes where a shift is refused."""

    def network(name: str, gamma: str, *, behind: bool) -> Network:
        shape, given, before, _, after, _ = EINSUMS[name]
        equation, _, bias = name.partition(" ")

        def steps(layers: Any, norm: str) -> list[Any]:
            tanh = layers.Activation("tanh"), layers.Activation("tanh")
            dense = layers.EinsumDense(equation, output_shape=shape, bias_axes=bias or None)
            if behind:
                return [dense, layers.BatchNormalization(axis=after, name=norm), tanh[0]]
            return [tanh[0], layers.BatchNormalization(axis=before, name=norm), dense, tanh[1]]

        return Network(given, steps, gamma=gamma)

    networks, why = {}, {}
    for name, (_, _, _, before, _, after) in EINSUMS.items():
        networks[f"before {name}"], why[f"before {name}"] = network(name, "mixed", behind=False), before
        networks[f"behind {name}"], why[f"behind {name}"] = network(name, "mixed", behind=True), after
        if before is _refused:
            networks[f"scale {name}"] = network(name, "signed scale", behind=False)
    for name, outcome in outcomes(keras3, networks, tmp_path).items():
        outcome.assert_told(why.get(name))


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
