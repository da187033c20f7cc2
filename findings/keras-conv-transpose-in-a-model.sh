#!/usr/bin/env bash
# Keras: a Functional model with keras.ops.conv_transpose can be built, saved and loaded, but not called.
#
# The node hands its backend output_padding where padding is expected, and padding where output_padding is, so
# that None is asked for its lower case: AttributeError, in the model that was built as in the one loaded. The
# same function called with arrays computes. Exits 0 where that is so, 1 where it changed.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet keras==3.15.1 numpy==2.2.6 h5py==3.14.0 "jax[cpu]==0.6.2"
cd "$folder" && KERAS_BACKEND=jax "$folder/venv/bin/python" - <<'PYTHON'
import sys

import keras
import numpy as np

given, kernel = np.ones((1, 5, 5, 3), "float32"), np.ones((3, 3, 4, 3), "float32")
alone = keras.ops.conv_transpose(given, kernel, 2, data_format="channels_last").shape
x = keras.Input((5, 5, 3))
model = keras.Model(x, keras.ops.conv_transpose(x, kernel, 2, data_format="channels_last"))
model.save("m.keras")
ended = []
for each in (model, keras.models.load_model("m.keras", compile=False)):
    try:
        ended.append(str(each(given).shape))
    except Exception as error:
        ended.append(type(error).__name__)
print("keras", keras.__version__, "with arrays:", alone, "in a model, built and loaded:", ended)
sys.exit(alone != (1, 11, 11, 4) or ended != ["AttributeError"] * 2)
PYTHON
