"""What a fold keeps: inputs, names, metadata, all that is not arithmetic; and the input file itself."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from bnfuse.core.decisions import Fold
from bnfuse.errors import UnsafeModel
from bnfuse.formats.base import ReadOptions
from bnfuse.formats.onnx import FORMAT
from tests.onnx_graphs import Net, assert_equal, feeds, fold, fold_model, session
from tests.traps.inputs import everything as _everything
from tests.traps.inputs import listed as _listed
from tests.traps.table import IMAGE, plain


def test_strict_inputs_refuses_a_model_whose_initializers_are_all_inputs(tmp_path: Path) -> None:
    with pytest.raises(UnsafeModel, match="--strict-inputs"):
        fold_model(_listed(Net(), _everything, 4), tmp_path, ReadOptions(strict_inputs=True))


@pytest.mark.parametrize(
    ("names", "options", "noted"),
    [
        (_everything, ReadOptions(), "leave the inputs"),
        ({"c0"}.__contains__, ReadOptions(), "--freeze-inputs"),
        ({"c0"}.__contains__, ReadOptions(freeze_inputs=True), "leave the inputs"),
    ],
)
def test_initializers_that_are_inputs_are_reported(
    names: Callable[[str], bool], options: ReadOptions, noted: str, tmp_path: Path
) -> None:
    folded = fold_model(_listed(Net(), names, 4), tmp_path, options)
    assert any(noted in note for note in folded.notes)
    left = {v.name for v in folded.proto.graph.input} - {"x"}
    assert left == (set() if noted == "leave the inputs" else {"c0"})


def test_an_override_still_reaches_what_it_reached(tmp_path: Path) -> None:
    folded = fold_model(_listed(Net(), {"c2"}.__contains__, 4), tmp_path)
    old, new = session(folded.before), session(folded.after)
    fed = feeds(old, 0) | {"c2": np.array([3, -1, 4, -1, 5], np.float32)}
    np.testing.assert_allclose(new.run(None, fed)[0], old.run(None, fed)[0], rtol=0, atol=1e-6)


def test_the_graph_output_a_bn_made_keeps_its_name(tmp_path: Path) -> None:
    folded = fold_model(plain(), tmp_path)
    assert [n.output[0] for n in folded.proto.graph.node] == ["answer"]


def test_all_that_is_not_arithmetic_is_kept(tmp_path: Path) -> None:
    made = plain(opset=13)
    made.producer_name, made.producer_version, made.domain = "maker", "7.1", "org.example"
    made.model_version, made.doc_string, made.ir_version = 42, "a doc", 7
    made.metadata_props.add(key="licence", value="none <b>")
    made.opset_import.add(domain="com.example", version=3)
    made.graph.doc_string = "graph doc"
    made.graph.node[0].doc_string = "conv doc"
    made.graph.node[0].attribute.append(helper.make_attribute("dilations", [1, 1]))
    extra = helper.make_node(
        "Strange", ["answer"], ["z"], domain="com.example", name="odd", knob=0.25, tag="é"
    )
    made.graph.node.append(extra)
    made.graph.output.add().CopyFrom(
        helper.make_tensor_value_info("z", TensorProto.FLOAT, ["N", "a", 6, None])
    )
    new = fold_model(made, tmp_path).proto
    assert len(new.graph.node) == 2
    for name in ("producer_name", "producer_version", "domain", "model_version", "doc_string", "ir_version"):
        assert getattr(new, name) == getattr(made, name)
    assert list(new.metadata_props) == list(made.metadata_props)
    assert list(new.opset_import) == list(made.opset_import)
    assert (new.graph.name, new.graph.doc_string) == ("net", "graph doc")
    assert list(new.graph.input) == list(made.graph.input)
    assert list(new.graph.output) == list(made.graph.output)
    assert new.graph.node[1] == extra
    conv = new.graph.node[0]
    assert (conv.name, conv.doc_string) == ("conv0", "conv doc")
    assert list(conv.attribute) == list(made.graph.node[0].attribute)


def test_new_names_do_not_collide(tmp_path: Path) -> None:
    net = Net()
    w = net.weight(5, 3, 3, 3, fan_in=27)
    first, second = (net.bn(net.op("Conv", "x", w), 5) for _ in range(2))
    taken = [
        net.op("Neg", first, out=f"{w}{end}")
        for end in ("_1", "_fused", ".fused", "_folded", "_bias", "_copy")
    ]
    folded = fold_model(net.build(IMAGE, [first, second, *taken]), tmp_path)
    graph = folded.proto.graph
    names = [t.name for t in graph.initializer] + [o for n in graph.node for o in n.output]
    assert len(names) == len(set(names))
    assert_equal(folded.before, folded.after)


def test_the_weights_are_those_of_the_equation(tmp_path: Path) -> None:
    made = plain(3)
    old = {t.name: numpy_helper.to_array(t).astype("f8") for t in made.graph.initializer}
    w, b, gamma, beta, mean, variance = (old[f"c{i}"] for i in range(6))
    a = gamma / np.sqrt(variance + float(np.float32(1e-3)))
    folded = fold_model(made, tmp_path)
    conv = folded.proto.graph.node[0]
    new = {t.name: numpy_helper.to_array(t) for t in folded.proto.graph.initializer}
    np.testing.assert_array_equal(new[conv.input[1]], (w * a[:, None, None, None]).astype("f4"))
    np.testing.assert_allclose(new[conv.input[2]], a * (b - mean) + beta, rtol=1e-7, atol=1e-7)
    assert len(new) == 2, "the statistics are gone from the file"


def _large() -> onnx.ModelProto:
    """17 MiB: one large Gemm that a BN follows, one large weight that stays as it is."""
    net = Net(5)
    x = net.op("Gemm", "x", net.weight(1100, 3000, fan_in=1100), net.vector(3000))
    x = net.op("Relu", net.bn(x, 3000))
    return net.build({"x": ("N", 1100)}, net.op("MatMul", x, net.weight(3000, 400, fan_in=3000)))


def test_a_large_file_is_streamed_to_the_same_numbers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "before.onnx"
    onnx.save(_large(), path)
    assert path.stat().st_size > 1 << 24
    streamed = fold(path)
    monkeypatch.setattr("bnfuse.formats.onnx.file.parse._WHOLE_BYTES", 1 << 40)
    whole = fold(path, tmp_path / "whole.onnx")
    assert isinstance(streamed.plan.decisions[0], Fold)
    assert streamed.plan == whole.plan
    a, b = onnx.load(streamed.after), onnx.load(whole.after)
    assert list(a.graph.node) == list(b.graph.node)
    arrays = [{t.name: numpy_helper.to_array(t) for t in m.graph.initializer} for m in (a, b)]
    assert arrays[0].keys() == arrays[1].keys()
    for name, array in arrays[0].items():
        np.testing.assert_array_equal(array, arrays[1][name])
    assert not streamed.written.side_files
    assert_equal(path, streamed.after, seeds=[0])


def test_a_model_without_batchnormalization_is_written_as_it_is(tmp_path: Path) -> None:
    net = Net()
    made = net.build(IMAGE, net.op("Relu", net.conv("x", 3, 5, 3, 3)))
    folded = fold_model(made, tmp_path)
    assert folded.plan.decisions == ()
    assert folded.proto == made


def test_reading_runs_nothing_and_changes_nothing(tmp_path: Path) -> None:
    path = tmp_path / "before.onnx"
    onnx.save(plain(), path)
    bytes_before = path.read_bytes()
    FORMAT.read(path, ReadOptions())
    fold(path)
    assert path.read_bytes() == bytes_before
