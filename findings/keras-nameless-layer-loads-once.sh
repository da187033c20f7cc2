#!/usr/bin/env bash
# Keras: a saved model with a layer that has no name loads the first time in a process, and not the second.
#
# A config may leave a layer's "name" out: Keras makes one of its class and of how many such layers the process has
# made, over all models. So the same file has another interface each time it is loaded (its output is called dense,
# then dense_1), and where the model has a layer of that name itself, the second load is refused. Whoever compares two
# models in one process must count anew before each. Exits 0 where that is so, 1 where it changed.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet keras==3.15.1 numpy==2.2.6 h5py==3.14.0 "jax[cpu]==0.6.2"
cat >"$folder/load.py" <<'PYTHON'
import json
import sys
import zipfile

import keras

x = keras.Input((4,), name="x")
for name, first in (("alone", "hidden"), ("beside", "dense_1")):
    keras.backend.clear_session()
    keras.Model(x, keras.layers.Dense(2, name="out")(keras.layers.Dense(3, name=first)(x))).save("named.keras")
    with zipfile.ZipFile("named.keras") as named, zipfile.ZipFile(f"{name}.keras", "w") as nameless:
        for part in named.namelist():
            data = named.read(part)
            if part == "config.json":
                config = json.loads(data)
                del config["config"]["layers"][-1]["config"]["name"]
                data = json.dumps(config).encode()
            nameless.writestr(part, data)
told = []
for name in ("alone", "beside"):
    keras.backend.clear_session()
    for _ in range(2):
        try:
            told.append(keras.models.load_model(f"{name}.keras").layers[-1].name)
        except ValueError as error:
            told.append("refused: " + " ".join(str(error).split()))
print("keras", keras.__version__, *told, sep="\n  ")
wanted = ["dense", "dense_1", "dense"]
sys.exit(told[:3] != wanted or 'The name "dense_1" is used 2 times' not in told[3])
PYTHON
cd "$folder"
KERAS_BACKEND=jax venv/bin/python load.py 2>/dev/null
