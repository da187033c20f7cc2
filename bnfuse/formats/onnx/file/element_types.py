"""Element types: onnx's number of each, and numpy's type of it.

``onnx.helper`` knows them all, and for it the types that numpy lacks are imported; few models have any.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
from onnx import TensorProto

_NUMPYS: dict[int, np.dtype[Any]] = {
    TensorProto.FLOAT: np.dtype(np.float32),
    TensorProto.UINT8: np.dtype(np.uint8),
    TensorProto.INT8: np.dtype(np.int8),
    TensorProto.UINT16: np.dtype(np.uint16),
    TensorProto.INT16: np.dtype(np.int16),
    TensorProto.INT32: np.dtype(np.int32),
    TensorProto.INT64: np.dtype(np.int64),
    TensorProto.BOOL: np.dtype(np.bool_),
    TensorProto.FLOAT16: np.dtype(np.float16),
    TensorProto.DOUBLE: np.dtype(np.float64),
    TensorProto.UINT32: np.dtype(np.uint32),
    TensorProto.UINT64: np.dtype(np.uint64),
}
_ONNXS = {dtype: number for number, dtype in _NUMPYS.items()}


def numpy_type(number: int) -> np.dtype[Any]:
    """The numpy (or ml_dtypes) type of a TensorProto.DataType.

    Raises:
        KeyError: there is no such number.
    """
    plain = _NUMPYS.get(number)
    return np.dtype(onnx.helper.tensor_dtype_to_np_dtype(number)) if plain is None else plain


def onnx_type(dtype: np.dtype[Any]) -> int:
    """The TensorProto.DataType of a numpy (or ml_dtypes) type.

    Raises:
        ValueError: onnx has none for it.
    """
    plain = _ONNXS.get(dtype)
    return onnx.helper.np_dtype_to_tensor_dtype(dtype) if plain is None else plain
