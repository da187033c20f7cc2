"""Keras: a BatchNormalization that can go only in part moves onto the branch that does not take it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from bnfuse.core.decisions import Keep
from tests.keras_models import import_keras
from tests.keras_nets import batchnorms, check, computing_in, stir

pytestmark = pytest.mark.slow

Keras = Any


@pytest.fixture(scope="module")
def library() -> Any:
    return import_keras()


@pytest.fixture(autouse=True)
def keras(library: Any) -> Iterator[Any]:
    """Keras 3 in float64."""
    with computing_in(library, "float64"):
        yield library


def _narrowed(folded: Any) -> dict[str, int | None]:
    """Channels that are left, by BatchNormalization that stays; None where it stays whole."""
    return {
        d.node: d.narrowed.channels if d.narrowed else None
        for d in folded.plan.decisions
        if isinstance(d, Keep)
    }


def _concat(keras: Keras, fixed_first: bool = False, **settings: Any) -> Any:
    layers = keras.layers
    x = layers.Input((6, 5, 4), name="x")
    wide = layers.Conv2D(9, 3, padding="same")(x)
    fixed = layers.Activation("sigmoid", name="fixed")(x)
    joined = layers.Concatenate(name="joint")([fixed, wide] if fixed_first else [wide, fixed])
    y = layers.BatchNormalization(name="bn", **settings)(joined)
    y = layers.Dropout(0.5)(layers.Activation("tanh")(y))
    return keras.Model(x, layers.Conv2D(3, 1)(y))


@pytest.mark.parametrize("suffix", [".keras", ".h5"])
@pytest.mark.parametrize("fixed_first", [False, True])
def test_a_concatenation(keras: Keras, fixed_first: bool, suffix: str, tmp_path: Path) -> None:
    model = stir(_concat(keras, fixed_first))
    folded, loaded = check(keras, model, tmp_path, suffix=suffix, tolerance=1e-12)
    assert _narrowed(folded) == {"bn": 4}
    assert batchnorms(loaded) == ["bn"]
    assert [tuple(w.shape) for w in loaded.get_layer("bn").weights] == [(4,)] * 4
    assert loaded.get_layer("bn").input.shape == (None, 6, 5, 4)


@pytest.mark.parametrize("settings", [{"scale": False}, {"center": False}, {"scale": False, "center": False}])
def test_what_the_layer_does_not_have_it_need_not_get(
    keras: Keras, settings: dict[str, bool], tmp_path: Path
) -> None:
    model = stir(_concat(keras, **settings))
    folded, loaded = check(keras, model, tmp_path, tolerance=1e-12)
    assert _narrowed(folded) == {"bn": 4}
    assert len(loaded.get_layer("bn").weights) == 4 - len(settings)


def _two_joints(keras: Keras) -> Any:
    """The layer behind the first joint also goes, so both kinds of rewiring meet."""
    layers = keras.layers
    x = layers.Input((6, 5, 4), name="x")
    y = layers.Concatenate(name="a")([layers.Conv2D(9, 1)(x), layers.Activation("sigmoid")(x)])
    y = layers.Activation("tanh")(layers.BatchNormalization(name="first")(y))
    y = layers.BatchNormalization(name="gone")(layers.Conv2D(9, 1)(y))
    y = layers.Concatenate(name="b")(
        [y, layers.BatchNormalization(name="fixed")(layers.Activation("elu")(x))]
    )
    y = layers.Activation("tanh")(layers.BatchNormalization(name="second")(y))
    return keras.Model(x, y)


def _nested(keras: Keras) -> Any:
    """Inside a nested model, whose output the moved layer's joint becomes."""
    layers = keras.layers
    z = layers.Input((6, 5, 4))
    joined = layers.Concatenate()([layers.Conv2D(9, 1)(z), layers.Activation("sigmoid")(z)])
    inner = keras.Model(z, layers.BatchNormalization(name="bn")(joined), name="inner")
    x = layers.Input((6, 5, 4), name="x")
    return keras.Model(x, layers.Activation("tanh")(inner(x)))


def _gate(kind: str) -> Callable[[Keras], Any]:
    def build(keras: Keras) -> Any:
        layers = keras.layers
        x = layers.Input((6, 5, 4), name="x")
        gate = layers.Activation("sigmoid")(layers.GlobalAveragePooling2D(keepdims=True)(x))
        wide = layers.Conv2D(4, 3, padding="same")(x)
        y = getattr(layers, kind)(name="joint")([wide, gate])
        return keras.Model(x, layers.Activation("tanh")(layers.BatchNormalization(name="bn")(y)))

    return build


NETS: dict[str, tuple[Callable[[Keras], Any], dict[str, int | None]]] = {
    "two joints": (_two_joints, {"first": 4, "second": 4}),
    "nested": (_nested, {"inner/bn": 4}),
    "Add": (_gate("Add"), {"bn": 4}),
    "Subtract": (_gate("Subtract"), {"bn": 4}),
    "Average": (_gate("Average"), {"bn": None}),
}


@pytest.mark.parametrize("suffix", [".keras", ".h5"])
@pytest.mark.parametrize(("build", "expected"), NETS.values(), ids=NETS)
def test_nets(
    keras: Keras,
    build: Callable[[Keras], Any],
    expected: dict[str, int | None],
    suffix: str,
    tmp_path: Path,
) -> None:
    folded, _ = check(keras, stir(build(keras)), tmp_path, suffix=suffix, tolerance=1e-12)
    assert _narrowed(folded) == expected


def _output(keras: Keras) -> Any:
    """The model's output is known by the layer's name."""
    layers = keras.layers
    x = layers.Input((6, 5, 4), name="x")
    y = layers.Concatenate()([layers.Conv2D(9, 1)(x), layers.Activation("sigmoid")(x)])
    return keras.Model(x, layers.BatchNormalization(name="bn")(y))


def _called_twice(keras: Keras) -> Any:
    layers = keras.layers
    x = layers.Input((6, 5, 4), name="x")
    bn, join = layers.BatchNormalization(name="bn"), layers.Concatenate()
    made = [bn(join([layers.Conv2D(9, 1)(x), layers.Activation(f)(x)])) for f in ("sigmoid", "elu")]
    return keras.Model(x, layers.Activation("tanh")(layers.Add()(made)))


@pytest.mark.parametrize("build", [_output, _called_twice])
def test_it_stays_whole(keras: Keras, build: Callable[[Keras], Any], tmp_path: Path) -> None:
    folded, _ = check(keras, stir(build(keras)), tmp_path, tolerance=1e-12)
    assert set(_narrowed(folded).values()) == {None}
    assert folded.before.read_bytes() == folded.after.read_bytes()
