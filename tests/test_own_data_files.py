"""The user's own samples as files hold them: all, in order, a few at a time, or one sentence why not."""

from __future__ import annotations

import gc
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from bnfuse.errors import UsageError
from bnfuse.formats.base import TensorSpec
from bnfuse.inputs.user_inputs import UserData, read_user_data
from tests.own_data import folder, npy, npz

X = np.random.default_rng(0).standard_normal((70, 3, 2)).astype(np.float32)
IDS = np.arange(70, dtype=np.int64).reshape(70, 1)
ONE = (TensorSpec("x", "float32", ("N", 3, 2)),)
TWO = (*ONE, TensorSpec("ids", "int64", ("N", 1)))
WIDE = (*ONE, TensorSpec("anchors", "float32", (5, 4)))
ANCHORS = np.ones((5, 4), np.float32)


def joined(data: UserData, name: str = "x") -> np.ndarray:
    """All samples of one input, without those that only fill a set up."""
    return np.concatenate([data.feeds(i)[name][: data.rows(i)] for i in range(len(data))])


# what is given, the model's inputs, samples per set
FITTING: list[tuple[str, Callable[[Path], Path], tuple[TensorSpec, ...], list[int]]] = [
    ("npy", lambda p: npy(p, X), ONE, [32, 32, 6]),
    ("npy in Fortran order", lambda p: npy(p, np.asfortranarray(X)), ONE, [32, 32, 6]),
    ("big-endian", lambda p: npy(p, X.astype(">f4")), ONE, [32, 32, 6]),
    ("npz", lambda p: npz(p, x=X, ids=IDS), TWO, [32, 32, 6]),
    ("one fixed input beside", lambda p: npz(p, x=X, anchors=ANCHORS), WIDE, [32, 32, 6]),
    ("fixed batch", lambda p: npy(p, X), (TensorSpec("x", "float32", (16, 3, 2)),), [16, 16, 16, 16, 6]),
    ("fixed batch of 1", lambda p: npy(p, X[:3]), (TensorSpec("x", "float32", (1, 3, 2)),), [1, 1, 1]),
    ("unknown rank", lambda p: npy(p, X), (TensorSpec("x", "float32", None),), [32, 32, 6]),
    ("folder by name", lambda p: folder(p, x=X, ids=IDS), TWO, [32, 32, 6]),
    ("folder of one by name", lambda p: folder(p, x=X), ONE, [32, 32, 6]),
    ("folder of samples", lambda p: folder(p, **{f"s{i:02}": X[i] for i in range(40)}), ONE, [32, 8]),
    ("folder of batches", lambda p: folder(p, a=X[:20], b=X[20:50], c=X[50:]), ONE, [32, 32, 6]),
    ("samples and batches", lambda p: folder(p, a=X[0], b=X[1:5], c=X[5]), ONE, [6]),
    (
        "folder of npz",
        lambda p: folder(p, **{f"s{i}": {"x": X[i], "ids": IDS[i]} for i in range(5)}),
        TWO,
        [5],
    ),
    (
        "samples for a fixed batch",
        lambda p: folder(p, **{f"s{i}": X[i] for i in range(6)}),
        (TensorSpec("x", "float32", (4, 3, 2)),),
        [4, 2],
    ),
]


@pytest.mark.parametrize(("name", "make", "specs", "rows"), FITTING, ids=[f[0] for f in FITTING])
def test_all_samples_come_in_order(
    tmp_path: Path,
    name: str,
    make: Callable[[Path], Path],
    specs: tuple[TensorSpec, ...],
    rows: list[int],
) -> None:
    data = read_user_data(make(tmp_path), specs)
    assert [data.rows(i) for i in range(len(data))] == rows
    assert data.samples == sum(rows)
    assert np.array_equal(joined(data), X[: sum(rows)])
    feeds = data.feeds(0)
    assert list(feeds) == [spec.name for spec in specs]
    assert all(array.flags.c_contiguous and array.dtype.isnative for array in feeds.values())
    if "ids" in feeds:
        assert np.array_equal(joined(data, "ids"), IDS[: sum(rows)])
    if "anchors" in feeds:
        assert all(np.array_equal(data.feeds(i)["anchors"], ANCHORS) for i in range(len(data)))


def test_the_last_set_of_a_fixed_batch_is_filled_up(tmp_path: Path) -> None:
    data = read_user_data(npy(tmp_path, X[:6]), (TensorSpec("x", "float32", (4, 3, 2)),))
    last = data.feeds(1)["x"]
    assert last.shape == (4, 3, 2)
    assert np.array_equal(last[:2], X[4:6]) and np.array_equal(last[2:], X[[5, 5]])
    assert data.where(0) == "samples 0 to 3" and data.where(1) == "samples 4 to 5"


def test_samples_of_different_shapes_go_apart(tmp_path: Path) -> None:
    data = read_user_data(
        folder(tmp_path, a=np.ones((3, 5), np.float32), b=np.ones((3, 5), np.float32), c=X[0]),
        (TensorSpec("x", "float32", ("N", 3, "w")),),
    )
    assert [data.feeds(i)["x"].shape for i in range(len(data))] == [(2, 3, 5), (1, 3, 2)]


def test_inputs_that_count_differently_are_one_set(tmp_path: Path) -> None:
    specs = (TensorSpec("x", "float32", ("N", 3, 2)), TensorSpec("y", "float32", ("M", 2)))
    data = read_user_data(npz(tmp_path, x=X, y=np.ones((9, 2), np.float32)), specs)
    assert len(data) == 1 and data.feeds(0)["x"].shape == X.shape


def test_large_samples_come_few_at_a_time(tmp_path: Path) -> None:
    spec = TensorSpec("x", "float32", ("N", 1 << 21))  # 8 MiB a sample
    data = read_user_data(npy(tmp_path, np.zeros((6, 1 << 21), np.float32)), (spec,))
    assert [data.rows(i) for i in range(len(data))] == [4, 2]


def test_text_is_given_as_numpy_holds_it(tmp_path: Path) -> None:
    words = np.array([["a", "bc"], ["", "ü"]])
    feeds = read_user_data(npy(tmp_path, words), (TensorSpec("x", "string", ("N", 2)),)).feeds(0)
    assert feeds["x"].dtype == object and feeds["x"].tolist() == words.tolist()


MISFITS: list[tuple[str, Callable[[Path], Path], tuple[TensorSpec, ...], str]] = [
    ("empty folder", lambda p: folder(p), ONE, "is an empty folder"),
    ("no samples", lambda p: npy(p, X[:0]), ONE, "holds no samples"),
    ("one array, two inputs", lambda p: npy(p, X), TWO, "'x', 'ids': use .npz"),
    ("sample of another shape", lambda p: folder(p, a=X[0].T), ONE, r"\[1, 2, 3\], but it needs \[N, 3, 2\]"),
    ("other dtype in a folder", lambda p: folder(p, a=X[0].astype("f8")), ONE, "float64, but it needs"),
    ("an input is missing", lambda p: folder(p, x=X, other=IDS), TWO, "holds 'other', but"),
    ("different counts", lambda p: npz(p, x=X, ids=IDS[:9]), (ONE[0], TensorSpec("ids", "int64", (2, 1))),
     r"different number of samples per input \(70 for 'x', 9 for 'ids'\)"),
    ("fewer than the model takes", lambda p: npy(p, X[:3]), (TensorSpec("x", "float32", (4, 3, 2)),),
     r"\[3, 3, 2\], but it needs \[4, 3, 2\]"),
    ("one axis is no batch", lambda p: npy(p, np.zeros(9, np.float32)), (TensorSpec("x", "float32", (3,)),),
     r"\[9\], but it needs \[3\]"),
    ("objects", lambda p: npz(p, x=np.array([[{}]])), ONE, "cannot be read"),
    ("missing", lambda p: p / "none", ONE, "does not exist"),
]  # fmt: skip


@pytest.mark.parametrize(("name", "make", "specs", "message"), MISFITS, ids=[m[0] for m in MISFITS])
def test_what_does_not_fit_is_one_sentence(
    tmp_path: Path,
    name: str,
    make: Callable[[Path], Path],
    specs: tuple[TensorSpec, ...],
    message: str,
) -> None:
    with pytest.raises(UsageError, match=message) as caught:
        read_user_data(make(tmp_path), specs)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("file", ["photo.png", "labels.csv", "inner/"])
def test_other_files_in_the_folder_are_told(tmp_path: Path, file: str) -> None:
    data = folder(tmp_path, a=X[0])
    if file.endswith("/"):
        (data / file).mkdir()
    else:
        (data / file).write_bytes(b"?")
    with pytest.raises(UsageError, match=f"'{Path(file).name}', which is neither .npy nor .npz"):
        read_user_data(data, ONE)


def test_a_damaged_archive_is_not_left_open(tmp_path: Path) -> None:
    (tmp_path / "x.npz").write_bytes(b"PK\x03\x04 and no more")
    gc.collect()
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        with pytest.raises(UsageError, match=r"cannot be read as a numpy \.npz"):
            read_user_data(tmp_path / "x.npz", ONE)
        gc.collect()
    assert [str(one.message) for one in told] == []
