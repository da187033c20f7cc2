"""The stored tensors of one graph by name, each of which has one meaning.

Of two tensors under one name onnxruntime takes the first or the last, by their size and by what they are
(initializer, sparse initializer, Constant node): such a file means different things to different readers,
and is refused. The same tensor stored twice has one meaning, and is read.
"""

from __future__ import annotations

from collections import Counter

import onnx

from bnfuse.core.weights.tensor import size
from bnfuse.errors import UnreadableModel
from bnfuse.formats.onnx.file.storage import Files

_BLOCK_ELEMENTS = 1 << 20


def positions(graph: onnx.GraphProto, files: Files) -> dict[str, int]:
    """Where in ``graph.initializer`` each name is first.

    Raises:
        UnreadableModel: two different tensors have one name.
    """
    found: dict[str, int] = {}
    for at, tensor in enumerate(graph.initializer):
        first = found.setdefault(tensor.name, at)
        if first != at and not _same(graph.initializer[first], tensor, files):
            raise ambiguous(files, tensor.name, "two different initializers")
    if graph.sparse_initializer:
        times = Counter(t.values.name for t in graph.sparse_initializer)
        twice = next((name for name, n in times.items() if n > 1 or name in found), None)
        if twice is not None:
            raise ambiguous(files, twice, "two initializers, of which one is sparse")
    return found


def check_shadow(outer: onnx.TensorProto, inner: onnx.TensorProto, files: Files) -> None:
    """Refuse a body's tensor under the name of one around it: the standard forbids it, and runtimes differ.

    Raises:
        UnreadableModel: they are not the same.
    """
    if not _same(outer, inner, files):
        raise ambiguous(files, inner.name, "two different initializers, one inside a body")


def ambiguous(files: Files, name: str, what: str) -> UnreadableModel:
    """The refusal of a name that stands for more than one value."""
    return UnreadableModel(
        f"{files.model}: '{name}' is the name of {what}, and runtimes do not agree on which one counts; "
        "export it again with a name for each"
    )


def _same(a: onnx.TensorProto, b: onnx.TensorProto, files: Files) -> bool:
    """Whether two tensors hold the same elements, bit for bit."""
    if a.data_type != b.data_type or list(a.dims) != list(b.dims):
        return False
    if a.data_type == onnx.TensorProto.STRING:
        return list(a.string_data) == list(b.string_data)
    one, other = files.tensor(a), files.tensor(b)
    return all(
        one.read(start, start + n).tobytes() == other.read(start, start + n).tobytes()
        for start in range(0, size(one), _BLOCK_ELEMENTS)
        for n in (min(_BLOCK_ELEMENTS, size(one) - start),)
    )
