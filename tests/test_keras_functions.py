"""A BatchNormalization behind or before every function: it passes, or it stays as told."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from bnfuse.core.reasons import Reason
from tests.keras_functions import VECTOR, Function, of_keras, of_tensorflow
from tests.keras_nets import Keras, Make, check, stir
from tests.keras_together import Network, Outcome, outcomes, telling

pytestmark = pytest.mark.slow

OF_KERAS = {function.name: function for function in of_keras()}
OF_TENSORFLOW = {function.name: function for function in of_tensorflow()}
Tried = dict[str, tuple[Function, str]]  # by test: the function, and the kind of γ


def _behind(functions: Mapping[str, Function]) -> Tried:
    """For a BN behind them: those whose channels come out along one axis."""
    return {
        f"{name}, {gamma}": (function, gamma)
        for name, function in functions.items()
        if function.axis is not None
        for gamma in telling(function.why)
    }


def _before(functions: Mapping[str, Function]) -> Tried:
    return {
        f"{name}, {gamma}": (function, gamma)
        for name, function in functions.items()
        for gamma in telling(function.why_before)
    }


def _once(tried: Tried, rather: Callable[[Function, str], bool]) -> Tried:
    """One of each function: one that is rather wanted, if there is any."""
    chosen: Tried = {}
    for name, (function, gamma) in sorted(tried.items(), key=lambda one: not rather(*one[1])):
        if all(other is not function for other, _ in chosen.values()):
            chosen[name] = (function, gamma)
    return {name: one for name, one in tried.items() if name in chosen}


BEHIND, BEFORE = _behind(OF_KERAS), _before(OF_KERAS)
# What passes behind a function of TensorFlow and what is refused before it. Which γ do is a matter of the
# rule, which the functions of Keras tell; how calls are written is read in one way for all γ.
BEHIND_TF = _once(_behind(OF_TENSORFLOW), lambda function, gamma: function.why(gamma) is None)
BEFORE_TF = _once(_before(OF_TENSORFLOW), lambda function, gamma: function.why_before(gamma) is not None)
# tf_keras writes no ``...`` into a ``.keras`` file; into an ``.h5`` it does.
BEFORE_TF = {name: tried for name, tried in BEFORE_TF.items() if tried[0].name != "index of all but channels"}


def _other(layers: Any, function: Function, x: Any, **settings: Any) -> Any:
    """The tensor beside the first, where the function reads it."""
    return _kernel(layers, function, **settings)(x) if function.reads_both else None


def _kernel(layers: Any, function: Function, **settings: Any) -> Any:
    """Something linear over the last axis. (As a Dense it costs tf_keras three times as much.)"""
    convolution = getattr(layers, f"Conv{len(function.shape) - 1}D")
    return convolution(function.shape[-1], 1, **settings)


def _network_behind(library: Any, function: Function, gamma: str) -> Network:
    """One kernel, or two → function → BN."""

    def steps(layers: Any, name: str) -> list[Any]:
        def called(x: Any) -> Any:
            first = _kernel(layers, function, use_bias=False)(x)
            y = function.call(library, first, _other(layers, function, x, use_bias=False))
            return layers.BatchNormalization(axis=function.axis, name=name)(y)

        return [called]

    return Network(function.shape, steps, function.floatx, gamma)


def _network_before(library: Any, function: Function, gamma: str) -> Network:
    """Input → BN → function, beside a kernel → Dense."""

    def steps(layers: Any, name: str) -> list[Any]:
        def called(x: Any) -> Any:
            norm = layers.BatchNormalization(name=name)(x)
            return function.call(library, norm, _other(layers, function, x))

        return [called, layers.Flatten(), layers.Dense(3)]

    return Network(function.shape, steps, function.floatx, gamma)


@pytest.fixture(scope="module")
def behind(keras3: Keras, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Outcome]:
    networks = {name: _network_behind(keras3.ops, *tried) for name, tried in BEHIND.items()}
    return outcomes(keras3, networks, tmp_path_factory.mktemp("behind"))


@pytest.fixture(scope="module")
def before(keras3: Keras, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Outcome]:
    networks = {name: _network_before(keras3.ops, *tried) for name, tried in BEFORE.items()}
    return outcomes(keras3, networks, tmp_path_factory.mktemp("before"))


@pytest.fixture(scope="module")
def behind_tf(keras2: Keras, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Outcome]:
    import tensorflow as tf

    networks = {name: _network_behind(tf, *tried) for name, tried in BEHIND_TF.items()}
    return outcomes(keras2, networks, tmp_path_factory.mktemp("behind_tf"), suffix=".h5")


@pytest.fixture(scope="module")
def before_tf(keras2: Keras, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Outcome]:
    import tensorflow as tf

    networks = {name: _network_before(tf, *tried) for name, tried in BEFORE_TF.items()}
    return outcomes(keras2, networks, tmp_path_factory.mktemp("before_tf"))


@pytest.mark.parametrize("name", BEHIND)
def test_bn_behind_a_function(behind: dict[str, Outcome], name: str) -> None:
    """kernels → function → BN: up through the function, or not, and then for the reason in the table."""
    function, gamma = BEHIND[name]
    behind[name].assert_told(function.why(gamma))


@pytest.mark.parametrize("name", BEFORE)
def test_bn_before_a_function(before: dict[str, Outcome], name: str) -> None:
    """Input → BN → function → Dense: down through the function."""
    function, gamma = BEFORE[name]
    before[name].assert_told(function.why_before(gamma))


@pytest.mark.parametrize("name", BEHIND_TF)
def test_bn_behind_a_function_of_tensorflow(behind_tf: dict[str, Outcome], name: str) -> None:
    function, gamma = BEHIND_TF[name]
    behind_tf[name].assert_told(function.why(gamma))


@pytest.mark.parametrize("name", BEFORE_TF)
def test_bn_before_a_function_of_tensorflow(before_tf: dict[str, Outcome], name: str) -> None:
    function, gamma = BEFORE_TF[name]
    before_tf[name].assert_told(function.why_before(gamma))


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
