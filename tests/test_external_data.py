"""External data: one side file named after the result, the input's untouched, nothing outside its folder."""

from __future__ import annotations

import os
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path

import onnx
import pytest

from bnfuse.core.decisions import Fold
from bnfuse.errors import BnfuseError, UnreadableModel, UnsafeModel
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


def test_a_symbolic_link_inside_the_folder_is_followed(tmp_path: Path) -> None:
    path = _external(tmp_path)
    (tmp_path / "weights.bin").rename(tmp_path / "real.bin")
    (tmp_path / "weights.bin").symlink_to("real.bin")
    assert isinstance(fold(path, tmp_path / "out" / "after.onnx").plan.decisions[0], Fold)
