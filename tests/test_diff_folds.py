"""What ``optimize`` did to a model, as ``diff`` sees it; and models damaged at random."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from bnfuse.errors import BnfuseError
from bnfuse.use_cases.diff import diff
from tests.cli_models import convnet
from tests.command import call
from tests.diff_nets import Change, array, changed, compared, renamed, without_names
from tests.onnx_graphs import Net
from tests.onnx_mutants import mutants

ROOT = Path(__file__).resolve().parents[1]
REAL = ROOT.parent / "shared" / "models"  # beside the project
ANYTHING: list[list[Change]] = [
    [],
    [without_names],
    [without_names, renamed(lambda name: f"v/{name}", nodes=False)],
]


def folded(path: Path) -> Path:
    result = path.with_name(f"after{path.suffix}")
    done = call("optimize", path, "-o", result, "--no-verify", "--no-bench", "-q")
    assert done.exit_code == 0, done.stderr
    return result


@pytest.mark.parametrize("changes", ANYTHING, ids=["named", "unnamed", "renamed"])
def test_a_folded_convnet(changes: list[Change], tmp_path: Path) -> None:
    """The convolution's new weights, by the equation; whatever nodes are called."""
    before = changed(convnet())
    path = tmp_path / "before.onnx"
    onnx.save(before, path)
    after = onnx.load(folded(path))
    found = compared(tmp_path, before, changed(after, *changes))
    assert [node.operator for node in found.nodes_removed] == ["BatchNormalization"]
    assert not found.nodes_added and not found.nodes_changed and found.nodes_same == 2
    parameters = {"gamma", "beta", "mean", "var"}
    assert {weight.name for weight in found.weights_removed} == parameters
    w, gamma, var = (array(before, name).astype(np.float64) for name in ("w", "gamma", "var"))
    scaled = w * (gamma / np.sqrt(var + 1e-5)).reshape(-1, 1, 1, 1)
    change = next(c for c in found.weights_changed if c.before.name == "w")
    assert change.figures is not None and change.before.slot == "input 1"
    assert change.figures.max_rel == pytest.approx(np.abs(scaled - w).max() / np.abs(w).max(), rel=1e-5)
    assert change.figures.rms == pytest.approx(np.sqrt(((scaled - w) ** 2).mean()), rel=1e-5)
    assert {c.before.name for c in found.weights_changed} == {"w", "b"}
    assert found.before.parameters - found.after.parameters == 4 * 5


@pytest.mark.parametrize("name", ["digits_cnn.onnx", "digits_mlp.onnx", "digits_a.keras", "digits_b.h5"])
def test_folded_fixtures(name: str, tmp_path: Path) -> None:
    """Only BatchNormalizations go, only weights of nodes that stay change, and the counts add up."""
    path = tmp_path / name
    path.write_bytes((ROOT / "fixtures" / name).read_bytes())
    found = diff(path, folded(path))
    gone = found.before.totals["BatchNormalization"]
    assert [node.operator for node in found.nodes_removed] == ["BatchNormalization"] * gone
    assert not found.nodes_added and not found.interface
    nodes = found.nodes_same + len(found.nodes_changed) + gone
    assert nodes == sum(found.before.totals.values())
    weights = found.weights_same + len(found.weights_changed) + len(found.weights_removed)
    assert weights == found.before.weights
    assert all(not node.inputs for node in found.nodes_changed)
    readers = {c.before.reader.operator for c in found.weights_changed if c.before.reader}
    assert readers and readers <= {"Conv", "Gemm", "MatMul", "Dense", "Add"}


REAL_MODELS = [
    "onnx/ultraface_rfb_320.onnx",
    "onnx/rapidocr_ppocr_v1_det.onnx",
    "onnx/stm32_mobilenet_v2_128.onnx",
    "onnx/light_densenet121.onnx",
    "keras/mlperf_tiny_person_nested_mobilenet.h5",
    "keras/deepfake_voice_cnn.keras",
    "keras/waste_classifier_nested_sequential.h5",
]


@pytest.mark.parametrize("name", REAL_MODELS)
def test_folded_real_models(name: str, tmp_path: Path) -> None:
    if not (REAL / name).is_file():
        pytest.skip("the real models are not there")
    path = tmp_path / Path(name).name
    path.write_bytes((REAL / name).read_bytes())
    found = diff(path, folded(path))
    went = {op: n - found.after.totals.get(op, 0) for op, n in found.before.totals.items()}
    told: dict[str, int] = {}
    for node in found.nodes_removed:
        told[node.operator] = told.get(node.operator, 0) + 1
    for node in found.nodes_added:
        told[node.operator] = told.get(node.operator, 0) - 1
    assert {op: n for op, n in told.items() if n} == {op: n for op, n in went.items() if n}
    assert went["BatchNormalization"] > 0 and not found.interface
    assert all(link.label != "input 0" for node in found.nodes_changed for link in node.inputs)
    again = diff(path, path)
    assert not again.differs and again.weights_same == again.before.weights


# Damage


def _meaning(proto: onnx.ModelProto) -> list[object]:
    """What must be equal for a graph to be the same, defaults filled in; apart from the product's code."""
    graph = proto.graph
    weights = sorted((t.name, tuple(t.dims), t.data_type, _bytes(t)) for t in graph.initializer)
    opset = next(entry.version for entry in proto.opset_import if entry.domain == "")
    interface = [v.SerializeToString() for v in (*graph.input, *graph.output)]
    return [weights, interface, [_node_meaning(node, opset) for node in graph.node], opset]


def _bytes(tensor: onnx.TensorProto) -> bytes:
    return numpy_helper.to_array(tensor).tobytes()


def _node_meaning(node: onnx.NodeProto, opset: int) -> object:
    given = {a.name: a for a in node.attribute}
    schema = onnx.defs.get_schema(node.op_type, opset, "")
    defaults = {name: a.default_value for name, a in schema.attributes.items() if a.default_value.name}
    every = {**defaults, **given}
    attributes = {name: (a.type, onnx.helper.get_attribute_value(a)) for name, a in every.items()}
    return node.op_type, _trimmed(node.input), _trimmed(node.output), sorted(attributes.items(), key=str)


def _trimmed(names: Iterable[str]) -> list[str]:
    """Absent ones at the end say nothing."""
    every = list(names)
    while every and not every[-1]:
        every.pop()
    return every


def _damaged_models() -> list[onnx.ModelProto]:
    net = Net(5)
    pooled = net.op("MaxPool", net.bn(net.conv("x", 3, 4, 3, 3, pads=[1, 1, 1, 1]), 4), kernel_shape=[2, 2])
    flat = net.op("Flatten", net.op("GlobalAveragePool", pooled))
    dense = net.op("Gemm", flat, net.weight(4, 6, fan_in=4), net.vector(6), alpha=0.5)
    return [convnet(), net.build({"x": ("N", 3, 9, 7)}, net.op("Softmax", dense, axis=1))]


@pytest.mark.slow
@pytest.mark.parametrize("which", [0, 1])
def test_damage_is_found_or_refused(which: int, tmp_path: Path) -> None:
    """Each damaged model differs exactly where what it means does; none ends in a traceback."""
    made = _damaged_models()[which]
    meaning = _meaning(made)
    path = tmp_path / "a.onnx"
    path.write_bytes(made.SerializeToString())
    counts = {True: 0, False: 0, None: 0}
    for number, (what, damaged) in enumerate(mutants(made, which, 400)):
        other = tmp_path / "b.onnx"
        other.write_bytes(damaged.SerializeToString())
        try:
            found = diff(path, other)
        except BnfuseError as error:
            assert "\n" not in str(error) and len(str(error)) > 20
            counts[None] += 1
            continue
        try:
            want = repr(_meaning(damaged)) != repr(meaning)
        except (ValueError, TypeError, onnx.defs.SchemaError):
            want = True  # not even onnx can make sense of it
        assert found.differs == want, f"mutant {number} ({what})"
        counts[found.differs] += 1
    assert counts[True] > 200 and counts[False] > 10
