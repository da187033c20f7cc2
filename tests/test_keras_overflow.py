"""New float32 weights of a Keras model that overflow are found when they are written: all begins anew then.

Planning does not read float32 kernels; the BatchNormalization in question stays, the others fold.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.command import call
from tests.keras_models import import_keras
from tests.keras_nets import batchnorms, stir

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def keras() -> Any:
    return import_keras()


@pytest.mark.parametrize("suffix", [".keras", ".h5"])
@pytest.mark.parametrize("first", ["Dense", "Embedding"])
def test_the_fold_that_overflows_stays_and_the_other_goes(
    keras: Any, first: str, suffix: str, tmp_path: Path
) -> None:
    layers = keras.layers
    embeds = first == "Embedding"
    x = layers.Input((6,), name="x", dtype="int32" if embeds else "float32")
    y = layers.Embedding(9, 4, name="large")(x) if embeds else layers.Dense(4, name="large")(x)
    y = layers.Activation("tanh")(layers.BatchNormalization(name="overflows")(y))
    y = layers.BatchNormalization(name="fine")(layers.Dense(3, name="small")(y))
    model = stir(keras.Model(x, y), gamma="positive")
    large = model.get_layer("large")
    large.set_weights([np.full(w.shape, 1e37 if w.ndim == 2 else 0.1) for w in large.get_weights()])
    model.get_layer("overflows").gamma.assign(np.full(4, 1e3))
    before, after = tmp_path / f"a{suffix}", tmp_path / f"b{suffix}"
    model.save(before)
    done = call("optimize", before, "-o", after, "--no-verify", "--no-bench", "--json")
    assert done.exit_code == 0, done.output
    decided = {d["name"]: d["reason"] for d in json.loads(done.stdout)["decisions"]}
    assert decided == {"overflows": "OVERFLOW", "fine": None}
    loaded = keras.models.load_model(after, compile=False)
    assert batchnorms(loaded) == ["overflows"]
    for name in ("large", "overflows"):
        for old, new in zip(
            model.get_layer(name).get_weights(), loaded.get_layer(name).get_weights(), strict=True
        ):
            np.testing.assert_array_equal(old, new)
    kernel, bias = (w.astype(np.float64) for w in model.get_layer("small").get_weights())
    gamma, beta, mean, variance = (w.astype(np.float64) for w in model.get_layer("fine").get_weights())
    a = gamma / np.sqrt(variance + model.get_layer("fine").epsilon)
    folded = loaded.get_layer("small").get_weights()
    np.testing.assert_array_equal(folded[0], (kernel * a).astype(np.float32))
    np.testing.assert_allclose(folded[1], bias * a + beta - mean * a, rtol=1e-6)
