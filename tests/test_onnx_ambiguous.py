"""One name for two values: what onnxruntime makes of it depends on sizes and kinds, so it is refused.

The same tensor stored twice has one meaning in every runtime, and folds.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from bnfuse.formats.onnx.file import parse as reading
from tests.command import call, optimized
from tests.onnx_graphs import Net, assert_equal

Spoil = Callable[[onnx.GraphProto, np.ndarray], None]
# Elements of the weight: kept in the proto; taken by onnxruntime from the first; left in the file.
WIDTHS = [1, 5, 40]


def stored(values: np.ndarray, name: str = "w") -> onnx.TensorProto:
    return numpy_helper.from_array(values, name)


def sparse(values: np.ndarray, name: str = "w") -> onnx.SparseTensorProto:
    indices = numpy_helper.from_array(np.arange(values.size), "at")
    return helper.make_sparse_tensor(stored(values.reshape(-1), name), indices, values.shape)


def constant(values: np.ndarray) -> onnx.NodeProto:
    return helper.make_node("Constant", [], ["w"], value=stored(values, ""))


def _behind(graph: onnx.GraphProto, w: np.ndarray) -> None:
    graph.initializer.append(stored(w * 2 + 1))


def _before(graph: onnx.GraphProto, w: np.ndarray) -> None:
    graph.initializer.insert(0, stored(w * 2 + 1))


def _other_shape(graph: onnx.GraphProto, w: np.ndarray) -> None:
    graph.initializer.append(stored(w.reshape(-1)))


def _other_type(graph: onnx.GraphProto, w: np.ndarray) -> None:
    graph.initializer.append(stored(w.astype(np.float64)))


def _one_bit(graph: onnx.GraphProto, w: np.ndarray) -> None:
    other = w.copy()
    other.reshape(-1)[-1] = np.nextafter(other.reshape(-1)[-1], np.float32(9))
    graph.initializer.append(stored(other))


def _sparse_too(graph: onnx.GraphProto, w: np.ndarray) -> None:
    graph.sparse_initializer.append(sparse(w * 2 + 1))


def _sparse_twice(graph: onnx.GraphProto, w: np.ndarray) -> None:
    del graph.initializer[0]
    graph.sparse_initializer.extend([sparse(w), sparse(w * 2 + 1)])


def _constant_too(graph: onnx.GraphProto, w: np.ndarray) -> None:
    graph.node.insert(0, constant(w * 2 + 1))


def _constant_behind(graph: onnx.GraphProto, w: np.ndarray) -> None:
    graph.node.append(constant(w * 2 + 1))


def _two_constants(graph: onnx.GraphProto, w: np.ndarray) -> None:
    del graph.initializer[0]
    graph.node.insert(0, constant(w * 2 + 1))
    graph.node.insert(0, constant(w))


def _written_too(graph: onnx.GraphProto, w: np.ndarray) -> None:
    graph.node.insert(0, helper.make_node("Neg", ["b"], ["w"]))


def _an_input_is_written(graph: onnx.GraphProto, w: np.ndarray) -> None:
    graph.node.append(helper.make_node("Neg", ["b"], ["x"]))


SPOILS: dict[str, Spoil] = {
    spoil.__name__.strip("_"): spoil
    for spoil in (_behind, _before, _other_shape, _other_type, _one_bit, _sparse_too, _sparse_twice,
                  _constant_too, _constant_behind, _two_constants, _written_too, _an_input_is_written)
}  # fmt: skip


def gemm(width: int) -> tuple[onnx.ModelProto, np.ndarray]:
    """x·w + b → BN → Tanh."""
    net = Net(width)
    w = net.rng.standard_normal((width, 2 * width)).astype(np.float32)
    net.const(w, "w")
    net.const(net.rng.standard_normal(2 * width), "b")
    y = net.op("Tanh", net.bn(net.op("Gemm", "x", "w", "b"), 2 * width, name="bn"))
    return net.build({"x": (3, width)}, y), w


@pytest.fixture(params=[1 << 24, 0], ids=["parsed", "skimmed"])
def either_way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Small files are parsed whole, of larger ones a skeleton is."""
    monkeypatch.setattr(reading, "_WHOLE_BYTES", request.param)
    monkeypatch.setattr("bnfuse.formats.onnx.file.wire.LARGE_BYTES", 1 << 10)


@pytest.mark.usefixtures("either_way")
@pytest.mark.parametrize("command", ["optimize", "diff"])
@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("spoil", SPOILS.values(), ids=SPOILS)
def test_two_values_of_one_name_are_refused(spoil: Spoil, width: int, command: str, tmp_path: Path) -> None:
    made, w = gemm(width)
    spoil(made.graph, w)
    path = tmp_path / "model.onnx"
    path.write_bytes(made.SerializeToString())
    if command == "diff":
        if len(made.graph.initializer) + len(made.graph.sparse_initializer) < 7:
            return  # names of nodes' outputs are what ``diff`` is there to show
        done = call("diff", path, path)
    else:
        done = call("optimize", path, "--no-verify", "--no-bench")
    assert done.exit_code == 3
    assert done.stderr.count("\n") == 1 and "is the name of two" in done.stderr and str(path) in done.stderr
    assert [p.name for p in tmp_path.iterdir()] == ["model.onnx"]


@pytest.mark.parametrize("width", WIDTHS)
def test_in_a_body_too(width: int, tmp_path: Path) -> None:
    made, w = gemm(width)
    _behind(made.graph, w)
    inner = onnx.GraphProto()
    inner.CopyFrom(made.graph)
    del inner.input[:]
    node = helper.make_node("If", ["c"], ["z"], then_branch=inner, else_branch=inner)
    c, z = helper.make_tensor_value_info("c", 9, []), helper.make_tensor_value_info("z", 1, [None, None])
    graph = helper.make_graph([node], "g", [c, made.graph.input[0]], [z])
    path = tmp_path / "model.onnx"
    onnx.save(helper.make_model(graph, opset_imports=made.opset_import, ir_version=8), path)
    done = call("inspect", path)
    assert done.exit_code == 3 and "two different initializers" in done.stderr


@pytest.mark.usefixtures("either_way")
@pytest.mark.parametrize("external", [False, True], ids=["inline", "external"])
@pytest.mark.parametrize("width", WIDTHS)
def test_the_same_tensor_twice_is_one(width: int, external: bool, tmp_path: Path) -> None:
    """Where it changes, both copies do."""
    made, w = gemm(width)
    made.graph.initializer.append(stored(w))
    if external:
        folder = tmp_path / "in"
        folder.mkdir()
        onnx.save(made, folder / "m.onnx", save_as_external_data=True, location="w.bin", size_threshold=0)
        done = call("optimize", folder / "m.onnx", "-o", tmp_path / "after.onnx", "--no-verify", "--no-bench")
        assert done.exit_code == 0, done.stderr
        assert_equal(folder / "m.onnx", tmp_path / "after.onnx")
        return
    run = optimized(made, tmp_path, proof="skipped")
    assert run.decisions == {"bn": None}
    assert_equal(run.before, run.after)
    copies = [t for t in onnx.load(run.after).graph.initializer if t.name == "w"]
    assert len(copies) == 2 and copies[0] == copies[1]


def _two_fields(tensor: onnx.TensorProto) -> None:
    tensor.float_data.extend([1.0] * int(np.prod(tensor.dims)))


def _another_field(tensor: onnx.TensorProto) -> None:
    tensor.int32_data.append(1)


@pytest.mark.parametrize("spoil", [_two_fields, _another_field])
def test_a_tensor_that_holds_its_values_in_two_fields(
    spoil: Callable[[onnx.TensorProto], None], tmp_path: Path
) -> None:
    """onnxruntime takes raw_data; who takes the first one that is there, another."""
    made, _ = gemm(3)
    spoil(made.graph.initializer[0])
    path = tmp_path / "model.onnx"
    path.write_bytes(made.SerializeToString())
    done = call("inspect", path)
    assert done.exit_code == 3 and "tensor 'w' says in two places what it holds" in done.stderr


def test_more_axes_than_any_tensor_has(tmp_path: Path) -> None:
    made, _ = gemm(3)
    made.graph.initializer[0].dims[:] = [*made.graph.initializer[0].dims, *[1] * 70]
    path = tmp_path / "model.onnx"
    path.write_bytes(made.SerializeToString())
    done = call("inspect", path)
    assert done.exit_code == 3 and "tensor 'w' has 72 axes" in done.stderr


OPSETS = {
    "two versions": ([("", 17), ("", 13)], "asks for operator set 13 and 17 at once"),
    "under both names": ([("ai.onnx", 13), ("", 17)], "asks for operator set 17 and 13 at once"),
    "of another domain": ([("", 17), ("own", 1), ("own", 2)], "asks for operator set 2 and 1 at once"),
    "none that exists": ([("", 1 << 40)], f"asks for operator set {1 << 40}, which is none"),
    "below zero": ([("", -1)], "asks for operator set -1, which is none"),
    "one version twice": ([("", 17), ("", 17)], ""),
}


@pytest.mark.parametrize(("listed", "says"), OPSETS.values(), ids=OPSETS)
def test_operator_sets(listed: list[tuple[str, int]], says: str, tmp_path: Path) -> None:
    """Of two versions onnxruntime takes the last, and they differ in what operators compute."""
    made, _ = gemm(3)
    del made.opset_import[:]
    for domain, version in listed:
        made.opset_import.add(domain=domain, version=version)
    path = tmp_path / "model.onnx"
    path.write_bytes(made.SerializeToString())
    done = call("inspect", path)
    assert (done.exit_code, says in done.stderr) == (3 if says else 0, True)
