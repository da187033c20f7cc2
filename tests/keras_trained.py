"""A small trained Keras model, and what a saved file says of itself."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from tests.keras_nets import Keras, stir


def trained(keras: Keras, folder: Path, suffix: str) -> tuple[Any, Path]:
    """The model, and the file with its optimiser's state."""
    layers = keras.layers
    model = keras.Sequential(
        [
            layers.Input((5,), name="x"),
            layers.Dense(4, use_bias=False),
            layers.BatchNormalization(),
            layers.ReLU(),
            layers.Dense(2),
        ]
    )
    model.compile(keras.optimizers.Adam(0.003), "huber", metrics=["mae"])
    model.run_eagerly = True  # one step: a graph of it takes longer to make
    rng = np.random.default_rng(0)
    model.fit(rng.normal(size=(32, 5)), rng.normal(size=(32, 2)), verbose=0)
    stir(model)
    path = folder / f"trained{suffix}"
    model.save(path)
    return model, path


def stored_config(path: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """A file's config and what it says beside it: its version and how it was compiled."""
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            return json.loads(archive.read("config.json")), json.loads(archive.read("metadata.json"))
    with h5py.File(path) as file:
        told = {k: file.attrs[k] for k in ("keras_version", "backend", "training_config") if k in file.attrs}
        return json.loads(file.attrs["model_config"]), told
