"""Every row of Keras's op table against Keras itself: what folds computes the same, what stays says why.

In float64 wherever TensorFlow computes in it, so that a defect cannot hide in rounding.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bnfuse.core.decisions import Keep
from bnfuse.core.reasons import Reason
from bnfuse.formats.keras.ops import ROWS
from tests.keras_models import import_keras
from tests.keras_nets import batchnorms, check, computing_in, stir

pytestmark = pytest.mark.slow

Make = Callable[[Any], Any]  # keras.layers -> a layer
Keras = Any


@pytest.fixture(scope="module")
def library() -> Any:
    return import_keras()


@pytest.fixture(autouse=True)
def keras(library: Any) -> Iterator[Any]:
    """Keras 3 in float64."""
    with computing_in(library, "float64"):
        yield library


def chain(keras: Keras, shape: tuple[int | None, ...], *steps: Any, gamma: str = "mixed") -> Any:
    """Layers one after the other, with random weights."""
    x = y = keras.layers.Input(shape, name="x")
    for step in steps:
        y = step(y)
    return stir(keras.Model(x, y), gamma=gamma)


# --- layers with kernels --------------------------------------------------------------------------


@dataclass(frozen=True)
class Kernel:
    """A layer class and its arguments; ``shift``: why no shift can come in, ``axis``: of the channels."""

    name: str
    shape: tuple[int | None, ...]
    layer: str
    arguments: dict[str, Any]
    shift: Reason | None = None
    axis: int = -1

    def make(self, layers: Any, **more: Any) -> Any:
        return getattr(layers, self.layer)(**{**self.arguments, **more})

    @property
    def compiled(self) -> bool:
        """Convolutions of channels-first data run under XLA only."""
        return self.arguments.get("data_format") == "channels_first"


def _kernels() -> Iterator[Kernel]:
    pad, refused = Reason.ZERO_PADDING, Reason.SHIFT_REFUSED
    first = {"data_format": "channels_first"}
    yield Kernel("dense", (5,), "Dense", {"units": 4})
    yield Kernel("dense of rank 3", (6, 5), "Dense", {"units": 4})
    yield Kernel("dense of rank 4", (6, 4, 5), "Dense", {"units": 3})
    yield Kernel("conv1d", (9, 4), "Conv1D", {"filters": 6, "kernel_size": 3, "strides": 2})
    yield Kernel("conv1d of any length", (None, 4), "Conv1D", {"filters": 5, "kernel_size": 2})
    yield Kernel(
        "conv1d causal", (9, 4), "Conv1D", {"filters": 6, "kernel_size": 3, "padding": "causal"}, pad
    )
    yield Kernel(
        "conv2d groups",
        (9, 8, 6),
        "Conv2D",
        {"filters": 4, "kernel_size": (3, 2), "groups": 2, "strides": (2, 1)},
    )
    yield Kernel(
        "conv2d dilated", (9, 8, 3), "Conv2D", {"filters": 4, "kernel_size": (3, 2), "dilation_rate": (1, 2)}
    )
    yield Kernel(
        "conv2d same", (9, 8, 3), "Conv2D", {"filters": 4, "kernel_size": (3, 2), "padding": "same"}, pad
    )
    yield Kernel(
        "conv2d 1x1 same",
        (9, 8, 3),
        "Conv2D",
        {"filters": 4, "kernel_size": 1, "padding": "same", "strides": 2},
    )
    yield Kernel(
        "conv2d channels first", (5, 9, 8), "Conv2D", {"filters": 4, "kernel_size": (3, 2), **first}, axis=1
    )
    yield Kernel("conv1d channels first", (5, 9), "Conv1D", {"filters": 4, "kernel_size": 3, **first}, axis=1)
    yield Kernel(
        "conv2d transpose channels first",
        (4, 6, 5),
        "Conv2DTranspose",
        {"filters": 3, "kernel_size": (3, 2), **first},
        refused,
        axis=1,
    )
    yield Kernel(
        "depthwise 2d channels first",
        (3, 9, 8),
        "DepthwiseConv2D",
        {"kernel_size": (3, 2), "depth_multiplier": 2, **first},
        axis=1,
    )
    yield Kernel(
        "separable 2d channels first",
        (3, 9, 8),
        "SeparableConv2D",
        {"filters": 5, "kernel_size": (3, 2), "depth_multiplier": 2, **first},
        axis=1,
    )
    yield Kernel("conv3d", (5, 6, 7, 3), "Conv3D", {"filters": 4, "kernel_size": (2, 3, 1)})
    yield Kernel(
        "conv1d transpose", (9, 4), "Conv1DTranspose", {"filters": 3, "kernel_size": 3, "strides": 2}, refused
    )
    yield Kernel(
        "conv2d transpose",
        (6, 5, 4),
        "Conv2DTranspose",
        {"filters": 3, "kernel_size": (3, 2), "strides": (1, 2)},
        refused,
    )
    yield Kernel(
        "conv2d transpose same",
        (6, 5, 4),
        "Conv2DTranspose",
        {"filters": 3, "kernel_size": 3, "padding": "same"},
        refused,
    )
    yield Kernel(
        "conv3d transpose",
        (4, 5, 6, 2),
        "Conv3DTranspose",
        {"filters": 3, "kernel_size": (2, 3, 1)},
        refused,
    )
    yield Kernel("depthwise 1d", (9, 4), "DepthwiseConv1D", {"kernel_size": 3, "depth_multiplier": 2})
    yield Kernel("depthwise 2d", (9, 8, 3), "DepthwiseConv2D", {"kernel_size": (3, 2), "depth_multiplier": 2})
    yield Kernel(
        "depthwise 2d same",
        (9, 8, 3),
        "DepthwiseConv2D",
        {"kernel_size": 3, "depth_multiplier": 2, "padding": "same"},
        pad,
    )
    yield Kernel(
        "separable 1d",
        (9, 4),
        "SeparableConv1D",
        {"filters": 5, "kernel_size": 3, "depth_multiplier": 2},
    )
    yield Kernel(
        "separable 2d",
        (9, 8, 3),
        "SeparableConv2D",
        {"filters": 5, "kernel_size": (3, 2), "depth_multiplier": 2},
    )
    yield Kernel(
        "separable 2d same",
        (9, 8, 3),
        "SeparableConv2D",
        {"filters": 5, "kernel_size": (3, 2), "padding": "same"},
        pad,
    )


KERNELS = {kernel.name: kernel for kernel in _kernels()}
kernels = pytest.mark.parametrize("kernel", KERNELS.values(), ids=KERNELS.keys())


@kernels
@pytest.mark.parametrize("biased", [True, False], ids=["bias", "no bias"])
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
@pytest.mark.parametrize("biased", [True, False], ids=["bias", "no bias"])
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


# --- recurrent layers, attention, tables ----------------------------------------------------------

RECURRENT: dict[str, Make] = {
    "LSTM": lambda k: k.LSTM(4),
    "LSTM without bias": lambda k: k.LSTM(4, use_bias=False, return_sequences=True),
    "GRU reset after": lambda k: k.GRU(4, reset_after=True),
    "GRU reset before": lambda k: k.GRU(4, reset_after=False),
    "GRU reset after without bias": lambda k: k.GRU(4, use_bias=False, go_backwards=True),
    "GRU reset before without bias": lambda k: k.GRU(4, reset_after=False, use_bias=False),
    "SimpleRNN": lambda k: k.SimpleRNN(4),
    "SimpleRNN without bias": lambda k: k.SimpleRNN(4, use_bias=False, activation="relu"),
    "LSTM with states": lambda k: k.LSTM(4, return_state=True, return_sequences=True),
    "bidirectional LSTM": lambda k: k.Bidirectional(k.LSTM(4, return_sequences=True)),
    "bidirectional GRU, summed": lambda k: k.Bidirectional(k.GRU(4), merge_mode="sum"),
    "bidirectional of two": lambda k: k.Bidirectional(
        k.LSTM(4), backward_layer=k.GRU(4, go_backwards=True, use_bias=False)
    ),
}


@pytest.mark.parametrize("make", RECURRENT.values(), ids=RECURRENT.keys())
@pytest.mark.parametrize("suffix", [".keras", ".h5"])
def test_bn_before_recurrent(keras: Keras, make: Make, suffix: str, tmp_path: Path) -> None:
    """Into the input kernel; γ of both signs and 0 are fine, since the kernel reads."""
    layers = keras.layers
    model = chain(keras, (6, 3), layers.BatchNormalization(), make(layers))
    _, loaded = check(keras, model, tmp_path, suffix=suffix)
    assert batchnorms(loaded) == []


def test_bn_after_recurrent(keras: Keras, tmp_path: Path) -> None:
    layers = keras.layers
    norm = layers.BatchNormalization(name="norm")
    folded, _ = check(keras, chain(keras, (6, 3), layers.LSTM(4), norm), tmp_path / "a")
    assert Reason.NONLINEAR in folded.kept["norm"]
    model = chain(keras, (6, 3), layers.LSTM(4), layers.BatchNormalization(), layers.Dense(2))
    assert batchnorms(check(keras, model, tmp_path / "b")[1]) == []


def test_bn_on_an_initial_state(keras: Keras, tmp_path: Path) -> None:
    """A state enters the cell by another way than the kernel: it stays."""
    layers = keras.layers
    x, s = layers.Input((6, 3), name="x"), layers.Input((4,), name="s")
    state = layers.BatchNormalization(name="on state")(layers.Activation("tanh")(s))
    y = layers.GRU(4)(layers.BatchNormalization(name="on input")(x), initial_state=state)
    folded, _ = check(keras, stir(keras.Model([x, s], y)), tmp_path)
    assert set(folded.kept) == {"on state"}
    assert folded.gone == {"on input"}


def test_a_recurrent_layer_that_drops_inputs_in_training(keras: Keras, tmp_path: Path) -> None:
    """Dropout acts on the input before the kernel: with ``training=True`` nothing may go into it."""
    layers = keras.layers
    x = layers.Input((6, 3), name="x")
    y = layers.LSTM(4, dropout=0.5)(layers.BatchNormalization(name="norm")(x), training=True)
    folded = _only_folded(keras.Model(x, y), tmp_path)
    assert Reason.TRAINING_MODE in folded.kept["norm"]


def _only_folded(model: Any, folder: Path) -> Any:
    from tests.keras_nets import fold

    return fold(stir(model), folder)


def _attention(keras: Keras, biased: bool, normed: str, **more: Any) -> Any:
    layers = keras.layers
    x, z = layers.Input((6, 5), name="x"), layers.Input((7, 4), name="z")
    given = {"q": x, "v": z, "k": z}
    for name in normed.split(","):
        if name in given:
            given[name] = layers.BatchNormalization(name=name)(given[name])
    mha = layers.MultiHeadAttention(2, 3, value_dim=4, use_bias=biased, output_shape=6)
    y = mha(given["q"], given["v"], given["k"], **more)
    y = layers.BatchNormalization(name="after")(y) if "after" in normed else y
    return stir(keras.Model([x, z], y))


@pytest.mark.parametrize("biased", [True, False], ids=["bias", "no bias"])
@pytest.mark.parametrize("normed", ["q", "k", "v", "q,k,v", "after", "q,k,v,after"])
@pytest.mark.parametrize("suffix", [".keras", ".h5"])
def test_attention(keras: Keras, normed: str, biased: bool, suffix: str, tmp_path: Path) -> None:
    """Into each projection on its own; without biases no shift can be stored."""
    folded, _ = check(keras, _attention(keras, biased, normed), tmp_path, suffix=suffix)
    assert set(folded.kept) == (set() if biased else set(normed.split(",")))


def test_self_attention(keras: Keras, tmp_path: Path) -> None:
    """One BN, read by all three projections."""
    layers = keras.layers
    x = layers.Input((6, 5), name="x")
    y = layers.BatchNormalization()(x)
    y = layers.MultiHeadAttention(2, 3)(y, y)
    y = layers.BatchNormalization()(y)
    _, loaded = check(keras, stir(keras.Model(x, y)), tmp_path)
    assert batchnorms(loaded) == []


def test_attention_by_keywords(keras: Keras, tmp_path: Path) -> None:
    """Keras sorts keyword arguments by name: key, query, value."""
    layers = keras.layers
    x, z = layers.Input((6, 5), name="x"), layers.Input((7, 4), name="z")
    q, v = layers.BatchNormalization()(x), layers.BatchNormalization()(z)
    k = layers.BatchNormalization()(layers.Activation("tanh")(z))
    y = layers.MultiHeadAttention(2, 3)(query=q, value=v, key=k)
    _, loaded = check(keras, stir(keras.Model([x, z], y)), tmp_path)
    assert batchnorms(loaded) == []


def test_embedding(keras: Keras, tmp_path: Path) -> None:
    layers = keras.layers
    x = layers.Input((6,), dtype="int32", name="x")
    y = layers.GlobalMaxPooling1D()(layers.BatchNormalization()(layers.Embedding(9, 4)(x)))
    _, loaded = check(keras, stir(keras.Model(x, layers.Dense(3)(y))), tmp_path, tolerance=1e-12)
    assert batchnorms(loaded) == []


def test_a_bn_with_a_mask(keras: Keras, tmp_path: Path) -> None:
    """Keras 3 stores the mask as a second tensor that the BN reads: it stays, others around it go."""
    layers = keras.layers
    x = layers.Input((6,), dtype="int32", name="x")
    y = layers.BatchNormalization(name="masked")(layers.Embedding(9, 4, mask_zero=True)(x))
    y = layers.Dense(3)(layers.GlobalAveragePooling1D()(y))
    model = stir(keras.Model(x, layers.BatchNormalization(name="plain")(y)))
    folded, _ = check(keras, model, tmp_path, tolerance=1e-12)
    assert folded.kept == {"masked": {Reason.UNSUPPORTED_OP}}
    assert folded.gone == {"plain"}


def test_embedding_along_another_axis(keras: Keras, tmp_path: Path) -> None:
    """A BN over positions is no function of the table's rows."""
    layers = keras.layers
    x = layers.Input((6,), dtype="int32", name="x")
    y = layers.BatchNormalization(axis=1, name="norm")(layers.Embedding(9, 4)(x))
    folded, _ = check(keras, stir(keras.Model(x, y)), tmp_path, tolerance=1e-12)
    assert Reason.AXIS in folded.kept["norm"]


# --- affine layers --------------------------------------------------------------------------------

NORMS: dict[str, Make] = {
    "LayerNormalization": lambda k: k.LayerNormalization(),
    "LayerNormalization without γ, β": lambda k: k.LayerNormalization(center=False, scale=False),
    "LayerNormalization without γ": lambda k: k.LayerNormalization(scale=False),
    "GroupNormalization": lambda k: k.GroupNormalization(groups=2),
    "GroupNormalization without β": lambda k: k.GroupNormalization(groups=3, center=False),
    "BatchNormalization without γ, β": lambda k: k.BatchNormalization(center=False, scale=False),
    "BatchNormalization without β": lambda k: k.BatchNormalization(center=False),
    "Rescaling": lambda k: k.Rescaling(0.1, offset=-1.7),
    "Rescaling per channel": lambda k: k.Rescaling([0.5, -2, 3, 1, 0.1, 7], offset=[1.0, 2, 3.3, 4, 5, 6]),
}


@pytest.mark.parametrize("make", NORMS.values(), ids=NORMS.keys())
@pytest.mark.parametrize("suffix", [".keras", ".h5"])
def test_affine_layers_take_on_what_follows(keras: Keras, make: Make, suffix: str, tmp_path: Path) -> None:
    """γ and β are made where there were none; two affines of which one can go: one goes."""
    layers = keras.layers
    steps = (layers.Activation("tanh"), make(layers), layers.BatchNormalization(), layers.Activation("tanh"))
    folded, loaded = check(keras, chain(keras, (4, 5, 6), *steps), tmp_path, suffix=suffix)
    assert len(folded.gone) == 1
    assert len(loaded.layers) == len(steps)  # with the InputLayer


@pytest.mark.parametrize("shape", [(3, 4, 5), (5, 4, 5)])  # the sizes alone would not tell
def test_rescaling_stores_the_last_axis_only(keras: Keras, shape: Any, tmp_path: Path) -> None:
    """A BN along another axis cannot go into its two numbers, nor its vector along that axis."""
    layers = keras.layers
    steps = (
        layers.Activation("tanh", dtype="float32"),
        layers.BatchNormalization(axis=1, name="norm", dtype="float32"),
        layers.Rescaling(0.5, offset=1.0, name="rescaling", dtype="float32"),
        layers.Activation("tanh", dtype="float32"),
    )
    folded, _ = check(keras, chain(keras, shape, *steps), tmp_path, tolerance=1e-5)
    assert folded.gone == {"rescaling"}  # two numbers do go into a vector


def test_rescaling_takes_on_a_bn(keras: Keras, tmp_path: Path) -> None:
    """In float32, what Keras reads its numbers as: whatever goes, along the last axis."""
    layers = keras.layers
    x = layers.Input((4, 5, 3), name="x", dtype="float32")
    h = layers.Activation("tanh", dtype="float32")(x)
    h = layers.Rescaling(0.5, offset=1.0, name="rescaling", dtype="float32")(h)
    a = layers.Activation("relu", dtype="float32")(h)
    b = layers.BatchNormalization(name="norm", dtype="float32")(h)
    model = stir(keras.Model(x, [a, layers.Activation("tanh", dtype="float32")(b)]), gamma="positive")
    check(keras, model, tmp_path, tolerance=1e-5)


def test_rescaling_goes_into_the_next_kernel(keras: Keras, tmp_path: Path) -> None:
    layers = keras.layers
    model = chain(keras, (6, 5, 3), layers.Rescaling(1 / 127.5, offset=-1), layers.Conv2D(4, 3))
    folded, _ = check(keras, model, tmp_path / "a")
    assert not folded.kept_affines
    assert folded.gone
    model = chain(keras, (6, 5, 3), layers.Rescaling(1 / 255, name="r"), layers.Conv2D(4, 3, padding="same"))
    assert check(keras, model, tmp_path / "b")[0].gone == {"r"}
    model = chain(
        keras,
        (6, 5, 3),
        layers.Rescaling(1 / 127.5, offset=-1, name="r"),
        layers.Conv2D(4, 3, padding="same"),
    )
    assert Reason.ZERO_PADDING in check(keras, model, tmp_path / "c")[0].kept_affines["r"]


def _adapted(axis: Any, **more: Any) -> Callable[[Any, tuple[int, ...]], Any]:
    def make(layers: Any, shape: tuple[int, ...]) -> Any:
        layer = layers.Normalization(axis=axis, **more)
        layer.adapt(np.random.default_rng(8).normal(2.0, 3.0, (40, *shape)) * np.arange(1, shape[-1] + 1))
        return layer

    return make


def _given(axis: Any, **more: Any) -> Callable[[Any, tuple[int, ...]], Any]:
    def make(layers: Any, shape: tuple[int, ...]) -> Any:
        several = [2.1, -3.3, 4.7][: shape[-1]]
        mean, variance = (several, [0.3, 2.7, 9.1]) if axis is not None else (3.1, 4.3)
        return layers.Normalization(axis=axis, mean=mean, variance=variance, **more)

    return make


NORMALIZATIONS = {
    "adapted": _adapted(-1),
    "adapted to one number": _adapted(None),
    "adapted and inverted": _adapted(-1, invert=True),
    "given": _given(-1),
    "given as one number": _given(None),
    "given and inverted": _given(-1, invert=True),
}


@pytest.mark.parametrize("make", NORMALIZATIONS.values(), ids=NORMALIZATIONS.keys())
@pytest.mark.parametrize("shape", [(3,), (7, 6, 3)], ids=["rank 2", "rank 4"])
@pytest.mark.parametrize("suffix", [".keras", ".h5"])
def test_normalization(keras: Keras, make: Any, shape: Any, suffix: str, tmp_path: Path) -> None:
    """It goes into the kernel behind it, and, as the inverse, into the one before."""
    layers = keras.layers
    behind = layers.Dense(4) if len(shape) == 1 else layers.Conv2D(4, 3)
    folded, _ = check(keras, chain(keras, shape, make(layers, shape), behind), tmp_path / "a", suffix=suffix)
    assert not folded.kept_affines
    assert folded.gone
    model = chain(keras, shape, layers.Dense(3), make(layers, shape))
    folded, _ = check(keras, model, tmp_path / "b", suffix=suffix)
    assert not folded.kept_affines


def test_a_normalization_called_twice(keras: Keras, tmp_path: Path) -> None:
    """One of its calls could do without it, the other could not: both keep it."""
    layers = keras.layers
    norm = _adapted(-1)(layers, (3,))
    norm.name = "norm"
    x = layers.Input((3,), name="x")
    h = layers.Dense(3)(x)
    model = stir(keras.Model(x, [layers.Dense(2)(norm(h)), norm(x)]))
    folded, _ = check(keras, model, tmp_path)
    assert set(folded.kept_affines) == {"norm"}


@pytest.mark.parametrize(
    ("axis", "shape"), [(1, (3, 4, 5)), (2, (3, 4, 5)), (-1, (3, 4, 5)), (3, (3, 4, 5)), (-2, (3, 4, 5))]
)
@pytest.mark.parametrize("options", [{}, {"scale": False}, {"center": False}, {"epsilon": 0.1}])
def test_any_axis_of_a_bn(keras: Keras, axis: Any, shape: Any, options: Any, tmp_path: Path) -> None:
    """Through a Flatten into a Dense, whatever the axis."""
    layers = keras.layers
    norm = layers.BatchNormalization(axis=axis, **options)
    model = chain(keras, shape, layers.Activation("tanh"), norm, layers.Flatten(), layers.Dense(3))
    _, loaded = check(keras, model, tmp_path)
    assert batchnorms(loaded) == []


# --- layers that move values ----------------------------------------------------------------------


@dataclass(frozen=True)
class Mover:
    """What stands between a kernel and a BN.

    ``signed``: it passes scales > 0 only; ``shift``, ``never``: why it passes no shift, or nothing.
    """

    name: str
    shape: tuple[int | None, ...]
    make: Make
    signed: bool = False
    shift: Reason | None = None
    never: Reason | None = None
    axis: int = -1
    floatx: str = "float64"

    def why(self, gamma: str) -> Reason | None:
        """Why a BN with such γ is refused; None where it passes."""
        if self.never is not None:
            return self.never
        if self.shift is not None and not gamma.endswith("scale"):
            return self.shift
        return Reason.NEGATIVE_SCALE if self.signed and gamma in ("mixed", "signed scale") else None


def _movers() -> Iterator[Mover]:
    image, cube, line = (8, 7, 3), (6, 5, 4, 3), (8, 3)
    shift, pad = Reason.SHIFT_THROUGH_ACTIVATION, Reason.ZERO_PADDING
    negative = True
    nonlinear = (False, None, Reason.NONLINEAR)
    yield Mover("max 1d", line, lambda k: k.MaxPooling1D(2), negative)
    yield Mover("max 2d", image, lambda k: k.MaxPooling2D((3, 2), strides=2, padding="same"), negative)
    yield Mover("max 3d", cube, lambda k: k.MaxPooling3D(2), negative, floatx="float32")
    yield Mover("max of one", image, lambda k: k.MaxPooling2D(1, strides=2))
    yield Mover(
        "max channels first",
        (3, 8, 7),
        lambda k: k.MaxPooling2D(2, data_format="channels_first"),
        negative,
        axis=1,
    )
    yield Mover("average 1d", line, lambda k: k.AveragePooling1D(2))
    yield Mover("average 2d same", image, lambda k: k.AveragePooling2D(3, strides=2, padding="same"))
    yield Mover("average 3d same", cube, lambda k: k.AveragePooling3D(2, padding="same"), floatx="float32")
    yield Mover("global max 2d", image, lambda k: k.GlobalMaxPooling2D(), negative)
    yield Mover("global max 1d, kept", line, lambda k: k.GlobalMaxPooling1D(keepdims=True), negative)
    yield Mover("global max 3d", cube, lambda k: k.GlobalMaxPooling3D(), negative)
    yield Mover("global average 1d", line, lambda k: k.GlobalAveragePooling1D())
    yield Mover("global average 2d", image, lambda k: k.GlobalAveragePooling2D())
    yield Mover("global average 3d", cube, lambda k: k.GlobalAveragePooling3D(keepdims=True))
    yield Mover(
        "global average channels first",
        (3, 8, 7),
        lambda k: k.GlobalAveragePooling2D(data_format="channels_first"),
        axis=1,
    )
    yield Mover("zero padding 1d", line, lambda k: k.ZeroPadding1D((0, 2)), False, pad)
    yield Mover("zero padding 2d", image, lambda k: k.ZeroPadding2D(((0, 1), (2, 0))), False, pad)
    yield Mover("zero padding 3d", cube, lambda k: k.ZeroPadding3D(1), False, pad)
    yield Mover("zero padding of nothing", image, lambda k: k.ZeroPadding2D(0))
    yield Mover(
        "zero padding channels first",
        (3, 8, 7),
        lambda k: k.ZeroPadding2D(1, data_format="channels_first"),
        False,
        pad,
        axis=1,
    )
    yield Mover(
        "cropping channels first",
        (3, 8, 7),
        lambda k: k.Cropping2D(1, data_format="channels_first"),
        axis=1,
    )
    yield Mover(
        "up channels first", (3, 8, 7), lambda k: k.UpSampling2D(2, data_format="channels_first"), axis=1
    )
    yield Mover(
        "average channels first",
        (3, 8, 7),
        lambda k: k.AveragePooling2D(2, data_format="channels_first"),
        axis=1,
    )
    yield Mover("cropping 1d", line, lambda k: k.Cropping1D((1, 2)))
    yield Mover("cropping 2d", image, lambda k: k.Cropping2D(((1, 0), (0, 2))))
    yield Mover("cropping 3d", cube, lambda k: k.Cropping3D(1))
    yield Mover("up 1d", line, lambda k: k.UpSampling1D(2))
    yield Mover("up 2d", image, lambda k: k.UpSampling2D((2, 3)))
    # TensorFlow resizes in float32.
    yield Mover("up bilinear", image, lambda k: k.UpSampling2D(2, interpolation="bilinear"), floatx="float32")
    yield Mover(
        "up bicubic",
        image,
        lambda k: k.UpSampling2D(2, interpolation="bicubic"),
        never=Reason.UNSUPPORTED_OP,
        floatx="float32",
    )
    yield Mover("up 3d", cube, lambda k: k.UpSampling3D(2))
    yield Mover("flatten", image, lambda k: k.Flatten())
    yield Mover("flatten to one axis", (8,), lambda k: k.Flatten())
    yield Mover(
        "flatten channels first", (3, 8, 7), lambda k: k.Flatten(data_format="channels_first"), axis=1
    )
    yield Mover("reshape", image, lambda k: k.Reshape((7, 8, 3)))
    yield Mover("reshape into one", image, lambda k: k.Reshape((-1,)))
    yield Mover("reshape apart", (24,), lambda k: k.Reshape((2, 4, 3)))
    yield Mover("permute", image, lambda k: k.Permute((3, 1, 2)))
    yield Mover("repeat", (5,), lambda k: k.RepeatVector(4))
    yield Mover("dropout", image, lambda k: k.Dropout(0.5))
    yield Mover("spatial dropout", image, lambda k: k.SpatialDropout2D(0.5))
    yield Mover("spatial dropout 1d", line, lambda k: k.SpatialDropout1D(0.5))
    yield Mover("spatial dropout 3d", cube, lambda k: k.SpatialDropout3D(0.5))
    yield Mover("gaussian dropout", image, lambda k: k.GaussianDropout(0.5))
    yield Mover("gaussian noise", image, lambda k: k.GaussianNoise(0.5))
    yield Mover("alpha dropout", image, lambda k: k.AlphaDropout(0.5))
    yield Mover("identity", image, lambda k: k.Identity())
    yield Mover("activity regularization", image, lambda k: k.ActivityRegularization(0.1))
    yield Mover("linear", image, lambda k: k.Activation("linear"))
    yield Mover("relu", image, lambda k: k.Activation("relu"), negative, shift)
    yield Mover("relu layer", image, lambda k: k.ReLU(), negative, shift)
    yield Mover("relu with a slope", image, lambda k: k.ReLU(negative_slope=0.2), negative, shift)
    yield Mover("relu with a maximum", image, lambda k: k.ReLU(max_value=6.0), *nonlinear)
    yield Mover("relu with a threshold", image, lambda k: k.ReLU(threshold=0.5), *nonlinear)
    yield Mover("leaky relu", image, lambda k: k.LeakyReLU(0.3), negative, shift)
    yield Mover("leaky relu by name", image, lambda k: k.Activation("leaky_relu"), negative, shift)
    yield Mover("prelu", image, lambda k: k.PReLU(), negative, shift)
    yield Mover("prelu, shared", image, lambda k: k.PReLU(shared_axes=[1, 2]), negative, shift)
    yield Mover("elu", image, lambda k: k.ELU(), *nonlinear)
    yield Mover("softmax", image, lambda k: k.Softmax(), *nonlinear)
    yield Mover("relu6", image, lambda k: k.Activation("relu6"), *nonlinear)
    yield Mover("gelu", image, lambda k: k.Activation("gelu"), *nonlinear)
    yield Mover("time distributed relu", image, lambda k: k.TimeDistributed(k.ReLU()), negative, shift)
    yield Mover("time distributed max", image, lambda k: k.TimeDistributed(k.MaxPooling1D(2)), negative)
    yield Mover("time distributed average", cube, lambda k: k.TimeDistributed(k.GlobalAveragePooling2D()))
    yield Mover("time distributed flatten", image, lambda k: k.TimeDistributed(k.Flatten()))
    yield Mover("time distributed permute", image, lambda k: k.TimeDistributed(k.Permute((2, 1))))
    yield Mover("time distributed reshape", image, lambda k: k.TimeDistributed(k.Reshape((21,))))
    yield Mover("time distributed repeat", line, lambda k: k.TimeDistributed(k.RepeatVector(4)))


MOVERS = {mover.name: mover for mover in _movers()}
# Where channels go that do not keep their place; None where they become one axis with others.
_MOVED: dict[str, int | None] = {
    "permute": 1,
    "time distributed permute": 2,
    "repeat": 2,
    "time distributed repeat": 3,
    "flatten": None,
    "flatten channels first": None,
    "reshape into one": None,
    "reshape apart": None,
    "time distributed flatten": None,
    "time distributed reshape": None,
}

movers = pytest.mark.parametrize("mover", MOVERS.values(), ids=MOVERS.keys())
gammas = pytest.mark.parametrize("gamma", ["mixed", "positive", "scale", "signed scale"])
arriving = pytest.mark.parametrize(
    "mover", [pytest.param(m, id=name) for name, m in MOVERS.items() if _MOVED.get(name, 0) is not None]
)


@arriving
@gammas
def test_bn_behind_a_mover(keras: Keras, mover: Mover, gamma: str, tmp_path: Path) -> None:
    """kernel → mover → BN: up through the mover, or not, and then for the reason in the table.

    The BN's axis is the one in which the kernel's channels arrive, found from where they went.
    """
    layers = keras.layers
    with computing_in(keras, mover.floatx):
        axis = _arrival(mover, len(mover.make(layers)(layers.Input(mover.shape)).shape))
        assert axis is not None
        norm = layers.BatchNormalization(axis=axis, name="norm")
        steps = [_pointwise(layers, mover), mover.make(layers), norm]
        folded, _ = check(keras, chain(keras, mover.shape, *steps, gamma=gamma), tmp_path)
    _as_told(folded, mover.why(gamma))


@movers
@gammas
def test_bn_before_a_mover(keras: Keras, mover: Mover, gamma: str, tmp_path: Path) -> None:
    """tanh → BN → mover → Dense: down through the mover."""
    layers = keras.layers
    with computing_in(keras, mover.floatx):
        norm = layers.BatchNormalization(axis=mover.axis, name="norm")
        steps = [layers.Activation("tanh"), norm, mover.make(layers), layers.Flatten(), layers.Dense(3)]
        folded, _ = check(keras, chain(keras, mover.shape, *steps, gamma=gamma), tmp_path)
    _as_told(folded, mover.why(gamma))


def _pointwise(layers: Any, mover: Mover) -> Any:
    """A kernel over the channels that runs on a CPU whatever their axis."""
    if mover.axis == -1:
        return layers.Dense(mover.shape[-1], use_bias=False)
    return layers.EinsumDense("abcd,be->aecd", output_shape=mover.shape, bias_axes=None)


def _arrival(mover: Mover, rank: int) -> int | None:
    """The axis of the mover's output that its input's channels arrive in."""
    if mover.name in _MOVED:
        return _MOVED[mover.name]
    return min(mover.axis if mover.axis > 0 else len(mover.shape), rank - 1)


def _as_told(folded: Any, why: Reason | None) -> None:
    if why is None:
        assert folded.kept == {}
        assert folded.gone == {"norm"}
    else:
        assert set(folded.kept) == {"norm"}
        assert why in folded.kept["norm"]


def test_a_flattened_bn_goes_up(keras: Keras, tmp_path: Path) -> None:
    """Behind a Flatten every element has its own factor: it stays, unless the factors repeat by channel."""
    layers = keras.layers
    steps = (layers.Dense(3), layers.Flatten(), layers.BatchNormalization(name="norm"))
    model = chain(keras, (4, 5), *steps)
    assert Reason.AXIS in check(keras, model, tmp_path / "a")[0].kept["norm"]
    repeated = ([2.0, -1, 0], [1.0, 2, 3], [4.0, 5, 6], [1.0, 2, 3])
    for weight, values in zip(model.layers[-1].weights, repeated, strict=True):
        weight.assign(np.tile(values, 4))
    assert check(keras, model, tmp_path / "b")[0].kept == {}


def test_a_reshape_apart_goes_up(keras: Keras, tmp_path: Path) -> None:
    """(24,) → (2, 4, 3): a factor per last axis repeats along the kernel's outputs."""
    layers = keras.layers
    steps = (layers.Dense(24), layers.Reshape((2, 4, 3)), layers.BatchNormalization())
    _, loaded = check(keras, chain(keras, (5,), *steps), tmp_path)
    assert batchnorms(loaded) == []


# --- several inputs -------------------------------------------------------------------------------


def _branches(keras: Keras, merge: Make, *, pure: bool, gamma: str, same: bool = False) -> Any:
    """Two kernels (or a kernel and a tanh) → merge → BN → tanh."""
    layers = keras.layers
    x = layers.Input((4, 5), name="x")
    a = layers.Dense(6)(x)
    b = a if same else layers.Dense(6)(x) if pure else layers.Activation("tanh")(layers.Dense(6)(x))
    y = layers.BatchNormalization(name="norm")(merge(layers)([a, b]))
    return stir(keras.Model(x, layers.Activation("tanh")(y)), gamma=gamma)


MERGES: dict[str, tuple[Make, dict[str, bool]]] = {
    # which of: two kernels, a kernel and a tanh, one kernel twice
    "Add": (lambda k: k.Add(), {"pure": True, "half": False, "same": True}),
    "Subtract": (lambda k: k.Subtract(), {"pure": True, "half": False}),
    "Average": (lambda k: k.Average(), {"pure": True, "half": False, "same": True}),
    "Concatenate": (lambda k: k.Concatenate(), {"pure": True, "half": False}),
    "Concatenate along 1": (lambda k: k.Concatenate(axis=1), {"pure": True, "half": False, "same": True}),
    "Maximum": (lambda k: k.Maximum(), {"pure": False, "half": False, "same": False}),
    "Minimum": (lambda k: k.Minimum(), {"pure": False, "half": False}),
    "Multiply": (lambda k: k.Multiply(), {"pure": False, "half": False, "same": False}),
}


@pytest.mark.parametrize("name", MERGES)
@pytest.mark.parametrize("gamma", ["mixed", "positive"])
def test_bn_behind_a_merge(keras: Keras, name: str, gamma: str, tmp_path: Path) -> None:
    merge, table = MERGES[name]
    for kind, goes in table.items():
        model = _branches(keras, merge, pure=kind == "pure", gamma=gamma, same=kind == "same")
        folded, _ = check(keras, model, tmp_path / kind)
        assert (folded.kept == {}) is goes, kind


def test_a_scale_behind_a_product(keras: Keras, tmp_path: Path) -> None:
    """A gate takes on a scale in one of its factors; a square in none, since it would be squared."""
    for kind, goes in {"pure": True, "half": True, "same": False}.items():
        model = _branches(
            keras, lambda k: k.Multiply(), pure=kind == "pure", gamma="scale", same=kind == "same"
        )
        folded, _ = check(keras, model, tmp_path / kind)
        assert (folded.kept == {}) is goes, kind


def test_merges_that_broadcast(keras: Keras, tmp_path: Path) -> None:
    """(4, 1, 6) + (4, 5, 6): both take the scale, one the shift; (4, 5, 1) takes no scale per channel."""
    layers = keras.layers
    for name, goes in {"over space": True, "over channels": False}.items():
        x = layers.Input((4, 5, 3), name="x")
        a = layers.Dense(6)(x)
        b = layers.Dense(6)(layers.Cropping2D(((0, 0), (0, 4)))(x)) if goes else layers.Dense(1)(x)
        y = layers.BatchNormalization()(layers.Add()([a, b]))
        folded, _ = check(keras, stir(keras.Model(x, layers.Activation("tanh")(y))), tmp_path / name)
        assert (folded.kept == {}) is goes


def test_residual_add(keras: Keras, tmp_path: Path) -> None:
    """Two blocks, BN behind each kernel and behind the sum: all go, with γ of any sign but 0."""
    layers = keras.layers
    x = layers.Input((7, 6, 3), name="x")
    stream = layers.BatchNormalization()(layers.Conv2D(4, 3)(x))
    for _ in range(2):
        y = layers.BatchNormalization()(layers.Conv2D(4, 3, padding="same", use_bias=False)(stream))
        y = layers.BatchNormalization()(layers.Conv2D(4, 3, padding="same")(layers.ReLU()(y)))
        stream = layers.ReLU()(layers.Add()([stream, y]))
    _, loaded = check(keras, stir(keras.Model(x, stream)), tmp_path)
    assert batchnorms(loaded) == []


def test_concatenated_branches(keras: Keras, tmp_path: Path) -> None:
    """Slices of unlike size; a branch that cannot take its slice keeps the BN behind where it is."""
    layers = keras.layers
    x = layers.Input((7, 6, 3), name="x")
    a, b = layers.Conv2D(4, 3, padding="same")(x), layers.AveragePooling2D(3, 1, "same")(layers.Dense(2)(x))
    c = layers.DepthwiseConv2D(3, depth_multiplier=2, padding="same", use_bias=False)(x)
    y = layers.BatchNormalization(name="goes")(layers.Concatenate()([a, b, c]))
    z = layers.Concatenate()([layers.Activation("tanh")(y), a])
    z = layers.Conv2D(3, 2)(layers.BatchNormalization(name="goes too")(z))
    folded, _ = check(keras, stir(keras.Model(x, z), gamma="signed"), tmp_path / "a")
    assert folded.gone == {"goes", "goes too"}
    folded, _ = check(keras, stir(keras.Model(x, z), gamma="mixed"), tmp_path / "b")
    assert Reason.ZERO_SCALE in folded.kept["goes"]  # its neighbour reads the same branch


def test_squeeze_and_excite(keras: Keras, tmp_path: Path) -> None:
    """The BN before the gate is read by the gate's kernel and the product: it goes up into its own kernel.

    The one behind has a shift, which a product does not pass.
    """
    layers = keras.layers
    x = layers.Input((7, 6, 3), name="x")
    y = layers.BatchNormalization(name="before")(layers.Conv2D(4, 3, use_bias=False)(x))
    gate = layers.Dense(2, activation="relu")(layers.GlobalAveragePooling2D(keepdims=True)(y))
    gate = layers.Dense(4, activation="sigmoid")(gate)
    z = layers.Multiply()([y, gate])
    last = layers.BatchNormalization(name="last")(layers.Conv2D(5, 1)(z))
    folded, _ = check(keras, stir(keras.Model(x, last)), tmp_path / "a")
    assert folded.gone == {"before", "last"}
    behind = layers.Activation("tanh")(layers.BatchNormalization(name="behind")(z))
    folded, _ = check(keras, stir(keras.Model(x, behind)), tmp_path / "b")
    assert set(folded.kept) == {"behind"}
    # A scale does pass, on the side that is not the gate; the BN before then has moved on already.
    folded, _ = check(keras, stir(keras.Model(x, behind), gamma="scale"), tmp_path / "c")
    assert folded.kept == {}


def _preactivation(keras: Keras, blocks: int) -> Any:
    layers = keras.layers
    x = layers.Input((9, 8, 3), name="x")
    stream = layers.Conv2D(4, 3, name="stem")(x)
    for k in range(blocks):
        y = layers.ReLU()(layers.BatchNormalization(name=f"pre{k}")(stream))
        y = layers.Conv2D(5, 3, padding="same", use_bias=False)(y)
        y = layers.ReLU()(layers.BatchNormalization(name=f"mid{k}")(y))
        y = layers.Conv2D(4, 3, padding="same")(y)
        stream = layers.Add()([stream, y])
    y = layers.ReLU()(layers.BatchNormalization(name="post")(stream))
    return keras.Model(x, layers.Dense(3)(layers.GlobalAveragePooling2D()(y)))


def test_preactivation(keras: Keras, tmp_path: Path) -> None:
    """With γ > 0 all go: the shift up into the stream's writers, the scale down through the ReLU."""
    model = stir(_preactivation(keras, 3), gamma="positive")
    folded, loaded = check(keras, model, tmp_path)
    assert batchnorms(loaded) == []
    assert {d.split.value for d in folded.plan.order} == {"up", "shift-up"}


def test_preactivation_of_both_signs(keras: Keras, tmp_path: Path) -> None:
    """γ < 0 cannot pass a ReLU, and a sign on the stream is asked of all its writers."""
    folded, _ = check(keras, stir(_preactivation(keras, 3), gamma="signed"), tmp_path)
    assert {"mid0", "mid1", "mid2"} <= folded.gone
    assert set(folded.kept) <= {"pre0", "pre1", "pre2", "post"}
    told = {Reason.NEGATIVE_SCALE, Reason.CONFLICT, Reason.SHIFT_THROUGH_ACTIVATION}
    assert folded.kept
    assert all(why <= told for why in folded.kept.values())


def test_several_in_a_row(keras: Keras, tmp_path: Path) -> None:
    layers = keras.layers

    def norms() -> list[Any]:
        return [layers.BatchNormalization(scale=k != 1, center=k != 2) for k in range(4)]

    _, loaded = check(keras, chain(keras, (4, 5), layers.Dense(6), *norms()), tmp_path / "a")
    assert batchnorms(loaded) == []
    folded, loaded = check(keras, chain(keras, (4, 5), *norms()), tmp_path / "b")
    assert len(batchnorms(loaded)) == 1
    assert len(folded.gone) == 3


def test_a_tensor_with_several_readers(keras: Keras, tmp_path: Path) -> None:
    """x read by a BN, a kernel and a pooling: siblings take the inverse; with γ = 0 there is none."""
    layers = keras.layers
    x = layers.Input((8, 7, 3), name="x")
    h = layers.Conv2D(5, 3)(x)
    a = layers.Activation("tanh")(layers.BatchNormalization(name="norm")(h))
    b = layers.DepthwiseConv2D(2, use_bias=False, activation="tanh")(h)
    c = layers.Dense(2, activation="tanh")(layers.GlobalAveragePooling2D()(h))
    model = keras.Model(x, [a, b, c])
    folded, _ = check(keras, stir(model, gamma="signed"), tmp_path / "a")
    assert folded.gone == {"norm"}
    folded, _ = check(keras, stir(model, gamma="mixed"), tmp_path / "b")
    assert Reason.ZERO_SCALE in folded.kept["norm"]


def test_a_bn_with_several_readers(keras: Keras, tmp_path: Path) -> None:
    """tanh → BN → three readers: each takes it on, γ = 0 included; a fourth that cannot keeps it."""
    layers = keras.layers
    x = layers.Input((8, 7, 3), name="x")
    h = layers.BatchNormalization(name="norm")(layers.Activation("tanh")(x))
    a, b = layers.Conv2D(4, 3, use_bias=False)(h), layers.Dense(2)(h)
    c = layers.Dense(2)(layers.AveragePooling2D(2)(h))
    folded, _ = check(keras, stir(keras.Model(x, [a, b, c])), tmp_path / "a")
    assert folded.gone == {"norm"}
    d = layers.Conv2D(4, 3, padding="same")(h)
    folded, _ = check(keras, stir(keras.Model(x, [a, b, c, d])), tmp_path / "b")
    assert Reason.ZERO_PADDING in folded.kept["norm"]


def test_two_bns_on_one_tensor(keras: Keras, tmp_path: Path) -> None:
    """One goes up, the other takes the inverse and goes down into its reader."""
    layers = keras.layers
    x = layers.Input((8, 7, 3), name="x")
    h = layers.Conv2D(5, 3)(x)
    a = layers.Activation("tanh")(layers.BatchNormalization()(h))
    b = layers.Dense(2)(layers.BatchNormalization()(h))
    _, loaded = check(keras, stir(keras.Model(x, [a, b]), gamma="signed"), tmp_path)
    assert batchnorms(loaded) == []


# --- wrappers -------------------------------------------------------------------------------------


def _wrapped_net(keras: Keras) -> Any:
    layers = keras.layers
    x = layers.Input((7, 3))
    y = layers.BatchNormalization(name="deep")(layers.Conv1D(4, 2, padding="same")(x))
    return keras.Model(x, layers.Dense(5)(layers.Flatten()(layers.ReLU()(y))), name="inner")


WRAPPED: dict[str, tuple[tuple[int, ...], Callable[[Keras], list[Any]]]] = {
    "dense, BN behind": (
        (6, 5),
        lambda k: [k.layers.TimeDistributed(k.layers.Dense(4)), k.layers.BatchNormalization()],
    ),
    "dense, BN before": (
        (6, 5),
        lambda k: [k.layers.BatchNormalization(), k.layers.TimeDistributed(k.layers.Dense(4))],
    ),
    "dense without bias": (
        (6, 5),
        lambda k: [
            k.layers.BatchNormalization(),
            k.layers.TimeDistributed(k.layers.Dense(4, use_bias=False, activation="tanh")),
        ],
    ),
    "conv": (
        (4, 8, 7, 3),
        lambda k: [
            k.layers.BatchNormalization(),
            k.layers.TimeDistributed(k.layers.Conv2D(5, (3, 2), use_bias=False)),
            k.layers.BatchNormalization(),
        ],
    ),
    "BN in it": (
        (4, 8, 3),
        lambda k: [
            k.layers.TimeDistributed(k.layers.Conv1D(5, 3)),
            k.layers.TimeDistributed(k.layers.BatchNormalization()),
        ],
    ),
    "BN along an axis of the step": (
        (4, 8, 3),
        lambda k: [
            k.layers.Permute((1, 3, 2)),
            k.layers.TimeDistributed(k.layers.BatchNormalization(axis=1)),
            k.layers.Permute((1, 3, 2)),
            k.layers.Dense(4),
        ],
    ),
    "a network": (
        (4, 7, 3),
        lambda k: [k.layers.TimeDistributed(_wrapped_net(k)), k.layers.BatchNormalization()],
    ),
    "a sequential": (
        (4, 7, 3),
        lambda k: [
            k.layers.TimeDistributed(
                k.Sequential([k.layers.Input((7, 3)), k.layers.BatchNormalization(), k.layers.Conv1D(4, 3)])
            ),
            k.layers.BatchNormalization(),
        ],
    ),
    "a recurrent layer": (
        (4, 7, 3),
        lambda k: [
            k.layers.BatchNormalization(),
            k.layers.TimeDistributed(k.layers.GRU(5, return_sequences=True)),
            k.layers.TimeDistributed(k.layers.BatchNormalization()),
            k.layers.Dense(3),
        ],
    ),
}


@pytest.mark.parametrize("name", WRAPPED)
@pytest.mark.parametrize("suffix", [".keras", ".h5"])
def test_time_distributed(keras: Keras, name: str, suffix: str, tmp_path: Path) -> None:
    shape, steps = WRAPPED[name]
    _, loaded = check(keras, chain(keras, shape, *steps(keras)), tmp_path, suffix=suffix)
    assert batchnorms(loaded) == []


def test_bn_over_time(keras: Keras, tmp_path: Path) -> None:
    """A BN along the axis that a TimeDistributed does not know of."""
    layers = keras.layers
    norm = layers.BatchNormalization(axis=1, name="norm")
    model = chain(keras, (6, 5), layers.Activation("tanh"), norm, layers.TimeDistributed(layers.Dense(4)))
    assert Reason.AXIS in check(keras, model, tmp_path)[0].kept["norm"]


# --- the table is covered -------------------------------------------------------------------------


def test_every_row_has_its_test() -> None:
    """A new row asks for a line in a table above (or for its name here, with the reason)."""
    source = Path(__file__).read_text(encoding="utf-8")
    elsewhere = {
        *(f"Convolution{n}D" for n in (1, 2, 3)),  # Keras 1's names, which no Keras of today writes
        "BatchNormalizationV1", "BatchNormalizationV2", "SyncBatchNormalization",  # tf.keras's
        "ThresholdedReLU",  # tf_keras's
    }  # fmt: skip
    missing = {
        name
        for name in ROWS
        if name not in elsewhere and f".{name}(" not in source and f'"{name}"' not in source
    }
    assert missing == set()


def test_refusals_name_their_layer(keras: Keras, tmp_path: Path) -> None:
    layers = keras.layers
    model = chain(keras, (5,), layers.BatchNormalization(), layers.Dense(3, activation="tanh", name="d"))
    folded, _ = check(keras, chain(keras, (5,), layers.BatchNormalization(name="n")), tmp_path / "a")
    (decision,) = folded.plan.decisions
    assert isinstance(decision, Keep)
    assert "input of the model" in decision.message
    folded, _ = check(keras, model, tmp_path / "b")
    (fold,) = folded.plan.decisions
    assert "d" in fold.message
