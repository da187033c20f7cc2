#!/usr/bin/env bash
# tf_keras: a model that indexes with ... (y[..., 0]) is saved as .h5, and refused as .keras.
#
# The slice is a SlicingOpLambda in both; HDF5's serialiser has a form for an Ellipsis, the one of the archive
# has none. Exits 0 where that is so, 1 where it changed.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet tensorflow-cpu==2.21.0 tf_keras==2.21.0 2>/dev/null ||
    "$folder/venv/bin/pip" install --quiet tensorflow==2.21.0 tf_keras==2.21.0
cd "$folder" && TF_CPP_MIN_LOG_LEVEL=3 "$folder/venv/bin/python" - <<'PYTHON'
import sys

import numpy as np
import tf_keras

x = tf_keras.Input((3, 4))
model = tf_keras.Model(x, tf_keras.layers.Dense(2)(x)[..., 0])
given = np.ones((1, 3, 4), "float32")
outcome = {}
for name in ("m.h5", "m.keras"):
    try:
        model.save(name)
        loaded = tf_keras.models.load_model(name, compile=False)
        outcome[name] = "the same" if np.array_equal(loaded(given), model(given)) else "something else"
    except Exception as error:
        outcome[name] = type(error).__name__
print("tf_keras", tf_keras.__version__, "after saving and loading:", outcome)
sys.exit(outcome["m.h5"] != "the same" or outcome["m.keras"] == "the same")
PYTHON
