"""The inputs that ``verify`` makes up, guesses the shapes of, or is given."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bnfuse.errors import BnfuseError, UsageError
from bnfuse.results import Status
from bnfuse.verify import VerifyRequest, verify
from tests.fake_runner import Fake, confront
from tests.tiny_models import net
from tests.verify_nets import compare, mlp

EQUAL, DIFFERENT, INCONCLUSIVE = Status.EQUAL, Status.DIFFERENT, Status.INCONCLUSIVE


def only_works_at(shape: tuple[int, ...]) -> Callable[[np.ndarray], np.ndarray]:
    def run(x: np.ndarray) -> np.ndarray:
        if x.shape != shape:
            raise BnfuseError(f"got {x.shape}")
        return x

    return run


GUESSES: list[tuple[tuple[int | str | None, ...], tuple[int, ...]]] = [
    (("N", 4), (2, 4)),
    ((None, 3, None, None), (2, 3, 64, 64)),
    (("N", 3, "h", "w"), (2, 3, 224, 224)),
    (("N", "c", 8, 8), (1, 1, 8, 8)),
    (("N", "s", "s"), (2, 32, 32)),
]


@pytest.mark.parametrize(("declared", "shape"), GUESSES)
def test_free_axes_are_guessed(
    tmp_path: Path, declared: tuple[int | str | None, ...], shape: tuple[int, ...]
) -> None:
    works = only_works_at(shape)
    assert confront(tmp_path, works, works, shape=declared)[0].status is EQUAL


def test_a_shape_that_cannot_be_guessed_is_wrong_usage(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"'x'.*--shape x=N,3,N") as caught:
        confront(tmp_path, only_works_at((1, 3, 77)), lambda x: x, shape=("N", 3, "t"))
    assert "\n" not in str(caught.value)


REQUESTS: list[tuple[str, dict[str, Any], str]] = [
    ("unknown name", {"shapes": {"z": (1, 5)}}, "'z'.*'x'"),
    ("wrong rank", {"shapes": {"x": (1, 5, 1)}}, r"\[1, 5, 1\]"),
    ("wrong fixed axis", {"shapes": {"x": (1, 6)}}, r"\[N, 5\]"),
]


@pytest.mark.parametrize(("name", "request_", "message"), REQUESTS, ids=[r[0] for r in REQUESTS])
def test_shapes_that_do_not_fit(tmp_path: Path, name: str, request_: dict[str, Any], message: str) -> None:
    proto = net(mlp(), folded=False)
    with pytest.raises(UsageError, match=message):
        compare(tmp_path, proto, proto, **request_)


def test_shape_and_batch_are_obeyed(tmp_path: Path) -> None:
    works = only_works_at((7, 4))
    path = tmp_path / "m"
    path.write_bytes(b"")
    for request in (VerifyRequest(batch=7), VerifyRequest(shapes={"x": (7, 4)})):
        assert verify(path, path, request=request, load=lambda p, s: Fake(works)).status is EQUAL
    with pytest.raises(UsageError, match="fixed first axis of 7"):
        verify(path, path, request=VerifyRequest(batch=3), load=lambda p, s: Fake(works, shape=(7, 4)))


DATA: list[tuple[str, str, Any, str]] = [
    ("other name", "d.npz", {"z": np.ones((1, 5), np.float32)}, "'z'"),
    ("no array", "d.npz", {}, "no array for the input 'x'"),
    ("other dtype", "d.npz", {"x": np.ones((1, 5))}, "float64, but it needs float32"),
    ("other rank", "d.npz", {"x": np.ones(5, np.float32)}, r"\[5\]"),
    ("objects", "d.npz", {"x": np.array([[{}]])}, "cannot be read"),
    ("garbage", "d.npz", b"PK\x03\x04garbage", "cannot be read"),
    ("missing", "none.npz", None, "does not exist"),
]


@pytest.mark.parametrize(("name", "file", "content", "message"), DATA, ids=[d[0] for d in DATA])
def test_data_that_does_not_fit(tmp_path: Path, name: str, file: str, content: Any, message: str) -> None:
    if isinstance(content, bytes):
        (tmp_path / file).write_bytes(content)
    elif content is not None:
        np.savez(tmp_path / file, **content)
    proto = net(mlp(), folded=False)
    with pytest.raises(UsageError, match=message):
        compare(tmp_path, proto, proto, inputs=tmp_path / file)


def test_own_data_comes_first_and_as_npy_too(tmp_path: Path) -> None:
    """A defect that only the user's data show: the models differ where x > 1000."""
    np.save(tmp_path / "d.npy", np.full((3, 4), 2000.0, np.float32))

    def clipped(x: np.ndarray) -> np.ndarray:
        return np.asarray(np.minimum(x, np.float32(1000)))

    assert confront(tmp_path, lambda x: x, clipped)[0].status is EQUAL
    runners = {tmp_path / "a": Fake(lambda x: x), tmp_path / "b": Fake(clipped)}
    request = VerifyRequest(inputs=tmp_path / "d.npy")
    found = verify(*runners, request=request, load=lambda path, settings: runners[path])
    assert found.status is DIFFERENT
