"""A model opened up for a proof: values inside come out, are set from outside, and weights are shaken.

Works on a copy of the file's bytes in memory (protobuf keeps a model file below 2 GB; data outside it stays
where it is). A seam becomes an output. Where it is forced, its writer puts out another name, which is the
output, and the seam itself is an input: whatever reads it, bodies included, reads what is given.

Shaken initializers are handed to the session beside the model, wherever their bytes lie; a Constant node
becomes an initializer first. A weight that is computed from constants is shaken where it is stored. Only
the main graph is opened: the values of bodies and functions have no names there. Where all weights are
shaken, those in bodies and functions are so where they lie.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from msgspec import Struct, field

from bnfuse.core.weights.tensor import Array, size, whole
from bnfuse.formats.base import Probe
from bnfuse.formats.child.messages import dtype_named
from bnfuse.formats.child.shaking import is_shaken, stepped
from bnfuse.formats.onnx.file.parse import parse_file
from bnfuse.formats.onnx.file.splice import splice
from bnfuse.formats.onnx.file.storage import Files, FileTensor
from bnfuse.formats.onnx.graph.scope import bodies

# Of weights that go into the model's bytes.
_MOST_INNER_BYTES = 1 << 28


class Probed(Struct, frozen=True, eq=False):
    """A model's bytes with its seams as outputs, and the constants to use instead of its own.

    ``answers`` names, by seam, the output that shows what is computed for it; ``given`` are those seams that
    are inputs. ``held`` keeps the runtime's own values of ``shaken`` for as long as a session uses them.
    """

    model: bytes
    answers: Mapping[str, str]
    given: frozenset[str] = frozenset()
    shaken: Mapping[str, Array] = field(default_factory=dict)
    held: list[Any] = field(default_factory=list)


def probed(path: Path, probe: Probe) -> Probed:
    """Open a model up.

    Raises:
        UnreadableModel, UnsafeModel: as reading does.
    """
    source = parse_file(path)
    graph, files = source.proto.graph, source.files
    try:
        answers = _force(graph, probe) if probe.forced else {name: name for name in probe.seams}
        if probe.wanted:
            answers = {seam: output for seam, output in answers.items() if seam in probe.wanted}
            _narrow(graph, {*answers.values(), *probe.wanted})
        shaken = _shake(graph, files, probe)
        if probe.shakes_all:
            _shake_inner(source.proto, files, np.random.default_rng(probe.seed))
        known = {info.name for info in graph.output}
        graph.output.extend(onnx.ValueInfoProto(name=o) for o in answers.values() if o not in known)
        lengths = [piece.length for piece in files.slices]
        parts = splice(source.proto.SerializeToString(), lengths.__getitem__)
        given = frozenset(probe.seams if probe.forced else ())
        return Probed(b"".join(_bytes(files, part) for part in parts), answers, given, shaken)
    finally:
        files.close()


def _bytes(files: Files, part: bytes | bytearray | int) -> Any:
    """A piece of a file, as something that holds bytes."""
    if not isinstance(part, int):
        return part
    where = files.slices[part]
    return FileTensor(files, where, (where.length,), np.dtype(np.uint8)).read(0, where.length)


def _force(graph: onnx.GraphProto, probe: Probe) -> dict[str, str]:
    """Seams as inputs; what is computed for each gets another name, which is the answer."""
    types = dict(zip(probe.seams, probe.dtypes, strict=True))
    taken = {name for node in graph.node for name in (*node.output, *node.input)}
    marks = (f":made{k}" for k in count())
    mark = next(mark for mark in marks if taken.isdisjoint(seam + mark for seam in types))
    answers = {seam: seam + mark for seam in types}
    for node in graph.node:
        for at, name in enumerate(node.output):
            if name in types:
                node.output[at] = answers[name]
    for name, dtype in types.items():
        given = onnx.ValueInfoProto(name=name)
        given.type.tensor_type.elem_type = onnx.helper.np_dtype_to_tensor_dtype(dtype_named(dtype))
        graph.input.append(given)
    kept = [info for info in graph.value_info if info.name not in types]
    del graph.value_info[:]
    graph.value_info.extend(kept)
    return answers


def _narrow(graph: onnx.GraphProto, wanted: set[str]) -> None:
    """Leave out outputs that are not wanted, and whatever serves no wanted one; the inputs stay."""
    writers = {name: at for at, node in enumerate(graph.node) for name in node.output if name}
    kept: set[int] = set()
    used, pending = set(wanted), list(wanted)
    while pending:
        at = writers.get(pending.pop())
        if at is not None and at not in kept:
            kept.add(at)
            fresh = set(_read_by(graph.node[at])) - used
            used |= fresh
            pending += fresh
    used |= {info.name for info in graph.input}  # an initializer that is one must not be asked for
    _keep(graph.node, [node for at, node in enumerate(graph.node) if at in kept])
    _keep(graph.initializer, [tensor for tensor in graph.initializer if tensor.name in used])
    _keep(graph.output, [info for info in graph.output if info.name in wanted])


def _keep(part: Any, kept: Sequence[Any]) -> None:
    del part[:]
    part.extend(kept)


def _read_by(node: onnx.NodeProto) -> Iterator[str]:
    """The values that a node and its bodies read; names of a body's own among them."""
    yield from node.input
    for _, _, body in bodies(node):
        yield from (info.name for info in body.output)  # one that is passed through from outside
        for inner in body.node:
            yield from _read_by(inner)


def _shake(graph: onnx.GraphProto, files: Files, probe: Probe) -> dict[str, Array]:
    """New values for every stored array of floats that the named values are made of."""
    if not probe.shaken and not probe.shakes_all:
        return {}
    writers = {name: node for node in graph.node for name in node.output if name}
    stored = {tensor.name: tensor for tensor in graph.initializer}
    every = (*stored, *(name for name, node in writers.items() if node.op_type == "Constant"))
    wanted = _stored_behind(every if probe.shakes_all else probe.shaken, writers, stored)
    for name in wanted:
        if name not in stored:
            stored[name] = _as_initializer(graph, writers[name], name)
    rng = np.random.default_rng(probe.seed)
    shaken = {}
    for name in wanted:
        tensor = files.tensor(stored[name])
        if is_shaken(tensor.dtype):
            shaken[name] = stepped(whole(tensor).reshape(tensor.shape), tensor.dtype, rng)
    return shaken


def _shake_inner(model: onnx.ModelProto, files: Files, rng: np.random.Generator) -> None:
    """New values for the stored floats of bodies and functions, in place, as far as a message has room."""
    left = _MOST_INNER_BYTES
    for proto in _inner_tensors(model):
        tensor = files.tensor(proto)
        left -= size(tensor) * tensor.dtype.itemsize
        if left < 0:
            return
        if is_shaken(tensor.dtype):
            values = stepped(whole(tensor).reshape(tensor.shape), tensor.dtype, rng)
            kind, dims, name = proto.data_type, tuple(proto.dims), proto.name
            proto.Clear()
            proto.CopyFrom(onnx.TensorProto(data_type=kind, dims=dims, name=name, raw_data=values.tobytes()))


def _inner_tensors(model: onnx.ModelProto) -> Iterator[onnx.TensorProto]:
    """The constants of every body and function; those of the main graph are not among them."""
    pending = [graph for node in model.graph.node for _, _, graph in bodies(node)]
    nodes = [node for function in model.functions for node in function.node]
    while pending or nodes:
        while nodes:
            node = nodes.pop()
            pending += [graph for _, _, graph in bodies(node)]
            if node.op_type == "Constant" and _value(node):
                yield node.attribute[0].t
        if pending:
            graph = pending.pop()
            yield from graph.initializer
            nodes += graph.node


def _stored_behind(
    names: Iterable[str],
    writers: Mapping[str, onnx.NodeProto],
    stored: Mapping[str, onnx.TensorProto],
) -> list[str]:
    """The initializers and Constants that values known before the run are made of; others are passed over."""
    found: dict[str, None] = {}
    for name in names:
        leaves, pending, seen = [], [name], {name}
        while pending:
            each = pending.pop()
            node = writers.get(each)
            if each in stored or (node is not None and node.op_type == "Constant" and _value(node)):
                leaves.append(each)
            elif node is None or not node.input:
                break  # an input of the model, or an operator that makes values of nothing
            else:
                fresh = [i for i in node.input if i and i not in seen]
                seen.update(fresh)
                pending += fresh
        else:
            found.update(dict.fromkeys(leaves))
    return list(found)


def _value(node: onnx.NodeProto) -> bool:
    return bool(node.attribute) and node.attribute[0].name == "value"


def _as_initializer(graph: onnx.GraphProto, node: onnx.NodeProto, name: str) -> onnx.TensorProto:
    """A Constant node's tensor among the initializers, in place of the node."""
    made = graph.initializer.add()
    made.CopyFrom(node.attribute[0].t)
    made.name = name
    graph.node.remove(node)
    return made
