#!/usr/bin/env bash
# Keras: RMSNormalization(axis=1) normalises along axis 1, and lays its scale along the last axis.
#
# The layer makes one scale for each element of the axis that it normalises, but multiplies as NumPy
# broadcasts: along the last axis. Where both axes have one size that is silent; where not, the call fails.
# LayerNormalization(axis=1) lays its gamma along axis 1. Exits 0 where that is still so, 1 where it changed.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet keras==3.15.1 numpy==2.2.6 "jax[cpu]==0.6.2"
KERAS_BACKEND=jax "$folder/venv/bin/python" - <<'PYTHON'
import sys

import keras
import numpy as np

scale = np.array([1.0, 10.0, 100.0], np.float32)
x = np.random.default_rng(0).standard_normal((2, 3, 3)).astype(np.float32)


def called(layer: keras.layers.Layer, weights: list[np.ndarray]) -> np.ndarray:
    layer.build(x.shape)
    layer.set_weights(weights)
    return np.asarray(layer(x))


rms = x / np.sqrt(np.mean(x * x, axis=1, keepdims=True) + 1e-6)
got = called(keras.layers.RMSNormalization(axis=1), [scale])
along_axis, along_last = rms * scale[:, None], rms * scale
print("keras", keras.__version__, "RMSNormalization(axis=1) of (2, 3, 3):")
print("  scale along axis 1:", np.allclose(got, along_axis, rtol=1e-4), " along the last:", np.allclose(got, along_last, rtol=1e-4))
centred = x - x.mean(axis=1, keepdims=True)
norm = centred / np.sqrt(np.mean(centred * centred, axis=1, keepdims=True) + 1e-3)
layer_norm = called(keras.layers.LayerNormalization(axis=1), [scale, np.zeros(3, np.float32)])
print("  LayerNormalization(axis=1), gamma along axis 1:", np.allclose(layer_norm, norm * scale[:, None], rtol=1e-3))
sys.exit(not np.allclose(got, along_last, rtol=1e-4) or np.allclose(got, along_axis, rtol=1e-4))
PYTHON
