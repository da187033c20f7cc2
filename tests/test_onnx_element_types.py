"""Element types of our own table against those of onnx."""

from __future__ import annotations

import numpy as np
import onnx
import pytest

from bnfuse.formats.onnx.file.element_types import numpy_type, onnx_type


def test_element_types_are_those_of_onnx() -> None:
    for name, number in onnx.TensorProto.DataType.items():
        if name == "UNDEFINED":
            with pytest.raises(KeyError):
                numpy_type(number)
            continue
        dtype = onnx.helper.tensor_dtype_to_np_dtype(number)
        assert numpy_type(number) == dtype
        assert onnx_type(dtype) == number
    with pytest.raises(ValueError, match="Unable to convert"):
        onnx_type(np.dtype("timedelta64[s]"))
