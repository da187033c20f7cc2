"""Files of which only the size is here: what is read of them comes from elsewhere, and nothing else does."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import onnx
import pytest

from bnfuse.core.weights.tensor import whole
from bnfuse.formats.elsewhere import fetched, stands_for
from bnfuse.formats.onnx.file.parse import external_locations, parse_file
from bnfuse.use_cases.optimize import inspect
from tests.cli_models import convnet

SIZE = 18_000_000  # beyond what is read whole


def padded(path: Path, *, beside: str = "") -> Path:
    """A convnet, and a large constant that nothing reads."""
    model = convnet()
    unused = np.arange(SIZE // 4, dtype=np.float32)
    model.graph.initializer.append(onnx.numpy_helper.from_array(unused, "unused"))
    onnx.save_model(
        model, path, save_as_external_data=bool(beside), location=beside or None, size_threshold=1024
    )
    return path


def test_what_is_decided_is_what_the_whole_file_says(tmp_path: Path) -> None:
    here = padded(tmp_path / "here.onnx")
    there = (tmp_path / "there").write_bytes(here.read_bytes())
    wanted = inspect(here, hashes=False)
    content, asked = (tmp_path / "there").read_bytes(), []

    def fetch(start: int, size: int) -> bytes:
        asked.append(size)
        return content[start : start + size]

    here.write_bytes(content[:64])
    os.truncate(here, there)
    with stands_for(here, fetch):
        found = inspect(here, hashes=False)
    assert (found.plan, found.operators_after) == (wanted.plan, wanted.operators_after)
    assert found.input == wanted.input
    assert sum(asked) < SIZE // 10
    descriptor = os.open(here, os.O_RDONLY)
    assert fetched(descriptor, 10, 0) is None  # nothing stands for it any more
    os.close(descriptor)


def test_weights_beside_it_may_be_elsewhere_too(tmp_path: Path) -> None:
    path = padded(tmp_path / "m.onnx", beside="m.data")
    assert external_locations(path) == ("m.data",)
    beside = tmp_path / "m.data"
    content = beside.read_bytes()
    beside.write_bytes(b"")
    os.truncate(beside, len(content))
    with stands_for(beside, lambda start, size: content[start : start + size]):
        opened = parse_file(path)
        tensor = next(one for one in opened.proto.graph.initializer if one.name == "unused")
        np.testing.assert_array_equal(
            whole(opened.files.tensor(tensor)), np.arange(SIZE // 4, dtype=np.float32)
        )
        opened.files.close()


@pytest.mark.parametrize("place", ["../secret", "/etc/passwd", "deep/w.bin"])
def test_locations_are_named_as_the_model_says_them(tmp_path: Path, place: str) -> None:
    """Whether they lead anywhere or not: nobody has looked."""
    model = onnx.load(padded(tmp_path / "m.onnx", beside="m.data"), load_external_data=False)
    for tensor in model.graph.initializer:
        for entry in tensor.external_data:
            if entry.key == "location":
                entry.value = place
    (tmp_path / "m.onnx").write_bytes(model.SerializeToString())
    assert external_locations(tmp_path / "m.onnx") == (place,)
