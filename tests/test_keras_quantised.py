"""Kernels that Keras stores as integers: scales, signs and biases change, and nothing is rounded anew."""

from __future__ import annotations

import io
import json
import zipfile
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from bnfuse.core.reasons import Reason
from tests.command import call
from tests.keras_nets import Keras, assert_same, batchnorms, fold, outputs_of, random_inputs, stir

pytestmark = pytest.mark.slow


def _quantised(keras: Keras, mode: str, *, gamma: str = "mixed", block: int | None = None) -> Any:
    """Dense and EinsumDense with a BatchNormalization behind, odd numbers of outputs."""
    layers = keras.layers

    def norm(y: Any) -> Any:
        return layers.Activation("tanh")(layers.BatchNormalization()(y))

    x = layers.Input((3, 6), name="x")
    y = norm(layers.Dense(5, name="first")(x))
    y = norm(layers.EinsumDense("abc,cd->abd", output_shape=(None, 6), name="plain")(y))
    y = norm(layers.EinsumDense("abc,cd->abd", output_shape=(None, 7), bias_axes="d", name="biased")(y))
    y = norm(layers.Dense(4, use_bias=False, activation="linear", name="second")(y))
    model = stir(keras.Model(x, layers.Dense(3, name="last")(y)), gamma=gamma)
    if mode == "int4":
        from keras.quantizers import Int4QuantizationConfig

        model.quantize(config=Int4QuantizationConfig(block_size=block))
    else:
        model.quantize(mode)
    return model


def _stored(path: Path) -> dict[str, np.ndarray]:
    with h5py.File(io.BytesIO(zipfile.ZipFile(path).read("model.weights.h5"))) as file:
        found: dict[str, np.ndarray] = {}
        file.visititems(
            lambda name, at: found.update({name: at[()]}) if isinstance(at, h5py.Dataset) else None
        )
        return found


@pytest.mark.parametrize(("mode", "block"), [("int8", None), ("int4", None), ("int4", 2), ("int4", 128)])
def test_what_follows_goes_into_scales_and_signs(
    keras3: Keras, mode: str, block: int | None, tmp_path: Path
) -> None:
    model = _quantised(keras3, mode, block=block)
    folded = fold(model, tmp_path)
    loaded = keras3.models.load_model(folded.after, compile=False)
    gone = 4 if block or mode == "int8" else len(folded.gone)
    assert len(folded.gone) == gone > 0
    assert len(batchnorms(loaded)) == 4 - gone
    for layer in loaded.layers:
        if hasattr(layer, "kernel_scale"):
            assert "int" in layer.quantization_mode
    feeds = random_inputs(model)
    assert_same(outputs_of(model, feeds), outputs_of(loaded, feeds), 1e-5)
    before, after = _stored(folded.before), _stored(folded.after)
    for layer in ("dense", "einsum_dense"):  # what was rounded stays as it was, but for signs and zeros
        old, new = (each[f"layers/{layer}/vars/0"] for each in (before, after))
        assert old.dtype == new.dtype == np.int8
        if mode == "int8":
            assert np.isin(new[old != 0] / old[old != 0], (-1.0, 0.0, 1.0)).all()
        elif block:
            assert (old == new).all()


def test_a_sign_that_would_leave_the_type_stays(keras3: Keras, tmp_path: Path) -> None:
    """−8 of 4 bits has no opposite: with its channel."""
    layers = keras3.layers
    x = layers.Input((2,), name="x")
    model = keras3.Model(x, layers.BatchNormalization(name="norm")(layers.Dense(2, name="dense")(x)))
    dense, norm = model.layers[1:]
    from keras.quantizers import Int4QuantizationConfig

    dense.quantize(config=Int4QuantizationConfig(block_size=None))
    for gamma, goes in (([1.0, -1.0], True), ([-1.0, 1.0], False)):
        dense._kernel.assign(np.array([[0x78], [0x11]], np.int8))  # −8 and 7, 1 and 1
        norm.gamma.assign(gamma)
        folded = fold(model, tmp_path / f"{goes}")
        assert (folded.gone == {"norm"}) is goes
        if not goes:
            assert Reason.QUANTISED_WEIGHT in folded.kept["norm"]
            (decision,) = folded.plan.decisions
            assert any("channel 0 of axis 1" in r.sentence for r in decision.refusals)  # type: ignore[union-attr]
        loaded = keras3.models.load_model(folded.after, compile=False)
        feeds = random_inputs(model)
        assert_same(outputs_of(model, feeds), outputs_of(loaded, feeds), 1e-6)


def test_what_comes_in(keras3: Keras, tmp_path: Path) -> None:
    """A shift does not enter where inputs are rounded; where they are not, each block takes its own scale."""
    layers = keras3.layers
    for mode, goes in (("int8", False), ("int4", True)):
        x = layers.Input((6,), name="x")
        y = layers.BatchNormalization(name="norm")(layers.Activation("tanh")(x))
        model = stir(keras3.Model(x, layers.Dense(4, name="dense")(y)), gamma="positive")
        norm, dense = model.get_layer("norm"), model.get_layer("dense")
        norm.set_weights([np.full(6, 2.0), np.arange(6.0), np.zeros(6), np.ones(6)])
        dense.quantize(mode)
        folded = fold(model, tmp_path / mode)
        assert (folded.gone == {"norm"}) is goes
        loaded = keras3.models.load_model(folded.after, compile=False)
        feeds = random_inputs(model)
        assert_same(outputs_of(model, feeds), outputs_of(loaded, feeds), 1e-6)


def test_on_the_command_line(keras3: Keras, tmp_path: Path) -> None:
    path = tmp_path / "m.keras"
    _quantised(keras3, "int8").save(path)
    ran = call("optimize", path, "--no-bench", "--json")
    assert ran.exit_code == 0, ran.output
    report = json.loads(ran.stdout)
    assert report["batchnorms"] == {"found": 4, "folded": 4, "kept": 0}
    assert report["verification"]["status"] == "equal"


@pytest.mark.parametrize("block", [None, 128])
def test_one_output_has_one_scale(keras3: Keras, block: int | None, tmp_path: Path) -> None:
    """A scale of the inputs does not fit it, though it is one number in the file."""
    from keras.quantizers import Int4QuantizationConfig

    layers = keras3.layers
    x = layers.Input((6,), name="x")
    y = layers.BatchNormalization(name="norm")(layers.Activation("tanh")(x))
    model = stir(keras3.Model(x, layers.Dense(1, name="dense")(y)))
    model.layers[-1].quantize(config=Int4QuantizationConfig(block_size=block))
    folded = fold(model, tmp_path)
    assert folded.kept.keys() == {"norm"}
