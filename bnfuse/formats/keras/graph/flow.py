"""Core's graph out of a parsed Keras model: every call of every layer, nested networks opened out.

A nested network is followed for each of its calls; its inputs and outputs are other names for the
values around it. Calls of one layer share its parameters and are tied. What asks for training
behaviour hands that on to all it holds.
"""

from __future__ import annotations

from collections.abc import Sequence

from msgspec import Struct, field
from msgspec.structs import replace

from bnfuse.core.axes import Shape
from bnfuse.core.graph import Graph, Node, unique_names
from bnfuse.core.reasons import Reason
from bnfuse.core.rules.base import Opaque
from bnfuse.formats.keras.graph.call_nodes import CallHandle, graph_of
from bnfuse.formats.keras.graph.calls import is_keras3
from bnfuse.formats.keras.graph.masks import Masks
from bnfuse.formats.keras.graph.network import SEQUENTIAL_INPUT, Call, Layer, LayerPath, Network, Ref, walk
from bnfuse.formats.keras.graph.order import topological
from bnfuse.formats.keras.graph.shapes import TensorShapes
from bnfuse.formats.keras.rows.image_layers import OTHER_SIZES
from bnfuse.formats.keras.rows.ops import locked, parts_of
from bnfuse.formats.keras.rows.site import Part, Site, compute_dtype


class OutputPath(Struct, frozen=True):
    """Output ``output`` of a call of a layer: names and calls that lead there, the layer's own last."""

    steps: tuple[tuple[str, int], ...]
    output: int


class Context(Struct, frozen=True):
    """Where a network is: what surrounds it.

    Attributes:
        path: names that lead to it.
        steps: the same, with the number of each call; None inside a wrapper, which calls as it likes.
        instance: the same, with the number of each call, so that values are told apart.
        training, lead: as of a ``Site``.
    """

    path: LayerPath = ()
    steps: tuple[tuple[str, int], ...] | None = ()
    instance: str = ""
    training: bool = False
    lead: int = 0


class Ends(Struct, frozen=True):
    """The core values that one call reads (``given``) and writes, with what is known of them."""

    given: list[str]
    outputs: list[str]
    out_shapes: Sequence[Shape | None]
    dtypes: Sequence[str | None]


class Flow(Struct, eq=False):
    """Collects parts while it walks."""

    shapes: TensorShapes
    parts: list[tuple[Site, Part]] = field(default_factory=list)
    dtypes: dict[str, str] = field(default_factory=dict)
    extents: dict[str, Shape] = field(default_factory=dict)
    masks: Masks = field(default_factory=Masks)
    keeps_sizes: bool = True
    archive: bool = True
    inside: dict[str, OutputPath] = field(default_factory=dict)
    crossing: set[str] = field(default_factory=set)  # nested networks, which tell their ends' shapes

    def network(self, network: Network, inputs: Sequence[str], context: Context) -> list[str]:
        """Follow all calls of a network; the core values of its outputs."""
        layers = {layer.name: layer for layer in network.layers}
        values: dict[Ref, str] = {}
        for ref, value in zip(network.inputs, inputs, strict=False):
            values[ref] = self._entering(context, ref, value)
        widths = _widths(network)
        for name, position in topological(network):
            layer = layers.get(name)
            if layer is None or (Ref(name, position, 0) in values and not layer.calls):
                continue  # an input
            call = layer.calls[position] if layer.calls else None
            width = widths.get((name, position), 1)
            refs = call.inputs if call is not None else ()
            given = [values.get(ref) or self._loose(context, ref) for ref in refs]
            for j, value in enumerate(self._call(network, layer, position, call, given, width, context)):
                values[Ref(name, position, j)] = value
        outputs = [values.get(ref) or self._loose(context, ref) for ref in network.outputs]
        if context.path:
            self.crossing.update(inputs, outputs)
        return outputs

    def _entering(self, context: Context, ref: Ref, value: str) -> str:
        """A value inside a nested network; Keras adds or drops an axis of size 1 where the ranks differ."""
        actual, declared = self.extents.get(value), self._shape(context, ref)
        if actual is None or declared is None or len(actual) == len(declared):
            return value
        inner = f"{context.instance}{ref.layer}:{ref.call}:{ref.tensor}"
        self.extents[inner] = declared
        layer = Layer(ref.layer, "InputLayer", "", "", {}, {})
        site = Site(
            layer, (*context.path, ref.layer), None, (value,), (inner,), (actual,), (declared,), (None,)
        )
        self.parts.append((site, Part("InputLayer", (value,), (inner,), Opaque(Reason.SHAPE_UNKNOWN))))
        return inner

    def _shape(self, context: Context, ref: Ref) -> Shape | None:
        """The shape of a tensor, with the axes that its network does not know of."""
        shape = self.shapes.of(context.path, ref)
        return None if shape is None else (*shape[:1], *(None,) * context.lead, *shape[1:])

    def _loose(self, context: Context, ref: Ref) -> str:
        """A tensor that nothing in the file writes."""
        return f"{context.instance}{ref.layer}:{ref.call}:{ref.tensor}"

    def _call(
        self,
        network: Network,
        layer: Layer,
        position: int,
        call: Call | None,
        given: list[str],
        width: int,
        context: Context,
    ) -> list[str]:
        mark = f"@{position}" if position else ""
        instance = f"{context.instance}{layer.name}{mark}/"
        training = context.training or bool(call is not None and call.arguments.get("training"))
        steps = None if context.steps is None else (*context.steps, (layer.name, position))
        path = (*context.path, layer.name)
        inner = replace(context, path=path, steps=steps, instance=instance, training=training)
        if layer.inner is not None:
            return self.network(layer.inner, given, inner)
        refs = [Ref(layer.name, position, j) for j in range(width)]
        outputs = [f"{context.instance}{layer.name}:{position}:{j}" for j in range(width)]
        if steps is not None:
            self.inside.update((value, OutputPath(steps, j)) for j, value in enumerate(outputs))
        self.masks.learn(layer, call, given, outputs)
        dtypes = [dtype or self.dtypes.get(v) for v, dtype in _stored_dtypes(call, given)]
        ends = Ends(given, outputs, [self._shape(context, ref) for ref in refs], dtypes)
        return self._layer(layer, call, ends, inner)

    def _layer(self, layer: Layer, call: Call | None, ends: Ends, context: Context) -> list[str]:
        """A layer, or what a wrapper makes of the layer in it."""
        wrapped = layer.wrapped
        if layer.class_name == "TimeDistributed" and len(wrapped) == 1 and _one_step(wrapped[0], call, ends):
            return self._time_distributed(wrapped[0], call, ends, context)
        if layer.class_name == "Bidirectional" and len(wrapped) == 2 and ends.given:
            return self._bidirectional(layer, call, ends, context)
        return self._site(layer, call, ends, context)

    def _site(self, layer: Layer, call: Call | None, ends: Ends, context: Context) -> list[str]:
        for value, shape in zip(ends.outputs, ends.out_shapes, strict=True):
            if shape is not None:
                self.extents[value] = shape
            self.dtypes[value] = _made_dtype(layer, call, ends.dtypes)
        names = call.keywords if call is not None else ()
        masks = [v for v, name in zip(ends.given, names, strict=False) if name == "mask"]
        site = Site(
            layer,
            context.path,
            call,
            tuple(ends.given),
            tuple(ends.outputs),
            tuple(self.extents.get(v) for v in ends.given),
            tuple(ends.out_shapes),
            tuple(ends.dtypes),
            context.training,
            context.lead,
            locked(layer),
            all(self.masks.carries(ends.given[0], mask) for mask in masks),
            self.keeps_sizes,
            self.archive or (call is not None and not is_keras3(call.raw)),
        )
        self.parts += [(site, part) for part in parts_of(site)]
        return list(ends.outputs)

    def _time_distributed(self, wrapped: Layer, call: Call | None, ends: Ends, context: Context) -> list[str]:
        """The wrapped layer, or network, sees one step at a time."""
        deeper = replace(
            context,
            path=(*context.path, wrapped.name),
            steps=None,
            instance=f"{context.instance}{wrapped.name}/",
            lead=context.lead + 1,
        )
        if wrapped.inner is not None:
            return self.network(wrapped.inner, ends.given, deeper)
        return self._layer(wrapped, call, ends, deeper)

    def _bidirectional(self, layer: Layer, call: Call | None, ends: Ends, context: Context) -> list[str]:
        """Both directions read the same input; what they make of it is not looked into."""
        made = []
        for wrapped in layer.wrapped:
            out = f"{context.instance}{wrapped.name}:0"
            deeper = replace(context, path=(*context.path, wrapped.name), steps=None)
            self._site(wrapped, None, Ends(ends.given[:1], [out], [None], ends.dtypes[:1]), deeper)
            made.append(out)
        read = [*made, *ends.given[1:]]  # states and a mask
        merge = Ends(read, ends.outputs, ends.out_shapes, [None] * len(read))
        bare = Layer(layer.name, layer.class_name, layer.module, layer.registered, layer.config, layer.entry)
        return self._site(bare, None, merge, context)

    def graph(self, pinned: dict[str, Reason]) -> Graph:
        """Names, ties and candidates."""
        names = unique_names(
            "/".join((*site.path, part.role) if part.role else site.path) for site, part in self.parts
        )
        nodes = [
            Node(name, p.op, p.inputs, p.outputs, p.is_batchnorm, CallHandle(p.site or site, p))
            for name, (site, p) in zip(names, self.parts, strict=True)
        ]
        graph = graph_of(nodes, pinned, self.crossing)
        calls: dict[tuple[LayerPath, str], list[Node]] = {}
        for node, (site, part) in zip(nodes, self.parts, strict=True):
            if part.stored is not None:
                calls.setdefault((site.path, part.role), []).append(node)
        for group in calls.values():
            if len(group) > 1:
                graph.tied.update(dict.fromkeys(group, tuple(group)))
        offered: set[Node] = set()  # the first call of each layer
        for node, (_, part) in sorted(
            zip(nodes, self.parts, strict=True), key=lambda pair: bool(pair[1][0].layer.function)
        ):  # arithmetic comes last: it is to take on a BatchNormalization rather than the other way round
            first = graph.calls(node)[0]
            if (part.is_batchnorm or part.is_affine) and first not in offered:
                offered.add(first)
                graph.candidates.append(node)
        return graph


def _one_step(wrapped: Layer, call: Call | None, ends: Ends) -> bool:
    """Whether a TimeDistributed hands one tensor to what it wraps, and at most a layer its mask."""
    masked = call is not None and call.keywords == ("", "mask")
    return len(ends.given) == 1 or (masked and wrapped.inner is None and not wrapped.wrapped)


def _widths(network: Network) -> dict[tuple[str, int], int]:
    """How many outputs of each call somebody reads (at least 1)."""
    widths: dict[tuple[str, int], int] = {}
    read = [*network.outputs, *(ref for layer in network.layers for c in layer.calls for ref in c.inputs)]
    for ref in read:
        key = (ref.layer, ref.call)
        widths[key] = max(widths.get(key, 1), ref.tensor + 1)
    return widths


def _stored_dtypes(call: Call | None, given: Sequence[str]) -> list[tuple[str, str | None]]:
    stored = call.dtypes if call is not None else (None,) * len(given)
    return list(zip(given, stored, strict=True))


def _made_dtype(layer: Layer, call: Call | None = None, given: Sequence[str | None] = ()) -> str:
    """The dtype of what a layer puts out: an InputLayer says it, others compute it.

    A function has none of its own: it says what it casts to, or hands on what it reads. (Keras 3 stores it.)
    """
    if layer.class_name == "InputLayer" and isinstance(layer.config.get("dtype"), str):
        return str(layer.config["dtype"])
    if layer.function and call is not None:
        stated = call.arguments.get("dtype")
        return stated if isinstance(stated, str) else next((g for g in given if g), "float32")
    return compute_dtype(layer.config.get("dtype"))


def read_flow(
    network: Network, shapes: TensorShapes, *, archive: bool = True
) -> tuple[Graph, dict[str, OutputPath]]:
    """Core's graph of a whole model, and which layer puts out each of its values.

    ``archive`` tells that the file is one: of Keras 3's others it loads no arrays in calls.

    Raises:
        UnreadableModel: the calls form a cycle.
    """
    keeps_sizes = not any(layer.class_name in OTHER_SIZES for _, layer in walk(network))
    flow = Flow(shapes, keeps_sizes=keeps_sizes, archive=archive)
    inputs = []
    layers = {layer.name: layer for layer in network.layers}
    for ref in network.inputs:
        value = "input" if ref == SEQUENTIAL_INPUT else f"{ref.layer}:{ref.call}:{ref.tensor}"
        shape = shapes.of((), ref)
        if shape is not None:
            flow.extents[value] = shape
        layer = layers.get(ref.layer)
        flow.dtypes[value] = "float32" if layer is None else _made_dtype(layer)
        inputs.append(value)
    outputs = flow.network(network, inputs, Context())
    pinned = {**dict.fromkeys(inputs, Reason.GRAPH_INPUT), **dict.fromkeys(outputs, Reason.GRAPH_OUTPUT)}
    return flow.graph(pinned), flow.inside
