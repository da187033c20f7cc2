"""Messages between bnfuse and the process that runs Keras: a JSON head, then the bytes of arrays.

::

    8 bytes    length of the header, big-endian
    header     {"head": {…}, "arrays": [{"name", "dtype", "shape", "bytes"}, …]} as JSON
    the rest   each array's elements in C order, one array after the other

Strings travel as a JSON list. Nothing is pickled, so that neither side can make the other run
anything. Does not interpret ``head``: what is asked and answered is the affair of both ends.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping
from io import BufferedReader
from typing import IO, Any

import numpy as np

Head = dict[str, Any]
Arrays = dict[str, np.ndarray]

_LENGTH = struct.Struct(">Q")
_MAX_HEADER_BYTES = 1 << 28


def write_message(stream: IO[bytes], head: Head, arrays: Mapping[str, np.ndarray] | None = None) -> None:
    """Send one message and flush it.

    Raises:
        OSError: the other end is gone.
    """
    parts = {name: _to_bytes(array) for name, array in (arrays or {}).items()}
    entries = [
        {"name": name, "dtype": dtype, "shape": shape, "bytes": len(raw)}
        for name, (dtype, shape, raw) in parts.items()
    ]
    header = json.dumps({"head": head, "arrays": entries}).encode("ascii")
    stream.write(_LENGTH.pack(len(header)))
    stream.write(header)
    for _, _, raw in parts.values():
        stream.write(raw)
    stream.flush()


def read_message(stream: BufferedReader) -> tuple[Head, Arrays]:
    """Receive one message.

    Raises:
        EOFError: the other end is gone.
        ValueError: what arrived is no message.
    """
    (length,) = _LENGTH.unpack(_exactly(stream, _LENGTH.size))
    if length > _MAX_HEADER_BYTES:
        raise ValueError(f"a header of {length} bytes is no header")
    header = json.loads(bytes(_exactly(stream, length)))
    arrays = {
        entry["name"]: _from_bytes(_exactly(stream, entry["bytes"]), entry["dtype"], entry["shape"])
        for entry in header["arrays"]
    }
    return header["head"], arrays


def _exactly(stream: BufferedReader, size: int) -> bytearray:
    """The next ``size`` bytes."""
    buffer = bytearray(size)
    view, filled = memoryview(buffer), 0
    while filled < size:
        count = stream.readinto(view[filled:])
        if not count:
            raise EOFError("the pipe was closed")
        filled += count
    return buffer


def _to_bytes(array: np.ndarray) -> tuple[str, list[int], bytes | memoryview]:
    """dtype name, shape and elements of one array."""
    shape = list(array.shape)
    if array.dtype.kind in "OUS":
        return "string", shape, json.dumps([_text(item) for item in array.reshape(-1)]).encode("ascii")
    native = array.astype(array.dtype.newbyteorder("="), copy=False)
    flat = np.ascontiguousarray(native).reshape(-1)
    return native.dtype.name, shape, flat.view(np.uint8).data


def _from_bytes(raw: bytearray, dtype: str, shape: list[int]) -> np.ndarray:
    if dtype == "string":
        words = json.loads(bytes(raw))
        array = np.empty(len(words), dtype=object)
        array[:] = words
        return array.reshape(shape)
    return np.frombuffer(raw, dtype=dtype_named(dtype)).reshape(shape)


def _text(item: Any) -> str:
    """One string; bytes that are no UTF-8 survive the round trip as surrogates."""
    return item.decode("utf-8", "surrogateescape") if isinstance(item, bytes) else str(item)


def dtype_named(name: str) -> np.dtype[Any]:
    """The numpy dtype of this name; bfloat16 and the like come from ``ml_dtypes``.

    Raises:
        ValueError: nothing is called so.
    """
    try:
        return np.dtype(name)
    except TypeError:
        import ml_dtypes

        found = getattr(ml_dtypes, name, None)
        if found is None:
            raise ValueError(f"'{name}' is not a type of numbers") from None
        dtype: np.dtype[Any] = np.dtype(found)
        return dtype
