"""Models saved by Keras itself, for the tests of storage; runs in a process of its own.

``python -m tests.keras_saved build FOLDER`` saves every model below with Keras 3 and with tf_keras, beside
what each layer holds by Keras's own account. ``python -m tests.keras_saved reload LIST`` loads pairs of
files and says whether they hold and compute the same. Only these processes import TensorFlow.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

Keras = Any


def _sequential(k: Keras) -> Any:
    layers = k.layers
    return k.Sequential(
        [
            k.Input((8,)),
            layers.Dense(5, use_bias=False, name="first"),
            layers.BatchNormalization(name="bn_a"),
            layers.ReLU(name="relu"),
            layers.Dense(4, name="second"),
            layers.BatchNormalization(scale=False, name="bn_b"),
            layers.Dense(3, name="third"),
        ]
    )


def _convolutions(k: Keras) -> Any:
    layers = k.layers
    x = k.Input((9, 10, 4))
    y = layers.Conv2D(5, 3)(x)
    y = layers.BatchNormalization(center=False)(y)
    y = layers.SeparableConv2D(6, 3, use_bias=False)(y)
    y = layers.DepthwiseConv2D(3, depth_multiplier=2)(y)
    y = layers.PReLU(shared_axes=[1, 2])(y)
    y = layers.Conv2DTranspose(3, 2)(y)
    y = layers.GroupNormalization(3)(y) if hasattr(layers, "GroupNormalization") else y
    return k.Model(x, layers.GlobalAveragePooling2D()(y))


def _nested(k: Keras) -> Any:
    """A network used twice, a layer used twice, one frozen layer, networks in networks."""
    layers = k.layers
    deep = k.Sequential([k.Input((4,)), layers.Dense(4), layers.BatchNormalization()], name="deep")
    x = k.Input((8,))
    y = layers.Dense(4)(x)
    y = deep(layers.BatchNormalization()(y))
    inner = k.Model(x, layers.Dense(3)(y), name="inner")
    inner.layers[1].trainable = False
    x = k.Input((8,))
    shared = layers.Dense(8, name="shared")
    y = inner(shared(layers.Dense(8, name="z_last")(shared(x))))
    return k.Model(x, [layers.Dense(2)(y), inner(layers.BatchNormalization()(x))])


def _frozen(k: Keras) -> Any:
    """A frozen network: Keras 3 writes its weights in another order than a trainable one's."""
    layers = k.layers
    base = k.Sequential(
        [
            k.Input((6,)),
            layers.Dense(6),
            layers.BatchNormalization(),
            layers.Dense(6),
            layers.BatchNormalization(),
        ],
        name="base",
    )
    base.trainable = False
    return k.Sequential([k.Input((6,)), base, layers.Dense(2)])


def _recurrent(k: Keras) -> Any:
    layers = k.layers
    x = k.Input((5, 4))
    y = layers.Bidirectional(layers.LSTM(3, return_sequences=True))(x)
    y = layers.TimeDistributed(layers.Dense(4))(y)
    y = layers.TimeDistributed(k.Sequential([k.Input((4,)), layers.Dense(3), layers.BatchNormalization()]))(y)
    y = layers.GRU(3, return_sequences=True, use_bias=False)(y)
    y = layers.Bidirectional(layers.GRU(2, return_sequences=True), backward_layer=_backward(k))(y)
    y = layers.RNN([layers.LSTMCell(3), layers.GRUCell(2), layers.LSTMCell(2)], return_sequences=True)(y)
    y = layers.SimpleRNN(3, return_sequences=True)(y)
    return k.Model(x, layers.RNN(layers.SimpleRNNCell(3))(y))


def _backward(k: Keras) -> Any:
    return k.layers.LSTM(2, return_sequences=True, go_backwards=True, name="other_way")


def _attention(k: Keras) -> Any:
    layers = k.layers
    x = k.Input((5, 4))
    y = layers.MultiHeadAttention(2, 3)(x, x)
    y = layers.LayerNormalization()(y)
    y = layers.MultiHeadAttention(2, 3, use_bias=False, name="bare")(y, y)
    return k.Model(x, layers.EinsumDense("abc,cd->abd", (None, 6), bias_axes="d")(y))


def _dot(k: Keras) -> Any:
    x = k.Input((5, 4))
    y = k.layers.Dense(4)(k.layers.Attention(use_scale=True)([x, x]))
    return k.Model(x, k.layers.AdditiveAttention()([y, y]))


def _normalized(k: Keras) -> Any:
    layers = k.layers
    norm = layers.Normalization()
    norm.adapt(np.random.default_rng(1).normal(3, 2, (50, 4)).astype(np.float32))
    x = k.Input((4,))
    y = layers.Normalization(mean=[1.0, 2, 3, 4], variance=[4.0, 3, 2, 1])(norm(x))
    return k.Model(x, layers.Dense(2)(layers.Dropout(0.5, seed=3)(layers.Rescaling(2.0)(y))))


def _compiled(k: Keras) -> Any:
    model = _sequential(k)
    model.compile("adam", "mse", metrics=["mae"])
    rng = np.random.default_rng(2)
    model.fit(rng.normal(size=(8, 8)), rng.normal(size=(8, 3)), verbose=0)
    return model


def _policy(name: str) -> Callable[[Keras], Any]:
    def build(k: Keras) -> Any:
        layers = k.layers
        x = k.Input((8,))
        y = layers.BatchNormalization(dtype=name)(layers.Dense(5, dtype=name)(x))
        return k.Model(x, layers.Dense(3, dtype=name)(y))

    return build


def _many(k: Keras) -> Any:
    """More than ten of one class, and names so long that their list needs several attributes."""
    layers = [k.layers.Dense(3, name=f"{'long_name_' * 60}{i:03d}") for i in range(110)]
    return k.Sequential([k.Input((3,)), *layers])


def _spectral(k: Keras) -> Any:
    x = k.Input((4, 4, 3))
    return k.Model(x, k.layers.SpectralNormalization(k.layers.Conv2D(2, 2))(x))


def _grouped(k: Keras) -> Any:
    x = k.Input((5, 4))
    return k.Model(x, k.layers.GroupQueryAttention(4, 2, 2)(x, x))


def _ops(k: Keras) -> Any:
    x = k.Input((4,))
    y = k.ops.relu(k.layers.Dense(3)(x)) + 1.0
    return k.Model(x, k.layers.Dense(2)(k.ops.add(y, k.layers.Dense(3)(x))))


def _lora(k: Keras) -> Any:
    model = k.Sequential([k.Input((8,)), k.layers.Dense(5, name="tuned"), k.layers.Dense(3)])
    model.layers[0].enable_lora(2)
    return model


def _int8(k: Keras) -> Any:
    model = k.Sequential([k.Input((8,)), k.layers.Dense(5, name="small")])
    model.quantize("int8")
    return model


def _slashes(k: Keras) -> Any:
    layers = k.layers
    return k.Sequential(
        [
            k.Input((8,)),
            layers.Dense(5, name="a"),
            layers.BatchNormalization(name="a/b"),
            layers.Dense(2, name="a/c"),
        ]
    )


MODELS: dict[str, Callable[[Keras], Any]] = {
    "sequential": _sequential,
    "convolutions": _convolutions,
    "nested": _nested,
    "frozen": _frozen,
    "recurrent": _recurrent,
    "attention": _attention,
    "dot": _dot,
    "normalized": _normalized,
    "compiled": _compiled,
    "mixed_float16": _policy("mixed_float16"),
    "bfloat16": _policy("bfloat16"),
    "many": _many,
}
ONLY_KERAS3: dict[str, Callable[[Keras], Any]] = {
    "spectral": _spectral,
    "grouped": _grouped,
    "ops": _ops,
    "lora": _lora,
    "int8": _int8,
}
ONLY_TF_KERAS: dict[str, Callable[[Keras], Any]] = {"slashes": _slashes}


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


def _like_2_13(lib: Any, *, doubled: bool) -> None:
    """Make tf_keras write archives as Keras 2.14 did, or 2.13 (``doubled``): their own walk and counting."""
    lib.ATTR_SKIPLIST = lib.ATTR_SKIPLIST - {"_layer_checkpoint_dependencies"}

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

    lib._walk_trackable = walk
    if doubled:
        lib._save_container_state = save_container


def _build(folder: Path) -> None:
    import keras
    import tf_keras

    failed = {}
    for label, library, extra in (("keras3", keras, ONLY_KERAS3), ("tf_keras", tf_keras, ONLY_TF_KERAS)):
        for name, make in (MODELS | extra).items():
            model = make(library)
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
                (folder / f"{path.name}.json").write_text(json.dumps(_describe(model)))
    from tf_keras.src.saving import saving_lib

    keep = saving_lib._save_container_state
    for label, doubled in (("keras2_14", False), ("keras2_13", True)):
        _like_2_13(saving_lib, doubled=doubled)
        for name in ("sequential", "nested", "recurrent"):
            model = MODELS[name](tf_keras)
            _randomise(model)
            path = folder / f"{label}-{name}.keras"
            saving_lib.save_model(model, path)
            (folder / f"{path.name}.json").write_text(json.dumps(_describe(model)))
        saving_lib._save_container_state = keep
    (folder / "failed").write_text(json.dumps(failed))


def _reload(listing: Path) -> None:
    """For each pair of files: what happens on loading, and whether weights and outputs are the same bits."""
    import keras
    import tf_keras

    results = {}
    for name, first, second in json.loads(listing.read_text()):
        library = tf_keras if name.startswith("tf_keras") else keras
        models: list[Any] = []
        outcome: dict[str, Any] = {}
        for key, path in (("first", first), ("second", second)):
            try:
                models.append(library.models.load_model(path, compile=False))
            except Exception as e:  # noqa: BLE001 - reported
                outcome[key] = f"{type(e).__name__}: {e}"[:400]
        if len(models) == 2:
            outcome |= _compare(*models)
            outcome["layers"] = _describe(models[1])["layers"]
        results[name] = outcome
    listing.with_suffix(".results").write_text(json.dumps(results))


def _compare(first: Any, second: Any) -> dict[str, Any]:
    rng = np.random.default_rng(5)
    feeds = [rng.normal(size=(2, *shape.shape[1:])).astype(np.float32) for shape in first.inputs]
    outputs = [
        [np.asarray(y) for y in _listed(model(feeds if len(feeds) > 1 else feeds[0]))]
        for model in (first, second)
    ]
    pairs = list(zip(first.get_weights(), second.get_weights(), strict=False))
    return {
        "weights": len(first.weights) == len(second.weights)
        and all(np.asarray(a).tobytes() == np.asarray(b).tobytes() for a, b in pairs),
        "apart": max(
            float(np.abs(a.astype("f8") - b.astype("f8")).max()) for a, b in zip(*outputs, strict=True)
        ),
    }


def _listed(value: Any) -> list[Any]:
    return list(value) if isinstance(value, list | tuple) else [value]


if __name__ == "__main__":
    os.environ.setdefault("KERAS_BACKEND", "tensorflow")
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    os.environ.setdefault("CUDA_VISIBLE_DEVICES", "")
    {"build": _build, "reload": _reload}[sys.argv[1]](Path(sys.argv[2]))
