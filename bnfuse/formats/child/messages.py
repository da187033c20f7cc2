"""Messages between bnfuse and the process that runs a runtime: a JSON head, then the bytes of arrays.

::

    8 bytes    length of the header, big-endian
    header     {"head": {…}, "arrays": [{"name", "dtype", "shape", "bytes"}, …]} as JSON
    the rest   each array's elements in C order, one array after the other

Numbers are written from the array's own memory, and read into that of the new one: nothing else of their size
is ever made. What numpy has no type for travels as JSON: strings, and the lists, maps and arrays that a
sequence or map output is made of (``bnfuse.formats.child.objects``); arrays in there follow it, as entries
"inner". Nothing is pickled, so that neither side can make the other run anything. Does not interpret
``head``: what is asked and answered is the affair of both ends.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping
from io import BufferedReader
from typing import IO, Any

import numpy as np

from bnfuse.formats.child.objects import from_tree, to_tree

Head = dict[str, Any]
Arrays = dict[str, np.ndarray]
_Raw = bytes | memoryview

_LENGTH = struct.Struct(">Q")
_MAX_HEADER_BYTES = 1 << 28


def write_message(stream: IO[bytes], head: Head, arrays: Mapping[str, np.ndarray] | None = None) -> None:
    """Send one message and flush it.

    Raises:
        OSError: the other end is gone.
        TypeError: a value cannot be sent. Nothing was.
    """
    parts: list[_Raw] = []
    entries = [{"name": name, **_entry(array, parts)} for name, array in (arrays or {}).items()]
    header = json.dumps({"head": head, "arrays": entries}).encode("ascii")
    stream.write(_LENGTH.pack(len(header)))
    stream.write(header)
    for part in parts:
        stream.write(part)
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
    header = json.loads(_exactly(stream, length))
    return header["head"], {entry["name"]: _array(stream, entry) for entry in header["arrays"]}


def _exactly(stream: BufferedReader, size: int) -> bytes:
    """The next ``size`` bytes."""
    buffer = bytearray(size)
    _fill(stream, memoryview(buffer))
    return bytes(buffer)


def _fill(stream: BufferedReader, view: memoryview) -> None:
    filled = 0
    while filled < len(view):
        count = stream.readinto(view[filled:])
        if not count:
            raise EOFError("the pipe was closed")
        filled += count


def _entry(array: np.ndarray, parts: list[_Raw]) -> Head:
    """How one array is announced; its bytes are added to ``parts``."""
    shape = list(array.shape)
    if array.dtype.kind in "OUS":
        inner: list[np.ndarray] = []
        raw = json.dumps([to_tree(item, inner) for item in array.reshape(-1)]).encode("ascii")
        parts.append(raw)
        held = [_entry(part, parts) for part in inner]
        return {"dtype": "object", "shape": shape, "bytes": len(raw), "inner": held}
    native = array.astype(array.dtype.newbyteorder("="), copy=False)
    flat = np.ascontiguousarray(native).reshape(-1).view(np.uint8)
    parts.append(flat.data)
    return {"dtype": native.dtype.name, "shape": shape, "bytes": flat.nbytes}


def _array(stream: BufferedReader, entry: Head) -> np.ndarray:
    """The array that was announced so."""
    if entry["dtype"] == "object":
        items = json.loads(_exactly(stream, entry["bytes"]))
        inner = [_array(stream, part) for part in entry["inner"]]
        held: np.ndarray = np.empty(len(items), dtype=object)
        for at, item in enumerate(items):
            held[at] = from_tree(item, inner)
        return held.reshape(tuple(entry["shape"]))
    array: np.ndarray = np.empty(entry["shape"], dtype_named(entry["dtype"]))
    if array.nbytes != entry["bytes"]:
        raise ValueError(f"{entry['bytes']} bytes are no {entry['dtype']} of shape {entry['shape']}")
    _fill(stream, array.reshape(-1).view(np.uint8).data)
    return array


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
