"""The user's own samples: every one of them is run, a few at a time, whatever files they come in."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bnfuse.errors import BnfuseError, UsageError
from bnfuse.formats.base import Runner, TensorSpec
from bnfuse.inputs.user_inputs import UserData, read_user_data
from bnfuse.proof.kept import Kept
from bnfuse.results import Agreement, Status
from bnfuse.verify import VerifyRequest, verify

X = np.random.default_rng(0).standard_normal((70, 3, 2)).astype(np.float32)
IDS = np.arange(70, dtype=np.int64).reshape(70, 1)
ONE = (TensorSpec("x", "float32", ("N", 3, 2)),)
TWO = (*ONE, TensorSpec("ids", "int64", ("N", 1)))
WIDE = (*ONE, TensorSpec("anchors", "float32", (5, 4)))
ANCHORS = np.ones((5, 4), np.float32)


def joined(data: UserData, name: str = "x") -> np.ndarray:
    """All samples of one input, without those that only fill a set up."""
    return np.concatenate([data.feeds(i)[name][: data.rows(i)] for i in range(len(data))])


def folder(tmp_path: Path, **arrays: Any) -> Path:
    """A folder of .npy files (arrays) and .npz files (dicts of arrays)."""
    (tmp_path / "data").mkdir()
    for name, value in arrays.items():
        if isinstance(value, dict):
            np.savez(tmp_path / "data" / f"{name}.npz", **value)
        else:
            np.save(tmp_path / "data" / f"{name}.npy", value)
    return tmp_path / "data"


def npz(tmp_path: Path, **arrays: Any) -> Path:
    np.savez(tmp_path / "data.npz", **arrays)
    return tmp_path / "data.npz"


def npy(tmp_path: Path, array: np.ndarray) -> Path:
    np.save(tmp_path / "data.npy", array)
    return tmp_path / "data.npy"


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


# ---- through verify -------------------------------------------------------------------------------


@dataclass
class Model:
    """A Runner that remembers the samples it was given; ``wrong_at`` are first values it gets wrong."""

    wrong_at: float | None = None
    most: int = 1 << 30
    stops_at: float | None = None
    fixed: int | None = None
    seen: list[np.ndarray] = field(default_factory=list)
    inputs: Sequence[TensorSpec] = ()
    outputs: Sequence[TensorSpec] = (TensorSpec("y", "float32", None),)
    providers: Sequence[str] = ()
    runtime: str = "fake 1"

    def __post_init__(self) -> None:
        self.inputs = (TensorSpec("x", "float32", (self.fixed or "N", 2)),)

    def run(self, feeds: Any) -> dict[str, np.ndarray]:
        x = feeds["x"]
        self.seen.append(x)
        if len(x) > self.most:
            raise BnfuseError("out of memory")
        if self.stops_at is not None and (x[:, 0] == self.stops_at).any():
            raise BnfuseError("bad value")
        y = 2.0 * x
        if self.wrong_at is not None:
            y[x[:, 0] == self.wrong_at] += 1.0
        return {"y": y.astype(np.float32)}

    def time(self, feeds: Any, calls: int) -> list[int]:
        raise AssertionError("a proof takes no time")

    def __enter__(self) -> Runner:
        return self

    def __exit__(self, *_: object) -> None:
        pass


def data_file(tmp_path: Path, count: int) -> Path:
    """``count`` samples whose first value is their number."""
    x = np.random.default_rng(1).uniform(1, 2, (count, 2)).astype(np.float32)
    x[:, 0] = np.arange(count)
    return npy(tmp_path, x)


def confront(tmp_path: Path, a: Model, b: Model, count: int, **request: Any) -> Agreement:
    paths = {tmp_path / "a": a, tmp_path / "b": b}
    for path in paths:
        path.write_bytes(b"")
    wanted = VerifyRequest(inputs=data_file(tmp_path, count), **request)
    return verify(*paths, request=wanted, load=lambda path, settings: paths[path])


@pytest.mark.parametrize("budget_s", [10.0, 1e-9])
def test_a_defect_in_the_last_of_many_samples_is_found(tmp_path: Path, budget_s: float) -> None:
    """All samples are run, whatever the time allows."""
    a, b = Model(), Model(wrong_at=499.0)
    found = confront(tmp_path, a, b, 500, budget_s=budget_s, samples=0)
    assert found.status is Status.DIFFERENT
    assert found.own_samples == 500
    assert "500 samples of your own" in found.evidence
    assert found.failing_sets == (15,)  # the 16th set of 32
    firsts = np.concatenate([x[:, 0] for x in b.seen])
    assert np.array_equal(firsts, np.arange(500))
    assert confront(tmp_path, Model(), Model(), 500, budget_s=budget_s, samples=0).status is Status.EQUAL


def test_batch_says_how_many_at_a_time(tmp_path: Path) -> None:
    b = Model()
    confront(tmp_path, Model(), b, 10, batch=4, samples=0)
    assert [len(x) for x in b.seen] == [4, 4, 2]
    with pytest.raises(UsageError, match="fixed first axis of 5, which --batch 4 does not fit"):
        confront(tmp_path, Model(fixed=5), Model(fixed=5), 10, batch=4)


def test_fewer_at_a_time_where_the_model_takes_no_more(tmp_path: Path) -> None:
    found = confront(tmp_path, Model(most=5), Model(most=5), 40, samples=0)
    assert found.status is Status.EQUAL
    assert found.own_samples == 40 and found.samples == 10  # sets of 4


def test_a_sample_that_stops_the_original_is_told(tmp_path: Path) -> None:
    found = confront(tmp_path, Model(stops_at=37.0), Model(), 50)
    assert found.status is Status.INCONCLUSIVE
    assert "with samples 32 to 49 of your data: bad value" in found.detail


def test_made_up_sets_follow_your_own(tmp_path: Path) -> None:
    b = Model()
    found = confront(tmp_path, Model(), b, 3, samples=2)
    assert found.evidence.endswith("3 samples of your own and 2 input sets")
    assert [x.shape for x in b.seen] == [(3, 2), (3, 2), (3, 2)]


def test_noise_is_measured_later_where_it_matters(tmp_path: Path) -> None:
    """The fifth set amplifies rounding 30-fold; its noise is not measured until it shows a difference."""

    class Steep(Model):
        shift = 0.0

        def run(self, feeds: Any) -> dict[str, np.ndarray]:
            x = feeds["x"].astype(np.float64)
            steep = np.where(x[:, :1] > 127.5, 30.0, 1.0)
            return {"y": (np.sin(x[:, 1:] * steep) + self.shift * (steep > 1)).astype(np.float32)}

    class Rounded(Steep):
        shift = 2e-5  # the first sets alone would allow 4e-6; one unit of x moves this one by 7e-6

    class Wrong(Steep):
        shift = 1e-3

    assert confront(tmp_path, Steep(), Steep(), 160, samples=0).status is Status.EQUAL
    rounded = confront(tmp_path, Steep(), Rounded(), 160, samples=0)
    assert rounded.status is Status.EQUAL
    assert 2e-5 < rounded.outputs[0].tolerance < 1e-4
    assert "how far rounding alone moves the original" in rounded.outputs[0].basis
    assert confront(tmp_path, Steep(), Wrong(), 160, samples=0).status is Status.DIFFERENT


def test_outputs_beyond_memory_wait_on_the_disk(tmp_path: Path) -> None:
    kept = Kept(most_bytes=100)
    rows: list[dict[str, np.ndarray]] = [
        {"a": np.arange(20, dtype=np.int16).reshape(4, 5).T, "b": np.array(["x", None], object)},
        {"a": np.random.default_rng(0).standard_normal((3, 7)), "b": np.array([], object)},
        {"a": np.zeros((0, 2), np.float32), "b": np.array([1], object)},
    ]
    for row in rows:
        kept.append(row)
    assert kept.full() is False or len(kept) == 3
    for index, row in enumerate(rows):
        for name, array in row.items():
            assert kept[index][name].dtype == array.dtype
            assert np.array_equal(kept[index][name], array)
    assert kept._folder is not None
    place = Path(kept._folder.name)
    assert len(list(place.iterdir())) == 1
    del kept
    assert not place.exists()
