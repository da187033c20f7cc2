"""Random small ONNX graphs that a seed and a list of steps determine.

A ``Recipe`` is data: the input's shape, the element type, and steps, each with a seed of its own. A step
left out does not change what the others draw, so a failing recipe is made smaller by leaving out steps
(``smaller``). ``random_steps``, ``random_joints`` and ``random_moves`` hold the steps; a model is
float64 unless one of its steps has no float64 kernel in onnxruntime (``FLOAT32_ONLY``).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import onnx
from msgspec import Struct, field
from msgspec.structs import replace
from onnx import TensorProto, helper, numpy_helper

Shape = tuple[int, ...]
BATCH = 2
MAX_ELEMENTS = 3000  # per value, so that a graph takes milliseconds

# Operators for which onnxruntime's CPU provider has no float64 kernel.
FLOAT32_ONLY = frozenset(
    ("Conv", "ConvTranspose", "InstanceNormalization", "Mean", "LeakyRelu", "PRelu", "GlobalMaxPool",
     "AveragePool", "GlobalAveragePool", "LpPool", "GlobalLpPool", "Resize", "Upsample",
     "RoiAlign", "MaxRoiPool", "GridSample", "MaxUnpool", "DeformConv", "Hardmax", "Scaler",
     "FusedConv", "FusedGemm", "FusedMatMul", "MatMulNBits", "DequantizeLinear",
     "LinearRegressor", "LinearClassifier",
     "RNN", "LSTM", "GRU", "Elu", "Erf", "HardSwish", "Softplus")
)  # fmt: skip


class Value(Struct, frozen=True):
    """A tensor of the graph: its name, and its shape with the batch size written out."""

    name: str
    shape: Shape

    @property
    def rank(self) -> int:
        return len(self.shape)

    @property
    def channels(self) -> int:
        return self.shape[1]

    @property
    def space(self) -> Shape:
        """Sizes of the axes behind the channels."""
        return self.shape[2:]


class Net(Struct):
    """A graph under construction. ``double``: only operators that have float64 kernels may be added."""

    double: bool
    opset: int
    rng: np.random.Generator
    nodes: list[onnx.NodeProto] = field(default_factory=list)
    constants: list[tuple[str, np.ndarray]] = field(default_factory=list)
    values: list[Value] = field(default_factory=list)
    inputs: dict[str, tuple[int, Shape]] = field(default_factory=dict)  # beside x: element type and shape
    static: bool = False  # the batch size is part of a weight's shape
    names: int = 0

    @property
    def dtype(self) -> np.dtype[Any]:
        return np.dtype(np.float64 if self.double else np.float32)

    @property
    def element(self) -> int:
        return helper.np_dtype_to_tensor_dtype(self.dtype)

    def dice(self, n: int) -> int:
        """One of 0..n−1."""
        return int(self.rng.integers(n))

    def pick(self, *choices: Any) -> Any:
        return choices[self.dice(len(choices))]

    def normal(self, *shape: int) -> np.ndarray:
        return self.rng.standard_normal(shape)

    def mixed(self, *shape: int) -> np.ndarray:
        """Factors of both signs, about 0.3 to 3."""
        return np.exp(0.5 * self.normal(*shape)) * self.rng.choice((-1.0, 1.0), shape)

    def const(self, array: Any) -> str:
        """A new initializer; floats take the net's type."""
        array = np.asarray(array)
        self.constants.append((f"c{len(self.constants)}", array))
        return self.constants[-1][0]

    def weight(self, *shape: int, fan_in: int) -> str:
        """Random weights of unit gain; now and then an array that another node reads too."""
        alike = [name for name, array in self.constants if array.shape == shape and array.dtype == np.float64]
        if alike and self.dice(4) == 0:
            return str(self.pick(*alike))
        return self.const(self.normal(*shape) / np.sqrt(fan_in))

    def ints(self, *numbers: int) -> str:
        return self.const(np.array(numbers, np.int64))

    def extra_input(self, name: str, element: int, shape: Shape) -> str:
        """A graph input beside x."""
        self.inputs[name] = element, shape
        return name

    def fresh(self) -> str:
        self.names += 1
        return f"v{self.names}"

    def node(self, op: str, inputs: Sequence[str], *shapes: Shape, **attributes: Any) -> Value:
        """Append a node with outputs of these shapes; its first output."""
        assert not (self.double and op in FLOAT32_ONLY), op
        made = [Value(self.fresh(), shape) for shape in shapes]
        outputs = [v.name for v in made]
        name = f"n{len(self.nodes)}_{op}"
        self.nodes.append(helper.make_node(op, list(inputs), outputs, name=name, **attributes))
        self.values += made
        return made[0]

    def last(self, n: int) -> list[Value]:
        """The values made last, in order."""
        return self.values[-n:]


Step = Callable[[Net, Value], "Value | None"]  # None: the step does not apply to this value


class Recipe(Struct, frozen=True):
    """All that determines a graph. ``steps`` are (name, seed)."""

    seed: int
    shape: Shape
    double: bool
    opset: int
    steps: tuple[tuple[str, int], ...]
    outputs: int  # how many values of the middle are outputs too

    def __str__(self) -> str:
        return f"seed {self.seed}: {', '.join(name for name, _ in self.steps)}"


_SHAPES = ((BATCH, 4, 7, 5), (BATCH, 6, 5), (BATCH, 8), (BATCH, 2, 6, 9), (BATCH, 3, 4), (BATCH, 2, 3, 5, 4))


def recipe(seed: int, names: Sequence[str], most: int = 12) -> Recipe:
    """The recipe of a seed: 2 to ``most`` of the named steps."""
    rng = np.random.default_rng(seed)
    count = int(rng.integers(2, most + 1))
    steps = tuple((str(rng.choice(names)), int(rng.integers(2**31))) for _ in range(count))
    shape = _SHAPES[int(rng.integers(len(_SHAPES)))]
    double, opset = bool(rng.integers(2)), (18, 21)[int(rng.integers(2))]
    return Recipe(seed, shape, double, opset, steps, max(0, int(rng.integers(-3, 3))))


def smaller(wanted: Recipe, fails: Callable[[Recipe], bool]) -> Recipe:
    """The recipe without the steps (and outputs) that it fails without."""
    found, progress = wanted, True
    while progress:
        progress = False
        for candidate in _without_one(found):
            if fails(candidate):
                found, progress = candidate, True
                break
    return found


def _without_one(wanted: Recipe) -> Iterator[Recipe]:
    for i in range(len(wanted.steps)):
        yield replace(wanted, steps=wanted.steps[:i] + wanted.steps[i + 1 :])
    if wanted.outputs:
        yield replace(wanted, outputs=wanted.outputs - 1)


def build(wanted: Recipe, steps: Mapping[str, Step]) -> onnx.ModelProto:
    """The model of a recipe."""
    net = Net(wanted.double, wanted.opset, np.random.default_rng(wanted.seed))
    x = Value("x", wanted.shape)
    net.values.append(x)
    for name, seed in wanted.steps:
        net.rng = np.random.default_rng(seed)
        if net.dice(7) == 0:  # go on from an earlier value: siblings
            x = net.pick(*net.values)
        x = steps[name](net, x) or x
    net.rng = np.random.default_rng(wanted.seed)
    if x.name == "x":
        x = net.values[-1] if len(net.values) > 1 else net.node("Identity", [x.name], x.shape)
    middle = [net.pick(*net.values[1:]) for _ in range(wanted.outputs)]
    return model_of(net, wanted.shape, list(dict.fromkeys([x, *middle])))


def model_of(net: Net, shape: Shape, outputs: Sequence[Value]) -> onnx.ModelProto:
    """The finished model, with a symbolic batch where the net allows one."""
    batch: Any = BATCH if net.static or net.dice(2) else "N"
    inputs = [helper.make_tensor_value_info("x", net.element, [batch, *shape[1:]])]
    inputs += [
        helper.make_tensor_value_info(name, element, [batch, *rest[1:]] if rest else [])
        for name, (element, rest) in net.inputs.items()
    ]
    outs = [helper.make_tensor_value_info(v.name, net.element, [None] * v.rank) for v in outputs]
    nodes = net.nodes if net.dice(10) == 0 else list(_needed(net.nodes, {v.name for v in outputs}))
    stored = [
        numpy_helper.from_array(a.astype(net.dtype) if a.dtype == np.float64 else a, name)
        for name, a in net.constants
    ]
    graph = helper.make_graph(nodes, "random", inputs, outs, stored)
    foreign = {"ai.onnx.ml": 3, "com.microsoft": 1}
    domains = dict.fromkeys(node.domain for node in nodes if node.domain)
    imports = [helper.make_opsetid("", net.opset), *(helper.make_opsetid(d, foreign[d]) for d in domains)]
    return helper.make_model(graph, opset_imports=imports, ir_version=8 if net.opset < 19 else 10)


def _needed(nodes: Sequence[onnx.NodeProto], wanted: set[str]) -> Iterator[onnx.NodeProto]:
    """The nodes without which an output could not be computed, in order."""
    kept = []
    for node in reversed(nodes):
        if wanted & set(node.output):
            kept.append(node)
            wanted |= set(node.input)
            for attribute in node.attribute:
                wanted |= {name for inner in attribute.g.node for name in inner.input}
    return reversed(kept)


_NUMPY: dict[int, type[np.generic]] = {
    TensorProto.FLOAT: np.float32,
    TensorProto.DOUBLE: np.float64,
    TensorProto.BOOL: np.bool_,
    TensorProto.INT64: np.int64,
}


def feeds(model: onnx.ModelProto, seed: int) -> dict[str, np.ndarray]:
    """Random inputs: floats off zero, ids 0 to 6, booleans that alternate with the seed."""
    rng = np.random.default_rng(seed)
    found: dict[str, np.ndarray] = {}
    for info in model.graph.input:
        shape = [d.dim_value or BATCH for d in info.type.tensor_type.shape.dim]
        dtype = np.dtype(_NUMPY[info.type.tensor_type.elem_type])
        if dtype.kind == "f":
            found[info.name] = (rng.standard_normal(shape) * 1.5 + 0.4).astype(dtype)
        elif dtype.kind == "b":
            found[info.name] = np.full(shape, seed % 2 == 0)
        else:
            found[info.name] = rng.integers(0, 7, shape)
    return found


def preactivation(blocks: int, positive: bool, channels: int = 8, seed: int = 0) -> onnx.ModelProto:
    """A pre-activation stream: x ← x + Conv(Relu(BN(Conv(Relu(BN(x)))))), then BN, Relu, Conv.

    It holds 2·blocks + 1 BatchNormalizations; unless ``positive``, a tenth of each γ is negative.
    """
    net = Net(False, 17, np.random.default_rng(seed))
    shape = (BATCH, channels, 4, 3)

    def normalised(x: Value) -> Value:
        gamma = net.rng.uniform(0.5, 1.5, channels)
        if not positive:
            gamma *= net.rng.choice((1.0, -1.0), channels, p=(0.9, 0.1))
        statistics = (gamma, net.normal(channels), net.normal(channels), net.rng.uniform(0.5, 2, channels))
        y = net.node("BatchNormalization", [x.name, *map(net.const, statistics)], shape)
        y = net.node("Relu", [y.name], shape)
        return convolved(y)

    def convolved(x: Value) -> Value:
        w = net.const(0.3 * net.normal(channels, channels, 1, 1))
        return net.node("Conv", [x.name, w, net.const(net.normal(channels))], shape)

    x = convolved(Value("x", shape))
    for _ in range(blocks):
        branch = normalised(normalised(x))
        x = net.node("Add", [x.name, branch.name], shape)
    return model_of(net, shape, [normalised(x)])
