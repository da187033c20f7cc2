"""A proof on the user's own samples: every one of them is run, a few at a time, whatever the time allows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bnfuse.errors import BnfuseError, UsageError
from bnfuse.formats.base import Runner, TensorSpec
from bnfuse.proof.output_store import StoredOutputs
from bnfuse.results import Agreement, Status
from bnfuse.use_cases.verify import VerifyRequest, verify
from tests.own_data import npy


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
    versions: Mapping[str, str] = field(default_factory=lambda: {"fake": "1"})
    optimises: str = ""
    load_s: float = 0.0

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


@pytest.mark.parametrize("verify_time", [10.0, 1e-9])
def test_a_defect_in_the_last_of_many_samples_is_found(tmp_path: Path, verify_time: float) -> None:
    """All samples are run, whatever the time allows."""
    a, b = Model(), Model(wrong_at=499.0)
    found = confront(tmp_path, a, b, 500, verify_time=verify_time, samples=0)
    assert found.status is Status.DIFFERENT
    assert found.own_samples == 500
    assert "500 samples of your own" in found.evidence
    assert found.failing_sets == (15,)  # the 16th set of 32
    firsts = np.concatenate([x[:, 0] for x in b.seen])
    assert np.array_equal(firsts, np.arange(500))
    assert (
        confront(tmp_path, Model(), Model(), 500, verify_time=verify_time, samples=0).status is Status.EQUAL
    )


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


# The most sets that are made up beside four sets of four samples, the first samples that are no numbers; what
# comes of it, and of how many samples.
NO_NUMBERS: list[tuple[int, set[int], Status, int, str]] = [
    (2, set(range(16)), Status.INCONCLUSIVE, 0, "nothing was compared on your samples"),
    (0, set(range(16)), Status.INCONCLUSIVE, 0, "'y' is not finite for any of the inputs"),
    (2, {0, 4, 8, 12}, Status.INCONCLUSIVE, 0, "nothing was compared on your samples"),
    (2, {5}, Status.EQUAL, 12, "nothing was compared on 4 of your 16 samples"),
    (2, set(), Status.EQUAL, 16, ""),
]


@pytest.mark.parametrize(("made", "spoilt", "status", "own", "told"), NO_NUMBERS)
def test_samples_on_which_nothing_can_be_compared_do_not_count(
    made: int, spoilt: set[int], status: Status, own: int, told: str, tmp_path: Path
) -> None:
    class Spoilt(Model):
        def run(self, feeds: Any) -> dict[str, np.ndarray]:
            out = super().run(feeds)
            out["y"][np.isin(feeds["x"][:, 0], list(spoilt))] = np.nan
            return out

    found = confront(tmp_path, Spoilt(), Spoilt(), 16, batch=4, samples=made)
    assert (found.status, found.own_samples) == (status, own)
    assert told in found.detail and bool(told) == bool(found.detail)
    assert f"{own} samples of your own" in found.evidence or not own


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
    kept = StoredOutputs(most_bytes=100)
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
    with pytest.warns(ResourceWarning, match="Implicitly cleaning up"):
        del kept
    assert not place.exists()
