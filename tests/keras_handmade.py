"""Small Keras files made by hand, in both containers: no Keras is needed to make them."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path
from typing import Any

import h5py
import numpy as np

KERNEL, BIAS = "layers/dense/vars/0", "layers/dense/vars/1"


def dense(name: str, **config: Any) -> dict[str, Any]:
    full = {"name": name, "units": 3, "use_bias": True, **config}
    return {"module": "keras.layers", "class_name": "Dense", "config": full, "registered_name": None}


def norm(name: str, **config: Any) -> dict[str, Any]:
    return {"class_name": "BatchNormalization", "config": {"name": name, **config}}


def make_archive(
    path: Path, layers: list[dict[str, Any]], arrays: dict[str, np.ndarray], **members: bytes
) -> Path:
    """A ``.keras`` of a Sequential."""
    config: dict[str, Any] = {"class_name": "Sequential", "config": {"name": "s", "layers": layers}}
    config |= {"module": "keras", "registered_name": None}  # Keras asks for them
    weights = path.with_suffix(".weights")
    with h5py.File(weights, "w") as h5:
        h5.create_group("vars")
        for name, array in arrays.items():
            h5[name] = array
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("metadata.json", '{"keras_version": "3.15.0"}')
        archive.writestr("config.json", json.dumps(config))
        archive.write(weights, "model.weights.h5")
        for name, data in members.items():
            archive.writestr(name.replace("__", "/"), data)
    return path


def legacy(path: Path, layers: list[dict[str, Any]], weights: dict[str, dict[str, np.ndarray]]) -> Path:
    """A Keras 2 ``.h5`` of a Sequential; ``weights`` by layer and stored name, in order."""
    with h5py.File(path, "w") as h5:
        config = {"class_name": "Sequential", "config": {"name": "s", "layers": layers}}
        h5.attrs["model_config"] = json.dumps(config)
        h5.attrs["keras_version"], h5.attrs["backend"] = "2.4.0", "tensorflow"
        group = h5.create_group("model_weights")
        group.attrs["layer_names"] = [name.encode() for name in weights]
        for layer, arrays in weights.items():
            inner = group.create_group(layer)
            inner.attrs["weight_names"] = [name.encode() for name in arrays]
            for name, array in arrays.items():
                inner[name] = array
    return path
