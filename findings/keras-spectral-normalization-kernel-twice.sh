#!/usr/bin/env bash
# Keras: a .keras file holds the kernel of a layer in SpectralNormalization twice, as two datasets.
#
# The wrapper tracks the kernel of its layer as a variable of its own, so it is written under the wrapper and
# under the layer. On loading the second one read wins: whoever edits one of them alone edits nothing, or leaves
# two kernels that differ. Exits 0 where that is still so, 1 where it changed.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet keras==3.15.1 numpy==2.2.6 h5py==3.14.0 "jax[cpu]==0.6.2"
cd "$folder" && KERAS_BACKEND=jax "$folder/venv/bin/python" - <<'PYTHON'
import io
import sys
import zipfile

import h5py
import keras
import numpy as np

x = keras.Input((5,))
model = keras.Model(x, keras.layers.SpectralNormalization(keras.layers.Dense(3, use_bias=False), name="s")(x))
model.save("m.keras")
kernel = np.asarray(model.get_layer("s").layer.kernel)
found: list[str] = []
with h5py.File(io.BytesIO(zipfile.ZipFile("m.keras").read("model.weights.h5"))) as weights:
    weights.visititems(
        lambda name, item: found.append(name)
        if isinstance(item, h5py.Dataset) and item.shape == kernel.shape and np.array_equal(item[()], kernel)
        else None
    )
print("keras", keras.__version__, "the kernel of the Dense layer stands in", found)
sys.exit(len(found) != 2)
PYTHON
