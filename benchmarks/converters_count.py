"""What a converter left of BatchNormalization, and how fast it runs: as JSON.

``python -m benchmarks.converters_count left FILE`` counts, in ``.onnx``, ``.tflite`` and OpenVINO's ``.xml``:

- ``left``: BatchNormalizations, and Mul, Div, Add, Sub by a constant per channel that no linear op has as its
  own bias (``peers_count``'s rule);
- ``ops``: all operations, constants apart.

``python -m benchmarks.converters_count time A B`` times two of one kind in interleaved rounds, two threads.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.converters_models import SIZE

ROUNDS = 60
_WARM = 5
_TFLITE_LINEAR = {"CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED", "TRANSPOSE_CONV", "BATCH_MATMUL"}
_SCALES, _SHIFTS = {"MUL", "DIV"}, {"ADD", "SUB"}


def of_onnx(path: Path) -> dict[str, int]:
    """An ONNX file's; what stands behind DequantizeLinear counts too."""
    onnx = import_module("onnx")
    count = import_module("benchmarks.peers_count").left_over(onnx.load(path))
    return {"left": count["batchnorms"] + count["affines"], "ops": count["nodes"]}


def _tflite_ops(path: Path) -> Iterator[tuple[str, list[int], list[int]]]:
    """Name, inputs and outputs of each operation of the main graph."""
    interpreter = import_module("tensorflow").lite.Interpreter(model_path=str(path))
    for op in interpreter._get_ops_details():  # there is no public way to its operations
        yield op["op_name"], [int(i) for i in op["inputs"]], [int(i) for i in op["outputs"]]


def of_tflite(path: Path) -> dict[str, int]:
    """A LiteRT file's."""
    schema = import_module("tensorflow.lite.python.schema_py_generated")
    model = schema.Model.GetRootAsModel(path.read_bytes(), 0)
    graph = model.Subgraphs(0)

    def vector(tensor: int) -> bool:
        found = graph.Tensors(tensor)
        if tensor < 0 or not model.Buffers(found.Buffer()).DataLength():
            return False
        return int(np.sum(np.atleast_1d(found.ShapeAsNumpy()) > 1)) == 1

    left, ops, writers = 0, 0, {}
    for name, inputs, outputs in _tflite_ops(path):
        if name == "DELEGATE":
            continue
        ops += 1
        writers.update(dict.fromkeys(outputs, name))
        if name in _SCALES | _SHIFTS and any(vector(tensor) for tensor in inputs):
            behind = any(writers.get(tensor) in _TFLITE_LINEAR for tensor in inputs)
            left += name in _SCALES or not behind
    return {"left": left, "ops": ops}


def of_openvino(path: Path) -> dict[str, int]:
    """An OpenVINO file's."""
    model = import_module("openvino").Core().read_model(path)
    linear = {"Convolution", "GroupConvolution", "MatMul"}
    linear |= {"ConvolutionBackpropData", "GroupConvolutionBackpropData"}

    def node_of(value: Any) -> Any:
        node = value.get_node()
        return node.input_value(0).get_node() if node.get_type_name() == "Convert" else node

    def vector(value: Any) -> bool:
        shape = value.get_partial_shape()
        constant = node_of(value).get_type_name() == "Constant"
        return bool(constant and shape.is_static and sum(d.get_length() > 1 for d in shape) == 1)

    left, ops = 0, 0
    for op in model.get_ordered_ops():
        kind = op.get_type_name()
        if kind in ("Constant", "Parameter", "Result", "Convert"):
            continue
        ops += 1
        inputs = [op.input_value(at) for at in range(op.get_input_size())]
        behind = any(node_of(value).get_type_name() in linear for value in inputs)
        if kind == "BatchNormInference":
            left += 1
        elif kind in ("Multiply", "Divide", "Add", "Subtract") and any(map(vector, inputs)):
            left += kind in ("Multiply", "Divide") or not behind
    return {"left": left, "ops": ops}


def left(path: Path) -> dict[str, int]:
    """What is left, and the size in bytes, with that of the weights beside it."""
    counts = {".onnx": of_onnx, ".tflite": of_tflite, ".xml": of_openvino}[path.suffix](path)
    side = path.with_suffix(".bin") if path.suffix == ".xml" else path
    return counts | {"bytes": side.stat().st_size}


def caller(path: Path, threads: int = 2) -> Callable[[], object]:
    """A call of the model on so many threads, with one random image."""
    rng = np.random.default_rng(0)
    if path.suffix == ".onnx":
        ort = import_module("onnxruntime")
        options = ort.SessionOptions()
        options.intra_op_num_threads = threads
        session = ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        given = session.get_inputs()[0]
        shape = [size if isinstance(size, int) else 1 for size in given.shape]
        feeds = {given.name: rng.random(shape, dtype=np.float32)}
        return lambda: session.run(None, feeds)
    if path.suffix == ".tflite":
        interpreter = import_module("tensorflow").lite.Interpreter(model_path=str(path), num_threads=threads)
        interpreter.allocate_tensors()
        at = interpreter.get_input_details()[0]
        interpreter.set_tensor(at["index"], rng.random(at["shape"]).astype(at["dtype"]))
        invoke: Callable[[], object] = interpreter.invoke
        return invoke
    compiled = import_module("openvino").Core().compile_model(path, "CPU", {"INFERENCE_NUM_THREADS": threads})
    channels_first = compiled.input(0).get_partial_shape()[1] == 3
    image = rng.random((1, 3, SIZE, SIZE) if channels_first else (1, SIZE, SIZE, 3), dtype=np.float32)
    return lambda: compiled(image)


def timed(a: Path, b: Path, threads: int = 2) -> dict[str, float]:
    """Median milliseconds of both, the median of the paired ratios, and that of A beside a second A."""
    calls = [caller(path, threads) for path in (a, b, a)]
    for call in calls:
        for _ in range(_WARM):
            call()
    took = np.empty((ROUNDS, 3))
    for turn in range(ROUNDS):
        for at in (0, 1, 2) if turn % 2 else (2, 1, 0):
            begin = time.perf_counter()
            calls[at]()
            took[turn, at] = 1e3 * (time.perf_counter() - begin)
    before, after, again = took.T
    return {
        "before_ms": float(np.median(before)),
        "after_ms": float(np.median(after)),
        "ratio": float(np.median(before / after)),
        "control": float(np.median(before / again)),
    }


if __name__ == "__main__":
    what, *paths = sys.argv[1:]
    files = [Path(path) for path in paths]
    print(json.dumps(left(files[0]) if what == "left" else timed(files[0], files[1])))
