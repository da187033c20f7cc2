"""How far two arrays are apart, block by block, against numpy on the whole arrays."""

from __future__ import annotations

import math
from pathlib import Path

import ml_dtypes
import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper

from bnfuse.core.weights.tensor import ArrayTensor
from bnfuse.difference import values
from bnfuse.difference.result import Figures
from bnfuse.difference.values import compare
from bnfuse.formats import detect
from bnfuse.formats.onnx.file.wire import LARGE_BYTES
from tests.diff_nets import value

DTYPES = ["float16", "float32", "float64", "bfloat16", "float8_e4m3fn", "int8", "int64", "uint8", "bool"]


def measured(a: np.ndarray, b: np.ndarray) -> Figures | None:
    return compare(ArrayTensor(a), ArrayTensor(b))


@pytest.fixture
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(values, "_BLOCK_BYTES", 52)
    monkeypatch.setattr(values, "_MEASURED", 5)


@pytest.mark.usefixtures("small_blocks")
@pytest.mark.parametrize("dtype", DTYPES)
def test_figures_are_those_of_the_whole_arrays(dtype: str) -> None:
    for seed in range(30):
        rng = np.random.default_rng(seed)
        count = int(rng.integers(1, 70))
        a = (3 * rng.standard_normal(count)).astype(np.dtype(dtype))
        b = a.copy()
        where = rng.random(count) < 0.2
        b[where] = (5 * rng.standard_normal(count)).astype(np.dtype(dtype))[where]
        x, y = a.astype(np.float64), b.astype(np.float64)
        found = measured(a, b)
        if (x == y).all():
            assert found is None, f"seed {seed}"
            continue
        assert found is not None, f"seed {seed}"
        apart = np.abs(x - y)
        assert (found.changed, found.elements) == (int((x != y).sum()), count)
        assert found.max_abs == apart.max()
        assert found.max_rel == (apart.max() / np.abs(x).max() if x.any() else math.inf)
        assert found.rms == pytest.approx(math.sqrt(float((apart**2).mean())), rel=1e-12)


@settings(max_examples=60)
@given(st.integers(1, 200_000), st.integers(0, 10**6), st.sampled_from(["float16", "float32", "int8"]))
def test_one_changed_element_is_found_wherever_it_is(count: int, place: int, dtype: str) -> None:
    a = np.ones(count, dtype)
    b = a.copy()
    b[place % count] = 3
    assert measured(a, b) == Figures(1, count, 2.0, 2.0, math.sqrt(4 / count))
    assert measured(a, a.copy()) is None


NAN, INF = math.nan, math.inf
SPECIAL = [
    ([1.0, NAN], [1.0, NAN], None),
    ([1.0, 0.0], [1.0, -0.0], None),
    ([INF, 2.0], [INF, 2.0], None),
    ([INF, 2.0], [INF, 3.0], Figures(1, 2, 1.0, 0.5, math.sqrt(0.5))),  # relative to the finite 2
    ([2.0, 1.0], [2.0, NAN], Figures(1, 2, INF, INF, INF)),
    ([NAN, 1.0], [2.0, 1.0], Figures(1, 2, INF, INF, INF)),
    ([INF, 1.0], [-INF, 1.0], Figures(1, 2, INF, INF, INF)),
    ([0.0, 0.0], [0.0, 1.0], Figures(1, 2, 1.0, INF, math.sqrt(0.5))),  # nothing to be relative to
]


@pytest.mark.parametrize(("a", "b", "expected"), SPECIAL)
@pytest.mark.parametrize("dtype", ["float16", "float32", "float64", "bfloat16"])
def test_what_is_not_finite(a: list[float], b: list[float], expected: Figures | None, dtype: str) -> None:
    kind = np.dtype(ml_dtypes.bfloat16) if dtype == "bfloat16" else np.dtype(dtype)
    assert measured(np.array(a).astype(kind), np.array(b).astype(kind)) == expected


def test_large_integers_are_not_rounded() -> None:
    a = np.array([2**60, 5])
    found = measured(a, a + np.array([1, 0]))
    assert found is not None and found.changed == 1


def test_other_types_are_compared_by_value() -> None:
    a = np.array([1.0, 1 / 3, -2.0], np.float32)
    found = measured(a, a.astype(np.float16))
    error = abs(float(np.float32(1 / 3)) - float(np.float16(1 / 3)))
    assert found == Figures(1, 3, error, error / 2, math.sqrt(error**2 / 3))
    assert measured(a[[0, 2]], a[[0, 2]].astype(np.float16)) is None


def test_texts() -> None:
    found = measured(np.array(["a", "b", "c"], object), np.array(["a", "x", "y"], object))
    assert found is not None and (found.changed, found.elements) == (2, 3)
    assert math.isnan(found.max_abs) and math.isnan(found.max_rel) and math.isnan(found.rms)
    assert measured(np.array(["a"], object), np.array(["a"], object)) is None


@pytest.mark.parametrize("kind", ["INT4", "UINT4", "FLOAT4E2M1"])
def test_packed_elements_are_read_from_the_file_in_blocks(kind: str, tmp_path: Path) -> None:
    """Four bits per element, large enough to stay in the file: what onnx itself unpacks."""
    element = getattr(TensorProto, kind)
    count = 3 * LARGE_BYTES + 1
    codes = np.random.default_rng(5).integers(0, 16, count + count % 2).astype(np.uint8)
    packed = (codes[0::2] | codes[1::2] << 4).astype(np.uint8)
    tensor = helper.make_tensor("w", element, [count], packed.tobytes(), raw=True)
    graph = helper.make_graph(
        [helper.make_node("Identity", ["x"], ["y"])], "g", [value("x")], [value("y")], [tensor]
    )
    padding = helper.make_tensor("p", TensorProto.UINT8, [1 << 24], bytes(1 << 24), raw=True)
    graph.initializer.append(padding)  # files below 16 MiB are parsed whole
    path = tmp_path / "m.onnx"
    path.write_bytes(helper.make_model(graph).SerializeToString())
    want = onnx.numpy_helper.to_array(tensor)
    contents = detect(path).contents(path)
    read = contents.weights["w"].open()
    for start, stop in ((0, count), (1, 8), (2, 9), (7, 7), (count - 1, count)):
        got = read.read(start, stop)
        assert got.dtype == want.dtype
        assert (got.astype(np.float32) == want[start:stop].astype(np.float32)).all()
    assert contents.weights["w"].size_bytes == (count + 1) // 2
    contents.close()
