"""Real models by other people: how many BatchNormalizations go, and that the result computes the same.

The models are no part of the project: the tests run where they lie beside it and skip elsewhere.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from bnfuse.core.apply import apply
from bnfuse.core.decisions import Keep
from bnfuse.core.planning.plan import plan
from bnfuse.core.reasons import Reason
from bnfuse.formats.base import ReadOptions
from bnfuse.formats.onnx import FORMAT
from bnfuse.use_cases.verify import VerifyRequest, verify
from tests.onnx_graphs import session

MODELS = Path(__file__).resolve().parents[2] / "shared" / "models" / "onnx"

pytestmark = pytest.mark.skipif(not MODELS.is_dir(), reason=f"no real models at {MODELS}")

# name, found, folded (at least)
COUNTS = (
    ("light_densenet121", 121, 121),
    ("light_resnet50", 53, 53),
    ("light_shufflenet", 49, 49),
    ("magika_fast_runtime_bn", 1, 0),
    ("marabou_linear_bn_linear", 1, 1),
    ("mesonet", 4, 1),
    ("polygraphy_residual_block", 5, 5),
    ("qonnx_espcn_quant_nodes", 3, 3),
    ("rapidocr_ppocr_v1_det", 49, 49),
    ("stm32_mobilenet_v2_128", 7, 7),
    ("ultraface_rfb_320", 35, 35),
    ("ultraface_slim_320_raw", 25, 25),
)
# Its operators are not onnxruntime's; test_qonnx_weights runs it in numpy.
UNRUNNABLE = {"qonnx_espcn_quant_nodes"}


@pytest.mark.slow
@pytest.mark.parametrize(("name", "found", "folded"), COUNTS)
def test_folds_and_computes_the_same(name: str, found: int, folded: int, tmp_path: Path) -> None:
    """Counts are floors; equality is onnxruntime's with graph optimisation off."""
    source = MODELS / f"{name}.onnx"
    model = FORMAT.read(source, ReadOptions())
    planned = plan(model.graph)
    decided = planned.plan
    counts = decided.counts(batchnorm=True)
    assert counts[0] == found
    assert counts[1] >= folded
    result = tmp_path / source.name
    patch = apply(model.graph, planned)
    model.write(patch, result)
    assert sum(model.operators_after(patch).values()) <= sum(model.operators().values())
    if name in UNRUNNABLE:
        return
    agreement = verify(source, result, request=VerifyRequest(samples=2, verify_time=4.0))
    assert agreement.status.value == "equal", agreement
    assert all(o.max_rel <= 1e-4 for o in agreement.outputs)


@pytest.mark.parametrize(
    ("name", "reasons"),
    [("magika_fast_runtime_bn", {Reason.PARAMETER_NOT_CONSTANT})],
)
def test_kept_with_the_right_reason(name: str, reasons: set[Reason]) -> None:
    """What stays says why."""
    model = FORMAT.read(MODELS / f"{name}.onnx", ReadOptions())
    kept = [d for d in plan(model.graph).plan.decisions if isinstance(d, Keep) and d.is_batchnorm]
    assert kept
    assert {d.primary.reason for d in kept} == reasons


def test_the_comparison_can_fail(tmp_path: Path) -> None:
    """A real model with one bias moved is found out, so the agreements above mean something."""
    import onnx

    source = MODELS / "polygraphy_residual_block.onnx"
    model = FORMAT.read(source, ReadOptions())
    result = tmp_path / "fused.onnx"
    model.write(apply(model.graph, plan(model.graph)), result)
    proto = onnx.load(result)
    conv = next(n for n in proto.graph.node if n.op_type == "Conv" and len(n.input) == 3)
    bias = next(t for t in proto.graph.initializer if t.name == conv.input[2])
    values = onnx.numpy_helper.to_array(bias).copy()
    values[0] += np.float32(0.5)
    bias.CopyFrom(onnx.numpy_helper.from_array(values, bias.name))
    onnx.save(proto, result)
    assert session(result) is not None
    asked = VerifyRequest(samples=2, verify_time=4.0)  # as above
    assert verify(source, result, request=asked).status.value == "different"


def test_free_sizes_are_those_that_the_file_declares(tmp_path: Path) -> None:
    """A text detector with a free input whose output is declared as 640 × 640, at a stride of 1."""
    source = MODELS / "rapidocr_ppocr_v1_det.onnx"
    agreement = verify(source, source, request=VerifyRequest(samples=1, verify_time=2.0))
    assert agreement.status.value == "equal", agreement
    (image,) = agreement.inputs
    assert image.shape == (1, 3, 640, 640)
    assert image.guessed == (2, 3)


@pytest.mark.parametrize(("name", "shape"), [("mesonet", (256, 256, 3)), ("magika_fast_runtime_bn", (1024,))])
def test_what_a_model_declares_is_not_guessed(name: str, shape: tuple[int, ...]) -> None:
    source = MODELS / f"{name}.onnx"
    agreement = verify(source, source, request=VerifyRequest(samples=1, verify_time=2.0))
    (only,) = agreement.inputs
    assert only.shape[1:] == shape
    assert not only.guessed
