"""Weights behind a Quant: which factors they take, by the published definition of Quant in numpy."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from bnfuse.core.decisions import Fold
from bnfuse.core.reasons import Reason
from bnfuse.formats.base import ReadOptions
from tests.command import call
from tests.onnx_graphs import Folded, fold_model, why
from tests.qonnx_cases import BREVITAS, CASES, IDS, QONNX, UNREAD, C, Case, build, gamma_of
from tests.qonnx_route import integers, run

REAL = Path(__file__).resolve().parents[2] / "shared" / "models" / "onnx"  # beside the project


def _compared(before: onnx.ModelProto, after: onnx.ModelProto, x: np.ndarray) -> float:
    """The error of y over its range."""
    old, new = run(before, x)["y"], run(after, x)["y"]
    assert np.isfinite(old).all() and np.ptp(old) > 0.1
    return float(np.abs(old - new).max() / np.abs(old).max())


@pytest.mark.parametrize("case", CASES, ids=IDS)
def test_a_weight_behind_a_quant(case: Case, tmp_path: Path) -> None:
    model = build(case)
    folded = fold_model(model, tmp_path)
    (decision,) = folded.plan.decisions
    if case.reason is not None:
        assert case.reason in why(decision)
        return
    assert isinstance(decision, Fold), decision.message
    made = folded.proto
    assert [n.op_type for n in made.graph.node] == [case.kind, "Gemm" if case.op == "MatMul" else case.op]
    quant = next(n for n in made.graph.node if n.op_type == case.kind)
    assert quant.domain == case.domain
    stored = {t.name: numpy_helper.to_array(t) for t in made.graph.initializer}
    assert (stored[quant.input[1]] > np.finfo(case.floats).tiny).all()
    assert set(stored) == {name for n in made.graph.node for name in n.input} - {"x", "wq_folded"}
    size = [d.dim_value for d in model.graph.input[0].type.tensor_type.shape.dim]
    x = np.random.default_rng(1).standard_normal(size)
    assert _compared(model, made, x) <= 4 * np.finfo(case.floats).eps
    _assert_the_same_integers(model, made, case)


def _assert_the_same_integers(before: onnx.ModelProto, after: onnx.ModelProto, case: Case) -> None:
    """As they were, mirrored where the factor is negative, the zero point where it is (as good as) zero."""
    found = []
    for model in (before, after):
        stored = {t.name: numpy_helper.to_array(t) for t in model.graph.initializer}
        quant = next(n for n in model.graph.node if n.op_type == case.kind)
        flags = {a.name: helper.get_attribute_value(a) for a in quant.attribute}
        x, scale, zero, bits = (stored[name] for name in quant.input)
        found.append(integers(x, scale, zero, float(bits), flags) - zero)
    signs = np.sign(gamma_of(case.gamma, np.random.default_rng(0)))
    if case.gamma == "gone":
        signs[1] = 0.0
    axis = int(case.behind) if case.op == "MatMul" else 1 - int(case.behind)
    signs = signs.reshape([C if k == axis else 1 for k in range(found[0].ndim)])
    np.testing.assert_array_equal(found[1], found[0] * signs)


def test_one_that_others_read_is_copied(tmp_path: Path) -> None:
    """Two convolutions share what a Quant makes; only one has a BatchNormalization behind it."""
    model = build(CASES[IDS.index("signs")])
    model.graph.node.append(helper.make_node("Conv", ["x", "wq"], ["z"], name="other"))
    model.graph.output.append(helper.make_tensor_value_info("z", TensorProto.FLOAT, [2, C, 4, 3]))
    folded = fold_model(model, tmp_path)
    assert folded.operators(folded.after).count("Quant") == 2
    x = np.random.default_rng(1).standard_normal((2, C, 6, 5))
    assert _compared(model, folded.proto, x) <= 1e-6
    np.testing.assert_array_equal(run(model, x)["z"], run(folded.proto, x)["z"])


def test_a_bias_behind_a_quant_becomes_a_float_bias(tmp_path: Path) -> None:
    """A shift is no whole step of it."""
    model = build(CASES[IDS.index("signs")])
    names = ["bias", "bias_scale", "zero", "bits"]
    model.graph.initializer.append(numpy_helper.from_array(np.array(0.25, np.float32), "bias_scale"))
    model.graph.node.insert(0, helper.make_node("Quant", names, ["bq"], domain=QONNX, narrow=0))
    next(n for n in model.graph.node if n.name == "op").input[2] = "bq"
    folded = fold_model(model, tmp_path)
    assert folded.operators(folded.after) == ["Quant", "Conv"]
    x = np.random.default_rng(1).standard_normal((2, C, 6, 5))
    assert _compared(model, folded.proto, x) <= 1e-6


def test_what_is_not_finite_is_no_weight(tmp_path: Path) -> None:
    model = build(CASES[0])
    broken = numpy_helper.to_array(model.graph.initializer[0]).copy()
    broken[1, 1, 1, 1] = np.nan
    model.graph.initializer[0].CopyFrom(numpy_helper.from_array(broken, "w"))
    folded = fold_model(model, tmp_path)
    assert why(folded.plan.decisions[0]) >= {UNREAD}


@pytest.mark.parametrize("spoiled", [{"signed": 1.0}, {"narrow": "1"}, {"rounding_mode": 1}, {"more": 1}])
def test_attributes_that_are_not_known_are_not_believed(spoiled: dict[str, Any], tmp_path: Path) -> None:
    model = build(CASES[0])
    quant = model.graph.node[0]
    kept = [a for a in quant.attribute if a.name not in spoiled]
    del quant.attribute[:]
    quant.attribute.extend([*kept, *(helper.make_attribute(k, v) for k, v in spoiled.items())])
    folded = fold_model(model, tmp_path)
    assert why(folded.plan.decisions[0]) >= {UNREAD}


def test_a_bit_width_of_text_is_none(tmp_path: Path) -> None:
    model = build(CASES[0])
    at = next(k for k, t in enumerate(model.graph.initializer) if t.name == "bits")
    model.graph.initializer[at].CopyFrom(numpy_helper.from_array(np.array([b"4"], object), "bits"))
    folded = fold_model(model, tmp_path)
    assert why(folded.plan.decisions[0]) >= {UNREAD}


def test_a_function_of_the_model_counts(tmp_path: Path) -> None:
    """A Quant that the model itself defines, as a doubling."""
    model = build(CASES[0])
    body = [helper.make_node("Add", ["a", "a"], ["y"])]
    names = ["a", "b", "c", "d"]
    imports = [helper.make_opsetid("", 13)]
    flags = ["signed", "narrow", "rounding_mode"]
    function = helper.make_function(QONNX, "Quant", names, ["y"], body, imports, flags)
    model.functions.append(function)
    folded = fold_model(model, tmp_path)
    assert folded.plan.counts(batchnorm=True)[1] == 1
    written = {t.name: numpy_helper.to_array(t) for t in folded.proto.graph.initializer}
    gamma, var = (np.asarray(numpy_helper.to_array(t), np.float64) for t in model.graph.initializer
                  if t.name in ("gamma", "var"))  # fmt: skip
    w = numpy_helper.to_array(model.graph.initializer[0])
    a = (gamma / np.sqrt(var + 1e-3)).reshape(-1, 1, 1, 1)
    assert any(v.shape == w.shape and np.allclose(v, 2 * w * a, rtol=1e-6) for v in written.values())


def _unrun(path: Path, folder: Path) -> tuple[onnx.ModelProto, onnx.ModelProto]:
    """Folded by the command, which cannot prove it."""
    target = folder / "out.onnx"
    refused = call("optimize", path, "-o", target, "--no-bench")
    assert refused.exit_code == 4 and "it has no operator Quant" in refused.stderr
    assert not target.exists()
    ran = call("optimize", path, "-o", target, "--no-bench", "--no-verify")
    assert ran.exit_code == 0, ran.output
    return onnx.load(path), onnx.load(target)


def test_a_published_network(tmp_path: Path) -> None:
    """ESPCN of the qonnx repository: 3 of 3 fold; behind the first convolution nothing is rounded yet."""
    path = REAL / "qonnx_espcn_quant_nodes.onnx"
    if not path.exists():
        pytest.skip(f"{path} is not here")
    before, after = _unrun(path, tmp_path)
    assert [n.op_type for n in after.graph.node].count("BatchNormalization") == 0
    x = np.random.default_rng(2).uniform(0, 1, (1, 3, 9, 8)).astype(np.float32)
    old, new = run(before, x), run(after, x)
    first = next(n for n in before.graph.node if n.op_type == "BatchNormalization").output[0]
    np.testing.assert_allclose(new[first], old[first], rtol=0, atol=1e-6 * np.abs(old[first]).max())
    ends = old[before.graph.output[0].name], new[after.graph.output[0].name]
    step = 1 / 255  # of the last Quant: a value that lies on the edge may fall to either side
    assert np.ptp(ends[0]) > 20 * step
    assert np.mean(np.abs(ends[0] - ends[1]) > step / 2) < 0.01


def test_no_batchnorm_is_left_between_quantisers(tmp_path: Path) -> None:
    """A Quant of a value of run time: onnx knows no shapes behind it, and a vector lies along channels."""
    model = build(CASES[0])
    quant = helper.make_node("Quant", ["x", "zero_scale", "zero", "bits"], ["xq"], domain=QONNX)
    model.graph.initializer.append(numpy_helper.from_array(np.array(0.3, np.float32), "zero_scale"))
    del model.graph.node[:2]
    model.graph.node.insert(0, quant)
    model.graph.node[1].input[0] = "xq"
    folded: Folded = fold_model(model, tmp_path, ReadOptions(target="no-bn"))
    assert folded.operators(folded.after) == ["Quant", "Mul", "Add"]


_BIPOLAR = ["per channel", "signs", "zeros", "as good as gone", "padded", "per tensor becomes per channel",
            "grouped", "MatMul", "before: along the inputs"]  # fmt: skip


def _bipolar(case: Case) -> onnx.ModelProto:
    """The same network with a BipolarQuant; some floats are 0, which stands for +1, in every channel."""
    model = build(case)
    quant = next(n for n in model.graph.node if n.op_type == "Quant")
    made = helper.make_node("BipolarQuant", quant.input[:2], quant.output, name="quant", domain=case.domain)
    quant.CopyFrom(made)
    names = {name for node in model.graph.node for name in node.input}
    kept = [t for t in model.graph.initializer if t.name in names]
    w = numpy_helper.to_array(kept[0]).copy()
    w.reshape(w.shape[0], -1)[:, 1] = 0.0
    w.reshape(w.shape[0], -1)[:, 2] = -0.0
    kept[0].CopyFrom(numpy_helper.from_array(w, "w"))
    del model.graph.initializer[:]
    model.graph.initializer.extend(kept)
    return model


@pytest.mark.parametrize("domain", [QONNX, BREVITAS])
@pytest.mark.parametrize("name", _BIPOLAR)
def test_a_weight_of_two_values(name: str, domain: str, tmp_path: Path) -> None:
    """The scales take no sign; where the factor is zero, so are they. A float of zero is mirrored to −1."""
    model = _bipolar(replace(CASES[IDS.index(name)], domain=domain))
    folded = fold_model(model, tmp_path)
    assert isinstance(folded.plan.decisions[0], Fold), folded.plan.decisions[0].message
    made = folded.proto
    quant = made.graph.node[0]
    assert quant.op_type == "BipolarQuant" and len(made.graph.node) == 2
    scale = next(numpy_helper.to_array(t) for t in made.graph.initializer if t.name == quant.input[1])
    gone = {"zeros", "as good as gone"}
    assert (scale >= 0.0).all() and (name in gone) == bool((scale == 0.0).any())
    size = [d.dim_value for d in model.graph.input[0].type.tensor_type.shape.dim]
    x = np.random.default_rng(1).standard_normal(size)
    assert _compared(model, made, x) <= 4 * np.finfo(np.float32).eps


@pytest.mark.parametrize("spoiled", ["negative", "infinite", "attribute", "along the inputs"])
def test_what_is_no_weight_of_two_values(spoiled: str, tmp_path: Path) -> None:
    model = _bipolar(CASES[IDS.index("along the inputs" if spoiled == "along the inputs" else "per channel")])
    scale = next(t for t in model.graph.initializer if t.name == "scale")
    values = numpy_helper.to_array(scale).copy()
    values.flat[1] = {"negative": -1.0, "infinite": np.inf}.get(spoiled, values.flat[1])
    scale.CopyFrom(numpy_helper.from_array(values, "scale"))
    if spoiled == "attribute":
        model.graph.node[0].attribute.append(helper.make_attribute("signed", 1))
    wanted = Reason.QUANTISED_WEIGHT if spoiled == "along the inputs" else UNREAD
    assert why(fold_model(model, tmp_path).plan.decisions[0]) >= {wanted}
