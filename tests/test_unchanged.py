"""An input that changes while it is read is refused, whatever would have come of it."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import onnx
import pytest

from bnfuse.errors import UnreadableModel
from bnfuse.files.stamps import watched
from bnfuse.use_cases.diff import diff
from bnfuse.use_cases.optimize import inspect
from tests.calls import optimize
from tests.fake_format import names_in
from tests.onnx_graphs import Net
from tests.traps.table import IMAGE, plain


def _other() -> onnx.ModelProto:
    """A model that reads as well, with other weights."""
    net = Net(5)
    return net.build(IMAGE, net.op("Tanh", net.bn(net.conv("x", 3, 5, 3, 3), 5)))


def _rewritten(path: Path) -> None:
    """Another model in the same file, as old as it was."""
    info = path.stat()
    path.write_bytes(_other().SerializeToString())
    os.utime(path, ns=(info.st_atime_ns, info.st_mtime_ns))


def _written_again(path: Path) -> None:
    """As it was, as old as it was: nobody can tell from its size and age that it is whole."""
    info = path.stat()
    path.write_bytes(path.read_bytes())
    os.utime(path, ns=(info.st_atime_ns, info.st_mtime_ns))


def _replaced(path: Path) -> None:
    path.with_name("other").write_bytes(_other().SerializeToString())
    path.with_name("other").replace(path)


def _removed(path: Path) -> None:
    path.unlink()


CHANGES: list[Callable[[Path], None]] = [_rewritten, _written_again, _replaced, _removed]


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("phase", ["planning", "writing", "hashing"])
def test_the_model_changes(change: Callable[[Path], None], phase: str, tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    left = [change]

    def progress(now: str) -> None:
        if now == phase and left:
            left.pop()(path)

    uses: list[Callable[[], object]] = [
        lambda: optimize(path, verify=False, bench=False, progress=progress),
        lambda: inspect(path, progress=progress),
    ]
    for use in uses[: 2 - (phase == "writing")]:
        path.write_bytes(plain().SerializeToString())
        left[:] = [change]
        with pytest.raises(UnreadableModel, match=r"model\.onnx' changed while it was read"):
            use()
        assert names_in(tmp_path) in (["model.onnx"], [])


@pytest.mark.parametrize("phase", ["planning", "writing", "hashing"])
def test_external_data_changes(phase: str, tmp_path: Path) -> None:
    path, side = tmp_path / "model.onnx", tmp_path / "w.bin"
    onnx.save_model(plain(), path, save_as_external_data=True, location="w.bin", size_threshold=0)
    before = names_in(tmp_path)

    def progress(now: str) -> None:
        if now == phase:
            side.write_bytes(bytes(side.stat().st_size))

    uses: list[Callable[[], object]] = [
        lambda: optimize(path, verify=False, bench=False, progress=progress),
        lambda: inspect(path, progress=progress),
    ]
    for use in uses[: 2 - (phase == "writing")]:
        with pytest.raises(UnreadableModel, match=r"w\.bin' changed while it was read"):
            use()
        assert names_in(tmp_path) == before


def test_a_model_that_is_compared_changes(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(plain().SerializeToString())

    def progress(now: str) -> None:
        if now != "reading":
            _rewritten(path)

    with pytest.raises(UnreadableModel, match="changed while it was read"):
        diff(path, path, progress=progress)


def test_an_error_that_comes_of_a_change_is_told_as_the_change(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    path.write_text("one")
    with pytest.raises(KeyError), watched(path):
        raise KeyError("a bug of its own")
    with pytest.raises(UnreadableModel, match="changed while it was read") as caught, watched(path):
        path.write_text("two")
        raise KeyError("what is not there any more")
    assert isinstance(caught.value.__cause__, KeyError)
