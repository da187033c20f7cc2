"""One network twice: as Keras saves it, and as an ONNX export of it would be, from the same weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
from msgspec import Struct
from onnx import TensorProto, helper, numpy_helper

from tests.tiny_models import model

SIZE = (11, 8)  # h, w


class Weights(Struct, frozen=True):
    """conv 3×3 (same padding) → BN → relu → mean over space → dense, and an embedding of ids."""

    kernel: np.ndarray  # (h, w, i, o)
    bias: np.ndarray
    gamma: np.ndarray
    beta: np.ndarray
    mean: np.ndarray
    var: np.ndarray
    dense: np.ndarray  # (i, o)
    table: np.ndarray  # (id, o)


def weights(seed: int = 0) -> Weights:
    rng = np.random.default_rng(seed)
    return Weights(
        kernel=rng.normal(0, 0.3, (3, 3, 3, 6)),
        bias=rng.normal(0, 0.3, 6),
        gamma=rng.uniform(0.5, 1.5, 6) * np.array([1, -1, 1, 1, -1, 1]),
        beta=rng.normal(0, 0.5, 6),
        mean=rng.normal(0, 1, 6),
        var=rng.uniform(0.2, 2, 6),
        dense=rng.normal(0, 0.5, (6, 4)),
        table=rng.normal(0, 0.5, (30, 4)),
    )


def keras_twin(keras: Any, path: Path) -> Path:
    """Inputs image (h, w, 3) and ids (7) int32; outputs scores (4) and words (7, 4)."""
    layers, w = keras.layers, weights()
    image, ids = keras.Input((*SIZE, 3), name="image"), keras.Input((7,), name="ids", dtype="int32")
    conv = layers.Conv2D(6, 3, padding="same")
    norm = layers.BatchNormalization(epsilon=1e-3)
    dense = layers.Dense(4, use_bias=False, name="scores")
    table = layers.Embedding(30, 4, name="words")
    x = layers.GlobalAveragePooling2D()(layers.ReLU()(norm(conv(image))))
    made = keras.Model([image, ids], [dense(x), table(ids)])
    conv.set_weights([w.kernel, w.bias])
    norm.set_weights([w.gamma, w.beta, w.mean, w.var])
    dense.set_weights([w.dense])
    table.set_weights([w.table])
    made.save(path)
    return path


def onnx_twin(
    w: Weights,
    *,
    names: tuple[str, str, str, str] = ("image", "ids", "scores", "words"),
    channels_first: bool = False,
    epsilon: float = 1e-3,
    batch: int | str = "N",
    ids: int = TensorProto.INT64,
    out: int = TensorProto.FLOAT,
) -> onnx.ModelProto:
    image, number, scores, words = names
    arrays = {
        "k": w.kernel.transpose(3, 2, 0, 1), "b": w.bias, "gamma": w.gamma, "beta": w.beta,
        "mean": w.mean, "var": w.var, "d": w.dense, "t": w.table,
    }  # fmt: skip
    shape = [batch, 3, *SIZE] if channels_first else [batch, *SIZE, 3]
    nodes = [] if channels_first else [helper.make_node("Transpose", [image], ["i"], perm=[0, 3, 1, 2])]
    nodes += [
        helper.make_node("Conv", [image if channels_first else "i", "k", "b"], ["c"], pads=[1, 1, 1, 1]),
        helper.make_node("BatchNormalization", ["c", "gamma", "beta", "mean", "var"], ["n"], epsilon=epsilon),
        helper.make_node("Relu", ["n"], ["r"]),
        helper.make_node("GlobalAveragePool", ["r"], ["g"]),
        helper.make_node("Flatten", ["g"], ["f"]),
        helper.make_node("MatMul", ["f", "d"], ["s"]),
        helper.make_node("Cast", ["s"], [scores], to=out),
        helper.make_node("Gather", ["t", number], [words]),
    ]
    return model(
        nodes,
        [
            helper.make_tensor_value_info(image, TensorProto.FLOAT, shape),
            helper.make_tensor_value_info(number, ids, [batch, 7]),
        ],
        [
            helper.make_tensor_value_info(scores, out, [batch, 4]),
            helper.make_tensor_value_info(words, TensorProto.FLOAT, [batch, 7, 4]),
        ],
        [numpy_helper.from_array(v.astype(np.float32), k) for k, v in arrays.items()],
    )
