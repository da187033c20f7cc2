"""A BatchNormalization behind or before every function: it passes, or it stays as told."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from bnfuse.core.reasons import Reason
from tests.keras_functions import VECTOR, Function, of_keras, of_tensorflow
from tests.keras_nets import Keras, Make, check, stir
from tests.keras_together import Network, Outcome, joined, outcomes

pytestmark = pytest.mark.slow

Outcomes = Callable[[str], dict[str, Outcome]]  # by γ: what became of each function's network
gammas = pytest.mark.parametrize("gamma", ["mixed", "positive", "scale"])
positive_gammas = pytest.mark.parametrize("gamma", ["positive", "scale"])
OF_KERAS = {function.name: function for function in of_keras()}
ARRIVING = {name: function for name, function in OF_KERAS.items() if function.axis is not None}
OF_TENSORFLOW = {function.name: function for function in of_tensorflow()}


def _behind(library: Any, function: Function) -> Network:
    """Two kernels → function → BN."""

    def steps(layers: Any, name: str) -> list[Any]:
        def called(x: Any) -> Any:
            a, b = (layers.Dense(function.shape[-1], use_bias=False)(x) for _ in range(2))
            y = function.call(library, a, b)
            return layers.BatchNormalization(axis=function.axis, name=name)(y)

        return [called]

    return Network(function.shape, steps, function.floatx)


def _before(library: Any, function: Function) -> Network:
    """tanh → BN → function, beside a kernel → Dense."""

    def steps(layers: Any, name: str) -> list[Any]:
        def called(x: Any) -> Any:
            norm = layers.BatchNormalization(name=name)(layers.Activation("tanh")(x))
            return function.call(library, norm, layers.Dense(function.shape[-1])(x))

        return [called, layers.Flatten(), layers.Dense(3)]

    return Network(function.shape, steps, function.floatx)


@pytest.fixture(scope="module")
def behind(keras3: Keras, tmp_path_factory: pytest.TempPathFactory) -> Outcomes:
    networks = {name: _behind(keras3.ops, function) for name, function in ARRIVING.items()}
    return _by_gamma(keras3, networks, tmp_path_factory.mktemp("behind"))


@pytest.fixture(scope="module")
def before(keras3: Keras, tmp_path_factory: pytest.TempPathFactory) -> Outcomes:
    networks = {name: _before(keras3.ops, function) for name, function in OF_KERAS.items()}
    return _by_gamma(keras3, networks, tmp_path_factory.mktemp("before"))


def _by_gamma(keras: Keras, networks: dict[str, Network], folder: Path, suffix: str = ".keras") -> Outcomes:
    """One model, with other weights for each γ."""
    model = joined(keras, networks)
    return cache(
        lambda gamma: outcomes(keras, networks, stir(model, gamma=gamma), folder / gamma, suffix=suffix)
    )


@gammas
@pytest.mark.parametrize("name", ARRIVING)
def test_bn_behind_a_function(behind: Outcomes, name: str, gamma: str) -> None:
    """kernels → function → BN: up through the function, or not, and then for the reason in the table."""
    behind(gamma)[name].assert_told(ARRIVING[name].why(gamma))


@gammas
@pytest.mark.parametrize("name", OF_KERAS)
def test_bn_before_a_function(before: Outcomes, name: str, gamma: str) -> None:
    """tanh → BN → function → Dense: down through the function."""
    before(gamma)[name].assert_told(OF_KERAS[name].why_before(gamma))


@pytest.fixture(scope="module")
def behind_tf(keras2: Keras, tmp_path_factory: pytest.TempPathFactory) -> Outcomes:
    return _of_tensorflow(keras2, _behind, tmp_path_factory.mktemp("behind_tf"), ".h5")


@pytest.fixture(scope="module")
def before_tf(keras2: Keras, tmp_path_factory: pytest.TempPathFactory) -> Outcomes:
    return _of_tensorflow(keras2, _before, tmp_path_factory.mktemp("before_tf"), ".keras")


def _of_tensorflow(
    keras: Keras, place: Callable[[Any, Function], Network], folder: Path, suffix: str
) -> Outcomes:
    """tf_keras writes no ``...`` into a ``.keras`` file."""
    import tensorflow as tf

    chosen = [f for f in OF_TENSORFLOW.values() if suffix == ".h5" or f.name != "index of all but channels"]
    chosen = [f for f in chosen if place is _before or f.axis is not None]
    return _by_gamma(keras, {f.name: place(tf, f) for f in chosen}, folder, suffix)


@positive_gammas
@pytest.mark.parametrize("name", [name for name, f in OF_TENSORFLOW.items() if f.axis is not None])
def test_bn_behind_a_function_of_tensorflow(behind_tf: Outcomes, name: str, gamma: str) -> None:
    behind_tf(gamma)[name].assert_told(OF_TENSORFLOW[name].why(gamma))


@positive_gammas
@pytest.mark.parametrize("name", [name for name in OF_TENSORFLOW if name != "index of all but channels"])
def test_bn_before_a_function_of_tensorflow(before_tf: Outcomes, name: str, gamma: str) -> None:
    before_tf(gamma)[name].assert_told(OF_TENSORFLOW[name].why_before(gamma))


def test_a_function_that_reads_the_shape_alone(tf_keras: Keras, tmp_path: Path) -> None:
    """What it reads may be held in any way."""
    import tensorflow as tf

    layers = tf_keras.layers
    x = layers.Input((8, 7, 3), name="x")
    y = layers.Dense(4)(x)
    norm = layers.BatchNormalization()(y)
    model = stir(tf_keras.Model(x, [layers.Activation("tanh")(norm), tf.shape(y)]))
    assert check(tf_keras, model, tmp_path)[0].kept == {}


def test_a_cast(keras: Keras, tmp_path: Path) -> None:
    """To a wider type everything passes; to a narrower one, or to whole numbers, nothing."""
    layers = keras.layers
    x = layers.Input((8, 7, 3), name="x")
    for has, to, why in (
        ("float32", "float64", None),
        ("float16", "float64", None),
        ("float64", "float32", Reason.OTHER_TYPE),
        ("int32", "float32", Reason.UNSUPPORTED_OP),
    ):
        y = keras.ops.cast(layers.Dense(4, dtype=has.replace("int", "float"))(x), has)
        norm = layers.BatchNormalization(dtype=to, name="norm")(keras.ops.cast(y, to))
        model = stir(keras.Model(x, layers.Activation("tanh")(norm)))
        folded, _ = check(keras, model, tmp_path / f"{has}-{to}", tolerance={"float16": 2e-2}.get(has, 1e-5))
        if why is None:
            assert folded.kept == {}
        else:
            assert why in folded.kept["norm"]


def test_a_function_inside_a_time_distributed(keras: Keras, tmp_path: Path) -> None:
    """It sees one step: what looks at no axis passes, the rest does not."""
    layers = keras.layers
    functions: list[tuple[str, Make, bool]] = [
        ("arithmetic", lambda y: y * 2.0 + VECTOR, True),
        ("flip", lambda y: keras.ops.flip(y, axis=1), False),
    ]
    for name, function, goes in functions:
        z = layers.Input((5, 3), name="z")
        norm = layers.BatchNormalization(name="norm")(function(layers.Dense(3)(z)))
        step = keras.Model(z, layers.Activation("tanh")(norm), name="step")
        x = layers.Input((4, 5, 3), name="x")
        model = stir(keras.Model(x, layers.TimeDistributed(step)(x)))
        folded, _ = check(keras, model, tmp_path / name)
        assert (folded.kept == {}) is goes


def test_a_join_of_which_one_branch_refuses(keras: Keras, tmp_path: Path) -> None:
    """A BatchNormalization moves onto that branch, in front of the function that joins them."""
    layers = keras.layers
    x = layers.Input((8, 8, 3), name="x")
    wide = layers.Conv2D(13, 3, strides=2, padding="same")(x)
    y = keras.ops.concatenate([wide, layers.MaxPooling2D(2)(x)], axis=-1)
    norm = layers.BatchNormalization(name="norm")(y)
    folded, loaded = check(keras, stir(keras.Model(x, layers.Activation("tanh")(norm))), tmp_path)
    assert loaded.get_layer("norm").gamma.shape == (3,)
    assert set(folded.kept) == {"norm"}
