"""A BatchNormalization behind or before every layer that has a kernel.

It goes up into the kernel and down into it; zeros at the borders keep a shift out, activations everything."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from bnfuse.core.reasons import Reason
from tests.keras_kernels import Kernel, kernels
from tests.keras_nets import Keras, batchnorms, chain, check

pytestmark = pytest.mark.slow
biases = pytest.mark.parametrize("biased", [True, False], ids=["bias", "no bias"])


@kernels
@biases
def test_bn_after_a_kernel(keras: Keras, kernel: Kernel, biased: bool, tmp_path: Path) -> None:
    """It goes up into the kernel; a bias is made where there was none; the output keeps its name."""
    linear = kernel.make(keras.layers, use_bias=biased)
    norm = keras.layers.BatchNormalization(axis=kernel.axis, name="normed")
    model = chain(keras, kernel.shape, linear, norm)
    folded, loaded = check(keras, model, tmp_path, compiled=kernel.compiled)
    assert batchnorms(loaded) == []
    assert folded.gone == {"normed"}
    assert loaded.output_names == ["normed"]


@kernels
@biases
def test_bn_before_a_kernel(keras: Keras, kernel: Kernel, biased: bool, tmp_path: Path) -> None:
    """It goes down, γ = 0 included, unless zeros at the borders keep the shift from it."""
    norm = keras.layers.BatchNormalization(axis=kernel.axis, name="norm")
    linear = kernel.make(keras.layers, use_bias=biased, activation="tanh")
    model = chain(keras, kernel.shape, norm, linear)
    folded, loaded = check(keras, model, tmp_path, compiled=kernel.compiled)
    assert len(batchnorms(loaded)) == (kernel.shift is not None)
    if kernel.shift is not None:
        assert folded.kept["norm"] == {Reason.GRAPH_INPUT, kernel.shift}


@kernels
def test_a_scale_enters_every_kernel(keras: Keras, kernel: Kernel, tmp_path: Path) -> None:
    """Zero padding is no obstacle where there is no shift."""
    norm = keras.layers.BatchNormalization(axis=kernel.axis, center=False)
    model = chain(keras, kernel.shape, norm, kernel.make(keras.layers), gamma="scale")
    _, loaded = check(keras, model, tmp_path, compiled=kernel.compiled)
    assert batchnorms(loaded) == []


@kernels
def test_nothing_goes_up_through_an_activation(keras: Keras, kernel: Kernel, tmp_path: Path) -> None:
    """A fused tanh is nonlinear, a fused relu passes no shift; into a Dense behind, both BNs go."""
    layers = keras.layers
    for activation, why in (("tanh", Reason.NONLINEAR), ("relu", Reason.SHIFT_THROUGH_ACTIVATION)):
        linear = kernel.make(layers, activation=activation)
        norm = layers.BatchNormalization(axis=kernel.axis, name="norm")
        stays, _ = check(
            keras,
            chain(keras, kernel.shape, linear, norm),
            tmp_path / activation,
            compiled=kernel.compiled,
        )
        assert why in stays.kept["norm"]
        assert stays.kept["norm"] <= {
            why,
            Reason.GRAPH_OUTPUT,
            Reason.NEGATIVE_SCALE,
            Reason.SHIFT_THROUGH_ACTIVATION,
        }
    if None in kernel.shape:
        return
    model = chain(
        keras,
        kernel.shape,
        kernel.make(layers, activation="tanh"),
        layers.BatchNormalization(axis=kernel.axis),
        layers.Flatten(),
        layers.Dense(3),
    )
    _, loaded = check(keras, model, tmp_path / "down", compiled=kernel.compiled)
    assert batchnorms(loaded) == []


EINSUMS = (
    # equation, output shape, bias_axes, input shape, axis of the BN before, axis of the BN after
    ("ab,bc->ac", (4,), None, (5,), 1, 1),
    ("abc,cd->abd", (6, 4), "d", (6, 5), -1, -1),
    ("abc,dc->abd", (6, 4), "d", (6, 5), -1, -1),
    ("abc,bd->adc", (4, 5), None, (6, 5), 1, 1),
    ("abc,cd->adb", (4, 6), None, (6, 5), 2, 1),
    ("...x,xy->...y", (4,), "y", (6, 5), -1, -1),
)


@pytest.mark.parametrize(("equation", "shape", "bias", "given", "before", "after"), EINSUMS)
def test_einsum(
    keras: Keras, equation: str, shape: Any, bias: Any, given: Any, before: int, after: int, tmp_path: Path
) -> None:
    layers = keras.layers
    for name, steps in {
        "before": (layers.BatchNormalization(axis=before), 0),
        "after": (0, layers.BatchNormalization(axis=after)),
        "both": (layers.BatchNormalization(axis=before), layers.BatchNormalization(axis=after)),
    }.items():
        dense = layers.EinsumDense(equation, output_shape=shape, bias_axes=bias)
        made = [step for step in (steps[0], dense, steps[1]) if step != 0]
        _, loaded = check(keras, chain(keras, given, *made), tmp_path / name)
        assert batchnorms(loaded) == []


@pytest.mark.parametrize(
    ("equation", "shape", "bias", "given", "axis"),
    [
        ("abc,cd->ad", (4,), "d", (6, 5), -1),  # b is summed without a kernel: a shift would count b times
        ("abc,cde->abde", (6, 2, 4), "de", (6, 5), -1),  # two new axes
        ("abc,bcd->ad", (4,), None, (6, 5), -1),  # two axes contracted
        ("abc,bcd->abd", (6, 4), None, (6, 5), -1),  # a kernel of its own for every b
        ("abc,cd->abd", (6, 4), "bd", (6, 5), -1),  # a bias that varies along two axes
    ],
)
def test_einsums_that_are_no_plain_kernel(
    keras: Keras, equation: str, shape: Any, bias: Any, given: Any, axis: int, tmp_path: Path
) -> None:
    """Whatever is decided, the result is right; a BN between input and such a layer may stay."""
    dense = keras.layers.EinsumDense(equation, output_shape=shape, bias_axes=bias)
    model = chain(keras, given, keras.layers.BatchNormalization(axis=axis), dense)
    check(keras, model, tmp_path)
