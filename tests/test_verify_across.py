"""``verify`` across formats: a Keras model against its ONNX twin, made here from the same weights."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from msgspec.structs import replace
from onnx import TensorProto

from bnfuse.formats.base import TensorSpec
from bnfuse.inputs.alignment import Pair, Unalignable, align
from bnfuse.results import Status
from bnfuse.use_cases.verify import VerifyRequest, verify
from tests.command import call
from tests.format_twins import SIZE, Weights, keras_twin, onnx_twin, weights
from tests.tiny_models import save

EQUAL, DIFFERENT = Status.EQUAL, Status.DIFFERENT
# ---- which tensor is which ------------------------------------------------------------------------


def spec(name: str, *shape: int | str | None, dtype: str = "float32") -> TensorSpec:
    return TensorSpec(name, dtype, shape)


Y = spec("y", "N", 5)
# inputs of one model, inputs of the other, names of the other in the first's order, layouts, notes
ALIGNED: list[tuple[list[TensorSpec], list[TensorSpec], list[str], list[tuple[int, ...]], list[str]]] = [
    ([spec("x", None, 3)], [spec("x", "N", 3)], ["x"], [()], []),
    ([spec("x", None, 3)], [spec("x:0", 1, 3)], ["x:0"], [()], []),
    ([spec("a", 1, 3), spec("b", 1, 4)], [spec("b", 1, 4), spec("a", 1, 3)], ["a", "b"], [(), ()], []),
    ([spec("a", 1, 3), spec("b", 1, 4)], [spec("p", 1, 3), spec("q", 1, 4)], ["p", "q"], [(), ()],
     ["inputs are matched by position, because their names differ: 'a' is 'p', 'b' is 'q'"]),
    ([spec("x", None, 11, 8, 3)], [spec("x", "N", 3, 11, 8)], ["x"], [(0, 3, 1, 2)], ["channels first"]),
    ([spec("x", None, 3, 11, 8)], [spec("x", "N", 11, 8, 3)], ["x"], [(0, 2, 3, 1)], ["channels last"]),
    ([spec("x", None, None, None, 3)], [spec("x", "N", 3, "h", "w")], ["x"], [(0, 3, 1, 2)], ["first"]),
    ([spec("x", None, 3, 3, 3)], [spec("x", "N", 3, 3, 3)], ["x"], [()], []),
    ([spec("x", None, 9, 4)], [spec("x", "N", 4, 9)], ["x"], [(0, 2, 1)], ["its axes are moved"]),
    ([TensorSpec("x", "float32", None)], [spec("x", "N", 4)], ["x"], [()], []),
    ([spec("x", 2, dtype="int32")], [spec("x", 2, dtype="int64")], ["x"], [()],
     ["'x' is int32, in the second model int64: it is converted"]),
    ([spec("x", 2, dtype="string")], [spec("x", 2, dtype="string")], ["x"], [()], []),
]  # fmt: skip


@pytest.mark.parametrize(("first", "second", "names", "orders", "notes"), ALIGNED)
def test_what_corresponds(
    first: list[TensorSpec],
    second: list[TensorSpec],
    names: list[str],
    orders: list[tuple[int, ...]],
    notes: list[str],
) -> None:
    found = align((first, [Y]), (second, [Y]))
    assert [pair.second.name for pair in found.inputs] == names
    assert [pair.order for pair in found.inputs] == orders
    assert len(found.notes) == len(notes)
    assert all(part in note for part, note in zip(notes, found.notes, strict=True))


APART: list[tuple[list[TensorSpec], list[TensorSpec], str]] = [
    (
        [spec("x", 1, 3)],
        [spec("x", 1, 4)],
        r"'x' has the shape \[1, 3\], but 'x' of the second model \[1, 4\]",
    ),
    ([spec("x", 1, 3)], [spec("x", 1, 3, 1)], "has the shape"),
    ([spec("x", 1, 3), spec("z", 1)], [spec("x", 1, 3)], "have 2 and 1 inputs: 'x', 'z', and 'x'"),
    ([spec("x", 1, dtype="int32")], [spec("x", 1)], "'x' is int32, but 'x' of the second model is float32"),
]


@pytest.mark.parametrize(("first", "second", "message"), APART)
def test_what_does_not(first: list[TensorSpec], second: list[TensorSpec], message: str) -> None:
    with pytest.raises(Unalignable, match=message):
        align((first, [Y]), (second, [Y]))


def test_values_go_forth_and_back() -> None:
    x = np.arange(2 * 4 * 5 * 3, dtype=np.float32).reshape(2, 4, 5, 3)
    pair = Pair(spec("x", "N", 4, 5, 3), spec("x", 2, 3, 4, 5, dtype="float64"), (0, 3, 1, 2))
    there = pair.forth(x)
    assert there.shape == (2, 3, 4, 5) and there.dtype == np.float64
    assert there[1, 2, 3, 4] == x[1, 3, 4, 2]
    assert np.array_equal(pair.back(there), x) and pair.back(there).dtype == np.float32
    assert pair.narrowed().shape == (2, 4, 5, 3)


# ---- twins ----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def original(keras3: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return keras_twin(keras3, tmp_path_factory.mktemp("across") / "original.keras")


TWINS: list[tuple[str, dict[str, Any], list[str]]] = [
    ("the same", {"ids": TensorProto.INT32}, []),
    ("wider integers", {}, ["'ids' is int32"]),
    ("other names", {"names": ("p", "q", "r1", "r2")}, ["'ids' is", "inputs are matched", "outputs are"]),
    ("channels first", {"channels_first": True}, ["channels first", "'ids' is"]),
    ("batch of 3", {"batch": 3}, ["'ids' is"]),
    ("half precision out", {"out": TensorProto.FLOAT16}, ["'ids' is", "'scores' is float32, in the second"]),
]


@pytest.mark.slow
@pytest.mark.parametrize(("name", "changes", "notes"), TWINS, ids=[t[0] for t in TWINS])
@pytest.mark.parametrize("backwards", [False, True], ids=["keras first", "onnx first"])
def test_twins_are_equal(
    tmp_path: Path, original: Path, name: str, changes: dict[str, Any], notes: list[str], backwards: bool
) -> None:
    twin = save(onnx_twin(weights(), **changes), tmp_path / "twin.onnx")
    pair = (twin, original) if backwards else (original, twin)
    found = verify(*pair, request=VerifyRequest(samples=4))
    assert found.status is EQUAL, found
    assert len(found.outputs) == 2 and all(output.max_rel > 0.0 for output in found.outputs[:1])
    assert "keras" in found.evidence and "onnxruntime" in found.evidence
    assert len(found.notes) == len(notes)
    if not backwards:
        assert all(any(part in note for note in found.notes) for part in notes)


DEFECTS: list[tuple[str, Callable[[Weights], Weights], dict[str, Any]]] = [
    ("one channel's shift", lambda w: replace(w, beta=w.beta + np.eye(6)[2] * 1e-2), {}),
    ("one channel's bias", lambda w: replace(w, bias=w.bias + np.eye(6)[3] * 1e-2), {}),
    ("epsilon", lambda w: w, {"epsilon": 1e-5}),
    ("swapped axes of space", lambda w: replace(w, kernel=w.kernel.transpose(1, 0, 2, 3)), {}),
    ("one word", lambda w: replace(w, table=w.table + np.eye(30)[[23]].T * 1e-2), {}),
]


@pytest.mark.slow
@pytest.mark.parametrize(("name", "plant", "changes"), DEFECTS, ids=[d[0] for d in DEFECTS])
def test_a_defect_in_the_twin_is_found(
    tmp_path: Path, original: Path, name: str, plant: Callable[[Weights], Weights], changes: dict[str, Any]
) -> None:
    twin = save(onnx_twin(plant(weights()), channels_first=True, **changes), tmp_path / "twin.onnx")
    found = verify(original, twin, request=VerifyRequest(samples=6))
    assert found.status is DIFFERENT
    assert max(output.max_rel / output.tolerance for output in found.outputs) > 10


@pytest.mark.slow
def test_on_the_command_line_with_labels_and_own_samples(tmp_path: Path, original: Path) -> None:
    twin = save(onnx_twin(weights(), names=("p", "q", "y", "z"), channels_first=True), tmp_path / "t.onnx")
    rng = np.random.default_rng(4)
    image = rng.normal(0, 1, (40, *SIZE, 3)).astype(np.float32)
    np.savez(tmp_path / "x.npz", image=image, ids=rng.integers(0, 30, (40, 7)).astype(np.int32))
    np.save(tmp_path / "y.npy", rng.integers(0, 4, 40))
    asked = ("--inputs", tmp_path / "x.npz", "--labels", f"scores={tmp_path / 'y.npy'}", "--verify-time", "2")
    done = call("verify", original, twin, *asked, "--json")
    assert done.exit_code == 0, done.stdout + done.stderr
    proof = json.loads(done.stdout)["verification"]
    assert proof["own_samples"] == 40
    assert len(proof["notes"]) == 4
    assert proof["accuracy"][0]["before"] == proof["accuracy"][0]["after"]
    done = call("verify", original, twin, *asked)
    assert "note" in done.stdout and "matched by position" in done.stdout


@pytest.mark.slow
def test_a_twin_that_does_not_load_is_different(tmp_path: Path, original: Path) -> None:
    proto = onnx_twin(weights())
    proto.graph.node[1].op_type = "Convolution"
    found = verify(original, save(proto, tmp_path / "t.onnx"))
    assert found.status is DIFFERENT
    assert "the second model cannot be loaded" in found.detail


@pytest.mark.slow
def test_models_that_do_not_correspond_are_different(tmp_path: Path, original: Path) -> None:
    twin = save(onnx_twin(weights(), channels_first=True, batch=2), tmp_path / "t.onnx")
    proto = onnx.load(twin)
    proto.graph.input[0].type.tensor_type.shape.dim[2].dim_value = SIZE[0] + 1
    found = verify(original, save(proto, twin))
    assert found.status is DIFFERENT
    assert "input 'image' has the shape" in found.detail
