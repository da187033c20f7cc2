"""Without what only POSIX has, models are read, folded and put into place all the same."""

from __future__ import annotations

import os
import threading
from pathlib import Path

import numpy as np
import onnx
import pytest

import bnfuse
from bnfuse.formats.onnx.file import positioned, wire
from tests.cli_models import convnet, outputs_of
from tests.fake_format import names_in

FIXTURES = Path(__file__).parents[1] / "fixtures"
X = np.random.default_rng(3).standard_normal((2, 3, 9, 7)).astype(np.float32)


@pytest.mark.usefixtures("portable")
@pytest.mark.parametrize("external", [True, False])
def test_an_onnx_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, external: bool) -> None:
    """With its large tensors in the file and beside it; all sizes count as large here."""
    from bnfuse.formats.onnx.file import parse

    monkeypatch.setattr(parse, "_WHOLE_BYTES", 0)
    monkeypatch.setattr(wire, "_WINDOW_BYTES", 64)
    assert not hasattr(os, "pread")
    path = tmp_path / "m.onnx"
    onnx.save(convnet(), path, save_as_external_data=external, location="m.data", size_threshold=0)
    for force in (False, True):
        report = bnfuse.optimize(path, tmp_path / "out.onnx", force=force, verify=False, bench=False)
    assert report.model is not None and len(onnx.load(report.model).graph.node) == 2
    want, got = outputs_of(path, X), outputs_of(report.model, X)
    assert np.abs(want - got).max() <= 2e-6 and want.std() > 0.1
    assert not [name for name in names_in(tmp_path) if name.startswith(".bnfuse")]


@pytest.mark.usefixtures("portable")
@pytest.mark.parametrize("name", ["digits_b.keras", "digits_b.h5"])
def test_a_keras_model(tmp_path: Path, name: str) -> None:
    made = bnfuse.optimize(FIXTURES / name, tmp_path / name, verify=False, bench=False)
    assert made.plan.counts(batchnorm=True) == (3, 3, 0)
    assert bnfuse.inspect(tmp_path / name).plan.counts(batchnorm=True) == (0, 0, 0)


@pytest.mark.usefixtures("portable")
def test_threads_read_and_write_one_file_at_positions(tmp_path: Path) -> None:
    """A position is set and used in one piece."""
    path, size = tmp_path / "f", 4096
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | positioned.BINARY)
    wrong: list[int] = []

    def work(number: int) -> None:
        block = bytes([number]) * size
        for turn in range(50):
            at = (turn * 8 + number) * size
            assert positioned.write_at(descriptor, memoryview(block), at) == size
            view = memoryview(bytearray(size))
            if positioned.read_at(descriptor, size, at) != block:
                wrong.append(number)
            if positioned.read_into(descriptor, view, at) != size or view != block:
                wrong.append(number)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    os.close(descriptor)
    assert not wrong and path.stat().st_size == 50 * 8 * size
    written = np.frombuffer(path.read_bytes(), np.uint8).reshape(50, 8, size)
    assert (written == np.arange(8, dtype=np.uint8)[None, :, None]).all()


def test_both_ways_read_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "f"
    path.write_bytes(bytes(range(256)) * 4)
    descriptor = os.open(path, os.O_RDONLY | positioned.BINARY)
    asked = [(10, 0), (300, 1000), (5, 1024), (0, 3), (2000, 1)]
    native = [positioned.read_at(descriptor, size, at) for size, at in asked]
    for name in ("_pread", "_preadv", "_pwrite"):
        monkeypatch.setattr(positioned, name, None)
    assert [positioned.read_at(descriptor, size, at) for size, at in asked] == native
    os.close(descriptor)
