#!/usr/bin/env bash
# LiteRT: in int8 a RELU of its own is not run by XNNPACK; the same one behind a BatchNormalization is.
#
# Where others read the value before a ReLU (residual streams, DenseNet), no convolution can take the ReLU on. The
# converter writes BatchNormalization → ReLU there as MUL or ADD with the RELU fused, which the XNNPACK delegate
# takes; without the BatchNormalization it writes an int8 RELU, which the delegate leaves to the built-in
# kernels: the graph falls into more parts. So a model with fewer operations may run slower in int8.
# Exits 0 where that is so, 1 where it changed.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet tensorflow==2.21.0 keras==3.15.1
cd "$folder" && CUDA_VISIBLE_DEVICES=-1 TF_CPP_MIN_LOG_LEVEL=3 "$folder/venv/bin/python" - 2>/dev/null <<'PYTHON'
import contextlib
import io
import sys

import keras
import numpy as np
import tensorflow as tf

layers = keras.layers


def converted(norm):
    keras.utils.set_random_seed(0)
    x = layers.Input((16, 16, 8), batch_size=1)
    y = layers.Conv2D(8, 3, padding="same")(x)
    z = layers.ReLU()(layers.BatchNormalization()(y) if norm else y)
    model = keras.Model(x, layers.Add()([y, layers.Conv2D(8, 3, padding="same")(z)]))
    converter = tf.lite.TFLiteConverter.from_keras_model(model)
    converter.optimizations = [tf.lite.Optimize.DEFAULT]
    converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
    rng = np.random.default_rng(0)
    samples = [rng.normal(size=(1, 16, 16, 8)).astype("float32") for _ in range(8)]
    converter.representative_dataset = lambda: ([sample] for sample in samples)
    with contextlib.redirect_stdout(io.StringIO()):
        return converter.convert()


def parts(content):
    interpreter = tf.lite.Interpreter(model_content=content)
    written = [op["op_name"] for op in interpreter._get_ops_details()]
    interpreter.allocate_tensors()  # now the delegate has chosen
    return written, [op["op_name"] for op in interpreter._get_ops_details()].count("DELEGATE")


found = {norm: parts(converted(norm)) for norm in (True, False)}
print("TensorFlow", tf.__version__)
for norm, (written, count) in found.items():
    print("with" if norm else "without", "BatchNormalization:", " ".join(written), f"- {count} parts for XNNPACK")
(with_norm, one), (without, more) = found[True], found[False]
sys.exit(not ("RELU" not in with_norm and "RELU" in without and more > one))
PYTHON
