#!/usr/bin/env bash
# Keras: which layout a file of weights has is told by the end of its name alone, though its content tells it.
#
# save_weights writes "net.weights.h5"; the same bytes under the name "net.h5" are taken for the layout of Keras 2,
# which has a list of layers in its root, and do not load. Nothing in the message names the reason: a count of
# layers that does not match. Exits 0 where that is still so, 1 where it changed.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet keras==3.15.1 numpy==2.2.6 "jax[cpu]==0.6.2"
FOLDER="$folder" KERAS_BACKEND=jax "$folder/venv/bin/python" - <<'PYTHON'
import os
import pathlib
import shutil
import sys

import keras
import numpy as np

folder = pathlib.Path(os.environ["FOLDER"])


def net():
    return keras.Sequential([keras.Input((4,)), keras.layers.Dense(3), keras.layers.Dense(2)])


def load(name):
    model = net()
    try:
        model.load_weights(folder / name)
    except Exception as error:
        return f"{type(error).__name__}: {error}".splitlines()[0]
    same = all(np.array_equal(a, b) for a, b in zip(model.get_weights(), saved.get_weights()))
    return "equal" if same else "loaded, but not equal"


saved = net()
saved.save_weights(folder / "net.weights.h5")
shutil.copy(folder / "net.weights.h5", folder / "net.h5")
found = load("net.weights.h5"), load("net.h5")
print("keras", keras.__version__, "net.weights.h5:", found[0], "| the same bytes as net.h5:", found[1])
sys.exit(not (found[0] == "equal" and "Layer count mismatch" in found[1]))
PYTHON
