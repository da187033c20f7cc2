"""Constants that take a fold on: embedding tables and operands of sums, small ones and streamed ones.

Their new values are s·v + t in float64, rounded once; checked number by number and in onnxruntime.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from tests.command import call, optimized
from tests.onnx_graphs import TOLERANCE, Net, assert_equal, session

# rows: worked out at once; in one block; in several blocks
ROWS = [7, 3000, 400_000]


def _stored(model: onnx.ModelProto) -> dict[str, np.ndarray]:
    return {t.name: numpy_helper.to_array(t) for t in model.graph.initializer}


def _affine(model: onnx.ModelProto, name: str) -> tuple[np.ndarray, np.ndarray]:
    """a and c of a BatchNormalization, from the stored numbers, in float64."""
    (bn,) = [n for n in model.graph.node if n.name == name]
    gamma, beta, mean, variance = (_stored(model)[i].astype(np.float64) for i in bn.input[1:])
    epsilon = next((a.f for a in bn.attribute if a.name == "epsilon"), float(np.float32(1e-5)))
    a = gamma / np.sqrt(variance + epsilon)
    return a, beta - mean * a


@pytest.mark.parametrize("external", [False, True], ids=["inline", "external"])
@pytest.mark.parametrize("dtype", ["float32", "float16"])
@pytest.mark.parametrize("rows", ROWS)
def test_an_embedding_table(rows: int, dtype: str, external: bool, tmp_path: Path) -> None:
    net = Net(rows, dtype)
    table = net.const(net.rng.standard_normal((rows, 6)), "table")
    y = net.op("Gather", table, "ids", name="embed")  # (batch, word, channel)
    y = net.op("Transpose", y, perm=[0, 2, 1])
    y = net.op("Tanh", net.bn(y, 6, name="bn"))
    made = net.build({}, y, ranks={"out": 3})
    ids = helper.make_tensor_value_info("ids", TensorProto.INT64, [4, 5])
    made.graph.input.append(ids)
    fed = net.rng.integers(0, rows, (4, 5))
    np.savez(tmp_path / "ids.npz", ids=fed)
    if external:
        before, after = tmp_path / "before.onnx", tmp_path / "after.onnx"
        onnx.save(made, before, save_as_external_data=True, location="w.bin", size_threshold=0)
        made = onnx.load(before)
        done = call("optimize", before, "-o", after, "--no-bench", "--inputs", tmp_path / "ids.npz")
        assert done.exit_code == 0, done.output
    else:
        run = optimized(made, tmp_path, "--inputs", str(tmp_path / "ids.npz"))
        before, after = run.before, run.after
    result = onnx.load(after)
    assert "BatchNormalization" not in {n.op_type for n in result.graph.node}
    want, got = (session(path).run(None, {"ids": fed})[0].astype(np.float64) for path in (before, after))
    assert np.abs(got - want).max() <= TOLERANCE[dtype] * np.ptp(want)
    a, c = _affine(made, "bn")
    expected = (_stored(made)["table"].astype(np.float64) * a + c).astype(dtype)
    (found,) = [v for v in _stored(result).values() if v.shape == (rows, 6)]
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("width", [5, 300], ids=["at once", "streamed"])
def test_an_operand_of_a_sum(width: int, tmp_path: Path) -> None:
    """x goes into both: the sum's constant is scaled as the convolution is."""
    net = Net(width)
    y = net.op("Add", net.conv("x", 3, 4, 1, 1), net.const(net.rng.standard_normal((1, 4, width, width))))
    made = net.build({"x": ("N", 3, width, width)}, net.op("Tanh", net.bn(y, 4, name="bn")))
    done = optimized(made, tmp_path)
    assert done.decisions == {"bn": None}
    assert_equal(done.before, done.after)
    (old,) = [v for v in _stored(made).values() if v.shape == (1, 4, width, width)]
    (new,) = [v for v in _stored(onnx.load(done.after)).values() if v.shape == old.shape]
    a, c = (v.reshape(4, 1, 1) for v in _affine(made, "bn"))
    scaled = old.astype(np.float64) * a
    shifted = scaled + c  # the shift goes to one of the two, whichever
    assert any((new == np.asarray(v, np.float32)).all() for v in (scaled, shifted))


@pytest.mark.parametrize("rows", ROWS[:2])
def test_a_table_that_cannot_hold_its_new_values(rows: int, tmp_path: Path) -> None:
    """3e37 times a of about 100 is too large for float32: the BN stays, and the file is the same."""
    net = Net(rows)
    table = net.const(1e37 * net.rng.uniform(1.0, 3.0, (rows, 6)), "table")
    y = net.op("Transpose", net.op("Gather", table, "ids"), perm=[0, 2, 1])
    statistics = [np.full(6, 100.0), np.zeros(6), np.zeros(6), np.ones(6)]
    y = net.op("BatchNormalization", y, *map(net.const, statistics), name="bn", epsilon=0.0)
    made = net.build({}, net.op("Tanh", y), ranks={"out": 3})
    made.graph.input.append(helper.make_tensor_value_info("ids", TensorProto.INT64, [4, 5]))
    done = optimized(made, tmp_path, proof="skipped")
    assert done.decisions == {"bn": "OVERFLOW"}
    assert done.before.read_bytes() == done.after.read_bytes()
