"""What an ONNX file tells of its inputs: sizes of free axes, numbers that can be looked up, random nodes.

Sizes: extents (``formats.extents``) are followed through the nodes of the main graph, once for every input
with free axes. What counts are the demands of operators (``extents.rules``), and the shapes that the file
declares of outputs and of values in between, which an exporter recorded when it ran the model.

When it does not act: bodies and functions are not followed, nor graphs of very many nodes.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import onnx
from msgspec import Struct, field

from bnfuse.core.weights.tensor import size, whole
from bnfuse.errors import BnfuseError
from bnfuse.formats.base import TensorSpec
from bnfuse.formats.extents import Extent, Shape, Sizes
from bnfuse.formats.hints import NO_HINTS, Axes, Hints, free_axes, is_size, usual_sizes
from bnfuse.formats.onnx.graph.description import declared
from bnfuse.formats.onnx.graph.extents.call import Elements, ExtentCall
from bnfuse.formats.onnx.graph.extents.numbers import MOST, output_numbers
from bnfuse.formats.onnx.graph.lookups import looked_up
from bnfuse.formats.onnx.graph.read import ModelFile, parse
from bnfuse.formats.onnx.graph.scope import ONNX_DOMAINS, bodies, opset_of, text_of
from bnfuse.formats.onnx.rows.ops import output_extents

_MOST_NODES = 20_000
_MOST_INPUTS = 8
_MOST_NUMBERS = 4096
# fmt: off
_RANDOM = frozenset({
    "RandomNormal", "RandomUniform", "RandomNormalLike", "RandomUniformLike", "Multinomial", "Bernoulli",
})
# fmt: on
_DROPOUTS = ("Dropout", "BiasDropout", "BitmaskDropout", "BitmaskBiasDropout")


def read_hints(path: Path) -> Hints:
    """Everything that an ONNX file tells; a file that makes no sense tells nothing."""
    try:
        source = parse(path)
        try:
            return _File(source).hints()
        finally:
            source.files.close()
    except (BnfuseError, *NO_HINTS):
        return Hints()


class _File(Struct, eq=False):
    source: ModelFile
    opset: int = 1
    tensors: dict[str, onnx.TensorProto] = field(default_factory=dict)
    declared: dict[str, Axes] = field(default_factory=dict)
    _numbers: dict[str, Elements | None] = field(default_factory=dict)

    def __post_init__(self) -> None:
        proto = self.source.proto
        graph = proto.graph
        self.opset = opset_of(proto)
        self.tensors = {tensor.name: tensor for tensor in graph.initializer}
        for node in graph.node:
            if node.op_type == "Constant" and node.attribute and node.attribute[0].name == "value":
                self.tensors[node.output[0]] = node.attribute[0].t
        for info in (*graph.value_info, *graph.output):
            if (shape := declared(info).shape) is not None:
                self.declared[info.name] = shape

    def hints(self) -> Hints:
        """Sizes, values and random nodes."""
        graph = self.source.proto.graph
        random = tuple(dict.fromkeys(self._random(graph.node)))
        if len(graph.node) > _MOST_NODES:
            return Hints(random=random)
        initial = {tensor.name for tensor in graph.initializer}
        infos = [info for info in graph.input if info.name not in initial]
        specs = [self._ranked(declared(info)) for info in infos if info.type.HasField("tensor_type")]
        sizes = {}
        for spec in specs[:_MOST_INPUTS]:
            if found := self._sizes(spec, specs):
                sizes[spec.name] = tuple(found)
        shapes = self._follow(specs, {}, Sizes(1))
        values = looked_up([spec.name for spec in specs], graph.node, shapes, self.numbers)
        return Hints(sizes, values, random)

    def _ranked(self, spec: TensorSpec) -> TensorSpec:
        """An input without a shape has the rank that the convolution which reads it wants."""
        if spec.shape is not None:
            return spec
        for node in self.source.proto.graph.node:
            if list(node.input[:1]) == [spec.name] and node.op_type in ("Conv", "ConvTranspose"):
                weight = self.tensors.get(node.input[1])
                return (
                    spec if weight is None else TensorSpec(spec.name, spec.dtype, (None,) * len(weight.dims))
                )
        return spec

    def _sizes(self, spec: TensorSpec, every: Sequence[TensorSpec]) -> list[tuple[int | None, ...]]:
        """Shapes of one input that the file speaks for, the likeliest first."""
        shape: list[int | str | None] = list(spec.shape or ())
        free = free_axes(shape)
        if len(free) > 1:
            for axis in free:
                alone = Sizes(1)
                self._follow(every, {(spec.name, axis): alone.axis(0)}, alone)
                shape[axis] = alone.only() or shape[axis]
        free = free_axes(shape)
        if not free:
            return [tuple(_known(shape))] if shape != list(spec.shape or ()) else []
        tied = _tied([shape[axis] for axis in free])
        sizes = Sizes(max(tied) + 1)
        extents: dict[tuple[str, int], Extent] = {
            (spec.name, axis): sizes.axis(number) for axis, number in zip(free, tied, strict=True)
        }
        fixed = {(spec.name, axis): n for axis, n in enumerate(shape) if isinstance(n, int)}
        self._follow(every, {**fixed, **extents}, sizes)
        made = []
        for found in sizes.found(usual_sizes(spec.shape or ())):
            chosen = dict(zip(free, (found[number] for number in tied), strict=True))
            made.append(tuple(chosen.get(axis, n) for axis, n in enumerate(_known(shape))))
        return made or ([tuple(_known(shape))] if shape != list(spec.shape or ()) else [])

    def _follow(
        self, inputs: Sequence[TensorSpec], extents: dict[tuple[str, int], Extent], sizes: Sizes
    ) -> dict[str, Shape | None]:
        """The shapes of all values, with the demands of nodes and the file's word in ``sizes``."""
        shapes: dict[str, Shape | None] = {name: tuple(t.dims) for name, t in self.tensors.items()}
        numbers: dict[str, Elements | None] = {}
        named = {  # axes of one name, which other inputs may have too
            dim: extents[spec.name, axis]
            for spec in inputs
            for axis, dim in enumerate(spec.shape or ())
            if isinstance(dim, str) and dim != "?" and (spec.name, axis) in extents
        }
        for spec in inputs:
            shapes[spec.name] = None if spec.shape is None else tuple(_extents(spec, extents, named))
        for node in self.source.proto.graph.node:
            if node.op_type == "Constant" or not node.output:
                continue
            call = ExtentCall(
                node,
                self.opset,
                sizes,
                [shapes.get(name) for name in node.input],
                [numbers[name] if name in numbers else self.numbers(name) for name in node.input],
            )
            made = self._split(call) if node.op_type == "Split" else [output_extents(call)]
            for name, shape in zip(node.output, made, strict=False):
                shapes[name] = self._told(name, shape, sizes)
            if (found := output_numbers(call)) is not None:
                numbers[node.output[0]] = found
        return shapes

    def _told(self, name: str, shape: Shape | None, sizes: Sizes) -> Shape | None:
        """What the file declares of a value beside what follows from its writer."""
        said = self.declared.get(name)
        if said is None:
            return shape
        if shape is None:
            return tuple(n if isinstance(n, int) and is_size(n) and at else None for at, n in enumerate(said))
        if len(shape) == len(said):
            for extent, n in zip(shape[1:], said[1:], strict=True):
                if isinstance(n, int) and is_size(n):
                    sizes.told(extent, n)
        return shape

    def _split(self, call: ExtentCall) -> list[Shape | None]:
        """The shapes of a Split's outputs."""
        count, shape = len(call.node.output), call.shapes[0]
        if shape is None:
            return [None] * count
        axis = call.attribute("axis", 0)
        try:
            parts = call.given(1, "split")
        except LookupError:
            parts = (None,) * count
        whole_axis = shape[axis]
        even = whole_axis // count if isinstance(whole_axis, int) and whole_axis % count == 0 else None
        every = parts if parts and len(parts) == count else (even,) * count
        return [tuple(part if at == axis % len(shape) else n for at, n in enumerate(shape)) for part in every]

    def numbers(self, name: str) -> Elements | None:
        """The numbers of a small constant, flat."""
        if name not in self._numbers:
            tensor = self.tensors.get(name)
            self._numbers[name] = None if tensor is None else self._read(tensor)
        return self._numbers[name]

    def _read(self, proto: onnx.TensorProto) -> Elements | None:
        whole_numbers = proto.data_type in (onnx.TensorProto.INT64, onnx.TensorProto.INT32)
        if not whole_numbers and proto.data_type not in (onnx.TensorProto.FLOAT, onnx.TensorProto.DOUBLE):
            return None
        tensor = self.source.files.tensor(proto)
        if size(tensor) > (_MOST_NUMBERS if whole_numbers else MOST):
            return None
        return tuple(whole(tensor).reshape(-1).tolist())

    def _random(self, nodes: Iterable[onnx.NodeProto]) -> Iterator[str]:
        """Nodes that draw random numbers, those inside bodies too."""
        for node in nodes:
            trains = node.op_type in _DROPOUTS and self._trains(node)
            if (node.op_type in _RANDOM and node.domain in ONNX_DOMAINS) or trains:
                called = node.name or next(filter(None, node.output), "")
                yield f"{text_of(node.op_type)} '{text_of(called)}'"
            for _, _, body in bodies(node):
                yield from self._random(body.node)

    def _trains(self, node: onnx.NodeProto) -> bool:
        """Whether a Dropout drops: its last input says so, as a constant or at run time."""
        at = 2 if node.op_type == "Dropout" else 4
        name = node.input[at] if len(node.input) > at else ""
        if not name:
            return False
        tensor = self.tensors.get(name)
        return tensor is None or bool(whole(self.source.files.tensor(tensor)).any())


def _known(shape: Sequence[int | str | None]) -> list[int | None]:
    """A shape with its fixed axes; the first one too, where it is."""
    return [n if isinstance(n, int) and is_size(n) else None for n in shape]


def _tied(dims: Sequence[int | str | None]) -> list[int]:
    """A number per free axis, the same for those of one symbol; for all where they are more than two."""
    if len(dims) > 2:
        return [0] * len(dims)
    same = len(dims) == 2 and dims[0] == dims[1] and isinstance(dims[0], str) and dims[0] != "?"
    return [0] * len(dims) if same else list(range(len(dims)))


def _extents(
    spec: TensorSpec, extents: dict[tuple[str, int], Extent], named: dict[str, Extent]
) -> Iterator[Extent]:
    """An input's axes: those that are looked at, fixed ones, one sample where the batch is free."""
    for axis, dim in enumerate(spec.shape or ()):
        if (spec.name, axis) in extents:
            yield extents[spec.name, axis]
        elif isinstance(dim, int) and is_size(dim):
            yield dim
        elif isinstance(dim, str) and dim in named:
            yield named[dim]
        else:
            yield 1 if axis == 0 else None
