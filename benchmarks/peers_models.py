"""The networks of ``tf_keras.applications`` as ONNX files, each with all of its BatchNormalizations.

``python -m benchmarks.peers_models NAME FILE`` needs TensorFlow, tf_keras and tf2onnx. Weights are random;
so are the statistics and parameters of every BN: γ in 0.5…1.5, a tenth of its channels negative unless
the name ends in ``+`` (γ > 0), β and μ around 0, σ² in 0.5…2. Fresh ones (1, 0, 0, 1) are near the identity.

tf2onnx folds Conv → BN itself, and Keras 3 writes a BN as Mul and Add of which its export folds most.
Here that is taken out, so that every tool is given the same BNs to fold: ``tf_keras`` keeps one op per BN,
and the fusion of tf2onnx is switched off.
"""

from __future__ import annotations

import os
import sys
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np

NAMES = ("ResNet50", "MobileNetV2", "ResNet50V2+", "DenseNet121", "NASNetMobile", "EfficientNetB0")
SEED = 7
OPSET = 17


def randomise(model: Any, *, positive: bool) -> None:
    """New statistics and parameters for every BN of a model; all γ above 0 if ``positive``."""
    rng = np.random.default_rng(SEED)
    for layer in model.layers:
        if type(layer).__name__ != "BatchNormalization":
            continue
        made = []
        for weight in layer.weights:
            n, kind = weight.shape[0], weight.name.rsplit("/", 1)[-1].split(":")[0]
            match kind:
                case "gamma":
                    sign = 1.0 if positive else np.where(rng.random(n) < 0.1, -1.0, 1.0)
                    made.append(rng.uniform(0.5, 1.5, n) * sign)
                case "moving_variance":
                    made.append(rng.uniform(0.5, 2.0, n))
                case _:
                    made.append(0.1 * rng.standard_normal(n))
        layer.set_weights(made)


def export(name: str, target: Path, size: int | None = None) -> None:
    """Build, randomise and write one network: of its own size and with its softmax, or of a size, without."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    os.environ.setdefault("TF_USE_LEGACY_KERAS", "1")
    import tensorflow as tf
    import tf_keras

    tf2onnx = import_module("tf2onnx")  # it is installed for this script alone
    fusions = import_module("tf2onnx.optimizer.back_to_back_optimizer")
    fusions._func_map.pop(("Conv", "BatchNormalization"))
    tf_keras.utils.set_random_seed(SEED)
    shape = None if size is None else (size, size, 3)
    model = getattr(tf_keras.applications, name.rstrip("+"))(weights=None, input_shape=shape)
    if size is not None:
        model.layers[-1].activation = tf_keras.activations.linear
    randomise(model, positive=name.endswith("+"))
    signature = [tf.TensorSpec((None, *model.input_shape[1:]), tf.float32, name="image")]
    call = tf.function(lambda image: model(image, training=False), input_signature=signature)
    tf2onnx.convert.from_function(call, signature, opset=OPSET, output_path=str(target))


if __name__ == "__main__":
    export(sys.argv[1], Path(sys.argv[2]))
