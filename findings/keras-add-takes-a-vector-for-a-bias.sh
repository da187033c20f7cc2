#!/usr/bin/env bash
# Keras: under TensorFlow, keras.ops.add adds a vector of shape (3, 1, 1) along the last axis where that has 3, too.
#
# By broadcasting it belongs along axis 1, and there NumPy, JAX and PyTorch add it. The TensorFlow backend takes a
# second operand that has one axis longer than 1 for the bias of a layer, and hands it to bias_add: along the last
# axis where the sizes fit. EinsumDense adds its bias so: one along another axis than the last means another thing
# there than under JAX, in the same file. Exits 0 where that is so, 1 where it changed.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet keras==3.15.1 numpy==2.2.6 h5py==3.14.0 "jax[cpu]==0.6.2" tensorflow-cpu==2.20.0
cat >"$folder/add.py" <<'PYTHON'
import sys

import keras
import numpy as np

x, v = np.zeros((1, 3, 5, 3), "float32"), np.array([1, 2, 3], "float32").reshape(3, 1, 1)
along = {0: "none", 1: "axis 1", 3: "the last axis"}
made = np.asarray(keras.ops.add(x, v))
changing = [axis for axis in (1, 2, 3) if np.ptp(made, axis=axis).any()]
layer = keras.layers.EinsumDense("abcd,de->aecb", (3, 5, 3), bias_axes="e", bias_initializer="ones")
layer.build((1, 3, 5, 3))
layer.set_weights([np.zeros((3, 3), "float32"), v])
biased = np.asarray(layer(x))
told = [along[axis] for axis in changing], [along[a] for a in (1, 3) if np.ptp(biased, axis=a).any()]
print("keras", keras.__version__, "on", keras.backend.backend() + ": add varies along", *told[0], end="; ")
print("the bias of EinsumDense along", *told[1])
sys.exit(told != (sys.argv[1:], sys.argv[1:]))
PYTHON
cd "$folder"
export TF_CPP_MIN_LOG_LEVEL=3
KERAS_BACKEND=jax venv/bin/python add.py "axis 1"
KERAS_BACKEND=tensorflow venv/bin/python add.py "the last axis" 2>/dev/null
