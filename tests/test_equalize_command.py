"""``--equalize`` from the command line: what it computes, changes, tells and leaves alone."""

from __future__ import annotations

import json
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from benchmarks.quantising import redrawn
from bnfuse import optimize
from bnfuse.core.decisions import Plan
from bnfuse.core.planning.plan import plan
from bnfuse.core.quantising.freedoms import freedoms, scale_places
from bnfuse.core.quantising.sensitivities import noise_layers
from bnfuse.core.rules.linear_rule import Linear
from bnfuse.formats import detect
from bnfuse.formats.base import ReadOptions
from bnfuse.report import proved
from bnfuse.results import Agreement, SeamAgreement, Status
from bnfuse.use_cases.bisection import prefix
from fixtures.accuracy import HERE, correct
from tests.command import Optimized, call, optimized
from tests.keras_handmade import dense, make_archive
from tests.onnx_graphs import Net, session
from tests.report_schema import assert_fits


def _separable(*, relu6: bool = False, dtype: str = "float32", norm: bool = True) -> onnx.ModelProto:
    """Depthwise and 1×1 convolutions with a residual sum and a Concat; statistics of very different sizes."""
    net = Net(3, dtype)

    def act(x: str, n: int) -> str:
        x = net.bn(x, n, positive=True) if norm else x
        return net.op("Clip", x, net.const(0.0), net.const(6.0)) if relu6 else net.op("Relu", x)

    x = act(net.conv("x", 3, 8, 3, 3, pads=[1] * 4), 8)
    x = act(net.conv(x, 8, 8, 3, 3, group=8, pads=[1] * 4, name="depthwise"), 8)
    x = net.conv(x, 8, 6, 1, 1, name="narrow")
    stream = net.bn(x, 6) if norm else x
    inner = act(net.conv(stream, 6, 12, 1, 1, name="wide"), 12)
    stream = net.op("Add", stream, net.conv(inner, 12, 6, 1, 1, name="back"))
    both = net.op("Concat", act(net.conv(stream, 6, 4, 1, 1, name="left"), 4), stream, axis=1)
    y = net.op("Flatten", net.op("GlobalAveragePool", net.conv(both, 10, 5, 1, 1, name="last")))
    y = net.op("Gemm", y, net.weight(5, 4, fan_in=5), net.vector(4), name="head")
    return net.build({"x": ("N", 3, 9, 7)}, y)


def _weights(path: Path) -> dict[str, np.ndarray]:
    """Of the convolutions and the Gemm, by node."""
    graph = onnx.load(path).graph
    arrays = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
    return {node.name: arrays[node.input[1]] for node in graph.node if node.op_type in ("Conv", "Gemm")}


def _in_8_bits(path: Path, target: Path) -> Path:
    """The same with all weights rounded to 8 bits, one step per tensor."""
    model = onnx.load(path)
    names = {node.input[1] for node in model.graph.node if node.op_type in ("Conv", "Gemm")}
    for tensor in model.graph.initializer:
        if tensor.name in names:
            array = numpy_helper.to_array(tensor).astype(np.float64)
            step = np.abs(array).max() / 127.0
            rounded = (np.rint(array / step) * step).astype(np.float32)
            tensor.CopyFrom(numpy_helper.from_array(rounded, tensor.name))
    onnx.save(model, target)
    return target


def _answers(path: Path) -> np.ndarray:
    x = np.random.default_rng(1).standard_normal((16, 3, 9, 7)).astype(np.float32)
    return np.asarray(session(path).run(None, {"x": x})[0], np.float64)


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Optimized]:
    """Folded, and equalised as well."""
    made = {}
    for name, options in (("folded", ()), ("equalised", ("--equalize",))):
        folder = tmp_path_factory.mktemp(name)
        html = folder / "report.html"
        made[name] = optimized(_separable(), folder, *options, "--report", str(html))
    return made


def test_the_outputs_are_proved_and_are_equal(done: dict[str, Optimized]) -> None:
    found = done["equalised"]
    before, after = _answers(found.before), _answers(found.after)
    assert np.abs(after - before).max() <= 1e-5 * np.ptp(before)
    assert found.operators == done["folded"].operators
    assert found.report["batchnorms"]["kept"] == 0


def test_rescalings_are_told_apart_from_folds(done: dict[str, Optimized]) -> None:
    """More is proved than nodes go, and the sentence says what else."""
    report = done["equalised"].report
    inside, folds = report["verification"]["inside"], report["batchnorms"]["folded"]
    values = len(report["equalized"]["values"])
    assert folds and values
    assert (inside["folds"], inside["parts"], inside["rescalings"]) == (folds + values, 0, values)
    page = (done["equalised"].after.parent / "report.html").read_text(encoding="utf-8")
    told = f"{inside['proved']} of {inside['folds']} proved by themselves ({folds} folds, {values} rescaling"
    assert told in page
    plain = done["folded"].report["verification"]["inside"]
    assert (plain["folds"], plain["rescalings"]) == (folds, 0)


@pytest.mark.parametrize(
    ("parts", "rescalings", "kinds"),
    [
        (0, 0, ""),
        (0, 5, " (8 folds, 5 rescalings)"),
        (1, 11, " (1 fold, 1 fold in part, 11 rescalings)"),
        (2, 11, " (2 folds in part, 11 rescalings)"),
        (0, 13, " (13 rescalings)"),
    ],
)
def test_what_was_proved_in_words(parts: int, rescalings: int, kinds: str) -> None:
    inside = SeamAgreement(13, 12, 9, "output 'y'", 0.5, parts=parts, rescalings=rescalings)
    (told,) = proved.between_folds(Agreement(Status.EQUAL, inside=inside))
    assert told == (
        f"12 of 13 proved by themselves{kinds}, at 9 values inside "
        "(closest to its limit: output 'y', at 50 % of it)"
    )


def test_rounding_to_8_bits_costs_less(done: dict[str, Optimized], tmp_path: Path) -> None:
    """A model whose channels lie four decades apart, for no reason, is all noise in 8 bits."""
    wild, tamed, losses = redrawn(done["folded"].after, tmp_path / "wild.onnx", 0, decades=4.0), "tamed", []
    optimize(wild, tmp_path / tamed, equalize=True, bench=False)
    for path in (wild, tmp_path / tamed):
        wanted, got = _answers(done["folded"].before), _answers(_in_8_bits(path, tmp_path / "small.onnx"))
        losses.append(np.square(got - wanted).sum() / np.square(wanted).sum())
    assert losses[0] > 0.1 and losses[1] < 2e-3


def test_the_report_tells_values_and_ranges(done: dict[str, Optimized]) -> None:
    report = done["equalised"].report
    assert_fits(report)
    equalized = report["equalized"]
    folded, final = (_weights(each.after) for each in done.values())
    assert {one["node"] for one in equalized["spreads"]} == set(final)
    for one in equalized["spreads"]:
        for key, weights in (("before", folded), ("after", final)):
            weight = np.abs(weights[one["node"]]).astype(np.float64)
            ranges = weight.max(axis=0) if one["node"] == "head" else weight.reshape(len(weight), -1).max(1)
            assert one[key] == pytest.approx(ranges.max() / np.median(ranges), rel=1e-5), one["node"]
    streams = {tuple(sorted(one["into"])) for one in equalized["values"]}
    assert ("back", "last", "left", "narrow", "wide") in streams, "one scale for the whole stream"
    (note,) = [note for note in report["notes"] if "rescaled" in note]
    assert f"{equalized['gain_db']:.1f} dB less noise" in note
    assert done["folded"].report["equalized"] is None
    page = (done["equalised"].after.parent / "report.html").read_text(encoding="utf-8")
    assert "Channel ranges, equalised" in page


def test_a_second_run_finds_nothing(done: dict[str, Optimized], tmp_path: Path) -> None:
    """With nothing left to fold, what the first run wrote is looked at with other eyes: twice is enough."""
    once, twice = tmp_path / "once.onnx", tmp_path / "twice.onnx"
    optimize(done["folded"].after, once, equalize=True, bench=False, verify=False)
    report = optimize(once, twice, equalize=True, bench=False)
    assert once.read_bytes() == twice.read_bytes()
    assert report.plan.equalized is None
    assert any("nothing to equalise" in note for note in report.notes)
    wanted = _answers(done["folded"].before)
    assert np.abs(_answers(once) - wanted).max() <= 1e-5 * np.ptp(wanted)


def test_inspect_says_what_would_be_gained(done: dict[str, Optimized]) -> None:
    shown = call("inspect", done["equalised"].before, "--equalize", "--json")
    assert shown.exit_code == 0
    report = json.loads(shown.stdout)
    assert report["equalized"] == done["equalised"].report["equalized"]
    assert any("can be rescaled" in note for note in report["notes"])
    text = call("inspect", done["equalised"].before, "--equalize").stdout
    assert "spread folded" in text and "dB less noise" in text


@pytest.mark.parametrize("moves", [False, True])
def test_relu6_lets_a_scale_through_where_its_bounds_may_move(moves: bool, tmp_path: Path) -> None:
    """Never is it taken for a ReLU: the values reach 6."""
    options = ("--activations", "move") if moves else ()
    found = optimized(_separable(relu6=True), tmp_path, "--equalize", *options)
    before, after = _answers(found.before), _answers(found.after)
    assert np.abs(after - before).max() <= 2e-5 * np.ptp(before)
    nodes = {one["node"] for one in found.report["equalized"]["values"]}
    assert ("depthwise" in nodes) is moves
    assert found.operators.get("Min", 0) == (4 if moves else 0)


def test_float16_is_rescaled_within_what_it_can_hold(tmp_path: Path) -> None:
    found = optimized(_separable(dtype="float16"), tmp_path, "--equalize")
    assert found.report["verification"]["status"] == "equal"
    for value in found.report["equalized"]["values"]:
        assert 1 / 16 <= value["least"] <= value["most"] <= 16
    assert {weight.dtype.name for weight in _weights(found.after).values()} == {"float16"}


def test_a_folded_file_tells_of_its_values_what_the_statistics_told(tmp_path: Path) -> None:
    """A trained network: how large channels are beside the others of a layer, typically within 4 dB."""
    model, folded = HERE / "digits_separable.onnx", tmp_path / "folded.onnx"
    optimize(model, folded, verify=False, bench=False)
    told = []
    for path in (model, folded):
        with closing(detect(path).read(path, ReadOptions())) as opened:
            graph = opened.graph
            state = plan(graph).state
            rules = {node: rule for node in graph.nodes if isinstance(rule := graph.rule(node), Linear)}
            layers, _ = noise_layers(state, rules, scale_places(freedoms(state)))
            told.append({layer.node.name: 10 * np.log10(layer.squares) for layer in layers})
    assert told[0].keys() == told[1].keys() and len(told[0]) == 10
    apart = [float(np.std(told[0][name] - told[1][name])) for name in told[0]]
    assert np.median(apart) < 6.0  # 20 where means are believed as they come


def test_steps_of_a_plan_end_with_what_is_rescaled(done: dict[str, Optimized]) -> None:
    """Bisection takes any number of them."""
    report = optimize(
        done["folded"].before, done["folded"].after, equalize=True, bench=False, verify=False, force=True
    )
    plan = report.plan
    steps = len(plan.order) + len(plan.narrowed)
    assert prefix(plan, steps).equalized is None
    assert [one.node for one in prefix(plan, steps + 2).rescaled] == [one.node for one in plan.rescaled[:2]]
    assert prefix(plan, steps + len(plan.rescaled)) == plan
    assert isinstance(prefix(plan, 0), Plan) and not prefix(plan, 0).order


def test_digits_stay_right(tmp_path: Path) -> None:
    result = tmp_path / "separable.onnx"
    optimize(HERE / "digits_separable.onnx", result, equalize=True, bench=False)
    assert correct(result) == correct(HERE / "digits_separable.onnx")


def test_a_keras_archive_is_equalised(tmp_path: Path) -> None:
    """Dense → relu → Dense, by hand and without Keras: the same function of other weights."""
    rng = np.random.default_rng(4)
    sizes = np.exp(rng.normal(0, 2.0, 6)).astype(np.float32)
    first = rng.standard_normal((5, 6)).astype(np.float32) * sizes
    second = (rng.standard_normal((6, 3)) / sizes[:, None] * np.exp(rng.normal(0, 1.0, (6, 1)))).astype("f4")
    biases = rng.standard_normal(6).astype(np.float32) * sizes, rng.standard_normal(3).astype(np.float32)
    layers: list[dict[str, Any]] = [
        {"class_name": "InputLayer", "config": {"name": "x", "batch_shape": [None, 5], "dtype": "float32"}},
        dense("a", units=6, activation="relu", use_bias=True),
        dense("b", units=3, activation="linear", use_bias=True),
    ]
    arrays = {
        "layers/dense/vars/0": first,
        "layers/dense/vars/1": biases[0],
        "layers/dense_1/vars/0": second,
        "layers/dense_1/vars/1": biases[1],
    }
    path, result = make_archive(tmp_path / "m.keras", layers, arrays), tmp_path / "r.keras"
    report = optimize(path, result, equalize=True, bench=False, verify=False)
    assert report.plan.equalized is not None and report.plan.equalized.gain_db > 0.5
    found = _stored(result)
    x = rng.standard_normal((50, 5))

    def answer(w: dict[str, np.ndarray]) -> np.ndarray:
        one = np.maximum(x @ w["layers/dense/vars/0"].astype("f8") + w["layers/dense/vars/1"], 0.0)
        return one @ w["layers/dense_1/vars/0"].astype("f8") + w["layers/dense_1/vars/1"]

    assert not np.allclose(found["layers/dense/vars/0"], first, rtol=0.05)
    assert np.abs(answer(found) - answer(arrays)).max() <= 1e-6 * np.ptp(answer(arrays))


def _stored(path: Path) -> dict[str, np.ndarray]:
    """All arrays of a ``.keras`` archive."""
    import io
    import zipfile

    import h5py

    found: dict[str, np.ndarray] = {}
    with h5py.File(io.BytesIO(zipfile.ZipFile(path).read("model.weights.h5"))) as h5:
        h5.visititems(
            lambda name, item: found.update({name: item[()]}) if isinstance(item, h5py.Dataset) else None
        )
    return found
