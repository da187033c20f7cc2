"""Models saved by Keras itself, and its own account of them, in this process.

``build`` saves every model of ``tests/keras_saved_models.py`` with Keras 3 and with tf_keras, beside what
each layer holds, and what the model computes, by Keras's own account. ``reload`` loads files and says whether
they hold and compute the same as others. Both skip where one of the two is missing.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.keras_models import import_keras, import_tf_keras
from tests.keras_nets import computing_in
from tests.keras_saved_models import MODELS, ONLY_KERAS3, ONLY_TF_KERAS


def build(folder: Path) -> None:
    """Save all models in a folder, each with its account as ``NAME.json``."""
    with _untouched() as libraries:
        _build(folder, *libraries)


def reload(pairs: Sequence[tuple[str, str, str]]) -> dict[str, dict[str, Any]]:
    """For each (name, first, second): what happens on loading, and whether both are the same to the bit.

    The first is a file, too, or the account of a model that was saved; without one the file's own is told.
    """
    with _untouched() as libraries:
        return _reload(pairs, *libraries)


@contextmanager
def _untouched() -> Iterator[tuple[Any, Any]]:
    """Keras 3 and tf_keras as they start: their types, and names counted from the first on.

    What they warn of is told of the models by what comes out.
    """
    keras, tf_keras = import_keras(), import_tf_keras()
    keras.backend.clear_session(free_memory=False)
    tf_keras.backend.clear_session()
    with warnings.catch_warnings(), computing_in(keras, "float32"), computing_in(tf_keras, "float32"):
        warnings.simplefilter("ignore")
        yield keras, tf_keras


def _randomise(model: Any) -> None:
    """Weights of both signs, variances positive, integers (counts, quantised kernels) left alone."""
    rng = np.random.default_rng(7)
    values = []
    for variable, value in zip(model.weights, model.get_weights(), strict=True):
        array = np.asarray(value)
        path = getattr(variable, "path", variable.name)
        if array.dtype.kind in "iu" or "lora" in path or ("scale" in path and "int8" in str(array.dtype)):
            values.append(array)
            continue
        drawn = rng.normal(size=array.shape)
        values.append((np.abs(drawn) + 0.3 if "variance" in path else drawn).astype(array.dtype))
    model.set_weights(values)


def _leaves(layer: Any, path: list[str]) -> Iterator[tuple[list[str], Any]]:
    """The layers that hold variables, by the names that lead to them."""
    if hasattr(layer, "layers"):
        for inner in layer.layers:
            yield from _leaves(inner, [*path, inner.name])
    elif type(layer).__name__ == "Bidirectional":
        for inner in (layer.forward_layer, layer.backward_layer):
            yield from _leaves(inner, [*path, inner.name])
    elif type(layer).__name__ == "TimeDistributed":
        yield from _leaves(layer.layer, [*path, layer.layer.name])
    else:
        yield path, layer


def _describe(model: Any) -> dict[str, Any]:
    """Keras's own account: per layer, its weights' names and their bytes."""
    found = []
    for path, layer in _leaves(model, []):
        if layer.weights:
            values = [np.asarray(value) for value in layer.get_weights()]
            found.append([path, [v.name for v in layer.weights], [_hex(value) for value in values]])
    return {"layers": found}


def _hex(value: np.ndarray) -> list[Any]:
    return [list(value.shape), str(value.dtype), value.tobytes().hex()]


def _like_2_13(here: pytest.MonkeyPatch, lib: Any, *, doubled: bool) -> None:
    """Make tf_keras write archives as Keras 2.14 did, or 2.13 (``doubled``): their own walk and counting."""
    here.setattr(lib, "ATTR_SKIPLIST", lib.ATTR_SKIPLIST - {"_layer_checkpoint_dependencies"})

    def walk(trackable: Any) -> Iterator[tuple[str, Any]]:
        for name in dir(trackable):
            if name.startswith("__") or name in lib.ATTR_SKIPLIST:
                continue
            try:
                child = getattr(trackable, name)
            except Exception:  # noqa: BLE001 - as Keras does
                continue
            yield name, child

    def save_container(
        container: Any, weights_store: Any, assets_store: Any, inner_path: str, visited_trackables: set[int]
    ) -> None:
        used: dict[str, int] = {}
        for item in list(container.values()) if isinstance(container, dict) else container:
            if lib._is_keras_trackable(item):
                name = lib.generic_utils.to_snake_case(type(item).__name__)
                if name in used:
                    used[name] += 1
                    name = f"{name}_{used[name]}"
                else:
                    used[name] = 0
                inner = f"{inner_path}/{name}"
                lib._save_state(item, weights_store, assets_store, inner, visited_trackables)

    here.setattr(lib, "_walk_trackable", walk)
    if doubled:
        here.setattr(lib, "_save_container_state", save_container)


def _build(folder: Path, keras: Any, tf_keras: Any) -> None:
    failed, made = {}, {}
    for label, library, extra in (("keras3", keras, ONLY_KERAS3), ("tf_keras", tf_keras, ONLY_TF_KERAS)):
        for name, make in (MODELS | extra).items():
            model = made[label, name] = make(library)
            if name not in ("lora", "int8"):
                _randomise(model)
            for suffix in (".keras", ".h5"):
                path = folder / f"{label}-{name}{suffix}"
                try:
                    model.save(path)
                except Exception as e:  # noqa: BLE001 - what Keras cannot save is no case for us
                    failed[path.name] = repr(e)[:300]
                    path.unlink(missing_ok=True)
                    continue
                told = _describe(model) | {"outputs": [_hex(y) for y in _outputs(model)]}
                (folder / f"{path.name}.json").write_text(json.dumps(told))
    from tf_keras.src.saving import saving_lib

    for label, doubled in (("keras2_14", False), ("keras2_13", True)):
        with pytest.MonkeyPatch.context() as here:
            _like_2_13(here, saving_lib, doubled=doubled)
            for name in ("sequential", "nested", "recurrent"):
                model = made["tf_keras", name]
                path = folder / f"{label}-{name}.keras"
                saving_lib.save_model(model, path)
                (folder / f"{path.name}.json").write_text(json.dumps(_describe(model)))
    (folder / "failed").write_text(json.dumps(failed))


def _reload(pairs: Sequence[tuple[str, str, str]], keras: Any, tf_keras: Any) -> dict[str, dict[str, Any]]:
    results = {}
    for name, first, second in pairs:
        library = tf_keras if name.startswith("tf_keras") else keras
        outcome: dict[str, Any] = {}
        told = json.loads(Path(first).read_text()) if first.endswith(".json") else None
        if told is None and first != second:
            told = _loaded(library, first, "first", outcome)
        found = _loaded(library, second, "second", outcome)
        if found is not None:
            outcome["layers"] = found["layers"]
        if found is not None and told is not None:
            outcome["weights"] = [values for *_, values in found["layers"]] == [
                values for *_, values in told["layers"]
            ]
            outcome["outputs"] = found["outputs"] == told["outputs"]
        results[name] = outcome
    return results


def _loaded(library: Any, path: str, key: str, outcome: dict[str, Any]) -> dict[str, Any] | None:
    """The account of a file by its library; None where it does not load, and why as ``outcome[key]``."""
    try:
        model = library.models.load_model(path, compile=False)
    except Exception as e:  # noqa: BLE001 - reported
        outcome[key] = f"{type(e).__name__}: {e}"[:400]
        return None
    return _describe(model) | {"outputs": [_hex(y) for y in _outputs(model)]}


def _outputs(model: Any) -> list[np.ndarray]:
    """What it makes of the same numbers every time."""
    rng = np.random.default_rng(5)
    feeds = [rng.normal(size=(2, *shape.shape[1:])).astype(np.float32) for shape in model.inputs]
    return [np.asarray(y) for y in _listed(model(feeds if len(feeds) > 1 else feeds[0]))]


def _listed(value: Any) -> list[Any]:
    return list(value) if isinstance(value, list | tuple) else [value]
