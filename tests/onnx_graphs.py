"""Small ONNX graphs with hostile BatchNormalization statistics, folded and compared in onnxruntime.

``Net`` writes a graph node by node; ``fold`` runs read → plan → apply → write on a saved one; the
comparison runs both files in onnxruntime with its own optimisation off.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
from onnx import TensorProto, helper, numpy_helper

from bnfuse.core.apply import apply
from bnfuse.core.decisions import Decision, Keep, Plan
from bnfuse.core.planning.plan import plan
from bnfuse.core.reasons import Reason
from bnfuse.formats.base import ReadOptions, Written
from bnfuse.formats.onnx import FORMAT

Shape = tuple[int | str, ...]
_FOREIGN = {"com.microsoft": 1, "ai.onnx.ml": 3}  # domains that runtimes know, and their versions
# Of the output's range: a few roundings of the dtype.
TOLERANCE = {"float16": 4e-3, "float32": 1e-5, "float64": 1e-12}


class Net:
    """A graph under construction; every method that adds a node returns its output's name."""

    def __init__(self, seed: int = 0, dtype: str = "float32") -> None:
        self.rng = np.random.default_rng(seed)
        self.dtype = np.dtype(dtype)
        self.element = helper.np_dtype_to_tensor_dtype(self.dtype)
        self.nodes: list[onnx.NodeProto] = []
        self.initializers: list[onnx.TensorProto] = []

    def const(self, array: Any, name: str = "") -> str:
        """An initializer; floating-point arrays take the net's dtype."""
        array = np.asarray(array)
        if array.dtype.kind == "f":
            array = array.astype(self.dtype)
        name = name or f"c{len(self.initializers)}"
        self.initializers.append(numpy_helper.from_array(array, name))
        return name

    def op(self, kind: str, *inputs: str, out: str | Sequence[str] = "", **attributes: Any) -> str:
        """One node; its first output."""
        names = [out or f"v{len(self.nodes)}"] if isinstance(out, str) else list(out)
        name = attributes.pop("name", f"{kind.lower()}{len(self.nodes)}")
        self.nodes.append(helper.make_node(kind, list(inputs), names, name=name, **attributes))
        return names[0]

    def weight(self, *shape: int, fan_in: int) -> str:
        """Random weights of unit gain."""
        return self.const(self.rng.standard_normal(shape) / np.sqrt(fan_in))

    def vector(self, n: int, scale: float = 0.5) -> str:
        """A random bias, shape (n,)."""
        return self.const(scale * self.rng.standard_normal(n))

    def factors(self, n: int, *, positive: bool = False) -> np.ndarray:
        """Badly scaled factors of mixed sign, shape (n,): about 0.1 to 10."""
        size = 10 ** self.rng.uniform(-1, 1, n)
        sign = np.where(np.arange(n) % 3 == 1, -1.0, 1.0)  # both signs, always
        return size if positive else size * sign

    def conv(
        self, x: str, cin: int, cout: int, *kernel: int, group: int = 1, bias: bool = True, **kw: Any
    ) -> str:
        """Conv, weight (cout, cin / group, *kernel)."""
        fan_in = cin // group * int(np.prod(kernel))
        inputs = [x, self.weight(cout, cin // group, *kernel, fan_in=fan_in)]
        return self.op("Conv", *inputs, *([self.vector(cout)] if bias else []), group=group, **kw)

    def statistics(self, n: int, *, positive: bool = False, shift: bool = True) -> list[str]:
        """γ, β, μ, σ² as initializers; without shift β = μ = 0."""
        variance = 10 ** self.rng.uniform(-2, 2, n)
        mean = self.rng.standard_normal(n) * np.sqrt(variance) * shift
        gamma = self.factors(n, positive=positive)
        beta = 2 * self.rng.standard_normal(n) * shift
        return [self.const(v) for v in (gamma, beta, mean, variance)]

    def bn(self, x: str, n: int, *, positive: bool = False, shift: bool = True, **kw: Any) -> str:
        """BatchNormalization over n channels with random statistics."""
        kw.setdefault("epsilon", 1e-3)
        return self.op("BatchNormalization", x, *self.statistics(n, positive=positive, shift=shift), **kw)

    def build(
        self,
        inputs: Mapping[str, Shape],
        outputs: str | Sequence[str],
        *,
        opset: int = 17,
        ir_version: int = 8,
        ranks: dict[str, int] | None = None,
        **model: Any,
    ) -> onnx.ModelProto:
        """The model; outputs declare their type and rank (``ranks`` where inference does not tell)."""
        names = [outputs] if isinstance(outputs, str) else list(outputs)
        ins = [_info(n, TensorProto.BOOL if n == "cond" else self.element, s) for n, s in inputs.items()]
        graph = helper.make_graph(
            self.nodes,
            "net",
            ins,
            [_info(n, self.element, None) for n in names],
            self.initializers,
        )
        foreign = sorted({node.domain for node in self.nodes} & _FOREIGN.keys())
        imports = [helper.make_opsetid("", opset), *(helper.make_opsetid(d, _FOREIGN[d]) for d in foreign)]
        made = helper.make_model(graph, opset_imports=imports, ir_version=ir_version, **model)
        for name, output in zip(names, _inferred(made).graph.output, strict=True):
            rank = (ranks or {}).get(name, len(output.type.tensor_type.shape.dim))
            graph.output.add().CopyFrom(_info(name, self.element, [None] * rank))
        del made.graph.output[: len(names)]
        made.graph.output.extend(graph.output[len(names) :])
        return made


def _inferred(model: onnx.ModelProto) -> onnx.ModelProto:
    return onnx.shape_inference.infer_shapes(model, data_prop=True)


def _info(name: str, element: int, shape: Any) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, element, shape)


def body(net: Net, output: str, name: str) -> onnx.GraphProto:
    """A net without inputs of its own as the body of an If."""
    return helper.make_graph(net.nodes, name, [], [onnx.ValueInfoProto(name=output)], net.initializers)


@dataclass(frozen=True)
class Folded:
    """A fold's two files and its plan."""

    before: Path
    after: Path
    plan: Plan
    written: Written
    notes: tuple[str, ...]

    @property
    def proto(self) -> onnx.ModelProto:
        """The result, external data left outside."""
        return onnx.load(self.after, load_external_data=False)

    def operators(self, path: Path) -> list[str]:
        """Operator types of all nodes in all scopes."""
        return [n.op_type for n in all_nodes(onnx.load(path, load_external_data=False).graph)]


def all_nodes(graph: onnx.GraphProto) -> Iterator[onnx.NodeProto]:
    """Nodes of a graph and of the bodies in it."""
    for node in graph.node:
        yield node
        for attribute in node.attribute:
            if attribute.type == onnx.AttributeProto.GRAPH:
                yield from all_nodes(attribute.g)


def fold(path: Path, out: Path | None = None, options: ReadOptions | None = None) -> Folded:
    """read → plan → apply → write."""
    model = FORMAT.read(path, options or ReadOptions())
    planned = plan(model.graph)
    decided = planned.plan
    out = out or path.with_name("after.onnx")
    out.parent.mkdir(exist_ok=True)
    written = model.write(apply(model.graph, planned), out)
    return Folded(path, out, decided, written, model.notes)


def fold_model(model: onnx.ModelProto, folder: Path, options: ReadOptions | None = None) -> Folded:
    """Save, then ``fold``."""
    path = folder / "before.onnx"
    onnx.save(model, path)
    return fold(path, options=options)


def why(decision: Decision) -> set[Reason]:
    """All reasons of a Keep; empty for a Fold."""
    return {r.reason for r in decision.refusals} if isinstance(decision, Keep) else set()


def session(path: Path) -> ort.InferenceSession:
    """onnxruntime with its own graph optimisation off."""
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.intra_op_num_threads = 1
    options.log_severity_level = 4
    return ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


_NUMPY = {"tensor(float)": "float32", "tensor(float16)": "float16", "tensor(double)": "float64"}


def feeds(loaded: ort.InferenceSession, seed: int) -> dict[str, np.ndarray]:
    """Random inputs off zero; symbols become 5; booleans alternate with the seed."""
    rng = np.random.default_rng(seed)
    found: dict[str, np.ndarray] = {}
    for info in loaded.get_inputs():
        shape = [d if isinstance(d, int) else 5 for d in info.shape]
        if info.type == "tensor(bool)":
            found[info.name] = np.full(shape, seed % 2 == 0)
        else:
            found[info.name] = np.asarray(rng.standard_normal(shape) * 1.5 + 0.4, _NUMPY[info.type])
    return found


def assert_equal(before: Path, after: Path, seeds: Sequence[int] = (0, 1)) -> None:
    """Same interface, and every output equal within the dtype's tolerance of its range."""
    old, new = session(before), session(after)
    for ours, theirs in ((new.get_inputs(), old.get_inputs()), (new.get_outputs(), old.get_outputs())):
        assert [(v.name, v.type, v.shape) for v in ours] == [(v.name, v.type, v.shape) for v in theirs]
    for seed in seeds:
        fed = feeds(old, seed)
        for want, got in zip(old.run(None, fed), new.run(None, fed), strict=True):
            assert np.isfinite(want).all()
            assert (got.shape, got.dtype) == (want.shape, want.dtype)
            span = float(want.max()) - float(want.min())
            assert span > 0.1, "an output that hardly varies proves nothing"
            error = float(np.abs(got.astype("float64") - want.astype("float64")).max()) / span
            assert error <= TOLERANCE[want.dtype.name], f"{error:.1e} of the output's range"
