"""Keras networks with what their layers put out, by Keras itself in this process.

An expected value comes from a functional model of its own, from the network's inputs to the tensor: none of
the product's ways to look into a model has a part in it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from tests.keras_nets import Keras, stir

Feeds = dict[str, np.ndarray]
Outputs = Callable[[Feeds], np.ndarray]


@dataclass
class Probed:
    """A network; ``inside`` its values by core's names; ``forced`` one of them, and what follows from it.

    ``after`` computes the only output from the inputs and another value in the place of ``forced``, by the
    remaining layers, called by hand.
    """

    model: Any
    feeds: Feeds
    inside: dict[str, Outputs]
    forced: str = ""
    after: Callable[[Feeds, Any], np.ndarray] = field(default=lambda feeds, given: np.zeros(0))


def as_array(tensor: Any) -> np.ndarray:
    return np.asarray(tensor.numpy() if hasattr(tensor, "numpy") else tensor)


def _value(keras: Keras, model: Any, tensor: Any) -> Outputs:
    """What a tensor of the network is, from the network's inputs."""
    part = keras.Model(model.inputs, tensor)
    return lambda feeds: as_array(part(list(feeds.values()), training=False))


def _drawn(*shape: int, seed: int = 3) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def residual(keras: Keras, **policy: Any) -> Probed:
    """Two convolutions with BatchNormalizations beside a shortcut."""
    layers = keras.layers
    x = layers.Input((8, 7, 3), name="x")
    a = layers.Conv2D(4, 3, padding="same", name="a", **policy)(x)
    b = layers.ReLU(name="relu", **policy)(layers.BatchNormalization(name="norm", **policy)(a))
    c = layers.BatchNormalization(name="norm2", **policy)(
        layers.Conv2D(4, 3, padding="same", use_bias=False, name="c", **policy)(b)
    )
    total = layers.Add(name="sum", **policy)([b, c])
    pooled = layers.GlobalAveragePooling2D(name="pool", **policy)(total)
    model = stir(keras.Model(x, layers.Dense(3, name="y", **policy)(pooled)))
    tensors = {"a:0:0": a, "relu:0:0": b, "norm2:0:0": c, "sum:0:0": total, "pool:0:0": pooled}
    first = keras.Model(model.inputs, b)

    def after(feeds: Feeds, given: Any) -> np.ndarray:
        summed = model.get_layer("sum")([first(feeds["x"], training=False), given])
        return as_array(model.get_layer("y")(model.get_layer("pool")(summed)))

    inside = {name: _value(keras, model, tensor) for name, tensor in tensors.items()}
    return Probed(model, {"x": _drawn(2, 8, 7, 3)}, inside, "norm2:0:0", after)


def shared(keras: Keras) -> Probed:
    """A layer's second call lies deeper than its first, so Keras makes it before the first."""
    layers = keras.layers
    x = layers.Input((4,), name="x")
    twice = layers.Dense(4, name="twice")
    first = twice(x)
    second = twice(layers.Activation("tanh", name="bend")(x))
    deep = layers.BatchNormalization(name="norm")(layers.Dense(4, name="deep")(second))
    model = stir(keras.Model(x, layers.Add(name="sum")([layers.Activation("tanh", name="t")(deep), first])))
    tensors = {"twice:0:0": first, "twice:1:0": second, "norm:0:0": deep}

    def after(feeds: Feeds, given: Any) -> np.ndarray:
        bent = model.get_layer("norm")(model.get_layer("deep")(given), training=False)
        return as_array(twice(feeds["x"])) + np.tanh(as_array(bent))

    inside = {name: _value(keras, model, tensor) for name, tensor in tensors.items()}
    return Probed(model, {"x": _drawn(3, 4)}, inside, "twice:1:0", after)


def nested(keras: Keras) -> Probed:
    """A model called twice, the second call first; in it a Sequential, and a layer called twice, too."""
    layers = keras.layers
    z = layers.Input((4,), name="z")
    core = keras.Sequential(
        [layers.Input((4,)), layers.Dense(4, name="d"), layers.BatchNormalization(name="n")], name="core"
    )
    again = layers.Dense(4, name="again", activation="tanh")
    middle = core(z)
    inner = keras.Model(z, layers.Add(name="inner_sum")([again(z), again(middle)]), name="inner")
    x = layers.Input((4,), name="x")
    near = inner(x)
    far = layers.Dense(4, name="far")(inner(layers.Activation("tanh", name="bend")(x)))
    model = stir(keras.Model(x, layers.Subtract(name="out")([layers.ReLU(name="relu")(far), near])))

    def within(layer: Callable[[Any], Any], bent: bool) -> Outputs:
        return lambda feeds: as_array(layer(np.tanh(feeds["x"]) if bent else feeds["x"]))

    dense = core.get_layer("d")
    inside = {
        "inner/core/d:0:0": within(dense, False),
        "inner@1/core/d:0:0": within(dense, True),
        "inner/again:0:0": within(again, False),
        "inner/again:1:0": within(lambda v: again(core(v, training=False)), False),
        "inner@1/again:0:0": within(again, True),
        "inner@1/again:1:0": within(lambda v: again(core(v, training=False)), True),
        "far:0:0": _value(keras, model, far),
    }

    def after(feeds: Feeds, given: Any) -> np.ndarray:
        turned = as_array(again(np.tanh(feeds["x"]))) + given
        far = as_array(model.get_layer("far")(turned))
        return np.maximum(far, 0.0) - as_array(inner(feeds["x"], training=False))

    return Probed(model, {"x": _drawn(3, 4)}, inside, "inner@1/again:1:0", after)


def states(keras: Keras) -> Probed:
    """A layer with three outputs."""
    layers = keras.layers
    x = layers.Input((5, 4), name="x")
    rnn = layers.LSTM(3, return_sequences=True, return_state=True, name="rnn")
    sequence, h, c = rnn(layers.BatchNormalization(name="norm")(x))
    flat = layers.Flatten(name="flat")(sequence)
    joined = layers.Concatenate(name="joined")([flat, h, c])
    model = stir(keras.Model(x, layers.Dense(2, name="y")(joined)))
    part = keras.Model(model.inputs, [sequence, h, c])

    def output(index: int) -> Outputs:
        return lambda feeds: as_array(part(feeds["x"], training=False)[index])

    def after(feeds: Feeds, given: Any) -> np.ndarray:
        seen = [as_array(t) for t in part(feeds["x"], training=False)]
        row = np.concatenate([seen[0].reshape(len(given), -1), given, seen[2]], axis=-1)
        return as_array(model.get_layer("y")(row))

    return Probed(
        model, {"x": _drawn(2, 5, 4)}, {f"rnn:0:{k}": output(k) for k in range(3)}, "rnn:0:1", after
    )


def masked(keras: Keras) -> Probed:
    """What is forced keeps the mask of what it replaces: steps of zeros are skipped."""
    layers = keras.layers
    x = layers.Input((5, 4), name="x")
    hidden = layers.Masking(name="mask")(x)
    model = stir(keras.Model(x, layers.LSTM(3, name="rnn")(hidden)))
    feed = _drawn(3, 5, 4)
    feed[0, 2:], feed[1, 4:] = 0.0, 0.0

    def after(feeds: Feeds, given: Any) -> np.ndarray:
        return as_array(model.get_layer("rnn")(given, mask=(feeds["x"] != 0).any(axis=-1)))

    return Probed(model, {"x": feed}, {"mask:0:0": lambda feeds: feeds["x"]}, "mask:0:0", after)


def functions(keras: Keras) -> Probed:
    """``keras.ops`` nodes in Keras 3, TFOpLambda in tf_keras."""
    layers = keras.layers
    x = layers.Input((6, 4), name="x")
    y = layers.BatchNormalization(name="norm")(layers.Dense(4, name="d")(x))
    if hasattr(keras, "ops"):
        turned = keras.ops.flip(y, axis=1)
    else:
        import tensorflow as tf

        turned = tf.reverse(y, [1])
    name = f"{turned._keras_history[0].name}:0:0"
    model = stir(keras.Model(x, layers.Dense(2, name="y")(turned + y)))
    norm = _value(keras, model, y)

    def after(feeds: Feeds, given: Any) -> np.ndarray:
        return as_array(model.get_layer("y")(given + norm(feeds)))

    return Probed(model, {"x": _drawn(2, 6, 4)}, {name: _value(keras, model, turned)}, name, after)


NETS: dict[str, Callable[[Keras], Probed]] = {
    "residual": residual,
    "shared": shared,
    "nested": nested,
    "states": states,
    "masked": masked,
    "functions": functions,
}
