"""onnx's shape inference, in a process of its own where it could end the one that asks.

It takes the bounds of a Slice for granted, and builds of onnx that check what the C++ library asserts end the
process where sizes make no sense, as in damaged files. That is known of no other operator. A process of its
own costs some 40 ms, and nothing is lost but the shapes where it ends.
"""

from __future__ import annotations

import subprocess
import sys

from onnx import onnx_cpp2py_export
from onnx.onnx_cpp2py_export.checker import ValidationError
from onnx.onnx_cpp2py_export.shape_inference import InferenceError, infer_shapes

_RISKY = b"Slice"
_MOST_S = 300.0
# Nothing but onnx's own library is imported there.
_WORKER = """
import sys
from importlib.machinery import ExtensionFileLoader
from importlib.util import module_from_spec, spec_from_file_location
path, follows = sys.argv[1:]
spec = spec_from_file_location("onnx.onnx_cpp2py_export", path, loader=ExtensionFileLoader("onnx", path))
library = module_from_spec(spec)
spec.loader.exec_module(library)
model = sys.stdin.buffer.read()
sys.stdout.buffer.write(library.shape_inference.infer_shapes(model, False, False, bool(follows)))
"""


def infer(model: bytes, *, follows_values: bool) -> bytes | None:
    """A serialized ModelProto with the shapes that onnx finds; None where it cannot digest it.

    ``follows_values`` also follows the values of shape arithmetic, which costs half as much again.
    """
    if _RISKY in model:
        return _apart(model, "follows" if follows_values else "")
    try:  # as onnx.shape_inference does, which would have the whole package imported
        return infer_shapes(model, False, False, follows_values)
    except (InferenceError, ValidationError, ValueError, RuntimeError):
        return None


def _apart(model: bytes, follows: str) -> bytes | None:
    command = [sys.executable, "-I", "-S", "-c", _WORKER, str(onnx_cpp2py_export.__file__), follows]
    try:
        ran = subprocess.run(
            command, input=model, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, timeout=_MOST_S
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return ran.stdout if ran.returncode == 0 else None
