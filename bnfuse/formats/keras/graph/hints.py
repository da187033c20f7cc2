"""What a Keras file tells of its inputs: sizes of free axes, numbers that can be looked up, random layers.

Sizes: usual ones, and those that layers bring images to (Resizing), are followed through
the graph of layers one after the other, by Keras's own rules (the table in ``rows``); those fall
away at which a merge gets tensors that do not fit together, a Reshape another number of elements, or
an axis has no length. Keras itself has seen to the rest: a Dense behind a Flatten needs fixed axes.

When it does not act: custom layers, Lambdas and operations without a rule have unknown results.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from math import prod
from pathlib import Path
from typing import Any, TypeVar

from msgspec import Struct

from bnfuse.errors import BnfuseError
from bnfuse.formats.hints import NO_HINTS, Hints, Line, Values, free_axes, usual_sizes
from bnfuse.formats.keras.file.opening import open_container
from bnfuse.formats.keras.graph.calls import as_shape
from bnfuse.formats.keras.graph.config import parse
from bnfuse.formats.keras.graph.network import SEQUENTIAL_INPUT, Call, Layer, Network, Ref, Shape, walk
from bnfuse.formats.keras.graph.order import topological
from bnfuse.formats.keras.graph.shapes import infer
from bnfuse.formats.keras.rows.kind import Trait
from bnfuse.formats.keras.rows.ops import named, output_shapes
from bnfuse.formats.keras.rows.spectral_layers import wrapped

# Beside the usual sizes: multiples of 3, 5, 7 and the like, and what networks are published for.
_MORE_SIZES = (96, 192, 160, 320, 384, 640, 299, 331, 480, 100, 200, 48, 80, 28, 300, 400, 1024, 77, 8)
_MOST_LAYERS = 5000
_MOST_FOUND = 3
# Functions that add a constant, and what it is multiplied by.
_SIGNS = {"Add": 1.0, "add": 1.0, "add_v2": 1.0, "Subtract": -1.0, "subtract": -1.0, "sub": -1.0}

_T = TypeVar("_T")


def read_hints(path: Path) -> Hints:
    """Everything that a Keras file tells; a file that makes no sense tells nothing."""
    try:
        container = open_container(path)
        try:
            network = parse(container.config, container.keras_version)
            return _hints(network)
        finally:
            container.close()
    except (BnfuseError, *NO_HINTS):
        return Hints()


def _hints(network: Network) -> Hints:
    every = list(walk(network))
    random = tuple(_random(every))
    if len(every) > _MOST_LAYERS:
        return Hints(random=random)
    names = ["input" if ref == SEQUENTIAL_INPUT else ref.layer for ref in network.inputs]
    known = infer(network)
    declared = [known.of((), ref) for ref in network.inputs]
    sizes = _sizes(network, declared, _named_sizes(layer for _, layer in every))
    return Hints({names[at]: found for at, found in sizes.items()}, _values(network, names), random)


def _random(every: Sequence[tuple[tuple[str, ...], Layer]]) -> Iterator[str]:
    """Layers that draw random numbers at inference: those told to act as in training, and functions."""
    for around, layer in every:
        trains = Trait.DRAWS in _traits(layer) and any(
            call.arguments.get("training") is True for call in layer.calls
        )
        function = str(layer.config.get("function", "")) if layer.class_name == "TFOpLambda" else ""
        if trains or function.startswith("random."):
            yield f"{layer.class_name} '{'/'.join((*around, layer.name))}'"


def _traits(layer: Layer) -> Trait:
    return named(layer.class_name).traits


# Sizes


def _named_sizes(layers: Iterator[Layer]) -> list[int]:
    """Sizes that layers bring images to: most likely the model is fed with such."""
    found: list[int] = []
    for layer in layers:
        if Trait.SIZES in _traits(layer):
            sizes = (layer.config.get(key) for key in ("height", "width"))
            found += [size for size in sizes if isinstance(size, int)]
    return [size for size in dict.fromkeys(found) if size > 1]


def _sizes(
    network: Network, declared: Sequence[Shape | None], named: Sequence[int]
) -> dict[int, tuple[Shape, ...]]:
    """By number of the input, the shapes at which its network fits together; none where all sizes do."""
    free = {at: free_axes(shape) for at, shape in enumerate(declared) if shape and free_axes(shape)}
    if not free:
        return {}
    first = declared[min(free)] or ()
    candidates = dict.fromkeys((*named, *usual_sizes(first), *_MORE_SIZES))
    fitting, refused = [], bool(named)
    for size in candidates:
        shapes = [
            shape and tuple(size if axis in free.get(at, ()) else n for axis, n in enumerate(shape))
            for at, shape in enumerate(declared)
        ]
        if _Fit().fits(network, [shape and (1, *shape[1:]) for shape in shapes]):
            fitting.append(shapes)
        else:
            refused = True
        if len(fitting) == _MOST_FOUND:
            break
    if not refused:
        return {}
    return {at: tuple(shape for shapes in fitting if (shape := shapes[at])) for at in free if fitting}


class _Fit(Struct, eq=False):
    """Follows one set of sizes; ``broken`` where they do not fit."""

    broken: bool = False

    def fits(self, network: Network, inputs: Sequence[Shape | None]) -> bool:
        """Whether a network takes inputs of these shapes, as far as can be told."""
        _follow(network, inputs, self._call)
        return not self.broken

    def _call(self, layer: Layer, call: Call, given: Sequence[Shape | None]) -> tuple[Shape | None, ...]:
        if self.broken:
            return ()
        if _traits(layer) & (Trait.MERGES | Trait.JOINS):
            self.broken |= not _together(layer, given)
        if layer.config.get("target_shape") is not None and given:
            self.broken |= not _reshapes(layer, given[0])
        made = output_shapes(layer, given, call)
        self.broken |= any(n is not None and n < 1 for shape in made if shape for n in shape)
        return made


def _follow(
    network: Network,
    inputs: Sequence[_T | None],
    made_by: Callable[[Layer, Call, list[_T | None]], Sequence[_T | None]],
) -> tuple[_T | None, ...]:
    """What the outputs of a network get, where ``made_by`` tells what each call makes of what it reads."""
    known: dict[Ref, _T | None] = dict(zip(network.inputs, inputs, strict=False))
    layers = {layer.name: layer for layer in network.layers}
    for name, position in topological(network):
        layer = layers.get(name)
        if layer is None or not layer.calls:
            continue
        call = layer.calls[position]
        given = [known.get(ref) for ref in call.inputs]
        made = made_by(layer, call, given) if layer.inner is None else _follow(layer.inner, given, made_by)
        for tensor, one in enumerate(made):
            known.setdefault(Ref(name, position, tensor), one)
    return tuple(known.get(ref) for ref in network.outputs)


def _together(layer: Layer, given: Sequence[Shape | None]) -> bool:
    """Whether tensors can be merged: equal along all axes but that of a Concatenate, or broadcast."""
    known = [shape for shape in given if shape is not None]
    if not known or len({len(shape) for shape in known}) > 1:
        return True
    rank, joins = len(known[0]), Trait.JOINS in _traits(layer)
    along = layer.config.get("axis", -1) if joins else None
    for axis in range(rank):
        sizes = {shape[axis] for shape in known if shape[axis] is not None}
        if not joins:
            sizes.discard(1)
        if len(sizes) > 1 and not (isinstance(along, int) and axis == along % rank):
            return False
    return True


def _reshapes(layer: Layer, shape: Shape | None) -> bool:
    """Whether a Reshape's target has as many elements."""
    target = as_shape(layer.config.get("target_shape"))
    if shape is None or target is None or None in shape[1:] or None in target:
        return True
    total, fixed = prod(n or 0 for n in shape[1:]), prod(n for n in target if n and n != -1)
    return total == fixed if -1 not in target else fixed > 0 and total % fixed == 0


# Values


def _values(network: Network, names: Sequence[str]) -> dict[str, Values]:
    """By input, the numbers that every table it indexes has."""
    found: dict[str, Values] = {}

    def call_of(layer: Layer, call: Call, given: Sequence[Line | None]) -> tuple[Line | None, ...]:
        line = given[0] if given else None
        rows = _rows(layer)
        if line is not None and rows:
            line.look_up(rows, found)
        return (None if line is None or rows else _followed(layer, call, line),)

    _follow(network, [Line(name) for name in names], call_of)
    return found


def _rows(layer: Layer) -> int:
    """How many rows the layer's table has; 0 where it has none."""
    layer = wrapped(layer) or layer
    rows = layer.config.get(named(layer.class_name).knows)
    return rows if isinstance(rows, int) and rows > 0 else 0


def _followed(layer: Layer, call: Call, line: Line) -> Line | None:
    """What a layer makes of an input's values, where that is a line again."""
    layer = wrapped(layer) or layer
    function = layer.function.split(".")[-1]
    if Trait.HANDS_ON in _traits(layer) or function == "cast":
        return line
    sign, shift = _SIGNS.get(function), _constant(call)
    return None if sign is None or shift is None else line.moved((shift,), sign)


def _constant(call: Call) -> float | None:
    """The number in a call of one tensor and one number."""
    named: Mapping[str, Any] = {k: v for k, v in call.arguments.items() if k not in ("name", "dtype")}
    numbers = [v for v in (*call.constants.values(), *named.values()) if v is not None]
    if len(call.inputs) != 1 or len(numbers) != 1 or isinstance(numbers[0], bool):
        return None
    return float(numbers[0]) if isinstance(numbers[0], int | float) else None
