"""Output shapes of layers that take or give several tensors: merges, recurrent and attention layers, ops.

As in ``layer_shapes``: one row per class, shapes with the batch axis, None for what is not known.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from bnfuse.formats.keras.graph.calls import as_shape
from bnfuse.formats.keras.graph.layer_shapes import Config, Size, input_rank, output_shape
from bnfuse.formats.keras.graph.network import Call, Layer, Shape

InputShapes = Sequence[Shape | None]
_UNKNOWN: tuple[Shape | None, ...] = (None,)


def call_shapes(layer: Layer, inputs: InputShapes, call: Call | None) -> tuple[Shape | None, ...]:
    """The shapes of every output of one call of a layer that is no network and no TimeDistributed.

    Args:
        layer: the layer.
        inputs: the shape of each of the call's tensors.
        call: the call, for its other arguments; None inside a wrapper.
    """
    if layer.registered:
        return _UNKNOWN
    try:
        return _shapes(layer, inputs, call)
    except (TypeError, ValueError, KeyError, IndexError, ZeroDivisionError, OverflowError, AttributeError):
        return _UNKNOWN  # a config that makes no sense: nothing is known about the result


def _shapes(layer: Layer, inputs: InputShapes, call: Call | None) -> tuple[Shape | None, ...]:
    name, config = layer.class_name, layer.config
    if ".ops." in f".{layer.module}.":
        return (_operation(name, inputs, call),)
    if name == "TFOpLambda":
        return (_tf_operation(str(config["function"]), inputs, call),)
    if name in _RECURRENT:
        return _recurrent(name, config, _ranked(inputs[0], 3))
    if name in _CONV_RECURRENT:
        return _conv_recurrent(name, config, _ranked(inputs[0], _CONV_RECURRENT[name]))
    if name == "Bidirectional":
        return _bidirectional(layer, inputs)
    if name in _MERGES:
        return (_checked(_MERGES[name](config, inputs)),)
    if name in ("Attention", "AdditiveAttention"):
        return _attention(inputs, call)
    if name in ("MultiHeadAttention", "GroupQueryAttention", "GroupedQueryAttention"):
        return _multi_head_attention(config, inputs, call)
    rank = input_rank(name)
    shape = inputs[0] if rank is None else _ranked(inputs[0], rank)
    return (None if shape is None else output_shape(name, config, shape),)


def _ranked(shape: Shape | None, rank: int) -> Shape:
    """Where a layer takes one rank only, its input has it."""
    return (None,) * rank if shape is None else shape


def _checked(shape: Shape | None) -> Shape | None:
    return None if shape is None else as_shape(shape)


# --- merges ---


def _elementwise(config: Config, inputs: InputShapes) -> Shape | None:
    """Add and its kin: broadcast, but the batch axis stays the first (missing axes come after it)."""
    known = [shape for shape in inputs if shape is not None]
    if len(known) != len(inputs) or not known or min(map(len, known)) == 0:
        return None
    rank = max(map(len, known))
    aligned = [(shape[0], *(1,) * (rank - len(shape)), *shape[1:]) for shape in known]
    result = aligned[0]
    for shape in aligned[1:]:
        result = tuple(_broadcast_size(a, b) for a, b in zip(result, shape, strict=True))
    return result


def _broadcast_size(a: Size, b: Size) -> Size:
    if a == 1:
        return b
    if b == 1 or a == b:
        return a
    if a is None or b is None:
        return None
    raise ValueError("sizes do not broadcast")


def _concatenate(config: Config, inputs: InputShapes) -> Shape | None:
    known = [shape for shape in inputs if shape is not None]
    if not known:
        return None
    rank, axis = len(known[0]), config.get("axis", -1)
    if any(len(shape) != rank for shape in known) or not -rank <= axis < rank:
        return None
    every = [(None,) * rank if shape is None else shape for shape in inputs]
    sizes: list[Size] = []
    for k in range(rank):
        column = [shape[k] for shape in every]
        if k == axis % rank:
            sizes.append(None if None in column else sum(size for size in column if size is not None))
        else:
            sizes.append(next((size for size in column if size is not None), None))
    return tuple(sizes)


def _dot(config: Config, inputs: InputShapes) -> Shape | None:
    first, second = inputs
    if first is None or second is None:
        return None
    axes = config["axes"]
    one, two = (axes, axes) if isinstance(axes, int) else axes
    one, two = one % len(first), two % len(second)
    left = [size for k, size in enumerate(first) if k != one]
    right = [size for k, size in enumerate(second) if k not in (0, two)]
    return (*left, *right) if len(left) + len(right) > 1 else (*left, 1)


_MERGES: dict[str, Callable[[Config, InputShapes], Shape | None]] = {
    **dict.fromkeys(("Add", "Subtract", "Multiply", "Average", "Maximum", "Minimum"), _elementwise),
    "Concatenate": _concatenate,
    "Dot": _dot,
}

# --- recurrent ---

_RECURRENT = {"SimpleRNN": 1, "GRU": 1, "LSTM": 2, "CuDNNGRU": 1, "CuDNNLSTM": 2}  # class: states
_CONV_RECURRENT = {f"ConvLSTM{n}D": n + 3 for n in (1, 2, 3)}  # class: rank of the input


def _recurrent(name: str, config: Config, shape: Shape) -> tuple[Shape | None, ...]:
    if len(shape) != 3 or config.get("time_major"):
        return _UNKNOWN
    state = (shape[0], config["units"])
    output = (*shape[:2], config["units"]) if config.get("return_sequences") else state
    return _with_states(config, _checked(output), _checked(state), _RECURRENT[name])


def _conv_recurrent(name: str, config: Config, shape: Shape) -> tuple[Shape | None, ...]:
    """A convolution at each step: ``(batch, time, …)``."""
    if len(shape) != _CONV_RECURRENT[name]:
        return _UNKNOWN
    step = output_shape(
        name.removesuffix("D").replace("ConvLSTM", "Conv") + "D", config, (shape[0], *shape[2:])
    )
    if step is None:
        return _UNKNOWN
    output = (step[0], shape[1], *step[1:]) if config.get("return_sequences") else step
    return _with_states(config, output, step, 2)


def _with_states(
    config: Config, output: Shape | None, state: Shape | None, count: int
) -> tuple[Shape | None, ...]:
    return (output, *(state,) * count) if config.get("return_state") else (output,)


def _bidirectional(layer: Layer, inputs: InputShapes) -> tuple[Shape | None, ...]:
    output, *states = call_shapes(layer.wrapped[0], inputs[:1], None)
    if output is None:
        return _UNKNOWN
    match layer.config.get("merge_mode", "concat"):
        case "concat":
            last = output[-1]
            merged = [(*output[:-1], None if last is None else 2 * last)]
        case "sum" | "mul" | "ave":
            merged = [output]
        case None:
            merged = [output, output]
        case _:
            return _UNKNOWN
    return (*merged, *states, *states)


# --- attention ---


def _attention(inputs: InputShapes, call: Call | None) -> tuple[Shape | None, ...]:
    query, value = inputs[0], inputs[1]
    output = None if query is None or value is None else (*query[:-1], value[-1])
    scores = call is not None and bool(call.arguments.get("return_attention_scores"))
    return (output, None) if scores else (output,)


def _multi_head_attention(config: Config, inputs: InputShapes, call: Call | None) -> tuple[Shape | None, ...]:
    query = inputs[0]
    stored = config.get("output_shape")
    last = as_shape([stored] if isinstance(stored, int) else stored) if stored else None
    output = None if query is None else ((*query[:-1], *last) if last else query)
    scores = call is not None and bool(call.arguments.get("return_attention_scores"))
    return (output, None) if scores else (output,)


# --- single operations: keras.ops nodes and TFOpLambda ---

# fmt: off
_SAME_OPERATIONS = frozenset(
    {
        "Abs", "Cast", "Elu", "Exp", "Gelu", "HardSigmoid", "HardSilu", "HardSwish", "Identity",
        "LeakyRelu", "LogSigmoid", "LogSoftmax", "Negative", "Relu", "Relu6", "Selu", "Sigmoid", "Silu",
        "Softmax", "Softplus", "Softsign", "Sqrt", "Square", "Swish", "Tanh"
    }
)
# fmt: on
_BINARY_OPERATIONS = frozenset(["Add", "Divide", "Maximum", "Minimum", "Multiply", "Subtract", "TrueDivide"])
# fmt: off
_SAME_TF = frozenset(
    {
        "abs", "cast", "exp", "identity", "math.abs", "math.exp", "math.negative", "math.sigmoid",
        "math.softplus", "math.sqrt", "math.square", "math.tanh", "nn.elu", "nn.gelu", "nn.leaky_relu",
        "nn.relu", "nn.relu6", "nn.selu", "nn.sigmoid", "nn.silu", "nn.softmax", "nn.swish", "nn.tanh"
    }
)
# fmt: on
_BINARY_TF = frozenset(
    [
        "__operators__.add",
        "math.add",
        "math.divide",
        "math.maximum",
        "math.minimum",
        "math.multiply",
        "math.subtract",
        "math.truediv",
    ]
)


def _operation(name: str, inputs: InputShapes, call: Call | None) -> Shape | None:
    if name in _SAME_OPERATIONS and len(inputs) == 1:
        return inputs[0]
    return _broadcast(inputs, call, ()) if name in _BINARY_OPERATIONS else None


def _tf_operation(function: str, inputs: InputShapes, call: Call | None) -> Shape | None:
    if function in _SAME_TF and len(inputs) == 1:
        return inputs[0]
    return _broadcast(inputs, call, ("name",)) if function in _BINARY_TF else None


def _broadcast(inputs: InputShapes, call: Call | None, ignored: Sequence[str]) -> Shape | None:
    """NumPy's broadcasting over the tensors and constants of a call with two operands."""
    if call is None:
        return None
    named: Mapping[str, Any] = {k: v for k, v in call.arguments.items() if k not in ignored and v is not None}
    constants = [_constant_shape(value) for value in (*call.constants.values(), *named.values())]
    shapes = [*inputs, *constants]
    known = [shape for shape in shapes if shape is not None]
    if len(shapes) != 2 or len(known) != 2:
        return None
    rank = max(map(len, known))
    one, two = ((1,) * (rank - len(shape)) + tuple(shape) for shape in known)
    return tuple(_broadcast_size(a, b) for a, b in zip(one, two, strict=True))


def _constant_shape(value: Any) -> Shape | None:
    """Of a number or nested lists of numbers; None for anything else."""
    if isinstance(value, int | float):
        return ()
    if not isinstance(value, list | tuple) or not value:
        return None
    inner = _constant_shape(value[0])
    return None if inner is None else (len(value), *inner)
