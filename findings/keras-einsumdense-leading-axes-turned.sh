#!/usr/bin/env bash
# Keras: an EinsumDense whose "..." stands for several axes tells them in another order than it computes them.
#
# "...x,xy->...y" on (batch, 9, 8, 5) with 6 outputs computes (batch, 9, 8, 6) and tells (batch, 8, 9, 6): all axes that
# the dots stand for, but for the batch, are turned round. With one such axis, as in Keras's own example, nothing shows.
# What is built behind it believes what it is told: a BatchNormalization along axis 1 makes 8 numbers for the 9 channels
# that come, and such a model can be built and saved, but not run. Whoever works out shapes from a saved config is right
# to differ from the shape that Keras tells. Exits 0 where that is so, 1 where it changed.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet keras==3.15.1 numpy==2.2.6 "jax[cpu]==0.6.2"
cat >"$folder/shapes.py" <<'PYTHON'
import sys

import keras
import numpy as np

told, computed = [], []
for shape in ((2, 9, 5), (2, 9, 8, 5), (2, 9, 8, 7, 5)):
    layer = keras.layers.EinsumDense("...x,xy->...y", output_shape=6)
    told.append(tuple(layer(keras.KerasTensor(shape)).shape))
    computed.append(tuple(layer(np.ones(shape, "float32")).shape))
print("keras", keras.__version__)
for one, other in zip(told, computed):
    print("  tells", one, "computes", other)
x = keras.Input((9, 8, 5))
norm = keras.layers.BatchNormalization(axis=1)
model = keras.Model(x, norm(keras.layers.EinsumDense("...x,xy->...y", output_shape=6)(x)))
try:
    model(np.ones((2, 9, 8, 5), "float32"))
    ran = True
except Exception as error:
    ran = False
    print("  a BatchNormalization along axis 1 behind it, of", norm.gamma.shape, "numbers:", type(error).__name__)
turned = [(2, 9, 6), (2, 8, 9, 6), (2, 7, 8, 9, 6)]
sys.exit(told != turned or computed != [(2, 9, 6), (2, 9, 8, 6), (2, 9, 8, 7, 6)] or ran)
PYTHON
cd "$folder"
KERAS_BACKEND=jax venv/bin/python shapes.py 2>/dev/null
