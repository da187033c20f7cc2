#!/usr/bin/env bash
# Keras: saving or loading a model makes one more Layer for every layer of it, only to list its attributes.
#
# What is never saved is found by the attributes of an empty Layer, which is meant to be done once: the result is
# kept as "saving_attr_skipset_…" and looked for as "saving_attr_skiplist_…", so it is done every time. For models
# of many small layers that is a third of the time. Exits 0 where that is still so, 1 where it changed.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet keras==3.15.1 numpy==2.2.6 "jax[cpu]==0.6.2"
FOLDER="$folder" KERAS_BACKEND=jax "$folder/venv/bin/python" - <<'PYTHON'
import os
import sys

import keras

made = 0
begin = keras.layers.Layer.__init__


def counted(self, *arguments, **keywords):
    global made
    made += type(self) is keras.layers.Layer
    begin(self, *arguments, **keywords)


keras.layers.Layer.__init__ = counted
counts = []
for depth in (5, 40):
    model = keras.Sequential([keras.Input((3,)), *(keras.layers.Dense(3) for _ in range(depth))])
    made = 0
    model.save(os.path.join(os.environ["FOLDER"], "model.keras"))
    counts.append(made)
print("keras", keras.__version__, "plain Layers made by saving 5 and 40 Dense layers:", counts)
sys.exit(not (counts[0] >= 5 and counts[1] >= 40))
PYTHON
