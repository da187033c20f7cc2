"""Layers and networks that are called more than once: all calls agree, or nothing changes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from bnfuse.core.reasons import Reason
from tests.keras_nets import Keras, batchnorms, both_containers, check, stir

pytestmark = pytest.mark.slow


@both_containers
def test_a_dense_called_twice(keras: Keras, suffix: str, tmp_path: Path) -> None:
    """One kernel for both calls: what one wants must suit the other."""
    layers = keras.layers
    x, z = layers.Input((4,), name="x"), layers.Input((4,), name="z")
    shared = layers.Dense(4, name="shared")
    one = layers.BatchNormalization(name="one")(shared(x))
    alone = layers.Activation("tanh")(shared(z))
    folded, _ = check(keras, stir(keras.Model([x, z], [one, alone])), tmp_path / "a", suffix=suffix)
    assert folded.kept == {"one": {Reason.NONLINEAR, Reason.GRAPH_OUTPUT}}
    # The other call is read by a kernel, which takes the inverse.
    shared = layers.Dense(4, name="shared")
    one = layers.BatchNormalization(name="one")(shared(x))
    other = layers.Dense(3)(shared(z))
    model = stir(keras.Model([x, z], [one, other]), gamma="signed")
    folded, _ = check(keras, model, tmp_path / "b", suffix=suffix)
    assert folded.gone == {"one"}


@both_containers
def test_a_bn_called_twice(keras: Keras, suffix: str, tmp_path: Path) -> None:
    """It goes from both places or from none."""
    layers = keras.layers
    x, z = layers.Input((4,), name="x"), layers.Input((4,), name="z")
    norm = layers.BatchNormalization(name="norm")
    both = [norm(layers.Dense(4)(x)), norm(layers.Dense(4)(z))]
    folded, _ = check(keras, stir(keras.Model([x, z], both)), tmp_path / "a", suffix=suffix)
    assert folded.gone == {"norm"}
    norm = layers.BatchNormalization(name="norm")
    model = stir(keras.Model([x, z], [norm(layers.Dense(4)(x)), norm(z)]))
    folded, _ = check(keras, model, tmp_path / "b", suffix=suffix)
    assert set(folded.kept) == {"norm"}


def _block(keras: Keras, name: str, *, bn_first: bool = False) -> Any:
    layers = keras.layers
    x = layers.Input((4,), name=f"{name}_in")
    y = layers.BatchNormalization(name="first")(x) if bn_first else x
    y = layers.BatchNormalization(name="last")(layers.Dense(4, name="dense")(y))
    return keras.Model(x, y, name=name)


@both_containers
def test_a_network_called_twice(keras: Keras, suffix: str, tmp_path: Path) -> None:
    layers = keras.layers
    x, z = layers.Input((4,), name="x"), layers.Input((4,), name="z")
    block = _block(keras, "block", bn_first=True)
    model = keras.Model([x, z], layers.Concatenate()([block(x), block(layers.Activation("tanh")(z))]))
    folded, loaded = check(keras, stir(model), tmp_path / "a", suffix=suffix)
    assert batchnorms(loaded) == []
    assert folded.gone == {"block/first", "block/last"}
    # Its first BN could leave through the kernel before one of its calls, but not before the other.
    twice = layers.Input((4,), name="in")
    first = keras.Model(
        twice, layers.Activation("tanh")(layers.BatchNormalization(name="first")(twice)), name="b"
    )
    model = keras.Model([x, z], layers.Concatenate()([first(layers.Dense(4)(x)), first(z)]))
    folded, _ = check(keras, stir(model), tmp_path / "b", suffix=suffix)
    assert set(folded.kept) == {"b/first"}


def test_a_network_called_twice_in_a_row(keras: Keras, tmp_path: Path) -> None:
    """The second call reads what the first has written: values of one layer, yet not one value."""
    x = keras.layers.Input((4,), name="x")
    block = _block(keras, "block")
    folded, loaded = check(keras, stir(keras.Model(x, block(block(x)))), tmp_path)
    assert batchnorms(loaded) == []
    assert folded.gone == {"block/last"}


def test_a_layer_that_lies_in_another_one_too(keras: Keras, tmp_path: Path) -> None:
    """Keras makes one layer of both: what is not looked into reads the weights that would change."""
    layers = keras.layers

    @keras.saving.register_keras_serializable(package="Shop")
    class Around(layers.Wrapper):  # type: ignore[misc, name-defined]
        def call(self, inputs: Any) -> Any:
            return self.layer(inputs)

    for number, wrapper in enumerate((Around, layers.SpectralNormalization)):
        x = layers.Input((4,), name="x")
        shared, norm = layers.Dense(4), layers.BatchNormalization(name="shared")
        y = layers.BatchNormalization(name="behind")(shared(x))
        y = wrapper(shared)(layers.Activation("tanh")(y))
        y = layers.Dense(4)(norm(layers.Dense(4)(y)))
        if wrapper is Around:
            y = layers.Dense(4)(Around(norm)(layers.Activation("tanh")(y)))
        y = layers.BatchNormalization(name="goes")(layers.Dense(3)(y))
        folded, _ = check(keras, stir(keras.Model(x, y)), tmp_path / str(number))
        assert folded.kept["behind"] >= {Reason.LOCKED_WEIGHTS}
        assert folded.gone == ({"goes"} if wrapper is Around else {"shared", "goes"})
