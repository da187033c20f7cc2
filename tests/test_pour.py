"""What goes wrong while pieces are put into a file reaches the caller, whichever thread it meets.

None of them hangs, and none leaves a hole that nobody hears of.
"""

from __future__ import annotations

import errno
import threading
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest

from bnfuse.core.apply import OverflowingFold
from bnfuse.core.weights.linear import LinearForm
from bnfuse.core.weights.scaled import ScaledTensor
from bnfuse.core.weights.tensor import ArrayTensor
from bnfuse.errors import OutputError
from bnfuse.formats.onnx.edit.assemble import EditedModel
from bnfuse.formats.onnx.file import stream_writer as pour
from bnfuse.formats.onnx.file.storage import Files
from bnfuse.formats.onnx.file.wire import FileSlice
from tests.calls import optimize
from tests.traps.table import plain

_ROWS, _COLUMNS = 64, 4096  # above what is worked out at once, so that it is streamed


def _scaled(rng: np.random.Generator, scale: float = 1.0) -> tuple[ScaledTensor, np.ndarray]:
    """A stream that multiplies each row by its factor and adds each column's shift; and its values."""
    base = rng.standard_normal((_ROWS, _COLUMNS)).astype(np.float32)
    factor = scale * rng.uniform(-2.0, 2.0, (_ROWS, 1))
    shift = rng.standard_normal((1, _COLUMNS))
    with np.errstate(over="ignore"):
        expected = (base.astype(np.float64) * factor + shift).astype(np.float32)
    return ScaledTensor(ArrayTensor(base), LinearForm(base.shape, "oi"), (factor,), ("bn",), shift), expected


@pytest.fixture
def source(tmp_path: Path) -> Path:
    path = tmp_path / "source.bin"
    path.write_bytes(np.random.default_rng(3).bytes(300_000))
    return path


def _pour(source: Path, *streams: ScaledTensor, pieces: int = 3) -> bytes:
    target = source.with_name("target.bin")
    with closing(Files(source)) as files, target.open("w+b") as out:
        pouring = pour.Pouring(files, out.fileno())
        length = source.stat().st_size // pieces
        for k in range(pieces):
            pouring.add(k * length, FileSlice(source, k * length, length))
        end = pieces * length
        for stream in streams:
            pouring.add(end, stream)
            end += 4 * _ROWS * _COLUMNS
        pouring.run(end)
    return target.read_bytes()


def test_all_pieces_are_at_their_places(source: Path) -> None:
    stream, expected = _scaled(np.random.default_rng(1))
    assert _pour(source, stream) == source.read_bytes() + expected.tobytes()


@pytest.mark.parametrize("error", [OSError(5, "gone"), MemoryError(), ValueError("anything")], ids=repr)
@pytest.mark.parametrize("where", ["_copy", "_write"])
def test_an_error_in_any_thread_reaches_the_caller(
    source: Path, where: str, error: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    met: list[str] = []

    def fail(*_: object) -> None:
        met.append(threading.current_thread().name)
        raise error

    monkeypatch.setattr(pour, where, fail)
    streams = [_scaled(np.random.default_rng(k))[0] for k in range(12)]  # more blocks than may wait
    with pytest.raises(type(error)) as caught:
        _pour(source, *streams, pieces=100)
    assert caught.value is error
    assert met
    assert not any(t.name in met for t in threading.enumerate() if t is not threading.main_thread())


def test_values_that_do_not_fit_are_blamed_on_their_fold(source: Path) -> None:
    stream, _ = _scaled(np.random.default_rng(4), scale=3e38)
    with pytest.raises(OverflowingFold) as caught:
        _pour(source, stream)
    assert caught.value.nodes == {"bn"}


def test_a_full_disk_is_told_of_the_output_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And not of the folder that the result is made in."""

    def full(_: EditedModel) -> Iterator[bytes]:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(EditedModel, "chunks", full)
    path = tmp_path / "model.onnx"
    path.write_bytes(plain().SerializeToString())
    with pytest.raises(OutputError) as caught:
        optimize(path, verify=False, bench=False)
    told = "'model.fused.onnx' cannot be written: the disk is full: free some space and try again"
    assert str(caught.value) == told
    assert [p.name for p in tmp_path.iterdir()] == ["model.onnx"]
