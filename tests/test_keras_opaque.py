"""What nobody can look into, or may not touch: code, custom layers, quantised and LoRA kernels.

The BatchNormalizations around it fold."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bnfuse.core.reasons import Reason
from tests.keras_nets import (
    Keras,
    assert_same,
    batchnorms,
    both_containers,
    check,
    computing_in,
    fold,
    fold_file,
    outputs_of,
    random_inputs,
    stir,
)
from tests.keras_trained import stored_config

pytestmark = pytest.mark.slow


def test_functions_as_layers(keras: Keras, tmp_path: Path) -> None:
    """``keras.ops`` nodes: what is not known of them is opaque; arithmetic goes, all else is copied as it is.

    (In .h5 Keras 3 cannot load them itself.)
    """
    layers, ops = keras.layers, keras.ops
    x = layers.Input((4,), name="x")
    a = layers.BatchNormalization(name="into_a")(layers.Dense(5)(x))
    b = ops.relu(layers.BatchNormalization(name="into_b")(layers.Dense(5)(x)))
    y = ops.logaddexp(ops.add(a, b) * 2.0 - 1.0, 0.5)
    y = layers.BatchNormalization(name="sum")(y)
    y = layers.BatchNormalization(name="into_c")(layers.Dense(3)(ops.concatenate([y, x], axis=-1)))
    folded, _ = check(keras, stir(keras.Model(x, layers.Activation("tanh")(y))), tmp_path)
    assert {name.partition("_")[0] for name in folded.gone} == {"into", "sum", "multiply", "subtract"}
    assert folded.kept == {}
    before, after = (stored_config(path)[0]["config"]["layers"] for path in (folded.before, folded.after))
    functions = [[each for each in config if ".ops." in each["module"]] for config in (before, after)]
    stay = [each["config"] for each in functions[0] if each["class_name"] not in ("Multiply", "Subtract")]
    assert len(stay) == 4
    assert stay == [each["config"] for each in functions[1]]


def test_a_sum_of_operators(keras: Keras, tmp_path: Path) -> None:
    """``a + b`` is an Add."""
    layers = keras.layers
    x = layers.Input((4,), name="x")
    y = layers.BatchNormalization()(layers.Dense(5)(x) + layers.Dense(5)(x))
    folded, _ = check(keras, stir(keras.Model(x, layers.Activation("tanh")(y))), tmp_path)
    assert folded.kept == {}


def test_a_lambda_is_opaque(keras: Keras, tmp_path: Path) -> None:
    """It is neither run nor read; the layers around it fold; its bytes stay."""
    layers = keras.layers
    x = layers.Input((4,), name="x")
    y = layers.BatchNormalization(name="before")(layers.Dense(5)(x))
    y = layers.Lambda(lambda t: t * 3.0, output_shape=(5,), name="code")(y)
    y = layers.BatchNormalization(name="behind")(y)
    y = layers.BatchNormalization(name="last")(layers.Dense(3, activation="tanh")(y))
    model = stir(keras.Model(x, layers.Dense(2)(y)))
    folded = fold(model, tmp_path)
    assert folded.gone == {"before", "behind", "last"}
    loaded = keras.models.load_model(folded.after, compile=False, safe_mode=False)
    feeds = random_inputs(model)
    assert_same(outputs_of(model, feeds), outputs_of(loaded, feeds), 1e-12)
    y = layers.Lambda(lambda t: t * 3.0, output_shape=(4,))(layers.BatchNormalization(name="held")(x))
    assert Reason.UNSUPPORTED_OP in fold(stir(keras.Model(x, y)), tmp_path / "held").kept["held"]


def _custom(keras: Keras) -> type[Any]:
    class Cube(keras.layers.Layer):  # type: ignore[misc]
        def build(self, input_shape: Any) -> None:
            self.kernel = self.add_weight(shape=(input_shape[-1],), name="kernel")

        def call(self, inputs: Any) -> Any:
            return inputs**3 * self.kernel

    return Cube


@both_containers
@pytest.mark.parametrize("registered", [True, False])
def test_a_custom_layer_folds_without_its_code(
    keras: Keras, registered: bool, suffix: str, tmp_path: Path
) -> None:
    layers = keras.layers
    cube = _custom(keras)
    if registered:
        cube = keras.saving.register_keras_serializable(package="Shop")(cube)
    x = layers.Input((4,), name="x")
    y = layers.BatchNormalization(name="before")(layers.Dense(5)(x))
    y = layers.BatchNormalization(name="behind")(cube(name="cube")(y))
    model = stir(keras.Model(x, layers.Dense(2)(y)))
    (tmp_path / "m").mkdir()
    before = tmp_path / f"before{suffix}"
    model.save(before)
    keras.saving.get_custom_objects().pop("Shop>Cube", None)
    folded = fold_file(before, tmp_path / f"after{suffix}")
    assert folded.gone == {"before", "behind"}
    with keras.saving.custom_object_scope({"Shop>Cube": cube, "Cube": cube}):
        loaded = keras.models.load_model(folded.after, compile=False)
    feeds = random_inputs(model)
    assert_same(outputs_of(model, feeds), outputs_of(loaded, feeds), 1e-12)
    assert batchnorms(loaded) == []


def test_quantised_layers_are_left_alone(keras: Keras, tmp_path: Path) -> None:
    """8-bit floats: the BN behind one stays, with why; the rest folds; arrays keep their bytes."""
    with computing_in(keras, "float32"):
        layers = keras.layers
        x = layers.Input((4,), name="x")
        y = layers.BatchNormalization(name="stays")(layers.Dense(5, name="small")(x))
        y = layers.EinsumDense("ab,bc->ac", 3, name="other")(layers.Activation("tanh")(y))
        y = layers.BatchNormalization(name="end")(layers.ReLU()(y))
        y = layers.BatchNormalization(name="goes")(y)
        model = stir(keras.Model(x, layers.Activation("tanh")(y)))
        model.quantize("float8")
        folded, loaded = check(keras, model, tmp_path, tolerance=1e-4)
    assert Reason.LOCKED_WEIGHTS in folded.kept["stays"]
    assert len(folded.gone) == 1  # one of the last two goes into the other
    kernel = np.asarray(loaded.get_layer("small").kernel)
    np.testing.assert_array_equal(kernel, np.asarray(model.get_layer("small").kernel))


@both_containers
def test_lora_is_locked(keras: Keras, suffix: str, tmp_path: Path) -> None:
    """Its kernel is in three parts in .h5, merged in .keras: neither is touched."""
    layers = keras.layers
    model = keras.Sequential(
        [
            layers.Input((5,), name="x"),
            layers.Dense(4, name="tuned"),
            layers.BatchNormalization(name="n"),
            layers.Activation("tanh"),
            layers.Dense(3, name="plain"),
            layers.BatchNormalization(name="goes"),
        ]
    )
    model.layers[0].enable_lora(2)
    stir(model)
    folded, _ = check(keras, model, tmp_path, suffix=suffix)
    assert Reason.LOCKED_WEIGHTS in folded.kept["n"]
    assert folded.gone == {"goes"}
