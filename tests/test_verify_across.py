"""``verify`` across formats: a Keras model against its ONNX twin, made here from the same weights."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from bnfuse.formats.base import TensorSpec
from bnfuse.inputs.alignment import Pair, Unalignable, align
from bnfuse.results import Status
from bnfuse.verify import VerifyRequest, verify
from tests.command import call
from tests.tiny_models import model, save

EQUAL, DIFFERENT = Status.EQUAL, Status.DIFFERENT
SIZE = (11, 8)  # h, w


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


@dataclass(frozen=True)
class Weights:
    """conv 3×3 (same padding) → BN → relu → mean over space → dense, and an embedding of ids."""

    kernel: np.ndarray  # (h, w, i, o)
    bias: np.ndarray
    gamma: np.ndarray
    beta: np.ndarray
    mean: np.ndarray
    var: np.ndarray
    dense: np.ndarray  # (i, o)
    table: np.ndarray  # (id, o)


def weights(seed: int = 0) -> Weights:
    rng = np.random.default_rng(seed)
    return Weights(
        kernel=rng.normal(0, 0.3, (3, 3, 3, 6)),
        bias=rng.normal(0, 0.3, 6),
        gamma=rng.uniform(0.5, 1.5, 6) * np.array([1, -1, 1, 1, -1, 1]),
        beta=rng.normal(0, 0.5, 6),
        mean=rng.normal(0, 1, 6),
        var=rng.uniform(0.2, 2, 6),
        dense=rng.normal(0, 0.5, (6, 4)),
        table=rng.normal(0, 0.5, (30, 4)),
    )


def keras_twin(keras: Any, path: Path) -> Path:
    """Inputs image (h, w, 3) and ids (7) int32; outputs scores (4) and words (7, 4)."""
    layers, w = keras.layers, weights()
    image, ids = keras.Input((*SIZE, 3), name="image"), keras.Input((7,), name="ids", dtype="int32")
    conv = layers.Conv2D(6, 3, padding="same")
    norm = layers.BatchNormalization(epsilon=1e-3)
    dense = layers.Dense(4, use_bias=False, name="scores")
    table = layers.Embedding(30, 4, name="words")
    x = layers.GlobalAveragePooling2D()(layers.ReLU()(norm(conv(image))))
    made = keras.Model([image, ids], [dense(x), table(ids)])
    conv.set_weights([w.kernel, w.bias])
    norm.set_weights([w.gamma, w.beta, w.mean, w.var])
    dense.set_weights([w.dense])
    table.set_weights([w.table])
    made.save(path)
    return path


def onnx_twin(
    w: Weights,
    *,
    names: tuple[str, str, str, str] = ("image", "ids", "scores", "words"),
    channels_first: bool = False,
    epsilon: float = 1e-3,
    batch: int | str = "N",
    ids: int = TensorProto.INT64,
    out: int = TensorProto.FLOAT,
) -> onnx.ModelProto:
    image, number, scores, words = names
    arrays = {
        "k": w.kernel.transpose(3, 2, 0, 1), "b": w.bias, "gamma": w.gamma, "beta": w.beta,
        "mean": w.mean, "var": w.var, "d": w.dense, "t": w.table,
    }  # fmt: skip
    shape = [batch, 3, *SIZE] if channels_first else [batch, *SIZE, 3]
    nodes = [] if channels_first else [helper.make_node("Transpose", [image], ["i"], perm=[0, 3, 1, 2])]
    nodes += [
        helper.make_node("Conv", [image if channels_first else "i", "k", "b"], ["c"], pads=[1, 1, 1, 1]),
        helper.make_node("BatchNormalization", ["c", "gamma", "beta", "mean", "var"], ["n"], epsilon=epsilon),
        helper.make_node("Relu", ["n"], ["r"]),
        helper.make_node("GlobalAveragePool", ["r"], ["g"]),
        helper.make_node("Flatten", ["g"], ["f"]),
        helper.make_node("MatMul", ["f", "d"], ["s"]),
        helper.make_node("Cast", ["s"], [scores], to=out),
        helper.make_node("Gather", ["t", number], [words]),
    ]
    return model(
        nodes,
        [
            helper.make_tensor_value_info(image, TensorProto.FLOAT, shape),
            helper.make_tensor_value_info(number, ids, [batch, 7]),
        ],
        [
            helper.make_tensor_value_info(scores, out, [batch, 4]),
            helper.make_tensor_value_info(words, TensorProto.FLOAT, [batch, 7, 4]),
        ],
        [numpy_helper.from_array(v.astype(np.float32), k) for k, v in arrays.items()],
    )


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
