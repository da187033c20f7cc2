"""Models that onnxruntime cannot load: what it lacks is said, by verify, optimize and bench alike."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
import pytest
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

from bnfuse.errors import UnreadableModel
from bnfuse.formats.base import RunSettings
from bnfuse.formats.onnx.runtime.run import load
from tests.command import call
from tests.tiny_models import model as model_of
from tests.tiny_models import save

node = helper.make_node


def made(nodes: list[NodeProto], *, dtype: int = TensorProto.FLOAT, ir: int = 8, **opsets: int) -> ModelProto:
    """A model from x (2, 3, 5, 4) to y, with weights and parameters of its own type."""
    ends = [helper.make_tensor_value_info(name, dtype, None) for name in "xy"]
    ends[0].type.CopyFrom(helper.make_tensor_type_proto(dtype, [2, 3, 5, 4]))
    kernel = numpy_helper.from_array(np.random.default_rng(0).standard_normal((6, 3, 1, 1)), "w")
    values = numpy_helper.to_array(kernel).reshape(-1)
    weight = helper.make_tensor(
        "w", dtype, (6, 3, 1, 1), values.astype(int) if dtype == TensorProto.INT32 else values
    )
    graph = helper.make_graph(nodes, "g", ends[:1], ends[1:], [weight])
    domains = {"ai.onnx": 17, **{name.replace("_", "."): version for name, version in opsets.items()}}
    imports = [helper.make_opsetid("" if d == "ai.onnx" else d, v) for d, v in domains.items()]
    return helper.make_model(graph, opset_imports=imports, ir_version=ir)


def in_a_body(inner: NodeProto) -> list[NodeProto]:
    bodies = [
        helper.make_graph([body], "body", [], [helper.make_tensor_value_info("z", TensorProto.FLOAT, None)])
        for body in (inner, node("Relu", ["x"], ["z"]))
    ]
    true = numpy_helper.from_array(np.array(True))
    return [
        node("Constant", [], ["c"], value=true),
        node("If", ["c"], ["y"], then_branch=bodies[0], else_branch=bodies[1]),
    ]


CONV = node("Conv", ["x", "w"], ["y"], name="first")
LACKS: list[tuple[str, ModelProto, str]] = [
    (
        "a domain of one's own",
        made([node("Quant", ["x"], ["y"], domain="my.ops")], my_ops=3),
        "it has no operator Quant of domain my.ops, opset 3",
    ),
    (
        "an undeclared domain",
        made([node("Quant", ["x"], ["y"], domain="my.ops", name="q")]),
        "no operator Quant of domain my.ops (node 'q'), and the model declares no opset of that domain",
    ),
    (
        "a domain that it knows",
        made([node("Foo", ["x"], ["y"], domain="com.microsoft")], com_microsoft=1),
        "it has no operator Foo of domain com.microsoft, opset 1",
    ),
    (
        "in a body",
        made(in_a_body(node("Quant", ["x"], ["z"], domain="my.ops")), my_ops=3),
        "it has no operator Quant of domain my.ops, opset 3",
    ),
    (
        "no such operator",
        made([node("Blur", ["x"], ["y"], name="b")]),
        "it has no operator Blur of domain ai.onnx, opset 17 (node 'b')",
    ),
    (
        "of a later opset",
        made([node("Gelu", ["x"], ["y"])]),
        "it has no operator Gelu of domain ai.onnx, opset 17",
    ),
    (
        "not for float64",
        made([CONV], dtype=TensorProto.DOUBLE),
        "it has not implemented operator Conv (version 11), or not for the types used (node 'first')",
    ),
    (
        "not for integers",
        made([CONV], dtype=TensorProto.INT32),
        "its operator Conv takes no tensor(int32) (node 'first')",
    ),
    ("opset", made([node("Relu", ["x"], ["y"])], ai_onnx=999), "and the model is of opset 999"),
    (
        "opset of a domain",
        made([node("Relu", ["x"], ["y"])], ai_onnx_ml=999),
        "and the model is of opset 999",
    ),
    ("IR version", made([node("Relu", ["x"], ["y"])], ir=999), "and the model is of version 999"),
]


@pytest.mark.parametrize(("name", "proto", "says"), LACKS, ids=[case[0] for case in LACKS])
def test_what_the_runtime_lacks_is_said(tmp_path: Path, name: str, proto: ModelProto, says: str) -> None:
    path = tmp_path / "m.onnx"
    path.write_bytes(proto.SerializeToString())
    with pytest.raises(UnreadableModel) as caught:
        load(path, RunSettings())
    text = str(caught.value)
    assert text.startswith(f"onnxruntime {ort.__version__} cannot load 'm.onnx': ")
    assert text.endswith(says)
    assert "\n" not in text and "onnxruntime_src" not in text


def test_words_of_its_own_are_kept(tmp_path: Path) -> None:
    (tmp_path / "m.onnx").write_bytes(made([node("Relu", ["x"], ["y"], no_such=1)]).SerializeToString())
    with pytest.raises(UnreadableModel, match="Unrecognized attribute: no_such for operator Relu"):
        load(tmp_path / "m.onnx", RunSettings())


def beyond_the_runtime(scale: float = 1.0) -> ModelProto:
    """Conv → BN, and an operator that no runtime has."""
    rng = np.random.default_rng(0)
    arrays = {
        "w": scale * rng.standard_normal((6, 3, 1, 1)),
        **{name: rng.standard_normal(6) for name in ("gamma", "beta", "mean")},
        "var": rng.uniform(0.5, 2, 6),
    }
    inits = [numpy_helper.from_array(value.astype(np.float32), name) for name, value in arrays.items()]
    nodes = [
        node("Conv", ["x", "w"], ["c"]),
        node("BatchNormalization", ["c", "gamma", "beta", "mean", "var"], ["b"]),
        node("Quant", ["b"], ["y"], domain="my.ops"),
    ]
    ends = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, [2, c, 5, 4])
        for name, c in (("x", 3), ("y", 6))
    ]
    proto = model_of(nodes, ends[:1], ends[1:], inits)
    proto.opset_import.append(helper.make_opsetid("my.ops", 3))
    return proto


@pytest.mark.parametrize(("command", "code"), [("optimize", 4), ("verify", 4), ("bench", 3)])
def test_every_command_says_it(tmp_path: Path, command: str, code: int) -> None:
    path, other = (save(beyond_the_runtime(scale), tmp_path / f"{scale}.onnx") for scale in (1.0, 2.0))
    files: list[Any] = [path, other] if command == "verify" else [path]
    done = call(command, *files)
    assert done.exit_code == code
    assert "it has no operator Quant of domain my.ops, opset 3" in done.stderr
    assert ("--no-verify" in done.stderr) == (command == "optimize")
    assert "--inputs" not in done.stderr and "--shape" not in done.stderr
    assert sorted(tmp_path.iterdir()) == [path, other]


def test_it_can_be_written_unproved(tmp_path: Path) -> None:
    path = save(beyond_the_runtime(), tmp_path / "m.onnx")
    done = call("optimize", path, "--no-verify", "-o", tmp_path / "out.onnx")
    assert done.exit_code == 0, done.stderr
    assert "Quant of domain my.ops" in " ".join((done.stdout + done.stderr).split())  # why nothing was timed
    assert (tmp_path / "out.onnx").exists()
