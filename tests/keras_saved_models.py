"""Models that Keras 3 and tf_keras save for the tests of storage: one for every way to hold weights."""

from __future__ import annotations

from collections.abc import Callable
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
    model.run_eagerly = True  # one step: a graph of it takes longer to make
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
    """More than ten of one class, and names longer together than the 64512 bytes of one attribute."""
    layers = [k.layers.Dense(3, name=f"{'long_name_' * 520}{i:03d}") for i in range(13)]
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
SAVED = (
    *(f"{lib}-{name}" for lib in ("keras3", "tf_keras") for name in MODELS),
    *(f"keras3-{name}" for name in ONLY_KERAS3),
    *(f"tf_keras-{name}" for name in ONLY_TF_KERAS),
)
FILES = (
    *(f"{name}{suffix}" for name in SAVED for suffix in (".keras", ".h5")),
    *(f"keras2_{v}-{name}.keras" for v in (13, 14) for name in ("sequential", "nested", "recurrent")),
)
