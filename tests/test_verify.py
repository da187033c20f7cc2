"""``verify``: honest folds pass in every dtype, planted defects do not, and doubt is said to be doubt.

The folded models are made by ``tiny_models`` from the equation, not by the product.
"""

from __future__ import annotations

import math
import re
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from bnfuse.compare import LIMIT, ROUNDOFF, deviation, judge, roundoff_of, scales
from bnfuse.errors import BnfuseError, RuntimeMissing, UnreadableModel, UsageError
from bnfuse.formats.base import Runner, RunSettings, TensorSpec
from bnfuse.formats.onnx.run import load
from bnfuse.results import Agreement, Status
from bnfuse.verify import VerifyRequest, perturb, verify
from tests.tiny_models import Layer, layer, model, net, save

EQUAL, DIFFERENT, INCONCLUSIVE = Status.EQUAL, Status.DIFFERENT, Status.INCONCLUSIVE


def convnet(seed: int = 0, depth: int = 3) -> list[Layer]:
    rng = np.random.default_rng(seed)
    return [layer(rng, 8, 3 if i == 0 else 8, 3, 3) for i in range(depth)]


def mlp(seed: int = 0, depth: int = 3) -> list[Layer]:
    rng = np.random.default_rng(seed)
    return [layer(rng, 16, 5 if i == 0 else 16) for i in range(depth)]


def compare(tmp_path: Path, a: onnx.ModelProto, b: onnx.ModelProto, **request: Any) -> Agreement:
    paths = save(a, tmp_path / "a.onnx"), save(b, tmp_path / "b.onnx")
    return verify(*paths, request=VerifyRequest(**request), load=load)


# --- honest folds ------------------------------------------------------------------------------

HONEST = [
    (kind, dtype, depth)
    for dtype in ("float32", "float16", "float64")
    for kind in (convnet, mlp)
    for depth in (1, 3, 12)
    if (kind, dtype) != (convnet, "float64")  # onnxruntime has no float64 Conv
]


@pytest.mark.parametrize(
    ("kind", "dtype", "depth"), HONEST, ids=[f"{k.__name__}-{t}-{d}" for k, t, d in HONEST]
)
def test_honest_folds_are_equal(
    tmp_path: Path, kind: Callable[[int, int], list[Layer]], dtype: str, depth: int
) -> None:
    for seed in range(3):
        layers = kind(seed, depth)
        found = compare(
            tmp_path, net(layers, folded=False, dtype=dtype), net(layers, folded=True, dtype=dtype)
        )
        assert (found.status, found.detail) == (EQUAL, "")
        assert found.samples == 8
        (output,) = found.outputs
        assert 0.0 < output.max_rel <= output.tolerance <= LIMIT[dtype]
        assert output.max_abs > 0.0
        assert output.snr_db > (30 if dtype == "float16" else 90)
        assert "optimisation off" in found.evidence


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_no_false_alarm_over_many_honest_folds(tmp_path: Path, dtype: str) -> None:
    """Statistics of mixed signs and sizes, 1 to 10 layers."""
    wrong = []
    for seed in range(100):
        layers = (convnet if seed % 2 else mlp)(1000 + seed, 1 + seed % 10)
        pair = net(layers, folded=False, dtype=dtype), net(layers, folded=True, dtype=dtype)
        found = compare(tmp_path, *pair, seed=seed)
        if found.status is not EQUAL:
            wrong.append((seed, found.detail))
    assert wrong == []


def test_the_same_file_agrees_to_the_bit(tmp_path: Path) -> None:
    proto = net(convnet(), folded=False)
    (output,) = compare(tmp_path, proto, proto).outputs
    assert (output.max_abs, output.max_rel, output.snr_db) == (0.0, 0.0, math.inf)
    assert output.argmax_agreement == 1.0


def test_the_figures_are_those_of_the_definition(tmp_path: Path) -> None:
    """y = x against y = x + 1e-3 on the user's data, so that every figure is known by hand."""
    x = np.array([[3.0, -4.0, 0.5]], np.float32)
    np.savez(tmp_path / "data.npz", x=x)
    info = [helper.make_tensor_value_info(n, TensorProto.FLOAT, [1, 3]) for n in ("x", "y")]
    shift = numpy_helper.from_array(np.array([0.0, 1e-3, 0.0], np.float32), "c")
    a = model([helper.make_node("Identity", ["x"], ["y"])], [info[0]], [info[1]])
    b = model([helper.make_node("Add", ["x", "c"], ["y"])], [info[0]], [info[1]], [shift])
    found = compare(tmp_path, a, b, inputs=tmp_path / "data.npz", samples=1)
    (output,) = found.outputs
    assert found.status is DIFFERENT
    assert found.samples == 1
    assert output.max_abs == pytest.approx(1e-3, rel=1e-3)
    assert output.max_rel == pytest.approx(1e-3 / 4.0, rel=1e-3)
    assert output.snr_db == pytest.approx(10 * math.log10((9 + 16 + 0.25) / 1e-6), abs=0.01)
    assert output.argmax_agreement == 1.0


# --- planted defects ---------------------------------------------------------------------------


def _one_channel(values: np.ndarray, change: float) -> np.ndarray:
    """Channel 5 changed: one that the Relu behind it does not always cut off."""
    return np.where(np.arange(values.size) == 5, values + change, values)


DEFECTS: list[tuple[str, Callable[[Layer], Layer]]] = [
    ("one channel's shift", lambda one: replace(one, mean=_one_channel(one.mean, 0.5))),
    ("one channel's small shift", lambda one: replace(one, beta=_one_channel(one.beta, 1e-2))),
    ("one channel's scale", lambda one: replace(one, gamma=_one_channel(one.gamma, 0.05))),
    ("epsilon 1e-3 for 1e-5", lambda one: replace(one, epsilon=1e-3)),
    ("swapped axis", lambda one: replace(one, weight=np.swapaxes(one.weight, 0, 1))),
    ("flipped sign", lambda one: replace(one, gamma=-one.gamma)),
    ("bias left out", lambda one: replace(one, bias=np.zeros_like(one.bias))),
]


@pytest.mark.parametrize("kind", [convnet, mlp])
@pytest.mark.parametrize("where", [1, 2])
@pytest.mark.parametrize(("name", "plant"), DEFECTS, ids=[d[0] for d in DEFECTS])
def test_a_defect_in_one_layer_is_different(
    tmp_path: Path, kind: Callable[[], list[Layer]], where: int, name: str, plant: Callable[[Layer], Layer]
) -> None:
    layers = kind()
    bad = [plant(one) if index == where else one for index, one in enumerate(layers)]
    found = compare(tmp_path, net(layers, folded=False), net(bad, folded=True))
    assert found.status is DIFFERENT
    assert found.outputs[0].max_rel > 10 * found.outputs[0].tolerance
    assert "'y'" in found.detail


@pytest.mark.parametrize("dtype", ["float16", "float64"])
def test_a_lost_shift_is_different_in_other_dtypes(tmp_path: Path, dtype: str) -> None:
    layers = mlp()
    bad = [*layers[:2], replace(layers[2], mean=_one_channel(layers[2].mean, 0.5))]
    found = compare(tmp_path, net(layers, folded=False, dtype=dtype), net(bad, folded=True, dtype=dtype))
    assert found.status is DIFFERENT


def test_a_lost_shift_behind_a_softmax_is_different(tmp_path: Path) -> None:
    layers = mlp()
    bad = [layers[0], replace(layers[1], mean=_one_channel(layers[1].mean, 0.5)), layers[2]]
    pair = net(layers, folded=False, softmax=True), net(bad, folded=True, softmax=True)
    assert compare(tmp_path, *pair).status is DIFFERENT


def test_a_border_defect_is_different(tmp_path: Path) -> None:
    """A shift folded forward through zero padding is right inside and wrong at the borders."""
    rng = np.random.default_rng(0)
    one = layer(rng, 4, 3, 3, 3)
    kernel = rng.standard_normal((5, 4, 3, 3)).astype(np.float32)
    a = one.gamma / np.sqrt(one.var + 1e-5)
    c = one.beta - one.mean * a
    weight, bias = kernel * a[None, :, None, None], np.einsum("oihw,i->o", kernel, c)
    inits = {name: getattr(one, name).astype(np.float32) for name in ("gamma", "beta", "mean", "var")}
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 4, 6, 5])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", 5, 6, 5])

    def arrays(named: dict[str, np.ndarray]) -> list[onnx.TensorProto]:
        return [numpy_helper.from_array(v.astype(np.float32), k) for k, v in named.items()]

    bn = helper.make_node("BatchNormalization", ["x", "gamma", "beta", "mean", "var"], ["n"])
    before = model(
        [bn, helper.make_node("Conv", ["n", "w"], ["y"], pads=[1, 1, 1, 1])],
        [x],
        [y],
        arrays({**inits, "w": kernel}),
    )
    after = model(
        [helper.make_node("Conv", ["x", "w", "b"], ["y"], pads=[1, 1, 1, 1])],
        [x],
        [y],
        arrays({"w": weight, "b": bias}),
    )
    assert compare(tmp_path, before, after).status is DIFFERENT


def _copy(proto: onnx.ModelProto) -> onnx.ModelProto:
    copy = onnx.ModelProto()
    copy.CopyFrom(proto)
    return copy


def _renamed(proto: onnx.ModelProto, old: str, new: str) -> onnx.ModelProto:
    copy = _copy(proto)
    for node in copy.graph.node:
        node.input[:] = [new if n == old else n for n in node.input]
        node.output[:] = [new if n == old else n for n in node.output]
    for value in (*copy.graph.input, *copy.graph.output):
        value.name = new if value.name == old else value.name
    return copy


def _fixed_batch(proto: onnx.ModelProto) -> onnx.ModelProto:
    copy = _copy(proto)
    copy.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 1
    return copy


INTERFACES: list[tuple[str, Callable[[list[Layer]], onnx.ModelProto], str]] = [
    ("output renamed", lambda it: net(it, folded=True, output="z"), "output 'y' is missing"),
    ("input renamed", lambda it: _renamed(net(it, folded=True), "x", "w"), "input 'x' is missing"),
    (
        "dtype changed",
        lambda it: net(it, folded=True, dtype="float64"),
        "float64, where the original has float32",
    ),
    ("free batch lost", lambda it: _fixed_batch(net(it, folded=True)), r"declared as \[1, 5\]"),
]


@pytest.mark.parametrize(("name", "build", "detail"), INTERFACES, ids=[i[0] for i in INTERFACES])
def test_a_changed_interface_is_different(
    tmp_path: Path, name: str, build: Callable[[list[Layer]], onnx.ModelProto], detail: str
) -> None:
    layers = mlp()
    found = compare(tmp_path, net(layers, folded=False), build(layers))
    assert found.status is DIFFERENT
    assert found.outputs == ()
    assert re.search(detail, found.detail)


def test_outputs_in_another_order_are_different(tmp_path: Path) -> None:
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, [2])
    outs = [helper.make_tensor_value_info(n, TensorProto.FLOAT, [2]) for n in ("a", "b")]
    nodes = [helper.make_node("Identity", ["x"], ["a"]), helper.make_node("Identity", ["x"], ["b"])]
    found = compare(tmp_path, model(nodes, [x], outs), model(nodes, [x], outs[::-1]))
    assert found.status is DIFFERENT
    assert "another order" in found.detail


def test_overflow_to_infinity_is_different(tmp_path: Path) -> None:
    """A weight beyond float16's 65504, where BN's small γ had kept the product small."""
    one = mlp(depth=1)[0]
    before = net([one], folded=False, dtype="float16")
    weight, bias = one.folded()
    weight[0, 0] = 1e6
    after = net([one], folded=True, dtype="float16")
    with np.errstate(over="ignore"):
        arrays = [numpy_helper.from_array(v.astype(np.float16), n) for v, n in ((weight, "w0"), (bias, "b0"))]
    del after.graph.initializer[:]
    after.graph.initializer.extend(arrays)
    found = compare(tmp_path, before, after)
    assert found.status is DIFFERENT
    assert "not finite where the original's are" in found.detail


def test_a_candidate_that_does_not_load_is_different(tmp_path: Path) -> None:
    good = save(net(mlp(), folded=False), tmp_path / "a.onnx")
    bad = tmp_path / "b.onnx"
    bad.write_bytes(b"garbage")
    found = verify(good, bad, load=load)
    assert found.status is DIFFERENT
    assert "cannot be loaded" in found.detail


# --- doubt -------------------------------------------------------------------------------------


def _one_op(
    op: str, element: int = TensorProto.FLOAT, out: int | None = None, **attributes: Any
) -> onnx.ModelProto:
    x = helper.make_tensor_value_info("x", element, [2, 4])
    y = helper.make_tensor_value_info("y", out or element, None)
    return model([helper.make_node(op, ["x"], ["y"], **attributes)], [x], [y])


def test_a_reference_that_does_not_load_is_inconclusive(tmp_path: Path) -> None:
    custom = model(
        [helper.make_node("Quant", ["x"], ["y"], domain="my.ops")],
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1])],
    )
    found = compare(tmp_path, custom, custom)
    assert found.status is INCONCLUSIVE
    assert "Quant" in found.detail


def test_matching_nans_are_no_pass(tmp_path: Path) -> None:
    """log(−|x| − 1) is NaN everywhere, in both models alike."""
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, [2, 4])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, [2, 4])
    one = numpy_helper.from_array(np.array(-1.0, np.float32), "c")
    nodes = [
        helper.make_node("Abs", ["x"], ["p"]),
        helper.make_node("Neg", ["p"], ["q"]),
        helper.make_node("Add", ["q", "c"], ["r"]),
        helper.make_node("Log", ["r"], ["y"]),
    ]
    proto = model(nodes, [x], [y], [one])
    found = compare(tmp_path, proto, proto)
    assert found.status is INCONCLUSIVE
    assert "not finite" in found.detail


def test_some_input_sets_without_finite_outputs_are_left_out(tmp_path: Path) -> None:
    """log(x) is NaN for the normal sets, finite for the uniform ones."""
    found = compare(tmp_path, _one_op("Log"), _one_op("Log"))
    assert found.status is EQUAL
    assert math.isfinite(found.outputs[0].max_rel)


def test_a_constant_output_is_told(tmp_path: Path) -> None:
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, [2, 4])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, [2, 1])
    proto = model([helper.make_node("Softmax", ["s"], ["y"])], [x], [y])  # softmax of one value is 1
    proto.graph.node.insert(0, helper.make_node("ReduceSum", ["x", "axes"], ["s"]))
    proto.graph.initializer.append(numpy_helper.from_array(np.array([1]), "axes"))
    found = compare(tmp_path, proto, proto)
    assert found.status is EQUAL
    assert "does not vary" in found.detail


def test_too_big_for_memory_is_inconclusive(tmp_path: Path) -> None:
    proto = net(mlp(), folded=False)
    found = compare(tmp_path, proto, proto, model_bytes=1 << 60)
    assert found.status is INCONCLUSIVE
    assert "memory" in found.detail


def test_missing_files_and_devices_are_errors(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    there = save(net(mlp(), folded=False), tmp_path / "a.onnx")
    with pytest.raises(UnreadableModel, match=r"none\.onnx"):
        verify(there, tmp_path / "none.onnx", load=load)

    def no_gpu(path: Path, settings: RunSettings) -> Any:
        assert settings.device == "gpu"
        raise RuntimeMissing("no GPU")

    with pytest.raises(RuntimeMissing):
        verify(there, there, request=VerifyRequest(device="gpu"), load=no_gpu)


# --- with a runner made for the purpose --------------------------------------------------------


@dataclass
class Fake:
    """A Runner around a function of one float input; counts itself to show what is in memory."""

    function: Callable[[np.ndarray], np.ndarray]
    log: list[str] = field(default_factory=list)
    name: str = ""
    dtype: str = "float32"
    shape: tuple[int | str | None, ...] | None = ("N", 4)
    providers: Sequence[str] = ("Fake",)
    runtime: str = "fake 1"

    def __post_init__(self) -> None:
        self.inputs: Sequence[TensorSpec] = (TensorSpec("x", self.dtype, self.shape),)
        self.outputs: Sequence[TensorSpec] = (TensorSpec("y", "float32", None),)

    def run(self, feeds: Any) -> dict[str, np.ndarray]:
        return {"y": self.function(feeds["x"])}

    def time(self, feeds: Any, calls: int) -> list[int]:
        raise AssertionError("a proof takes no time")

    def __enter__(self) -> Runner:
        self.log.append(f"open {self.name}")
        return self

    def __exit__(self, *_: object) -> None:
        self.log.append(f"close {self.name}")


def confront(
    tmp_path: Path, a: Callable[[np.ndarray], np.ndarray], b: Callable[[np.ndarray], np.ndarray], **fake: Any
) -> tuple[Agreement, list[str]]:
    log: list[str] = []
    paths = {}
    for name, function in (("a", a), ("b", b)):
        path = tmp_path / name
        path.write_bytes(b"")
        paths[path] = Fake(function, log, name, **fake)

    def load_fake(path: Path, settings: RunSettings) -> Runner:
        assert settings.optimise is False
        return paths[path]

    return verify(*paths, request=VerifyRequest(), load=load_fake), log


def test_one_model_is_in_memory_at_a_time(tmp_path: Path) -> None:
    found, log = confront(tmp_path, lambda x: 2 * x, lambda x: x + x)
    assert found.status is EQUAL
    assert log == ["open a", "close a", "open b", "close b"]


def test_an_unstable_reference_is_inconclusive(tmp_path: Path) -> None:
    """A steep step: rounding of the input alone moves the output by more than the limit."""

    def steep(x: np.ndarray) -> np.ndarray:
        return np.asarray(np.sin(x.astype(np.float64) * 1e6)).astype(np.float32)

    found, _ = confront(tmp_path, steep, lambda x: steep(x * np.float32(1 + 2e-7)))
    assert found.status is INCONCLUSIVE
    assert "unstable" in found.detail


def test_instability_does_not_excuse_a_gross_error(tmp_path: Path) -> None:
    def steep(x: np.ndarray) -> np.ndarray:
        return np.asarray(np.sin(x.astype(np.float64) * 300)).astype(np.float32)

    assert confront(tmp_path, steep, steep)[0].status is EQUAL
    found, _ = confront(tmp_path, steep, lambda x: steep(x) + np.float32(0.5))
    assert found.status is DIFFERENT


def test_integers_compare_exactly_and_say_so(tmp_path: Path) -> None:
    def picks(x: np.ndarray) -> np.ndarray:
        return np.asarray(x.argmax(axis=1))

    found, _ = confront(tmp_path, picks, lambda x: np.where(picks(x) == 3, 0, picks(x)))
    assert found.status is DIFFERENT
    assert "of the values of output 'y' differ" in found.detail
    assert found.tolerance == 0.0


def test_an_integer_that_rounding_flips_is_inconclusive(tmp_path: Path) -> None:
    """On all-zero inputs every arg-max is a tie; only there do the two differ."""

    def first(x: np.ndarray) -> np.ndarray:
        return np.asarray(x.argmax(axis=1))

    def last(x: np.ndarray) -> np.ndarray:
        return np.asarray(x.shape[1] - 1 - x[:, ::-1].argmax(axis=1))

    found, _ = confront(tmp_path, first, last)
    assert found.status is INCONCLUSIVE
    assert "rounding of the inputs alone changes" in found.detail


def test_strings_and_maps_compare_exactly(tmp_path: Path) -> None:
    def maps(scale: float) -> Callable[[np.ndarray], np.ndarray]:
        def run(x: np.ndarray) -> np.ndarray:
            rows = np.empty(len(x), object)
            for i, row in enumerate(x):
                rows[i] = {7: float(row[0]) * scale, 9: [row * scale]}
            return rows

        return run

    assert confront(tmp_path, maps(1.0), maps(1.0))[0].status is EQUAL
    assert confront(tmp_path, maps(1.0), maps(1.01))[0].status is DIFFERENT


def test_inputs_that_stop_the_model_are_left_out(tmp_path: Path) -> None:
    """Like a Gather whose index is out of range: only the sets that run count."""

    def below_5(x: np.ndarray) -> np.ndarray:
        if x.max() >= 5:
            raise BnfuseError("index out of range")
        return x.astype(np.float32)

    found, _ = confront(tmp_path, below_5, below_5, dtype="int64")
    assert found.status is EQUAL
    assert 1 <= found.samples < 8


def test_a_candidate_that_stops_where_the_reference_runs_is_different(tmp_path: Path) -> None:
    def stops(x: np.ndarray) -> np.ndarray:
        raise BnfuseError("bad node")

    found, _ = confront(tmp_path, lambda x: x, stops)
    assert found.status is DIFFERENT
    assert "bad node" in found.detail


def test_another_shape_at_run_time_is_different(tmp_path: Path) -> None:
    found, _ = confront(tmp_path, lambda x: x, lambda x: x[None])
    assert found.status is DIFFERENT
    assert "shape" in found.detail


def test_the_budget_bounds_the_samples(tmp_path: Path) -> None:
    def slow(x: np.ndarray) -> np.ndarray:
        time.sleep(0.05)
        return x

    path = tmp_path / "m"
    path.write_bytes(b"")
    start = time.perf_counter()
    found = verify(path, path, request=VerifyRequest(budget_s=0.3, samples=100), load=lambda p, s: Fake(slow))
    assert found.status is EQUAL
    assert 1 <= found.samples <= 3
    assert time.perf_counter() - start < 1.0


# --- inputs ------------------------------------------------------------------------------------


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


# --- the tolerance -----------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
def test_perturbation_is_one_or_two_units_in_the_last_place(dtype: str) -> None:
    x = np.random.default_rng(0).standard_normal(1000).astype(dtype)
    moved = perturb({"x": x}, 2.0 * ROUNDOFF[dtype], 0)["x"]
    steps = np.abs(moved - x) / np.spacing(np.abs(x))
    assert moved.dtype == x.dtype
    assert steps.min() >= 0.5
    assert steps.max() <= 2.0


def test_perturbation_is_mirrored_by_the_sign_and_reaches_zeros() -> None:
    x = np.array([1.0, -2.0, 0.0], np.float32)
    up, down = (perturb({"x": x}, step, 1)["x"] for step in (2.0**-10, -(2.0**-10)))
    assert np.array_equal(np.abs(up - x), np.array([2.0**-10, 2.0**-9, 2.0**-10]))
    assert np.array_equal(up - x, x - down)


def test_integers_are_not_perturbed() -> None:
    x = np.arange(3)
    assert perturb({"x": x}, 1e-3, 0)["x"] is x


def test_cancellation_shows_in_the_noise(tmp_path: Path) -> None:
    """A mean of a thousand subtracted: float32 loses 10 bits, and no input shows it by its own rounding."""
    weight = np.random.default_rng(0).standard_normal((4, 64)).astype(np.float32)

    def subtracts(x: np.ndarray) -> np.ndarray:
        return np.asarray((x @ weight + np.float32(1000)) - np.float32(1000))

    found, _ = confront(tmp_path, subtracts, lambda x: np.asarray(x @ weight), shape=(50, 4))
    (output,) = found.outputs
    assert found.status is EQUAL
    assert output.max_rel > 1e-6  # more than the floor allows


def test_half_precision_behind_a_cast_is_recognised() -> None:
    values = np.random.default_rng(0).standard_normal(100).astype(np.float32)
    half = values.astype(np.float16).astype(np.float32)
    assert roundoff_of([values]) == 2.0**-24
    assert roundoff_of([half]) == 2.0**-11
    assert roundoff_of([values], "float16") == 2.0**-11
    assert roundoff_of([values.astype(np.float64)]) == 2.0**-53


def test_judgement_follows_noise_up_to_the_limit() -> None:
    reference = np.linspace(-1, 1, 50, dtype=np.float32)
    (scale,) = scales([reference])
    assert scale == 1.0

    def status(error: float, noise: float) -> Status:
        found = deviation(reference, reference + np.float32(error), scale)
        return judge("y", [found], [noise], 2.0**-24).status

    assert status(5e-7, 0.0) is EQUAL  # below the floor of 4·√16·2⁻²⁴ = 9.5e-7
    assert status(1e-5, 0.0) is DIFFERENT
    assert status(1e-5, math.nan) is EQUAL  # not measured: 64·√16·2⁻²⁴ = 1.5e-5
    assert status(2e-5, math.nan) is DIFFERENT
    assert status(1e-5, 2e-6) is EQUAL  # explained by the noise
    assert status(2e-4, 1e-4) is INCONCLUSIVE  # explained, but beyond the limit
    assert status(1e-2, 1e-4) is DIFFERENT  # beyond what the noise explains
