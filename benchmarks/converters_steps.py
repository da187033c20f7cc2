"""One conversion, and what it leaves: ``python -m benchmarks.converters_steps STEP SOURCE TARGET``.

Each step is a process of its own, as converters change global state. Calibration is on crops of two
photographs that come with scikit-learn.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.converters_models import SIZE

CROPS = 32


def crops(channels_first: bool) -> Iterator[np.ndarray]:
    """Crops (1, H, W, 3) or (1, 3, H, W) of photographs, in 0 … 1."""
    images = import_module("sklearn.datasets").load_sample_images().images
    rng = np.random.default_rng(0)
    for at in range(CROPS):
        image = images[at % len(images)]
        y, x = (int(rng.integers(0, size - SIZE)) for size in image.shape[:2])
        crop = (image[y : y + SIZE, x : x + SIZE] / 255.0).astype(np.float32)[None]
        yield crop.transpose(0, 3, 1, 2) if channels_first else crop


def keras_loaded(source: Path) -> Any:
    """The model of a ``.keras``."""
    return import_module("keras").models.load_model(source, compile=False)


def litert(source: Path, target: Path) -> None:
    """Keras → LiteRT, float32."""
    tf = import_module("tensorflow")
    target.write_bytes(tf.lite.TFLiteConverter.from_keras_model(keras_loaded(source)).convert())


def litert_int8(source: Path, target: Path) -> None:
    """Keras → LiteRT, int8 throughout."""
    tf = import_module("tensorflow")
    converter = tf.lite.TFLiteConverter.from_keras_model(keras_loaded(source))
    converter.optimizations = [tf.lite.Optimize.DEFAULT]
    converter.representative_dataset = lambda: ([crop] for crop in crops(channels_first=False))
    converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
    target.write_bytes(converter.convert())


def openvino(source: Path, target: Path) -> None:
    """Keras → SavedModel → OpenVINO."""
    ov = import_module("openvino")
    folder = target.with_suffix(".saved")
    keras_loaded(source).export(folder, verbose=False)
    model = ov.convert_model(folder)
    model.reshape([1, SIZE, SIZE, 3])
    ov.save_model(model, target, compress_to_fp16=False)


def onnx_from_keras(source: Path, target: Path) -> None:
    """Keras → ONNX by the backend that ``KERAS_BACKEND`` names."""
    keras = import_module("keras")
    model = keras_loaded(source)
    keras.utils.set_random_seed(0)
    spec = [keras.InputSpec(shape=(1, SIZE, SIZE, 3), dtype="float32", name="image")]
    model.export(target, format="onnx", input_signature=spec, verbose=False)


def from_torch(source: Path, target: Path, *, dynamo: bool) -> None:
    """PyTorch → ONNX."""
    torch = import_module("torch")
    model = torch.export.load(source).module()
    image = torch.zeros(1, 3, SIZE, SIZE)
    kept = {} if dynamo else {"training": torch.onnx.TrainingMode.PRESERVE, "do_constant_folding": False}
    torch.onnx.export(model, (image,), str(target), dynamo=dynamo, external_data=False, **kept)


def torch_dynamo(source: Path, target: Path) -> None:
    """By the exporter on ``torch.export``."""
    from_torch(source, target, dynamo=True)


def torch_script(source: Path, target: Path) -> None:
    """By the older exporter, told to fold nothing."""
    from_torch(source, target, dynamo=False)


class _Crops:
    """Calibration data as onnxruntime reads it."""

    def __init__(self, source: Path) -> None:
        ort = import_module("onnxruntime")
        given = ort.InferenceSession(source, providers=["CPUExecutionProvider"]).get_inputs()[0]
        first = given.shape[1] == 3
        self._left = iter([{given.name: crop} for crop in crops(channels_first=first)])

    def get_next(self) -> dict[str, np.ndarray] | None:
        return next(self._left, None)


def qdq(source: Path, target: Path) -> None:
    """onnxruntime's static quantisation, QDQ, per channel."""
    quantization = import_module("onnxruntime.quantization")
    quantization.quantize_static(
        source,
        target,
        _Crops(source),
        quant_format=quantization.QuantFormat.QDQ,
        per_channel=True,
    )


def qdq_prepared(source: Path, target: Path) -> None:
    """The same after onnxruntime's own pre-processing, which folds what it can."""
    prepare = import_module("onnxruntime.quantization.shape_inference")
    prepared = target.with_suffix(".prepared.onnx")
    prepare.quant_pre_process(str(source), str(prepared), skip_symbolic_shape=True)
    qdq(prepared, target)


def nncf_int8(source: Path, target: Path) -> None:
    """OpenVINO's quantisation by NNCF, of an ONNX file."""
    ov, nncf = import_module("openvino"), import_module("nncf")
    model = ov.convert_model(source)
    first = model.input(0).get_partial_shape()[1] == 3
    quantised = nncf.quantize(model, nncf.Dataset(list(crops(channels_first=first))), subset_size=CROPS)
    ov.save_model(quantised, target)


STEPS: dict[str, Callable[[Path, Path], None]] = {
    "litert": litert,
    "litert_int8": litert_int8,
    "openvino": openvino,
    "onnx_from_keras": onnx_from_keras,
    "torch_dynamo": torch_dynamo,
    "torch_script": torch_script,
    "qdq": qdq,
    "qdq_prepared": qdq_prepared,
    "nncf": nncf_int8,
}

if __name__ == "__main__":
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    step, given, made = sys.argv[1:]
    STEPS[step](Path(given), Path(made))
