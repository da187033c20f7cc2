"""The networks that ``benchmarks.gpu`` times, as ONNX and ``.keras`` files, in float32 and float16.

``python -m benchmarks.gpu_models FORMAT NAME PRECISION FILE``. ONNX comes from ``tf_keras.applications``
(``peers_models``: one op per BN) and becomes float16 by onnxruntime's own converter, so that all of it is.
Keras comes from ``keras.applications``; its float16 is the policy ``mixed_float16``, which people train with.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from importlib import import_module
from pathlib import Path

from benchmarks.peers_models import SEED, randomise

NAMES = ("ResNet50", "MobileNetV2", "DenseNet121")
PRECISIONS = ("float32", "float16")
FORMATS = ("onnx", "keras")


def onnx_model(name: str, precision: str, target: Path) -> None:
    """Exported, and made float16 throughout where that is wanted."""
    with tempfile.TemporaryDirectory() as folder:
        exported = Path(folder) / "exported.onnx"
        command = [sys.executable, "-m", "benchmarks.peers_models", name, str(exported)]
        subprocess.run(command, check=True, env={**os.environ, "CUDA_VISIBLE_DEVICES": "-1"})
        if precision == "float32":
            target.write_bytes(exported.read_bytes())
            return
        import onnx

        to_float16 = import_module("onnxruntime.transformers.float16")
        onnx.save(to_float16.convert_float_to_float16(onnx.load(exported)), target)


def keras_model(name: str, precision: str, target: Path) -> None:
    """Built with random statistics."""
    os.environ["CUDA_VISIBLE_DEVICES"] = "-1"  # to build and save it takes no device
    import keras

    keras.utils.set_random_seed(SEED)
    if precision == "float16":
        keras.mixed_precision.set_dtype_policy("mixed_float16")
    model = getattr(keras.applications, name)(weights=None)
    randomise(model, positive=False)
    model.save(target)


if __name__ == "__main__":
    form, wanted, kind, path = sys.argv[1:]
    (onnx_model if form == "onnx" else keras_model)(wanted, kind, Path(path))
