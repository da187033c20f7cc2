"""Types and policies: what is stored keeps its type, and nothing is folded into a narrower one."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bnfuse.core.reasons import Reason
from tests.command import FAST, call
from tests.keras_nets import Keras, assert_same, batchnorms, both_containers, check, fold, outputs_of, stir

pytestmark = pytest.mark.slow


def _policy_net(keras: Keras, policy: str, last: str) -> Any:
    layers = keras.layers
    x = layers.Input((8, 7, 3), name="x", dtype="float32")
    y = layers.Conv2D(4, 3, dtype=policy, use_bias=False)(x)
    y = layers.BatchNormalization(dtype=policy)(y)
    y = layers.GlobalAveragePooling2D(dtype=policy)(layers.ReLU(dtype=policy)(y))
    y = layers.Dense(5, dtype=policy)(layers.BatchNormalization(dtype=policy)(y))
    return stir(keras.Model(x, layers.Dense(3, dtype=last)(y)), gamma="signed")


@both_containers
@pytest.mark.parametrize(
    ("policy", "last", "tolerance"),
    [
        ("mixed_float16", "float32", 2e-2),
        ("mixed_bfloat16", "float32", 1e-1),
        ("float64", "float64", 1e-7),  # the input is float32, which is widened
        ("float32", "float32", 1e-5),
        ("float16", "float16", 2e-2),
    ],
)
def test_policies(
    keras: Keras, policy: str, last: str, tolerance: float, suffix: str, tmp_path: Path
) -> None:
    """What is stored keeps its type: float32 under a mixed policy."""
    model = _policy_net(keras, policy, last)
    _, loaded = check(keras, model, tmp_path, suffix=suffix, tolerance=tolerance)
    assert batchnorms(loaded) == []
    stored = "float32" if policy.startswith("mixed") else policy
    assert {str(w.dtype) for w in loaded.weights} == {stored, last}


@pytest.mark.parametrize("policy", ["mixed_float16", "mixed_bfloat16", "float16"])
def test_a_wider_bn_in_a_narrow_net_stays(keras: Keras, policy: str, tmp_path: Path) -> None:
    layers = keras.layers
    x = layers.Input((5,), name="x", dtype="float32")
    y = layers.BatchNormalization(dtype="float32", name="wide")(layers.Dense(4, dtype=policy)(x))
    model = stir(keras.Model(x, layers.Dense(3, dtype=policy)(y)))
    folded, _ = check(keras, model, tmp_path, tolerance=1e-1)
    assert folded.kept == {"wide": {Reason.OTHER_TYPE}}


def test_no_demand_crosses_a_cast_to_a_narrower_type(keras: Keras, tmp_path: Path) -> None:
    """x of mean 3000 in float32: normalised, then cast, it is exact enough; cast first, it is not.

    Folded into the float16 kernel behind, 3000 would be rounded to a multiple of 2.
    """
    layers = keras.layers
    x = layers.Input((5,), name="x", dtype="float32")
    y = layers.BatchNormalization(dtype="float32", name="wide")(x)
    model = keras.Model(x, layers.Dense(3, dtype="mixed_float16")(y))
    stir(model)
    model.layers[1].moving_mean.assign(np.full(5, 3000.0))
    model.layers[1].gamma.assign(np.full(5, 1.5))
    folded = fold(model, tmp_path)
    assert folded.kept == {"wide": {Reason.GRAPH_INPUT, Reason.OTHER_TYPE}}
    loaded = keras.models.load_model(folded.after, compile=False)
    feeds = [np.random.default_rng(0).normal(3000, 1, (6, 5)).astype(np.float32)]
    assert_same(outputs_of(model, feeds), outputs_of(loaded, feeds), 1e-3)


def test_a_cast_to_a_wider_type_costs_nothing(keras: Keras, tmp_path: Path) -> None:
    """The float32 layer at the end of a mixed net reads what its BN read."""
    layers = keras.layers
    x = layers.Input((5,), name="x", dtype="float16")
    y = layers.BatchNormalization(dtype="mixed_float16", name="narrow")(x)
    model = stir(keras.Model(x, layers.Dense(3, dtype="float32")(y)))
    folded, loaded = check(keras, model, tmp_path, tolerance=2e-2)
    assert folded.gone == {"narrow"}
    assert batchnorms(loaded) == []


@pytest.mark.parametrize("policy", ["float16", "mixed_float16"])
def test_float16_overflow(keras: Keras, policy: str, tmp_path: Path) -> None:
    """A kernel beyond 65504 is infinite: under a mixed policy, too, which casts it before use."""
    layers = keras.layers
    x = layers.Input((5,), name="x", dtype="float16")
    y = layers.BatchNormalization(dtype=policy, name="n")(layers.Dense(4, dtype=policy)(x))
    model = stir(keras.Model(x, layers.Activation("tanh", dtype=policy)(y)), gamma="positive")
    model.layers[1].kernel.assign(np.full((5, 4), 1000.0))
    model.layers[2].gamma.assign(np.full(4, 100.0))
    folded = fold(model, tmp_path)
    assert Reason.OVERFLOW in folded.kept["n"]
    assert folded.after.read_bytes() == folded.before.read_bytes()


@pytest.mark.parametrize("policy", ["mixed_float16", "mixed_bfloat16"])
def test_a_fold_into_a_wider_layer_is_proved_by_the_type_that_goes(
    keras3: Keras, policy: str, tmp_path: Path
) -> None:
    """The last layer's softmax hides what it computed: its output decides, by the roundings of 16 bits."""
    layers = keras3.layers
    x = layers.Input((8, 8, 3), name="x")
    y = layers.ReLU(dtype=policy)(layers.Conv2D(16, 3, dtype=policy)(x))
    y = layers.GlobalAveragePooling2D(dtype=policy)(layers.BatchNormalization(name="n", dtype=policy)(y))
    stir(keras3.Model(x, layers.Dense(10, activation="softmax")(y)), gamma="signed").save(
        tmp_path / "m.keras"
    )
    ran = call("optimize", tmp_path / "m.keras", "--no-bench", "--json", *FAST[:2])
    assert ran.exit_code == 0, ran.output
    report = json.loads(ran.stdout)
    assert report["batchnorms"] == {"found": 1, "folded": 1, "kept": 0}
    assert report["verification"]["status"] == "equal"
