"""Seams: where a model and its folded twin must agree again, and what a proof makes of the values there."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from bnfuse.core.apply import Patch, apply
from bnfuse.core.planning.plan import plan
from bnfuse.core.reasons import Reason
from bnfuse.core.seams import Seam, seams
from bnfuse.errors import BnfuseError
from bnfuse.formats import load
from bnfuse.formats.base import Probe, ReadOptions, RunSettings
from bnfuse.formats.onnx import FORMAT
from bnfuse.formats.onnx.model import OnnxModel
from bnfuse.formats.onnx.runtime.probe import probed
from bnfuse.formats.onnx.runtime.session import load_session
from bnfuse.proof.inside import SeamPair, inside
from bnfuse.proof.seams import SeamProof
from bnfuse.proof.stretches import Models, Stretches
from bnfuse.results import Status
from bnfuse.use_cases.unwritten import Unproved
from bnfuse.use_cases.verify import VerifyRequest, verify
from tests.calls import optimize
from tests.planted import DEFECTS, spoiled
from tests.random_nets import preactivation
from tests.tiny_models import Layer, layer, model, net, save

pytestmark = pytest.mark.usefixtures("proofs_run_here")

FIXTURE = Path(__file__).resolve().parents[1] / "fixtures" / "digits_cnn.onnx"


def layers(count: int, seed: int = 0) -> list[Layer]:
    rng = np.random.default_rng(seed)
    return [layer(rng, 8, 3 if i == 0 else 8, 3, 3) for i in range(count)]


def planned(path: Path) -> tuple[OnnxModel, Patch]:
    opened = FORMAT.read(path, ReadOptions())
    return opened, apply(opened.graph, plan(opened.graph))


def found(path: Path) -> list[Seam]:
    opened, patch = planned(path)
    return list(seams(opened.graph, patch.steps))


# ---- where they are -------------------------------------------------------------------------------


def test_a_chain_has_one_seam_behind_each_fold(tmp_path: Path) -> None:
    path = save(net(layers(3), folded=False), tmp_path / "m.onnx")
    assert found(path) == [
        Seam("n0", (0,), (), False),
        Seam("n1", (1,), (0,), False),
        Seam("n2", (2,), (1,), False),
        Seam("y", (), (2,), True),
    ]


def test_what_a_runtime_does_not_show_is_looked_past(tmp_path: Path) -> None:
    """Up to the next value that it does, with all folds on the way; not where a body reads it."""
    opened, patch = planned(save(net(layers(3), folded=False), tmp_path / "m.onnx"))
    behind = next(opened.graph.readers("n0")).outputs[0]
    shown = {behind, "n1", "n2"}
    last = [Seam("n1", (1,), (0,), False), Seam("n2", (2,), (1,), False), Seam("y", (), (2,), True)]
    assert list(seams(opened.graph, patch.steps, shown)) == [Seam(behind, (0,), (), False), *last]
    meeting = [Seam("n2", (0, 1, 2), (), False), Seam("y", (), (0,), True)]
    assert list(seams(opened.graph, patch.steps, {"n2"})) == meeting
    assert list(seams(opened.graph, patch.steps, ())) == [Seam("y", (0, 1, 2), (), True)]
    opened.graph.pinned["n0"] = Reason.CAPTURED
    assert list(seams(opened.graph, patch.steps, shown)) == [Seam("n0", (0,), (), False), *last]


def test_folds_that_meet_share_a_seam(tmp_path: Path) -> None:
    """Pre-activation: shift up, scale down through the Relu; the stream between is held differently."""
    path = save(preactivation(3, positive=True, seed=1), tmp_path / "m.onnx")
    opened, patch = planned(path)
    made = seams(opened.graph, patch.steps)
    changed = {value for step in patch.steps for value in step.held}
    assert made and changed.isdisjoint(seam.value for seam in made)
    assert {f for seam in made for f in seam.folds} == set(range(len(patch.steps)))
    assert any(len(seam.folds) > 1 for seam in made)


@pytest.mark.parametrize("count", [1, 4])
def test_values_at_seams_are_the_same_and_others_are_not(tmp_path: Path, count: int) -> None:
    """By onnxruntime without optimisation: original and result agree at every seam, up to rounding."""
    path = save(preactivation(count, positive=True, seed=count), tmp_path / "m.onnx")
    opened, patch = planned(path)
    made = seams(opened.graph, patch.steps)
    held = [value for step in patch.steps for value in step.held]
    points = opened.probe_points([s.value for s in made], patch)
    moved = opened.probe_points(held, patch)
    result = opened.write(patch, tmp_path / "out.onnx").path
    feeds = {
        spec.name: np.random.default_rng(3)
        .standard_normal([d if isinstance(d, int) else 2 for d in spec.shape or ()])
        .astype(spec.dtype)
        for spec in load_session(path, RunSettings()).inputs
    }
    here = load_session(path, RunSettings(probe=Probe(tuple(a for a, _ in (points | moved).values()))))
    there = load_session(result, RunSettings(probe=Probe(tuple({b for _, b in (points | moved).values()}))))
    before, after = here.run(feeds), there.run(feeds)
    assert points
    for a, b in points.values():
        assert np.abs(before[a] - after[b]).max() <= 2e-5 * np.abs(before[a]).max(), a
    changed = [np.abs(before[a] - after[b]).max() / np.abs(before[a]).max() for a, b in moved.values()]
    assert max(changed) > 1e-2


# ---- a model opened up ----------------------------------------------------------------------------


def test_what_reads_a_forced_seam_reads_what_was_given(tmp_path: Path) -> None:
    path = save(net(layers(2), folded=False), tmp_path / "m.onnx")
    x = np.random.default_rng(0).standard_normal((2, 3, 9, 7)).astype(np.float32)
    plain = load_session(path, RunSettings(probe=Probe(("n0",)))).run({"x": x})
    forced = load_session(path, RunSettings(probe=Probe(("n0",), True, ("float32",))))
    assert [spec.name for spec in forced.inputs] == ["x"] and [s.name for s in forced.outputs] == ["y"]
    same = forced.run({"x": x, "n0": plain["n0"]})
    assert np.array_equal(same["y"], plain["y"]) and np.array_equal(same["n0"], plain["n0"])
    given = np.zeros_like(plain["n0"])
    other = forced.run({"x": x, "n0": given})
    assert np.array_equal(other["n0"], plain["n0"])  # what was computed for it
    one = layers(2)[1].stored("float32")
    _, bias = one.folded()
    assert np.allclose(other["y"], np.broadcast_to(bias[:, None, None], other["y"].shape), atol=1e-5)


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
def test_weights_are_shaken_by_one_unit_of_their_own_type(tmp_path: Path, dtype: str) -> None:
    """y = w·1 shows the weight itself; a Constant, an Identity of one, and what is computed from them."""
    kind = helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
    values = np.random.default_rng(0).standard_normal(50).astype(dtype)
    values[7] = 0.0
    nodes = [
        helper.make_node("Constant", [], ["c"], value=numpy_helper.from_array(values)),
        helper.make_node("Identity", ["c"], ["i"]),
        helper.make_node("Add", ["x", "i"], ["y"]),
        helper.make_node("Add", ["x", "w"], ["z"]),
    ]
    infos = [helper.make_tensor_value_info(name, kind, [50]) for name in "xyz"]
    proto = model(nodes, infos[:1], infos[1:], [numpy_helper.from_array(values, "w")])
    path = save(proto, tmp_path / "m.onnx")
    zero = {"x": np.zeros(50, dtype)}
    for probe in (Probe(shaken=("i", "w", "x"), seed=1), Probe(shakes_all=True, seed=1)):
        made = load_session(path, RunSettings(probe=probe)).run(zero)
        for name in "yz":
            step = np.abs(made[name].astype(np.float64) - values.astype(np.float64))
            assert step[7] == 0.0
            spacing = np.abs(np.spacing(values)).astype(np.float64)
            assert np.all((step == spacing) | (step == spacing / 2) | (values == 0))
            assert len(set(np.sign(made[name] - values))) == 3  # up, down, and the zero
    only = load_session(path, RunSettings(probe=Probe(shaken=("w",), seed=1))).run(zero)
    assert np.array_equal(only["y"], values) and not np.array_equal(only["z"], values)


def test_bodies_read_forced_values_too(tmp_path: Path) -> None:
    branch = [
        helper.make_graph([helper.make_node("Neg", ["n"], ["o"])], "a", [], [onnx.ValueInfoProto(name="o")]),
        helper.make_graph(
            [helper.make_node("Abs", ["n"], ["o2"])], "b", [], [onnx.ValueInfoProto(name="o2")]
        ),
    ]
    nodes = [
        helper.make_node("Relu", ["x"], ["n"]),
        helper.make_node("If", ["c"], ["y"], then_branch=branch[0], else_branch=branch[1]),
    ]
    infos = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [3]) for name in "xy"]
    truth = numpy_helper.from_array(np.array(True), "c")
    path = save(model(nodes, infos[:1], infos[1:], [truth]), tmp_path / "m.onnx")
    runner = load_session(path, RunSettings(probe=Probe(("n",), True, ("float32",))))
    given = np.array([1, -2, 3], np.float32)
    made = runner.run({"x": np.array([-1, 5, 6], np.float32), "n": given})
    assert np.array_equal(made["y"], -given) and np.array_equal(made["n"], [0, 5, 6])


def test_what_serves_nothing_that_is_wanted_is_left_out(tmp_path: Path) -> None:
    """Behind a forced seam alone: a body's capture, an initializer that is an input, another output."""
    infos = {
        n: helper.make_tensor_value_info(n, TensorProto.FLOAT, [3]) for n in ("x", "k", "y", "z", "t", "e")
    }
    body = [
        helper.make_graph([helper.make_node("Mul", ["s", "w"], [n])], n, [], [infos[n]]) for n in ("t", "e")
    ]
    nodes = [
        helper.make_node("Add", ["x", "k"], ["s"]),
        helper.make_node("If", ["yes"], ["a"], then_branch=body[0], else_branch=body[1]),
        helper.make_node("Neg", ["a"], ["b"]),
        helper.make_node("Neg", ["b"], ["y"]),
        helper.make_node("Mul", ["b", "v"], ["z"]),
    ]
    k, w, v = (np.full(3, c, np.float32) for c in (1, 2, 3))
    inits = [
        numpy_helper.from_array(a, n) for n, a in (("k", k), ("w", w), ("v", v), ("yes", np.array(True)))
    ]
    path = save(model(nodes, [infos["x"], infos["k"]], [infos["y"], infos["z"]], inits), tmp_path / "m.onnx")
    x, given = np.arange(3, dtype=np.float32), np.array([5, -7, 9], np.float32)
    for wanted, expected, ops in (
        (("b",), {"b": -2 * given}, ["If", "Neg"]),
        (("y",), {"y": -given}, ["Neg"]),
        (("z",), {"z": 3 * given}, ["Mul"]),
        (("s", "y"), {"s": x + 1, "y": -given}, ["Add", "Neg"]),
    ):
        probe = Probe(("s", "b"), True, ("float32",) * 2, wanted=wanted)
        made = load_session(path, RunSettings(probe=probe)).run({"x": x, "s": given, "b": given})
        assert made.keys() == expected.keys()
        for name, value in expected.items():
            np.testing.assert_array_equal(made[name], value)
        assert [node.op_type for node in onnx.load_from_string(probed(path, probe).model).graph.node] == ops


def test_a_large_model_is_opened_up_from_its_skeleton(tmp_path: Path) -> None:
    """Beyond the size that is parsed whole: payloads are put back, and shaken where asked."""
    rng = np.random.default_rng(0)
    weight = rng.standard_normal((2100, 2100)).astype(np.float32)
    infos = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["N", 2100]) for name in "xy"]
    nodes = [helper.make_node("MatMul", ["x", "w"], ["m"]), helper.make_node("Relu", ["m"], ["y"])]
    path = save(
        model(nodes, infos[:1], infos[1:], [numpy_helper.from_array(weight, "w")]), tmp_path / "m.onnx"
    )
    assert path.stat().st_size > 1 << 24
    x = np.eye(2, 2100, dtype=np.float32)
    made = load_session(path, RunSettings(probe=Probe(("m",)))).run({"x": x})
    assert np.array_equal(made["m"], weight[:2])
    shaken = load_session(path, RunSettings(probe=Probe(("m",), shaken=("w",)))).run({"x": x})["m"]
    assert 0 < np.abs(shaken - weight[:2]).max() <= np.spacing(np.abs(weight[:2]).max())


# ---- the proof ------------------------------------------------------------------------------------


def look(path: Path) -> SeamPair:
    opened, patch = planned(path)
    near = opened.constants_of(patch.near)
    return inside(opened, patch, near)


def compare(
    tmp_path: Path, before: list[Layer], after: list[Layer], dtype: str
) -> tuple[Status, tuple[str, ...]]:
    first = save(net(before, folded=False, dtype=dtype), tmp_path / "before.onnx")
    second = save(net(after, folded=True, dtype=dtype), tmp_path / "after.onnx")
    result = verify(first, second, request=VerifyRequest(samples=3, verify_time=600.0, inside=look(first)))
    assert result.inside is not None
    return result.status, result.inside.suspects


@pytest.mark.parametrize("dtype", ["float16", "float32"])
def test_honest_folds_are_proved_by_themselves(tmp_path: Path, dtype: str) -> None:
    for count in (1, 5):
        made = layers(count, seed=count)
        first = save(net(made, folded=False, dtype=dtype), tmp_path / "before.onnx")
        second = save(net(made, folded=True, dtype=dtype), tmp_path / "after.onnx")
        result = verify(
            first, second, request=VerifyRequest(samples=3, verify_time=600.0, inside=look(first))
        )
        assert result.status is Status.EQUAL, result.detail
        assert result.inside is not None
        assert (result.inside.folds, result.inside.proved, result.inside.failing) == (count, count, ())
        assert 0.0 < result.inside.share <= 1.0
        assert f"and {count + 1} values inside" in result.evidence


@pytest.mark.parametrize("at", [0, 2, 4])
@pytest.mark.parametrize(
    "name", ["one channel's shift off by 0.01", "one channel's bias lost", "swapped axis"]
)
def test_half_precision_hides_no_defect_and_the_fold_is_named(tmp_path: Path, name: str, at: int) -> None:
    """The outputs of five layers in float16 would not show a shift that is off by 0.01."""
    made = layers(5, seed=2)
    made[at].bias[1] = 0.5
    status, suspects = compare(tmp_path, made, spoiled(made, at, DEFECTS[name], 1), "float16")
    assert status is Status.DIFFERENT
    assert suspects == (f"n{at}",)


def narrow_inside(head: str) -> onnx.ModelProto:
    """float16 inside; float32, or integers by Round and Cast, at both ends."""
    one = layer(np.random.default_rng(5), 8, 3, 3, 3)
    half = {n: getattr(one, n).astype(np.float16) for n in ("weight", "bias", "gamma", "beta", "mean", "var")}
    nodes = [
        helper.make_node("Cast", ["x"], ["h"], to=TensorProto.FLOAT16),
        helper.make_node("Conv", ["h", "weight", "bias"], ["c"]),
        helper.make_node("BatchNormalization", ["c", "gamma", "beta", "mean", "var"], ["b"]),
        helper.make_node("Cast", ["b"], ["f"], to=TensorProto.FLOAT),
    ]
    if head == "softmax":
        nodes += [
            helper.make_node("Mul", ["f", "k"], ["g"]),
            helper.make_node("Softmax", ["g"], ["y"], axis=1),
        ]
    elif head == "integers":
        nodes += [
            helper.make_node("Mul", ["f", "k"], ["g"]),
            helper.make_node("Round", ["g"], ["r"]),
            helper.make_node("Cast", ["r"], ["y"], to=TensorProto.INT32),
        ]
    elif head == "quantised":
        nodes += [
            helper.make_node("DynamicQuantizeLinear", ["f"], ["q", "s", "z"]),
            helper.make_node("DequantizeLinear", ["q", "s", "z"], ["y"]),
        ]
    else:
        nodes += [helper.make_node("Identity", ["f"], ["y"])]
    inits = [numpy_helper.from_array(v, k) for k, v in half.items()]
    inits.append(numpy_helper.from_array(np.array(300, np.float32), "k"))
    out = TensorProto.INT32 if head == "integers" else TensorProto.FLOAT
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 3, 8, 9])
    return model(nodes, [x], [helper.make_tensor_value_info("y", out, None)], inits)


@pytest.mark.parametrize("head", ["plain", "softmax", "integers", "quantised"])
def test_narrow_types_inside_are_judged_by_their_own_rounding(tmp_path: Path, head: str) -> None:
    path = save(narrow_inside(head), tmp_path / "m.onnx")
    report = optimize(path, bench=False)
    found_ = report.verification
    assert found_.status is Status.EQUAL
    assert found_.inside is not None and 1 <= found_.inside.folds == found_.inside.proved


def test_folds_in_bodies_are_left_to_the_outputs_and_that_is_told(tmp_path: Path) -> None:
    one = layer(np.random.default_rng(1), 4, 3, 3, 3)
    arrays = {
        n: getattr(one, n).astype(np.float32) for n in ("weight", "bias", "gamma", "beta", "mean", "var")
    }

    def body(name: str, out: str) -> onnx.GraphProto:
        nodes = [
            helper.make_node("Conv", ["x", "weight", "bias"], [name + "c"]),
            helper.make_node(
                "BatchNormalization", [name + "c", "gamma", "beta", "mean", "var"], [name + "b"]
            ),
            helper.make_node("Relu", [name + "b"], [out]),
        ]
        info = helper.make_tensor_value_info(out, TensorProto.FLOAT, None)
        return helper.make_graph(nodes, name, [], [info])

    node = helper.make_node("If", ["t"], ["y"], then_branch=body("p", "po"), else_branch=body("q", "qo"))
    inits = [numpy_helper.from_array(v, k) for k, v in arrays.items()]
    inits.append(numpy_helper.from_array(np.array(True), "t"))
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, [2, 3, 8, 9])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, None)
    path = save(model([node], [x], [y], inits), tmp_path / "m.onnx")
    found_ = optimize(path, bench=False).verification
    assert found_.status is Status.EQUAL and found_.inside is not None
    assert (found_.inside.folds, found_.inside.proved) == (2, 0)
    assert "end inside a body," in found_.inside.detail


def test_a_model_that_cannot_be_opened_up_is_judged_by_its_outputs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuses(models: Models, probe: Probe, *, original: bool) -> None:
        raise BnfuseError("no way in")

    monkeypatch.setattr(Models, "opened", refuses)
    found_ = optimize(save(net(layers(2), folded=False), tmp_path / "m.onnx"), bench=False).verification
    assert found_.status is Status.EQUAL and found_.inside is not None
    assert (found_.inside.proved, found_.inside.seams) == (0, 0)
    assert "no way in" in found_.inside.detail


def test_outputs_are_looked_at_where_all_before_them_is_forced(tmp_path: Path) -> None:
    """Where it is not, what many folds round adds up in them: no stretch of a few operations."""
    made = layers(6)
    first = save(net(made, folded=False), tmp_path / "before.onnx")
    second = save(net(made, folded=True), tmp_path / "after.onnx")
    models = Models(first, second, look(first), RunSettings(), load, 2.0**-24)
    feeds = [{"x": np.random.default_rng(2).standard_normal((1, 3, 9, 7)).astype(np.float32)}]
    last = len(models.inside.points) - 1
    assert models.inside.exits == (frozenset(), frozenset((last,)))
    for points, keys in (([0, 1], [0, 1]), ([last], [last, "y"]), ([], [])):
        assert set(Stretches(models, points, feeds).compare()) == set(keys)


def test_time_is_up_only_where_something_is_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One group of seams is compared whatever it takes; of several, those behind the deadline are left."""
    made = layers(3)
    first = save(net(made, folded=False), tmp_path / "before.onnx")
    second = save(net(made, folded=True), tmp_path / "after.onnx")
    models = Models(first, second, look(first), RunSettings(), load, 2.0**-24)
    feeds = [{"x": np.random.default_rng(2).standard_normal((1, 3, 9, 7)).astype(np.float32)}]
    for most, problem, proved in ((8, "", 3), (0, "the time was up", 1)):
        monkeypatch.setattr("bnfuse.proof.seams._FIRST", most or 1)
        monkeypatch.setattr("bnfuse.proof.seams.MOST_BYTES", 1 << 28 if most else 1)
        proof = SeamProof(models, deadline=0.0)
        proof.run(feeds)
        assert (proof.problem, proof.agreement().proved) == (problem, proved)


def test_groups_of_seams_find_what_one_pass_finds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bnfuse.proof.seams.MOST_BYTES", 1 << 16)
    made = layers(12, seed=4)
    assert compare(tmp_path, made, made, "float32") == (Status.EQUAL, ())
    wrong = spoiled(made, 10, DEFECTS["one channel's shift lost"], 3)
    assert compare(tmp_path, made, wrong, "float32") == (Status.DIFFERENT, ("n10",))


@pytest.mark.slow
def test_the_fixture_is_proved_fold_by_fold(tmp_path: Path) -> None:
    path = tmp_path / FIXTURE.name
    path.write_bytes(FIXTURE.read_bytes())
    found_ = optimize(path, bench=False).verification
    assert found_.inside is not None
    assert (found_.inside.folds, found_.inside.proved) == (8, 8)


def test_a_corrupted_write_is_named_by_the_seam(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from tests.verify_nets import convnet, named, spoil_writes

    path = save(named(net(convnet(3, 6), folded=False)), tmp_path / "m.onnx")
    spoil_writes(monkeypatch, {"bn4": "linear4"})
    with pytest.raises(Unproved, match=r"that of 'bn4' \(up, into linear4\) is the fold") as caught:
        optimize(path, verify=VerifyRequest(samples=2), bench=False)
    culprit = caught.value.report.verification.culprit
    assert culprit is not None and culprit.node == "bn4"
