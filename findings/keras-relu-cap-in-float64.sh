#!/usr/bin/env bash
# Keras on TensorFlow: in a float64 model, ReLU(max_value=1.3) caps at the float32 number next to 1.3.
#
# The cap is a Python number that is cast to the type of the value by way of float32, so that the layer puts out
# 1.2999999523162842, with the dtype float64; `keras.ops.clip` with the same bounds gives 1.3, and on PyTorch the
# layer does, too. Who writes the layer in another form (a converter, a fold) must choose one of the two numbers.
# Exits 0 where that is still so, 1 where it changed.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet keras==3.15.1 numpy==2.2.6 tensorflow-cpu==2.21.0
KERAS_BACKEND=tensorflow TF_CPP_MIN_LOG_LEVEL=3 "$folder/venv/bin/python" - <<'PYTHON'
import sys

import keras
import numpy as np

keras.config.set_floatx("float64")
x = keras.Input((1,))
model = keras.Model(x, [keras.layers.ReLU(max_value=1.3)(x), keras.ops.clip(x, 0.0, 1.3)])
capped, clipped = (keras.ops.convert_to_numpy(y) for y in model(np.full((1, 1), 9.0)))
print("keras", keras.__version__, "ReLU(max_value=1.3):", capped.dtype, repr(float(capped[0, 0])))
print("keras.ops.clip(x, 0.0, 1.3):", clipped.dtype, repr(float(clipped[0, 0])))
sys.exit(not (float(capped[0, 0]) == float(np.float32(1.3)) and float(clipped[0, 0]) == 1.3))
PYTHON
