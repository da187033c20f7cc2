"""The inputs that ``verify`` makes up, guesses the shapes of, or is given."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from bnfuse.errors import BnfuseError, UsageError
from bnfuse.formats.base import RunSettings, TensorSpec
from bnfuse.formats.onnx.runtime.run import load
from bnfuse.inputs.samples import Feeds, InputRequest, Samples, ample_batch, fit
from bnfuse.inputs.tables import with_tables
from bnfuse.results import Status
from bnfuse.use_cases.verify import VerifyRequest, verify
from tests.fake_runner import Fake, confront
from tests.tiny_models import model, net, save
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
    ("unknown name", {"shape": {"z": (1, 5)}}, "'z'.*'x'"),
    ("wrong rank", {"shape": {"x": (1, 5, 1)}}, r"\[1, 5, 1\]"),
    ("wrong fixed axis", {"shape": {"x": (1, 6)}}, r"\[N, 5\]"),
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
    for request in (VerifyRequest(batch=7), VerifyRequest(shape={"x": (7, 4)})):
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


@pytest.mark.filterwarnings("ignore:unclosed file:ResourceWarning")  # NumPy 2.4 leaves what is no zip open
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


# ---- integers, text, truth values -----------------------------------------------------------------


def gathers(rows: int, wrong: int | None = None) -> onnx.ModelProto:
    """ids(N, 6) → table[ids] → y; one row of the table may be wrong."""
    table = np.random.default_rng(0).standard_normal((rows, 4)).astype(np.float32)
    if wrong is not None:
        table[wrong] += 0.01
    return model(
        [helper.make_node("Gather", ["t", "ids"], ["y"])],
        [helper.make_tensor_value_info("ids", TensorProto.INT64, ["N", 6])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", 6, 4])],
        [numpy_helper.from_array(table, "t")],
    )


@pytest.mark.parametrize("rows", [7, 30, 400])
def test_indices_come_from_the_whole_table(tmp_path: Path, rows: int) -> None:
    """3 of 8 sets of 16·6 indices are drawn from all of it: every row of a small table is met."""
    seen = save(gathers(rows), tmp_path / "a.onnx")
    with load(seen, RunSettings()) as runner:
        samples, first = fit(runner, InputRequest(), 16)

        def accepts(feeds: Feeds) -> bool:
            try:
                return runner.run(feeds)["y"].shape == first["y"].shape
            except BnfuseError:
                return False

        found = with_tables(samples, accepts).ranges["ids"]
    assert found.least == 0 and found.beyond is not None
    assert 0.98 * rows - 1 <= found.beyond <= rows
    if rows < 100:
        assert compare(tmp_path, gathers(rows), gathers(rows, wrong=rows - 1)).status is DIFFERENT
    assert compare(tmp_path, gathers(rows), gathers(rows)).status is EQUAL


def test_a_length_is_not_taken_for_an_index(tmp_path: Path) -> None:
    """y has as many rows as the integer says: asked for a large one, it would fill the memory."""
    largest = []

    def repeats(x: np.ndarray) -> np.ndarray:
        largest.append(int(x.max(initial=0)))
        return np.zeros(int(x.max(initial=0)), np.float32)

    found, _ = confront(tmp_path, repeats, repeats, dtype="int64")
    assert found.status is EQUAL
    assert max(largest) < 100


def test_values_without_an_end_are_no_indices() -> None:
    spec = (TensorSpec("x", "int64", (2, 3)), TensorSpec("n", "int64", (1,)))
    samples = Samples(spec, {"x": (2, 3), "n": (1,)}, 0)
    assert with_tables(samples, lambda feeds: True).ranges == {}
    assert with_tables(samples, lambda feeds: False).ranges == {}
    found = with_tables(samples, lambda feeds: bool(feeds["x"].max() < 1000)).ranges["x"]
    assert found.beyond in range(980, 1001)


def one_node(
    kind: int, op: str, inputs: list[str], inits: dict[str, np.ndarray], **made: Any
) -> onnx.ModelProto:
    domain = "ai.onnx.ml" if op == "LabelEncoder" else ""
    return model(
        [helper.make_node(op, inputs, ["y"], domain=domain, **made)],
        [helper.make_tensor_value_info("x", kind, ["N", 4])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", 4])],
        [numpy_helper.from_array(v, k) for k, v in inits.items()],
        ml=bool(domain),
    )


def test_text_is_made_up(tmp_path: Path) -> None:
    def encodes(value: float) -> onnx.ModelProto:
        keys = {"keys_strings": ["a", "7"], "values_floats": [1.0, value], "default_float": -1.0}
        proto = one_node(TensorProto.STRING, "LabelEncoder", ["x"], {}, **keys)
        proto.opset_import[1].version = 2
        return proto

    assert compare(tmp_path, encodes(2.0), encodes(2.0)).status is EQUAL
    assert compare(tmp_path, encodes(2.0), encodes(2.5)).status is DIFFERENT


def test_truth_values_are_made_up(tmp_path: Path) -> None:
    def chooses(value: float) -> onnx.ModelProto:
        halves = {"p": np.array(1.0, np.float32), "q": np.array(value, np.float32)}
        return one_node(TensorProto.BOOL, "Where", ["x", "p", "q"], halves)

    assert compare(tmp_path, chooses(0.0), chooses(0.0)).status is EQUAL
    assert compare(tmp_path, chooses(0.0), chooses(0.01)).status is DIFFERENT


def test_what_is_no_tensor_cannot_be_made_up(tmp_path: Path) -> None:
    x = helper.make_tensor_sequence_value_info("x", TensorProto.FLOAT, None)
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, None)
    proto = model([helper.make_node("ConcatFromSequence", ["x"], ["y"], axis=0)], [x], [y])
    with pytest.raises(UsageError, match=r"input of type seq\(tensor\(float\)\).*--no-verify --no-bench"):
        compare(tmp_path, proto, proto)


BATCHES = [
    ([TensorSpec("x", "float32", ("N", 16))], 1000, 16),
    ([TensorSpec("x", "float32", ("N", 16))], 100 << 20, 2),
    ([TensorSpec("x", "float32", ("N", 3, 224, 224))], 1000, 2),
    ([TensorSpec("x", "float32", ("N", 3, 16, 16))], 1000, 10),
    ([TensorSpec("x", "int64", ("N", "s")), TensorSpec("y", "float32", None)], 1000, 16),
]


@pytest.mark.parametrize(("specs", "model_bytes", "expected"), BATCHES)
def test_small_models_get_more_samples(specs: list[TensorSpec], model_bytes: int, expected: int) -> None:
    assert ample_batch(specs, model_bytes) == expected
