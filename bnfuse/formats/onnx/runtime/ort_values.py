"""Values between numpy and onnxruntime, bfloat16 and what is no tensor included."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from typing import Any

import numpy as np

from bnfuse.errors import BnfuseError
from bnfuse.formats.base import TensorSpec

# onnxruntime's element types that numpy has under the same or another name.
_NUMPY_NAMES = {
    "float": "float32",
    "double": "float64",
    "string": "string",
    "bool": "bool",
    **{name: name for name in ("float16", "int8", "int16", "int32", "int64")},
    **{name: name for name in ("uint8", "uint16", "uint32", "uint64", "bfloat16")},
}


def spec_of(arg: Any) -> TensorSpec:
    """onnxruntime's NodeArg as a ``TensorSpec``."""
    kind: str = arg.type
    if not kind.startswith("tensor("):
        return TensorSpec(arg.name, kind, None)  # "seq(…)", "map(…)", "optional(…)"
    element = kind[len("tensor(") : -1]
    return TensorSpec(arg.name, _NUMPY_NAMES.get(element, element), _shape(arg.shape))


def _shape(shape: Sequence[Any]) -> tuple[int | str | None, ...] | None:
    """The declared axes. Symbols that onnxruntime's shape inference made up are not the model's."""
    if not shape:
        return None
    return tuple(None if isinstance(d, str) and d.startswith("unk__") else d for d in shape)


def as_array(value: Any) -> np.ndarray:
    """One output as an array; what is no tensor as a 1-D object array of its elements."""
    if isinstance(value, np.ndarray):
        return value
    elements = value if isinstance(value, list) else [value]
    array = np.empty(len(elements), dtype=object)
    for index, element in enumerate(elements):
        array[index] = element
    return array


def on_cuda(array: np.ndarray) -> Any:
    """An OrtValue in the memory of the first GPU."""
    import onnxruntime as ort

    return ort.OrtValue.ortvalue_from_numpy(array, "cuda", 0)


def to_value(array: np.ndarray, dtype: str) -> Any:
    """An OrtValue of a declared type; bfloat16 comes as any floating-point array."""
    import onnxruntime as ort

    if dtype != "bfloat16":
        return ort.OrtValue.ortvalue_from_numpy(np.asarray(array, order="C"))
    import ml_dtypes
    from onnx import TensorProto

    bits = np.asarray(array.astype(ml_dtypes.bfloat16), order="C").view(np.uint16)
    return ort.OrtValue.ortvalue_from_numpy_with_onnx_type(bits, TensorProto.BFLOAT16)


def from_value(value: Any) -> Any:
    """An OrtValue as an array; bfloat16 is copied out bit by bit, since numpy cannot name it."""
    if not value.is_tensor() or "bfloat16" not in value.data_type():
        return value.numpy()
    import ml_dtypes

    if value.device_name() != "cpu":
        raise BnfuseError("bfloat16 outputs on a GPU cannot be read back by onnxruntime: use --device cpu")
    raw = ctypes.string_at(value.data_ptr(), value.tensor_size_in_bytes())
    return np.frombuffer(raw, dtype=ml_dtypes.bfloat16).reshape(value.shape())
