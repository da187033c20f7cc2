#!/usr/bin/env bash
# Keras: a Functional model with keras.ops.maximum(x, array) comes back from a .keras file, not from .h5.
#
# Saving to .h5 writes the array into the node's call as an object and says nothing; loading hands that object
# to the call as it is, and TypeError comes out. The archive of the same model loads and computes the same. So a
# vector in a node is at home in one of Keras's two containers only. Exits 0 where that is so, 1 where it changed.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet keras==3.15.1 numpy==2.2.6 h5py==3.14.0 "jax[cpu]==0.6.2"
cd "$folder" && KERAS_BACKEND=jax "$folder/venv/bin/python" - <<'PYTHON'
import sys

import keras
import numpy as np

x = keras.Input((4,))
y = keras.ops.maximum(keras.layers.Dense(3)(x), np.array([0.1, 0.2, 0.3], "float32"))
model = keras.Model(x, keras.layers.Dense(2)(y))
given = np.ones((1, 4), "float32")
came_back = {}
for name in ("m.keras", "m.h5"):
    model.save(name)
    try:
        loaded = keras.models.load_model(name, compile=False)
        came_back[name] = float(np.abs(np.asarray(loaded(given)) - np.asarray(model(given))).max()) == 0.0
    except TypeError as error:
        came_back[name] = False
        print(name, "saved, but loading it ends in", type(error).__name__)
print("keras", keras.__version__, "the same after saving and loading:", came_back)
sys.exit(came_back != {"m.keras": True, "m.h5": False})
PYTHON
