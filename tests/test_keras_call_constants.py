"""Constants that stand in calls: what they take on, where a sum comes behind, and which must stay."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bnfuse.core.reasons import Reason
from tests.keras_nets import Keras, assert_same, check, fold, outputs_of, random_inputs, stir
from tests.keras_together import Network, outcomes

pytestmark = pytest.mark.slow

VECTOR = np.array([0.5, -2.0, 3.0], "float32")
Between = Callable[[Any, Any], Any]  # a value, what normalises it
# Between tanh and gelu, where nothing else takes anything on.
BETWEEN: dict[str, Between] = {
    "BN, times and plus": lambda x, norm: norm(x) * 2.0 + 1.0,
    "times and plus, BN": lambda x, norm: norm(x * 2.0 + 1.0),
    "BN, times and plus vectors": lambda x, norm: norm(x) * VECTOR + VECTOR,
    "vectors, reversed, BN": lambda x, norm: norm(2.0 - x * VECTOR),
    "BN, divided and minus": lambda x, norm: norm(x) / 4 - VECTOR,
    "minus and divided, BN": lambda x, norm: norm((x - 1) / VECTOR),
}


def _network(between: Between, gamma: str) -> Network:
    def steps(layers: Any, name: str) -> list[Any]:
        def called(x: Any) -> Any:
            y = between(layers.Activation("tanh")(x), layers.BatchNormalization(name=name))
            return layers.Activation("gelu")(y)

        return [called]

    return Network((4, 5, 3), steps, "float32", gamma)


@pytest.mark.parametrize("version", [3, 2])
def test_arithmetic_takes_on_what_its_constants_can_hold(
    version: int, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    """On both sides of it, with either sign; none divides by zero."""
    library = request.getfixturevalue("keras3" if version == 3 else "keras2")
    tried = {f"{name}, signed": _network(between, "signed") for name, between in BETWEEN.items()}
    tried |= {f"{n}, mixed": _network(b, "mixed") for n, b in BETWEEN.items() if "divided" not in n}
    for outcome in outcomes(library, tried, tmp_path, suffix=".keras" if version == 3 else ".h5").values():
        outcome.assert_told(None)


def test_arithmetic_goes_itself(keras: Keras, tmp_path: Path) -> None:
    """Into a kernel before or behind it; where it named an output, the output keeps its name and type."""
    layers = keras.layers
    x = layers.Input((6, 5, 3), name="x", dtype="float64")
    y = layers.Conv2D(4, 3, dtype="float64")(x)
    y = layers.Activation("tanh", dtype="float64")(3.0 - 2.0 * y)
    z = layers.Dense(2, dtype="float64")(y / 127.5 - 1.0)
    model = stir(keras.Model(x, z * np.array([2.0, -3.0])))
    _, loaded = check(keras, model, tmp_path, tolerance=1e-12)
    kinds = [type(layer).__name__ for layer in loaded.layers]
    assert kinds == ["InputLayer", "Conv2D", "Activation", "Dense", "Activation"]


def test_tensorflow_adds_a_vector_where_its_shape_says(keras2: Keras, tmp_path: Path) -> None:
    """Along the last axis but one, of as many elements as the one before it: Keras's own ``add`` differs."""
    layers = keras2.layers
    x = layers.Input((4, 4, 5), name="x")
    y = layers.Activation("tanh")(x) + np.array([[0.5], [-2.0], [3.0], [0.25]], "float32")
    y = layers.BatchNormalization(axis=2, name="norm")(y)
    model = stir(keras2.Model(x, layers.Activation("tanh")(y)))
    folded, loaded = check(keras2, model, tmp_path, suffix=".h5")
    assert len(folded.gone) == 1 and folded.kept.keys() == {"norm"}
    assert [type(layer).__name__ for layer in loaded.layers].count("TFOpLambda") == 0


def test_a_sum_behind_a_kernel_that_has_no_bias(keras: Keras, tmp_path: Path) -> None:
    """In its place and name: an output keeps them. A nested model that is called twice has both once."""
    ops, layers = keras.ops, keras.layers
    kernel = np.random.default_rng(5).normal(size=(3, 3, 3, 3))
    inner = layers.Input((None, None, 3), name="z")
    y = layers.BatchNormalization(name="norm")(ops.conv(inner, kernel, padding="same"))
    nested = keras.Model(inner, layers.Activation("tanh")(y), name="nested")
    x = layers.Input((8, 8, 3), name="x")
    y = layers.BatchNormalization(name="last")(nested(nested(x)))
    model = stir(keras.Model(x, ops.conv(y, kernel)))
    folded, loaded = check(keras, model, tmp_path)
    assert folded.kept == {}
    assert [type(node).__name__ for node in loaded.operations[-2:]] == ["Conv", "Subtract"]


def test_a_vector_is_added_where_every_backend_adds_it(keras: Keras, tmp_path: Path) -> None:
    """Under TensorFlow ``keras.ops.add`` takes one for a bias of the last axis where the sizes fit."""
    ops, layers = keras.ops, keras.layers
    rng = np.random.default_rng(6)
    rows, across = rng.normal(size=(3, 5)), rng.normal(size=(3, 1, 1))
    x = layers.Input((3, 5, 3), name="x")
    heads = {
        "sum": (2, lambda y: ops.matmul(rows, y)),
        "number": (1, lambda y: y + 1.0),
        "across": (3, lambda y: ops.add(y, across)),
        "bias": (1, layers.EinsumDense("abcd,de->aecb", (3, 5, 3), bias_axes="e")),
        "none": (1, layers.EinsumDense("abcd,de->aecb", (3, 5, 3))),
    }
    outputs = []
    for name, (axis, head) in heads.items():
        y = head(layers.Activation("tanh")(x))
        outputs.append(layers.Activation("gelu")(layers.BatchNormalization(axis=axis, name=name)(y)))
    folded, _ = check(keras, stir(keras.Model(x, outputs)), tmp_path, tolerance=1e-12)
    assert folded.kept.keys() == {"number", "across", "bias", "none"}


def test_a_bias_of_one_channel_stays_a_vector(keras2: Keras, tmp_path: Path) -> None:
    """TensorFlow's ``bias_add`` takes no number."""
    import tensorflow as tf

    layers = keras2.layers
    x = layers.Input((6, 3), name="x")
    y = tf.nn.bias_add(layers.Dense(1, activation="relu")(x), [0.5])
    y = layers.BatchNormalization(scale=False)(y)
    model = stir(keras2.Model(x, layers.Activation("tanh")(y)))
    folded, _ = check(keras2, model, tmp_path, suffix=".h5")
    assert folded.kept == {}


def test_calls_of_one_layer_have_one_bias(keras: Keras, tmp_path: Path) -> None:
    """Where one of them passes a shift on instead, the other does not take it in."""
    ops, layers = keras.ops, keras.layers
    inner = layers.Input((4, 1), name="z")
    nested = keras.Model(inner, ops.matmul(inner, np.array([[1.5]])), name="nested")
    y = x = layers.Input((4, 1), name="x")
    for axis in (1, 2):
        y = nested(layers.BatchNormalization(axis=axis)(y))
    y = layers.BatchNormalization()(y)
    check(keras, stir(keras.Model(x, y)), tmp_path, tolerance=1e-12)


def test_a_norm_in_a_call_takes_on_what_it_has_constants_for(keras: Keras, tmp_path: Path) -> None:
    ops, layers = keras.ops, keras.layers
    x = layers.Input((6, 3), name="x")
    outputs = []
    v = VECTOR.astype("float64")
    given: tuple[dict[str, Any], ...] = ({}, {"gamma": v}, {"beta": v}, {"gamma": v, "beta": v})
    for number, more in enumerate(given):
        y = layers.BatchNormalization(name=f"norm{number}")(ops.layer_normalization(x, **more))
        outputs.append(layers.Activation("tanh")(y))
    folded, _ = check(keras, stir(keras.Model(x, outputs)), tmp_path)

    assert folded.kept.keys() == {"norm0", "norm1", "norm2"}


def test_a_normalisation_in_a_call_goes(keras: Keras, tmp_path: Path) -> None:
    """Its statistics stand in the call; those of another type are cast there, and stay."""
    ops, layers = keras.ops, keras.layers
    x = layers.Input((6, 3), name="x", dtype="float64")
    for dtype, gone in (("float64", True), ("float32", False)):
        v = VECTOR.astype(dtype)
        y = ops.batch_normalization(layers.Dense(3, dtype="float64")(x), v, v**2, -1, offset=v, scale=v)
        model = stir(keras.Model(x, layers.Activation("tanh", dtype="float64")(y)))
        folded = fold(model, tmp_path / dtype)
        assert (folded.kept == {}) is gone
        feeds = random_inputs(model)
        loaded = keras.models.load_model(folded.after)
        assert_same(outputs_of(model, feeds), outputs_of(loaded, feeds), 1e-12)


def test_a_call_of_an_hdf5_file_stays(keras: Keras, tmp_path: Path) -> None:
    """Keras 3 loads no arrays of them, so none is put there."""
    layers = keras.layers
    x = layers.Input((6, 3), name="x")
    y = layers.BatchNormalization(name="norm")(layers.Activation("tanh")(x) * 2.0 + 1.0)
    model = stir(keras.Model(x, layers.Activation("tanh")(y)))
    assert fold(model, tmp_path, ".h5").kept.keys() == {"norm"}
    assert fold(model, tmp_path, ".keras").kept == {}


def test_numbers_that_do_not_fit(keras: Keras, tmp_path: Path) -> None:
    """In float16 a constant holds no more than 65504: who would fold into it stays."""
    layers = keras.layers
    x = layers.Input((6, 3), name="x", dtype="float16")
    y = layers.BatchNormalization(name="norm", dtype="float16")(layers.Activation("tanh", dtype="float16")(x))
    model = keras.Model(x, layers.Activation("tanh", dtype="float16")(y * 30000.0))
    model.get_layer("norm").gamma.assign([9.0, 9.0, 9.0])
    assert Reason.OVERFLOW in fold(model, tmp_path).kept["norm"]
