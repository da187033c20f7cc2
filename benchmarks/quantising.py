"""An ONNX model in 8 bits, and how far its outputs then are from those in float.

Static quantisation of onnxruntime (QDQ), weights int8 and symmetric, activations uint8, minimum and maximum
of the calibration images, no preprocessing. Pictures are those that scikit-learn and scikit-image bring.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
from numpy.typing import NDArray
from onnx import version_converter

from bnfuse.core.apply import Planned, apply
from bnfuse.core.decisions import Plan
from bnfuse.core.planning.state import State
from bnfuse.core.quantising.freedoms import freedoms, rescaled
from bnfuse.formats import detect
from bnfuse.formats.base import ReadOptions

Array = NDArray[np.float32]
Outputs = list[list[NDArray[np.float64]]]  # by sample, then by output
# quantize_static writes per-channel scales from this operator set on.
OPSET = 13
_PICTURES = ("astronaut", "coffee", "chelsea", "rocket", "retina", "hubble_deep_field")


def pictures(height: int, width: int) -> list[Array]:
    """Photographs of shape (1, 3, height, width), 0..255, each also mirrored and cropped."""
    from skimage import data
    from skimage.transform import resize
    from sklearn.datasets import load_sample_images

    found = []
    for image in (*load_sample_images().images, *(getattr(data, name)() for name in _PICTURES)):
        rows, columns = image.shape[:2]
        for part in (image, image[rows // 5 :, : 4 * columns // 5][:, ::-1]):
            sized = resize(part, (height, width), preserve_range=True, anti_aliasing=True)
            found.append(np.ascontiguousarray(sized.transpose(2, 0, 1)[None], dtype=np.float32))
    return found


def modernised(model: Path, target: Path) -> Path:
    """The same model in operator set 13 at least, no initializer listed as an input or unused."""
    loaded = onnx.load(model)
    stored = {tensor.name for tensor in loaded.graph.initializer}
    read = {name for node in loaded.graph.node for name in node.input}
    inputs = [value for value in loaded.graph.input if value.name not in stored]
    kept = [tensor for tensor in loaded.graph.initializer if tensor.name in read]
    del loaded.graph.input[:], loaded.graph.initializer[:]
    loaded.graph.input.extend(inputs)
    loaded.graph.initializer.extend(kept)
    loaded.ir_version = max(loaded.ir_version, 4)
    version = next(o.version for o in loaded.opset_import if not o.domain)
    onnx.save(version_converter.convert_version(loaded, OPSET) if version < OPSET else loaded, target)
    return target


def quantised(model: Path, target: Path, calibration: Sequence[Array], *, per_channel: bool) -> Path:
    """The model in 8 bits."""
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static

    class Reader(CalibrationDataReader):  # type: ignore[misc]
        def __init__(self) -> None:
            name = onnx.load(model, load_external_data=False).graph.input[0].name
            self.left = iter([{name: sample} for sample in calibration])

        def get_next(self) -> Any:
            return next(self.left, None)

    logging.disable(logging.WARNING)  # of the preprocessing that is not wanted here
    quantize_static(
        str(model),
        str(target),
        Reader(),
        quant_format=QuantFormat.QDQ,
        per_channel=per_channel,
        activation_type=QuantType.QUInt8,
        weight_type=QuantType.QInt8,
    )
    return target


def outputs(model: Path, samples: Sequence[Array], *, optimise: bool) -> Outputs:
    """All outputs for each sample; ``optimise`` has onnxruntime run quantised operators as such."""
    ort.set_default_logger_severity(4)
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    if not optimise:
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = ort.InferenceSession(str(model), options, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    return [[np.asarray(y, np.float64) for y in session.run(None, {name: x})] for x in samples]


def snr_db(wanted: Outputs, found: Outputs) -> float:
    """Signal to noise over all samples, 10·log10(Σy²/Σ(y' − y)²) in dB, the mean over the outputs."""
    every = []
    for at in range(len(wanted[0])):
        signal = sum(float(np.square(one[at]).sum()) for one in wanted)
        noise = sum(
            float(np.square(one[at] - other[at]).sum()) for one, other in zip(wanted, found, strict=True)
        )
        every.append(10.0 * np.log10(signal / noise))
    return float(np.mean(every))


def redrawn(model: Path, target: Path, seed: int, *, decades: float = 0.0, deviation: float = 0.0) -> Path:
    """The same function, every channel that is free held with a random scale.

    Args:
        model: the file.
        target: the file to write, in a folder of its own.
        seed: of the randomness.
        decades: log10 of the scales is uniform over so many, around 0.
        deviation: ln of the scales is normal with this standard deviation.
    """
    rng = np.random.default_rng(seed)
    opened = detect(model).read(model, ReadOptions())
    state = State(opened.graph)
    for freedom in freedoms(state):
        wide = rng.uniform(-decades / 2, decades / 2, freedom.free.size) * np.log(10.0)
        scale = np.exp(wide + deviation * rng.standard_normal(freedom.free.size))
        found = rescaled(
            state, freedom.writer, freedom.axis, np.where(freedom.free, scale, 1.0), freedom.choices
        )
        assert found is not None, "what is free takes any scale"
        state.accept_rescaling(found)
    opened.write(apply(opened.graph, Planned(Plan(()), state)), target)
    opened.close()
    return target
