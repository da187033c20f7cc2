#!/usr/bin/env bash
# Keras: at inference RandomCrop hands the whole image through, whatever size the model says it puts out.
#
# `RandomCrop(4, 4)` of 8x8 images has an output of 4x4 in `output_shape`, and what is saved says so; `predict`
# gives 8x8. A layer behind it that was built for 4x4 (Flatten, Dense) fails there. Exits 0 where that is still
# so, 1 where it changed.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet keras==3.15.1 numpy==2.2.6 "jax[cpu]==0.6.2"
KERAS_BACKEND=jax "$folder/venv/bin/python" - <<'PYTHON'
import sys

import keras
import numpy as np

image = keras.Input((8, 8, 3))
model = keras.Model(image, keras.layers.RandomCrop(4, 4)(image))
made = model.predict(np.random.default_rng(0).random((1, 8, 8, 3), np.float32), verbose=0)
print("keras", keras.__version__, "RandomCrop(4, 4): output_shape", model.output_shape, "predict", made.shape)
sys.exit(not (model.output_shape == (None, 4, 4, 3) and made.shape == (1, 8, 8, 3)))
PYTHON
