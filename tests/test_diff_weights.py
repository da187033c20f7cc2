"""What differs between the weights of two ONNX models, and where two files hold the same ones."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper

from bnfuse.difference.result import NodeName
from tests.diff_nets import (
    Change,
    array,
    changed,
    compared,
    kinds,
    mlp,
    set_array,
    siblings,
)


def test_weights_are_listed_by_the_size_of_their_change(tmp_path: Path) -> None:
    before = mlp()
    w0, w1, b2 = (array(before, name).copy() for name in ("w0", "w1", "b2"))
    w0[2, 3] += np.float32(0.5)
    w1 *= np.float32(1.5)
    b2[1] = 40
    found = compared(tmp_path, before, changed(before, *map(set_array, ("w0", "w1", "b2"), (w0, w1, b2))))
    assert kinds(found) == {"weights_changed"} and found.weights_same == 3
    assert found.nodes_same == 6
    expected = {}
    for name, after in (("w0", w0), ("w1", w1), ("b2", b2)):
        a, b = array(before, name).astype(np.float64), after.astype(np.float64)
        apart = np.abs(a - b)
        expected[name] = (
            int((a != b).sum()),
            apart.max(),
            apart.max() / np.abs(a).max(),
            math.sqrt((apart**2).mean()),
        )
    order = sorted(expected, key=lambda name: -expected[name][2])
    assert [change.before.name for change in found.weights_changed] == order
    for change in found.weights_changed:
        figures = change.figures
        assert figures is not None and change.what == ("values",)
        got = (figures.changed, figures.max_abs, figures.max_rel, figures.rms)
        assert got == pytest.approx(expected[change.before.name], rel=1e-12)
    reader = next(c.before for c in found.weights_changed if c.before.name == "b2")
    assert (reader.reader, reader.slot) == (NodeName("gemm2", "Gemm"), "input 2")


def test_small_changes_can_be_left_out(tmp_path: Path) -> None:
    before = mlp()
    w0, w1 = array(before, "w0"), array(before, "w1")
    after = changed(before, set_array("w0", w0 * np.float32(1 + 1e-6)), set_array("w1", 2 * w1))
    every = compared(tmp_path, before, after)
    assert [change.before.name for change in every.weights_changed] == ["w1", "w0"]
    small = every.weights_changed[1].figures
    assert small is not None and 0 < small.max_rel < 2e-6
    found = compared(tmp_path, before, after, ignore_below=1e-5)
    assert [change.before.name for change in found.weights_changed] == ["w1"]
    assert (found.weights_ignored, found.largest_ignored) == (1, small.max_rel)
    assert (found.weights_same, found.differs) == (4, True)
    found = compared(tmp_path, before, after, ignore_below=1.5)
    assert (found.weights_ignored, found.differs) == (2, False)


def test_another_dtype_is_compared_by_value(tmp_path: Path) -> None:
    before = mlp()
    w = array(before, "w1")
    found = compared(tmp_path, before, changed(before, set_array("w1", w.astype(np.float16))))
    (change,) = found.weights_changed
    assert (change.what, change.before.dtype, change.after.dtype) == (
        ("values", "dtype"),
        "float32",
        "float16",
    )
    error = np.abs(w.astype(np.float64) - w.astype(np.float16).astype(np.float64)).max()
    assert change.figures is not None and change.figures.max_abs == error
    whole = np.round(w)
    pair = changed(before, set_array("w1", whole)), changed(before, set_array("w1", whole.astype(np.float64)))
    (change,) = compared(tmp_path, *pair, ignore_below=1.0).weights_changed
    assert (change.what, change.figures) == (("dtype",), None)


@pytest.mark.parametrize(
    ("shape", "what"),
    [((9, 7, 1), ("shape",)), ((7, 9), ("values", "shape")), ((9, 6), ("values", "shape"))],
)
def test_another_shape(shape: tuple[int, ...], what: tuple[str, ...], tmp_path: Path) -> None:
    before = mlp()
    values = np.resize(array(before, "w1"), shape)
    (change,) = compared(tmp_path, before, changed(before, set_array("w1", values))).weights_changed
    assert (change.what, change.after.shape, change.figures) == (what, shape, None)


def share(*pairs: tuple[str, str]) -> Change:
    """Let nodes read another weight; those that nobody reads any more go."""

    def change(proto: onnx.ModelProto) -> None:
        for old, new in pairs:
            for node in proto.graph.node:
                node.input[:] = [new if name == old else name for name in node.input]
            dead = next(t for t in proto.graph.initializer if t.name == old)
            proto.graph.initializer.remove(dead)

    return change


def test_a_shared_weight_is_one_and_its_copies_are_compared_with_it(tmp_path: Path) -> None:
    own = siblings()
    shared = changed(own, share(("w1", "w0"), ("w2", "w0")))
    found = compared(tmp_path, shared, own)
    assert kinds(found) == {"weights_changed"} and found.weights_same == 1
    assert found.before.weights == 1 and found.after.weights == 3
    got = [(c.before.name, c.after.name, c.shared, c.figures) for c in found.weights_changed]
    assert [line[:3] for line in got] == [("w0", "w2", "split"), ("w0", "w1", "split")]
    for (_, _, _, figures), factor in zip(got, (0.5, 0.25), strict=True):
        assert figures is not None and figures.max_rel == pytest.approx(factor)
    back = compared(tmp_path, own, shared)
    got = [(c.before.name, c.after.name, c.shared, c.figures) for c in back.weights_changed]
    assert [line[:3] for line in got] == [("w2", "w0", "merged"), ("w1", "w0", "merged")]
    for (_, _, _, figures), factor in zip(got, (0.5 / 1.5, 0.25 / 1.25), strict=True):
        assert figures is not None and figures.max_rel == pytest.approx(factor)
    assert kinds(back) == {"weights_changed"}


def as_constants(proto: onnx.ModelProto) -> None:
    """Initializers become Constant nodes, as many exporters write them."""
    made = [helper.make_node("Constant", [], [t.name], value=t) for t in proto.graph.initializer]
    kept = list(proto.graph.node)
    del proto.graph.initializer[:], proto.graph.node[:]
    proto.graph.node.extend([*made, *kept])


def test_constant_nodes_hold_weights(tmp_path: Path) -> None:
    before = changed(mlp(), as_constants)
    w1 = array(mlp(), "w1") * 2
    found = compared(tmp_path, before, changed(mlp(), set_array("w1", w1), as_constants))
    assert kinds(found) == {"weights_changed"}
    assert found.weights_changed[0].before.reader == NodeName("gemm1", "Gemm")
    found = compared(tmp_path, mlp(), before)
    assert kinds(found) == {"nodes_added"} and found.weights_same == 6
    assert {node.operator for node in found.nodes_added} == {"Constant"}


@pytest.mark.parametrize("threshold", [0, 100])
def test_where_weights_are_stored_is_no_difference(threshold: int, tmp_path: Path) -> None:
    onnx.save(mlp(), tmp_path / "a.onnx")
    big = changed(mlp(), set_array("w1", array(mlp(), "w1") + 1))
    for name, proto in (("b", mlp()), ("c", big)):
        onnx.save_model(
            proto,
            tmp_path / f"{name}.onnx",
            save_as_external_data=True,
            location=f"{name}.bin",
            size_threshold=threshold,
        )
        (tmp_path / f"{name}.bin").chmod(0o644)
    from bnfuse.use_cases.diff import diff

    found = diff(tmp_path / "a.onnx", tmp_path / "b.onnx")
    assert not found.differs and found.weights_same == 6
    assert (found.before.storage, found.after.storage) == ({}, {"external data": "b.bin"})
    assert found.after.file.total_bytes == sum(p.stat().st_size for p in tmp_path.glob("b.*"))
    (change,) = diff(tmp_path / "b.onnx", tmp_path / "c.onnx").weights_changed
    assert change.before.name == "w1"


def test_one_place_is_not_read_twice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two models beside one file of weights: what lies at the same place is equal."""
    from bnfuse.formats.onnx.file.storage import FileTensor
    from bnfuse.use_cases.diff import diff

    path = tmp_path / "a.onnx"
    onnx.save_model(mlp(), path, save_as_external_data=True, location="w.bin", size_threshold=0)
    (tmp_path / "w.bin").chmod(0o644)
    (tmp_path / "b.onnx").write_bytes(path.read_bytes())

    def read(*_: object) -> None:
        raise AssertionError("read")

    monkeypatch.setattr(FileTensor, "read", read)
    assert not diff(path, tmp_path / "b.onnx").differs
