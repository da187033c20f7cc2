"""Skimming an ONNX file and splicing it again: nothing lost, nothing large held, no garbage believed."""

from __future__ import annotations

import contextlib
import os
import tempfile
from pathlib import Path
from unittest import mock

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from bnfuse.errors import BnfuseError
from bnfuse.formats.base import ReadOptions
from bnfuse.formats.onnx import FORMAT
from bnfuse.formats.onnx.file import parse as reading
from bnfuse.formats.onnx.file.protobuf import TOKEN, tag, varint
from bnfuse.formats.onnx.file.splice import splice
from bnfuse.formats.onnx.file.wire import LARGE_BYTES, FileSlice, skim
from tests.onnx_graphs import Net, fold

_LARGE = LARGE_BYTES // 4 + 5  # float32 elements
_RNG = np.random.default_rng(3)


def _tensor(name: str, elements: int, *, raw: bool = True, dtype: str = "float32") -> TensorProto:
    array = _RNG.standard_normal(elements).astype(dtype)
    if raw:
        return numpy_helper.from_array(array, name)
    kind = {"float32": TensorProto.FLOAT, "float64": TensorProto.DOUBLE}[dtype]
    return helper.make_tensor(name, kind, [elements], array.tolist())


def _constant(output: str, elements: int) -> onnx.NodeProto:
    return helper.make_node("Constant", [], [output], value=_tensor("", elements), doc_string="a constant")


def _float(name: str, *shape: int | str) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, TensorProto.FLOAT, list(shape))


def _model(
    nodes: list[onnx.NodeProto],
    initializers: list[TensorProto],
    functions: list[onnx.FunctionProto] | None = None,
) -> onnx.ModelProto:
    graph = helper.make_graph(nodes, "g", [_float("x", _LARGE)], [_float("y", _LARGE)], initializers)
    made = helper.make_model(
        graph,
        opset_imports=[helper.make_opsetid("", 20), helper.make_opsetid("own", 1)],
        functions=functions or [],
        doc_string="kept",
    )
    helper.set_model_props(made, {"author": "someone"})
    return made


def _initializers() -> onnx.ModelProto:
    return _model(
        [helper.make_node("Sum", ["x", "a", "b", "c"], ["y"])],
        [_tensor("a", _LARGE), _tensor("small", 7), _tensor("b", _LARGE), _tensor("c", _LARGE)],
    )


def _packed() -> onnx.ModelProto:
    """float_data and double_data instead of raw_data."""
    return _model(
        [helper.make_node("Add", ["x", "a"], ["y"])],
        [_tensor("a", _LARGE, raw=False), _tensor("d", _LARGE, raw=False, dtype="float64")],
    )


def _constants() -> onnx.ModelProto:
    nodes = [_constant("a", _LARGE), _constant("s", 1), helper.make_node("Sum", ["x", "a", "s"], ["y"])]
    return _model(nodes, [])


def _if_bodies() -> onnx.ModelProto:
    def body(name: str) -> onnx.GraphProto:
        nodes = [
            _constant(f"{name}a", _LARGE),
            helper.make_node("Sum", ["x", f"{name}a", f"{name}w"], [name]),
        ]
        return helper.make_graph(nodes, name, [], [_float(name, _LARGE)], [_tensor(f"{name}w", _LARGE)])

    inner = helper.make_node("If", ["flag"], ["t2"], then_branch=body("p"), else_branch=body("q"))
    nested = helper.make_graph([inner], "nested", [], [_float("t2", _LARGE)])
    outer = helper.make_node("If", ["flag"], ["y"], then_branch=nested, else_branch=body("r"))
    return _model([outer], [numpy_helper.from_array(np.array(True), "flag")])


def _functions() -> onnx.ModelProto:
    function = helper.make_function(
        "own",
        "Shift",
        ["v"],
        ["w"],
        [_constant("k", _LARGE), helper.make_node("Add", ["v", "k"], ["w"])],
        [helper.make_opsetid("", 20)],
    )
    return _model([helper.make_node("Shift", ["x"], ["y"], domain="own")], [_tensor("a", _LARGE)], [function])


_CASES = {
    "initializers": (_initializers, 3),
    "packed": (_packed, 2),
    "constants": (_constants, 1),
    "if bodies": (_if_bodies, 6),
    "functions": (_functions, 2),
}


def _skim(path: Path) -> tuple[bytes, list[FileSlice]]:
    fd = os.open(path, os.O_RDONLY)
    try:
        return skim(path, fd, path.stat().st_size)
    finally:
        os.close(fd)


def _slice(data: bytes, where: FileSlice) -> bytes:
    return data[where.offset : where.offset + where.length]


def _normal(model: onnx.ModelProto) -> bytes:
    """One serialization for equal models: packed floats as raw_data."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    for tensor in copy.graph.initializer:
        values = tensor.float_data or tensor.double_data
        if values:
            raw = numpy_helper.to_array(tensor).tobytes()
            tensor.ClearField("float_data")
            tensor.ClearField("double_data")
            tensor.raw_data = raw
    return copy.SerializeToString(deterministic=True)


@pytest.mark.parametrize("case", _CASES)
def test_skimming_takes_every_large_tensor_and_splicing_puts_it_back(case: str, tmp_path: Path) -> None:
    make, large = _CASES[case]
    model = make()
    data = model.SerializeToString()
    path = tmp_path / "m.onnx"
    path.write_bytes(data)
    skeleton, slices = _skim(path)

    assert len(slices) == large
    assert len(skeleton) < 4096
    for where in slices:  # no window of the payload is left in the skeleton
        payload = _slice(data, where)
        assert len(payload) >= LARGE_BYTES
        assert all(payload[i : i + 16] not in skeleton for i in range(0, len(payload) - 16, 64))

    parsed = onnx.ModelProto.FromString(skeleton)  # as the writer does: through a proto
    parts = splice(parsed.SerializeToString(deterministic=True), lambda n: slices[n].length)
    whole = b"".join(_slice(data, slices[p]) if isinstance(p, int) else p for p in parts)
    assert TOKEN.encode() not in whole
    assert onnx.ModelProto.FromString(whole).SerializeToString(deterministic=True) == _normal(model)


def test_small_models_pass_through_unchanged(tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    model = _model([helper.make_node("Add", ["x", "a"], ["y"])], [_tensor("a", 3)])
    path.write_bytes(model.SerializeToString())
    skeleton, slices = _skim(path)
    assert slices == [] and skeleton == path.read_bytes()
    assert list(splice(skeleton, lambda n: 0)) == [skeleton]


@pytest.mark.parametrize("change", [-3000, 0, 1, 100_000])
def test_enclosing_lengths_follow_a_payload_of_another_size(change: int, tmp_path: Path) -> None:
    """A tensor may be replaced by one of another length: every enclosing length is recomputed."""
    path = tmp_path / "m.onnx"
    path.write_bytes(_if_bodies().SerializeToString())
    skeleton, slices = _skim(path)
    parts = splice(skeleton, lambda n: slices[n].length + change)
    whole = b"".join(bytes(slices[p].length + change) if isinstance(p, int) else p for p in parts)
    outer = onnx.ModelProto.FromString(whole).graph.node[0]
    other = next(a.g for a in outer.attribute if a.name == "else_branch")
    assert len(other.initializer[0].raw_data) == _LARGE * 4 + change
    assert len(other.node[0].attribute[0].t.raw_data) == _LARGE * 4 + change


def _read_or_refuse(data: bytes, sizes: tuple[int, ...] = (0, 1 << 24)) -> None:
    """Reading damaged bytes either works or ends in a BnfuseError."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "m.onnx"
        path.write_bytes(data)
        with contextlib.suppress(BnfuseError):
            _skim(path)
        for whole_bytes in sizes:  # through the skeleton, and parsed in one piece
            patched = mock.patch.object(reading, "_WHOLE_BYTES", whole_bytes)
            with patched, contextlib.suppress(BnfuseError):
                FORMAT.read(path, ReadOptions())


_WHOLE = {name: make().SerializeToString() for name, (make, _) in _CASES.items()}


@settings(max_examples=150)
@given(case=st.sampled_from(sorted(_CASES)), share=st.floats(0, 1))
def test_a_truncated_file_is_refused(case: str, share: float) -> None:
    data = _WHOLE[case]
    _read_or_refuse(data[: int(share * len(data))])


@settings(max_examples=150)
@given(data=st.data())
def test_flipped_bits_are_refused_or_harmless(data: st.DataObject) -> None:
    """Half of the flips in the last kilobyte, where the structure behind the weights is."""
    damaged = bytearray(_WHOLE[data.draw(st.sampled_from(sorted(_CASES)))])
    head, tail = st.integers(0, 300), st.integers(len(damaged) - 1000, len(damaged) - 1)
    anywhere = st.integers(0, len(damaged) - 1)
    for at in data.draw(st.lists(head | tail | anywhere, min_size=1, max_size=4)):
        damaged[at] ^= data.draw(st.integers(1, 255))
    _read_or_refuse(bytes(damaged))


def test_a_skimmed_model_reads_like_a_whole_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "m.onnx"
    path.write_bytes(_WHOLE["if bodies"])
    whole = FORMAT.read(path, ReadOptions()).operators()
    monkeypatch.setattr(reading, "_WHOLE_BYTES", 0)
    assert FORMAT.read(path, ReadOptions()).operators() == whole


def test_a_large_tensor_of_an_operator_that_nobody_knows_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The only large one, so nothing else is put back; what folds is small."""
    net = Net(1)
    x = net.bn(net.conv("x", 3, 3, 1, 1), 3)
    made = net.build({"x": (1, 3, 2, 2)}, net.op("Relu", x))
    made.graph.node.append(helper.make_node("Odd", [], ["made"], domain="own", table=_tensor("t", _LARGE)))
    made.opset_import.append(helper.make_opsetid("own", 1))
    path = tmp_path / "m.onnx"
    path.write_bytes(made.SerializeToString())
    monkeypatch.setattr(reading, "_WHOLE_BYTES", 0)
    after = fold(path)
    assert len(after.plan.order) == 1 and TOKEN.encode() not in after.after.read_bytes()
    assert after.proto.graph.node[-1] == made.graph.node[-1]


@pytest.mark.parametrize("second", ["raw_data", "float_data", "double_data", "external"])
def test_a_large_tensor_that_says_in_two_places_what_it_holds(
    second: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Runtimes read one of them; fields of one tensor may also be given twice in the bytes of a file."""
    made = _initializers()
    again = TensorProto()
    if second == "raw_data":
        again.raw_data = bytes(_LARGE * 4)
    elif second == "external":
        again.external_data.add(key="location", value="m.onnx")
        again.data_location = TensorProto.EXTERNAL
    else:
        getattr(again, second).extend([0.0] * _LARGE)
    tensor = made.graph.initializer[0].SerializeToString() + again.SerializeToString()
    graph = onnx.GraphProto()
    graph.CopyFrom(made.graph)
    del graph.initializer[0]
    inner = graph.SerializeToString() + tag(5, 2) + varint(len(tensor)) + tensor
    made.ClearField("graph")
    path = tmp_path / "m.onnx"
    path.write_bytes(made.SerializeToString() + tag(7, 2) + varint(len(inner)) + inner)
    for whole_bytes in (0, 1 << 24):
        monkeypatch.setattr(reading, "_WHOLE_BYTES", whole_bytes)
        with pytest.raises(BnfuseError, match="says in two places what it holds"):
            model = FORMAT.read(path, ReadOptions())
            for node in model.graph.nodes:
                model.graph.rule(node)
        if second == "raw_data":  # protobuf itself keeps the last one: for everybody
            break
