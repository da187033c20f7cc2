"""Rescaling, Normalization, norms with γ and β: affine layers that go, and that take on what follows."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bnfuse.core.reasons import Reason
from tests.keras_nets import Keras, Make, batchnorms, both_containers, chain, check, stir

pytestmark = pytest.mark.slow
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
# They have a γ and no β.
WITHOUT_SHIFT: dict[str, Make] = {
    "RMSNormalization": lambda k: k.RMSNormalization(),
}


@pytest.mark.parametrize("make", NORMS.values(), ids=NORMS.keys())
@both_containers
def test_affine_layers_take_on_what_follows(keras: Keras, make: Make, suffix: str, tmp_path: Path) -> None:
    """γ and β are made where there were none; two affines of which one can go: one goes."""
    layers = keras.layers
    steps = (layers.Activation("tanh"), make(layers), layers.BatchNormalization(), layers.Activation("tanh"))
    folded, loaded = check(keras, chain(keras, (4, 5, 6), *steps), tmp_path, suffix=suffix)
    assert len(folded.gone) == 1
    assert len(loaded.layers) == len(steps)  # with the InputLayer


@pytest.mark.parametrize("make", WITHOUT_SHIFT.values(), ids=WITHOUT_SHIFT.keys())
@both_containers
def test_a_norm_without_shift_takes_on_a_scale_alone(
    keras: Keras, make: Make, suffix: str, tmp_path: Path
) -> None:
    for gamma, kept in (("signed scale", None), ("mixed", Reason.SHIFT_REFUSED)):
        steps = (make(keras.layers), keras.layers.BatchNormalization(), keras.layers.Activation("tanh"))
        model = chain(keras, (4, 6), keras.layers.Activation("tanh"), *steps, gamma=gamma)
        folded, _ = check(keras, model, tmp_path / gamma, suffix=suffix)
        assert len(folded.gone) == (kept is None)
        assert kept in next(iter(folded.kept.values()), {None})


def test_an_rms_normalization_of_another_axis(keras: Keras, tmp_path: Path) -> None:
    """Keras lays its γ along the last axis all the same: equal sizes would not tell."""
    layers = keras.layers
    for axis in (1, 2):
        norm = layers.BatchNormalization(axis=axis)
        steps = (layers.Activation("tanh"), layers.RMSNormalization(axis=1), norm, layers.Activation("tanh"))
        folded, _ = check(keras, chain(keras, (6, 6), *steps, gamma="scale"), tmp_path / f"{axis}")
        assert not folded.gone


@pytest.mark.parametrize("shape", [(3, 4, 5), (5, 4, 5)])  # the sizes alone would not tell
def test_rescaling_takes_vectors_along_any_axis(keras: Keras, shape: Any, tmp_path: Path) -> None:
    """As nested lists; in a step of a TimeDistributed along the last one alone."""
    layers = keras.layers
    tanh, two = {"activation": "tanh", "dtype": "float32"}, {"scale": 0.5, "offset": 1.0, "dtype": "float32"}
    nested = np.array([0.5, -2.0, 3.0, 1.0, 0.25][: shape[1]])[:, None]
    for name, rescaling, gone in (
        ("numbers", layers.Rescaling(**two, name="numbers"), "norm"),
        ("lists", layers.Rescaling(nested.tolist(), offset=1.0, dtype="float32"), "norm"),
        ("step", layers.TimeDistributed(layers.Rescaling(**two, name="step")), "step"),
    ):
        norm = layers.BatchNormalization(axis=1 if name == "numbers" else 2, name="norm", dtype="float32")
        steps = (layers.Activation(**tanh), norm, rescaling, layers.Activation(**tanh))
        folded, _ = check(keras, chain(keras, shape, *steps), tmp_path / name, tolerance=1e-5)
        assert [node.rpartition("/")[2] for node in folded.gone] == [gone], name


def test_rescaling_takes_on_a_bn(keras: Keras, tmp_path: Path) -> None:
    """In float32, what Keras reads its numbers as: whatever goes."""
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
@both_containers
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
