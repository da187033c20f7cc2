"""External data: one side file named after the result, the input's untouched, nothing outside its folder."""

from __future__ import annotations

import os
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path

import onnx
import pytest

from bnfuse.core.apply import apply
from bnfuse.core.decisions import Fold
from bnfuse.core.planning.plan import plan
from bnfuse.errors import BnfuseError, UnreadableModel, UnsafeModel
from bnfuse.formats.base import ReadOptions
from bnfuse.formats.onnx import FORMAT
from tests.onnx_graphs import Net, assert_equal, fold
from tests.traps.table import IMAGE, plain


def _external(folder: Path, location: str = "weights.bin") -> Path:
    """Conv → BN with all data in one sidecar."""
    path = folder / "before.onnx"
    onnx.save_model(plain(), path, save_as_external_data=True, location=location, size_threshold=0)
    (folder / location).chmod(0o644)
    return path


def _repoint(path: Path, key: str, value: str, which: int = 0) -> None:
    """Change one entry of one tensor's external data."""
    made = onnx.load(path, load_external_data=False)
    tensor = made.graph.initializer[which]
    kept = [(e.key, e.value) for e in tensor.external_data if e.key != key]
    del tensor.external_data[:]
    for k, v in [*kept, (key, value)]:
        tensor.external_data.add(key=k, value=v)
    path.write_bytes(made.SerializeToString())


def test_external_data_of_many_files_goes_to_one_sidecar_named_after_the_result(tmp_path: Path) -> None:
    net = Net()
    x = net.op("Sigmoid", net.bn(net.conv("x", 3, 5, 3, 3), 5))
    path = tmp_path / "before.onnx"
    made = net.build(IMAGE, net.conv(x, 5, 4, 3, 3))
    onnx.save_model(made, path, save_as_external_data=True, all_tensors_to_one_file=False, size_threshold=0)
    kept = {p: p.read_bytes() for p in tmp_path.iterdir()}
    assert len(kept) == 9
    folded = fold(path, tmp_path / "out" / "small.onnx")
    assert isinstance(folded.plan.decisions[0], Fold)
    (side,) = folded.written.side_files
    assert side.name == f"small.onnx.{sha256(side.read_bytes()).hexdigest()[:12]}.data"
    assert {p.name for p in (tmp_path / "out").iterdir()} == {"small.onnx", side.name}
    places = {e.value for t in folded.proto.graph.initializer for e in t.external_data if e.key == "location"}
    assert places == {side.name}
    assert {p: p.read_bytes() for p in tmp_path.iterdir() if p.is_file()} == kept
    assert_equal(path, folded.after)


Attack = Callable[[Path], None]


def _place(value: str) -> Attack:
    return lambda path: _repoint(path, "location", value)


def _absolute(path: Path) -> None:
    _repoint(path, "location", str(path.parent / "weights.bin"))


def _symlink_out(path: Path) -> None:
    (path.parent / "weights.bin").rename(path.parent.parent / "secret.bin")
    (path.parent / "weights.bin").symlink_to(path.parent.parent / "secret.bin")


def _folder_symlink_out(path: Path) -> None:
    outside = path.parent.parent / "outside"
    outside.mkdir()
    (path.parent / "weights.bin").rename(outside / "weights.bin")
    (path.parent / "link").symlink_to(outside)
    for which in range(6):
        _repoint(path, "location", "link/weights.bin", which)


def _hard_link(path: Path) -> None:
    os.link(path.parent / "weights.bin", path.parent.parent / "elsewhere.bin")


def _cut(path: Path) -> None:
    os.truncate(path.parent / "weights.bin", (path.parent / "weights.bin").stat().st_size - 1)


def _add(path: Path, key: str, value: str) -> None:
    made = onnx.load(path, load_external_data=False)
    made.graph.initializer[0].external_data.add(key=key, value=value)
    path.write_bytes(made.SerializeToString())


def _values_too(path: Path) -> None:
    """Runtimes take the external ones; what is in the file has the right size, too."""
    made = onnx.load(path, load_external_data=False)
    made.graph.initializer[0].raw_data = bytes(5 * 3 * 9 * 4)
    path.write_bytes(made.SerializeToString())


def _no_text(path: Path) -> None:
    path.write_bytes(path.read_bytes().replace(b"weights.bin", b"weights\xff\xff\xff\xff"))


ATTACKS: list[tuple[str, type[BnfuseError], Attack]] = [
    ("../x", UnsafeModel, _place("../x")),
    ("sub/../../x", UnsafeModel, _place("sub/../../x")),
    ("absolute", UnsafeModel, _absolute),
    ("/etc/passwd", UnsafeModel, _place("/etc/passwd")),
    ("windows drive", UnsafeModel, _place("C:\\x")),
    ("backslashes", UnsafeModel, _place("..\\x")),
    ("empty", UnsafeModel, _place("")),
    ("symbolic link out", UnsafeModel, _symlink_out),
    ("symbolic link of the folder out", UnsafeModel, _folder_symlink_out),
    ("hard link", UnsafeModel, _hard_link),
    ("a folder", UnsafeModel, _place(".")),
    ("missing", UnreadableModel, _place("nothing.bin")),
    ("range past the end", UnreadableModel, lambda p: _repoint(p, "offset", str(1 << 40))),
    ("negative offset", UnreadableModel, lambda p: _repoint(p, "offset", "-4")),
    ("offset is no number", UnreadableModel, lambda p: _repoint(p, "offset", "ten")),
    ("length too small", UnreadableModel, lambda p: _repoint(p, "length", "8")),
    ("length too large", UnreadableModel, lambda p: _repoint(p, "length", str(5 * 3 * 9 * 4 + 4))),
    ("truncated", UnreadableModel, _cut),
    ("no text", UnreadableModel, _no_text),
    ("two locations", UnreadableModel, lambda p: _add(p, "location", "weights.bin")),
    ("two offsets", UnreadableModel, lambda p: _add(p, "offset", "0")),
    ("values beside it", UnreadableModel, _values_too),
    *(
        (f"offset {text!r}", UnreadableModel, lambda p, text=text: _repoint(p, "offset", text))
        for text in ("1_0", " 4 ", "+4", "", "\u0664", "4.0")
    ),
]


@pytest.mark.parametrize(("error", "attack"), [a[1:] for a in ATTACKS], ids=[a[0] for a in ATTACKS])
def test_external_data_is_contained(error: type[BnfuseError], attack: Attack, tmp_path: Path) -> None:
    home = tmp_path / "home"
    home.mkdir()
    (tmp_path / "x").write_bytes(bytes(4096))
    path = _external(home)
    attack(path)
    with pytest.raises(error) as caught:
        fold(path, tmp_path / "out" / "after.onnx")
    assert "before.onnx" in str(caught.value)


def test_a_link_that_is_put_in_the_way_after_the_look_is_not_followed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "home").mkdir()
    path = _external(tmp_path / "home")
    (tmp_path / "secret.bin").write_bytes((path.parent / "weights.bin").read_bytes())
    realpath = os.path.realpath

    def late(name: str | os.PathLike[str]) -> str:
        found = realpath(name)
        if found.endswith("weights.bin"):
            (path.parent / "weights.bin").unlink()
            (path.parent / "weights.bin").symlink_to(tmp_path / "secret.bin")
        return found

    monkeypatch.setattr(os.path, "realpath", late)
    with pytest.raises(UnsafeModel, match="became a link"):
        fold(path, tmp_path / "out" / "after.onnx")


def test_what_was_opened_is_what_is_read(tmp_path: Path) -> None:
    """A file that takes the place of the checked one is not read, and the change is told."""
    path = _external(tmp_path)
    model = FORMAT.read(path, ReadOptions())
    (tmp_path / "other.bin").write_bytes(bytes((tmp_path / "weights.bin").stat().st_size))
    (tmp_path / "other.bin").replace(tmp_path / "weights.bin")
    planned = plan(model.graph)
    assert len(planned.plan.order) == 1
    with pytest.raises(UnreadableModel, match=r"weights\.bin' changed while it was read"):
        model.write(apply(model.graph, planned), tmp_path / "after.onnx")


PLACES: dict[str, Callable[[onnx.TensorProto], onnx.NodeProto]] = {
    "a body": lambda t: _if([], [t]),
    "a Constant of a body": lambda t: _if([onnx.helper.make_node("Constant", [], ["unread"], value=t)], []),
    "another attribute": lambda t: onnx.helper.make_node("ConstantOfShape", ["shape"], ["made"], value=t),
    "an operator of somebody's own": lambda t: onnx.helper.make_node("Odd", [], ["made"], domain="own", t=t),
    "a list of tensors": lambda t: onnx.helper.make_node("Odd", [], ["made"], domain="own", t=[t, t]),
}


def _if(nodes: list[onnx.NodeProto], tensors: list[onnx.TensorProto]) -> onnx.NodeProto:
    """An If whose bodies hold some more than they need."""
    result = onnx.helper.make_node("Identity", ["x"], ["made"])
    graph = onnx.helper.make_graph([*nodes, result], "b", [], [onnx.ValueInfoProto(name="made")], tensors)
    return onnx.helper.make_node("If", ["cond"], ["made"], then_branch=graph, else_branch=graph)


@pytest.mark.parametrize("where", [*PLACES, "a function", "a sparse initializer", "training"])
def test_external_data_of_any_place_is_looked_at(where: str, tmp_path: Path) -> None:
    """Also where nobody reads it: the result would name a file that nobody contained."""
    tensor = onnx.TensorProto(name="outside", data_type=1, dims=[1], data_location=onnx.TensorProto.EXTERNAL)
    tensor.external_data.add(key="location", value="../secret.bin")
    made = plain()
    if where in PLACES:
        made.graph.node.append(PLACES[where](tensor))
    elif where == "a function":
        node = onnx.helper.make_node("Constant", [], ["y"], value=tensor)
        opset = [onnx.helper.make_opsetid("", 17)]
        made.functions.append(onnx.helper.make_function("own", "F", [], ["y"], [node], opset))
    elif where == "training":
        made.training_info.add().algorithm.initializer.append(tensor)
    else:
        indices = onnx.helper.make_tensor("i", 7, [1], [0])
        made.graph.sparse_initializer.append(onnx.helper.make_sparse_tensor(tensor, indices, [4]))
    path = tmp_path / "before.onnx"
    path.write_bytes(made.SerializeToString())
    with pytest.raises(UnsafeModel, match=r"'outside' asks for data at '\.\./secret\.bin'"):
        FORMAT.read(path, ReadOptions())


@pytest.mark.parametrize("where", ["another attribute", "an operator of somebody's own"])
def test_external_data_where_no_runtime_reads_it_is_refused(where: str, tmp_path: Path) -> None:
    (tmp_path / "inside.bin").write_bytes(bytes(4))
    tensor = onnx.TensorProto(name="outside", data_type=1, dims=[1], data_location=onnx.TensorProto.EXTERNAL)
    tensor.external_data.add(key="location", value="inside.bin")
    made = plain()
    made.graph.node.append(PLACES[where](tensor))
    path = tmp_path / "before.onnx"
    path.write_bytes(made.SerializeToString())
    with pytest.raises(UnreadableModel, match="only initializers and Constant nodes may have"):
        FORMAT.read(path, ReadOptions())


def test_a_symbolic_link_inside_the_folder_is_followed(tmp_path: Path) -> None:
    path = _external(tmp_path)
    (tmp_path / "weights.bin").rename(tmp_path / "real.bin")
    (tmp_path / "weights.bin").symlink_to("real.bin")
    assert isinstance(fold(path, tmp_path / "out" / "after.onnx").plan.decisions[0], Fold)
