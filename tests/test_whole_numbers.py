"""Inputs whose values must be right for a model to run: ids with an offset, lengths, labels; and chance.

What runs is onnxruntime's and Keras's to say; that the whole table is met is shown by a defect in one row.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from bnfuse.errors import UsageError
from bnfuse.formats import detect
from bnfuse.formats.base import RunSettings
from bnfuse.formats.hints import Values
from bnfuse.formats.onnx.runtime.run import load
from bnfuse.inputs.samples import InputRequest, fit
from bnfuse.inputs.values import Range
from bnfuse.results import Status
from bnfuse.use_cases.verify import VerifyRequest, verify
from tests.command import FAST, call
from tests.runtime_versions import divides_by_zero
from tests.sized_nets import FLOAT, INT64, Net
from tests.tiny_models import model, save
from tests.verify_nets import compare

INT32, UINT8, FLOAT16 = TensorProto.INT32, TensorProto.UINT8, TensorProto.FLOAT16


def table(rows: int, wrong: int | None = None) -> np.ndarray:
    """Random rows of 4; one may be wrong."""
    values = np.random.default_rng(rows).standard_normal((rows, 4)).astype(np.float32)
    if wrong is not None:
        values[wrong] += 0.01
    return values


def looks_up(
    steps: list[tuple[Any, ...]],
    rows: int,
    *,
    kind: int = INT64,
    wrong: int | None = None,
    op: str = "Gather",
) -> onnx.ModelProto:
    """x (N, 3) → steps (operator, constant or None, settings) → table[…] → y."""
    net = Net()
    dtype = helper.tensor_dtype_to_np_dtype(kind).name
    for name, constant, *settings in steps:
        net.add(name, *([] if constant is None else [net.hold(constant, dtype)]), **dict(*settings))
    indices = net.now
    net.add("Gather", net.hold(table(rows, wrong), "float32"), indices, first=False)
    return net.done(["N", 3], kind=kind)


TO_INT64 = ("Cast", None, {"to": INT64})
# name, steps, rows, kind, the numbers that fit
OFFSETS: list[tuple[str, list[tuple[Any, ...]], int, int, Values]] = [
    ("as they are", [], 9, INT64, Values(0, 9)),
    ("from 1", [("Sub", 1)], 9, INT64, Values(1, 10)),
    ("far above", [("Sub", 30_000)], 50, INT64, Values(30_000, 30_050)),
    ("below 0", [("Add", 5)], 9, INT64, Values(-5, 4)),
    ("backwards", [("Mul", -1), ("Add", 20)], 9, INT64, Values(12, 21)),
    ("every third", [("Mul", 3)], 10, INT64, Values(0, 4)),
    ("an offset per column", [("Add", [0, 10, 35])], 60, INT64, Values(0, 25)),
    ("int32, then cast", [("Sub", 7), TO_INT64], 9, INT32, Values(7, 16)),
    ("cast and reshaped", [TO_INT64, ("Reshape", [-1])], 9, INT64, Values(0, 9)),
    ("floats", [("Sub", 2), TO_INT64], 9, FLOAT, Values(2, 11)),
    ("bytes", [TO_INT64], 30, UINT8, Values(0, 30)),
]  # fmt: skip


@pytest.mark.parametrize(
    ("name", "steps", "rows", "kind", "values"), OFFSETS, ids=[case[0] for case in OFFSETS]
)
def test_ids_come_from_the_table_that_they_index(
    name: str, steps: list[tuple[Any, ...]], rows: int, kind: int, values: Values, tmp_path: Path
) -> None:
    made = looks_up(steps, rows, kind=kind)
    path = save(made, tmp_path / "m.onnx")
    assert detect(path).hints(path).values == {"x": values}
    assert compare(tmp_path, made, made).status is Status.EQUAL
    if kind == FLOAT:  # a rounding unit below a whole number is another row: no defect is told from that
        return
    last = {"every third": 9, "an offset per column": 24}.get(name, rows - 1)
    spoiled = looks_up(steps, rows, kind=kind, wrong=last)
    assert compare(tmp_path, made, spoiled, batch=64).status is Status.DIFFERENT


def test_the_ends_are_the_runtimes_own(tmp_path: Path) -> None:
    """One beyond either end stops onnxruntime, or is counted from the end, so the range above is right."""
    path = save(looks_up([("Sub", 1)], 9), tmp_path / "m.onnx")
    with load(path, RunSettings()) as runner:
        low = runner.run({"x": np.full((1, 3), 1)})["y"]
        high = runner.run({"x": np.full((1, 3), 9)})["y"]
        np.testing.assert_array_equal([low[0, 0], high[0, 0]], table(9)[[0, 8]])
        with pytest.raises(Exception, match="out of data bounds"):
            runner.run({"x": np.full((1, 3), 10)})


def two_tables() -> onnx.ModelProto:
    """One input looked up in two tables: the smaller one bounds it."""
    net = Net()
    net.add("Gather", net.hold(table(9), "float32"), "x", first=False)
    first = net.now
    net.add("Gather", net.hold(table(6), "float32"), "x", first=False).add("Add", first)
    return net.done(["N", 3], kind=INT64)


def test_the_smallest_table_bounds(tmp_path: Path) -> None:
    path = save(two_tables(), tmp_path / "m.onnx")
    assert detect(path).hints(path).values == {"x": Values(0, 6)}
    assert compare(tmp_path, two_tables(), two_tables()).status is Status.EQUAL


# ---- nothing in the file tells ---------------------------------------------------------------------


def divides() -> onnx.ModelProto:
    """20 / x looked up: 0 stops it."""
    net = Net()
    net.add("Div", net.hold(20, "int64"), "x", first=False)
    indices = net.now
    return net.add("Gather", net.hold(table(50), "float32"), indices, first=False).done(["N", 3], kind=INT64)


def last_step() -> onnx.ModelProto:
    """Sequences with their lengths: step length − 1 of 7 steps, for a length of at least 1."""
    net = Net()
    net.add("GatherND", "at", batch_dims=1)
    made = net.done(["N", 7, 5])
    before = [
        helper.make_node("Sub", ["n", "one"], ["below"]),
        helper.make_node("Sqrt", ["below_f"], ["root"]),
        helper.make_node("Cast", ["root"], ["whole"], to=INT64),
        helper.make_node("Unsqueeze", ["whole", "axis"], ["at"]),
    ]
    before.insert(1, helper.make_node("Cast", ["below"], ["below_f"], to=FLOAT))
    made.graph.initializer.append(numpy_helper.from_array(np.array(1, np.int64), "one"))
    made.graph.initializer.append(numpy_helper.from_array(np.array([1], np.int64), "axis"))
    nodes = [*before, *made.graph.node]
    inputs = [*made.graph.input, helper.make_tensor_value_info("n", INT64, ["N"])]
    return model(nodes, inputs, list(made.graph.output), list(made.graph.initializer), opset=17)


def labels() -> onnx.ModelProto:
    """A row for x·x − 4: 2 at the least, in a way that no file is read for."""
    net = Net()
    net.add("Mul", "x").add("Sub", net.hold(104, "int64"))
    indices = net.now
    return net.add("Gather", net.hold(table(40), "float32"), indices, first=False).done([2, 3], kind=INT64)


OTHERS = [
    pytest.param(divides, 1, id="no 0", marks=divides_by_zero),
    pytest.param(labels, 10, id="10 and more"),
]


@pytest.mark.parametrize(("made", "least"), OTHERS)
def test_other_numbers_are_tried(made: Any, least: int, tmp_path: Path) -> None:
    path = save(made(), tmp_path / "m.onnx")
    with load(path, RunSettings()) as runner:
        with pytest.raises(Exception, match=r"by zero|out of data bounds"):
            runner.run({"x": np.zeros((2, 3), np.int64)})
        samples, _ = fit(runner, InputRequest(model=path), 2)
    assert samples.ranges["x"].least == least
    assert samples.shapes["x"] == (2, 3)
    assert compare(tmp_path, made(), made()).status is Status.EQUAL


@divides_by_zero
def test_numbers_are_tried_before_smaller_sizes(tmp_path: Path) -> None:
    proto = divides()
    proto.graph.input[0].type.tensor_type.shape.dim[1].dim_param = "s"
    found = compare(tmp_path, proto, proto)
    assert found.inputs[0].shape == (16, 64)


def test_lengths_begin_at_1(tmp_path: Path) -> None:
    found = compare(tmp_path, last_step(), last_step())
    assert found.status is Status.EQUAL, found


def hopeless() -> onnx.ModelProto:
    net = Net()
    net.add("Max", net.hold(99, "int64"))
    indices = net.now
    return net.add("Gather", net.hold(table(5), "float32"), indices, first=False).done([2, 3], kind=INT64)


def test_where_nothing_runs_the_values_are_named(tmp_path: Path) -> None:
    path = save(hopeless(), tmp_path / "m.onnx")
    found = verify(path, path)
    assert found.status is Status.INCONCLUSIVE
    for part in ("no values for input 'x'", "out of data bounds", "--inputs"):
        assert part in found.detail
    assert "size" not in found.detail
    opened = hopeless()
    opened.graph.input[0].type.tensor_type.shape.dim[1].dim_param = "s"
    save(opened, path)
    with pytest.raises(UsageError, match=r"no values for input 'x'.*out of data bounds.*--inputs"):
        verify(path, path)


DRAWS = [
    (Range(5), 0, 5, 6),
    (Range(5), 1, 5, 14),
    (Range(5, 8), 1, 5, 7),
    (Range(5, 6), 3, 5, 5),
    (Range(-3, -1), 4, -3, -2),
]


@pytest.mark.parametrize(("within", "index", "least", "most"), DRAWS)
def test_numbers_of_a_range(within: Range, index: int, least: int, most: int) -> None:
    drawn = within.draw(np.random.default_rng(0), (2000,), index)
    assert (drawn.min(), drawn.max()) == (least, most)


@pytest.mark.parametrize(("dtype", "fits"), [("uint8", False), ("int64", True), ("float32", True)])
def test_no_number_is_wrapped(dtype: str, fits: bool) -> None:
    """−1 as an unsigned length asks for all the memory there is."""
    assert Range(-1, 0).fits(dtype) is fits


@pytest.mark.slow
@pytest.mark.parametrize("offset", [0, 100])
def test_ids_of_keras_models(offset: int, either_keras: Any, tmp_path: Path) -> None:
    """Keras declares ids as floats unless told."""
    layers = either_keras.layers
    ids = either_keras.Input((6,), dtype="float32" if offset == 0 else "int32")
    shifted = ids if offset == 0 else either_keras_subtract(either_keras, ids, offset)
    made = either_keras.Model(ids, layers.Flatten()(layers.Embedding(40, 4)(shifted)))
    path = tmp_path / ("m.keras" if hasattr(either_keras, "ops") else "m.h5")
    made.save(path)
    (values,) = detect(path).hints(path).values.values()
    assert values == Values(offset, offset + 40)
    found = verify(path, path, request=VerifyRequest(samples=3))
    assert found.status is Status.EQUAL, found


def either_keras_subtract(keras: Any, ids: Any, offset: int) -> Any:
    """ids − offset, as each Keras writes it."""
    return keras.ops.subtract(ids, offset) if hasattr(keras, "ops") else ids - offset


# ---- chance ------------------------------------------------------------------------------------------


def noisy(op: str, *constants: tuple[Any, str], noise: float = 1.0, **settings: Any) -> onnx.ModelProto:
    """x + noise · what a random operator makes of x."""
    net = Net().conv(4, 3).norm(4)
    clean = net.now
    net.add(op, *(net.hold(*constant) for constant in constants), into="chance", **settings)
    return net.add("Mul", net.hold(noise, "float32")).add("Add", clean).done(["N", 3, 6, 5])


RANDOM = [
    ("RandomNormalLike", lambda: noisy("RandomNormalLike")),
    ("RandomUniformLike", lambda: noisy("RandomUniformLike", seed=7.0)),
    ("Bernoulli", lambda: _of_chances("Bernoulli")),
    ("Dropout", lambda: noisy("Dropout", (0.5, "float32"), (True, "bool"))),
]


def _of_chances(op: str) -> onnx.ModelProto:
    net = Net().conv(4, 3).norm(4).add("Sigmoid")
    return net.add(op, into="chance").done(["N", 3, 6, 5], opset=20)


@pytest.mark.parametrize(("op", "made"), RANDOM, ids=[case[0] for case in RANDOM])
def test_who_makes_the_outputs_random(op: str, made: Any, tmp_path: Path) -> None:
    """The original on the same inputs twice, in onnxruntime itself; exit code 4, and nothing written."""
    path = save(made(), tmp_path / "m.onnx")
    feeds = {"x": np.random.default_rng(0).standard_normal((2, 3, 6, 5)).astype(np.float32)}
    with load(path, RunSettings()) as runner:
        assert np.abs(runner.run(feeds)["y"] - runner.run(feeds)["y"]).max() > 0.01
    result = call("optimize", path, "--no-bench", *FAST[:2])
    assert result.exit_code == 4
    assert f"{op} '{op}_chance' draws random numbers" in result.stderr
    assert "please report" not in result.stderr and "--inputs" not in result.stderr  # which could not help
    assert [p.name for p in tmp_path.iterdir()] == ["m.onnx"]


def test_chance_that_does_not_reach_the_outputs_is_none(tmp_path: Path) -> None:
    for proto in (
        noisy("RandomNormalLike", noise=0.0),
        noisy("Dropout", (0.5, "float32"), (False, "bool")),
        noisy("Dropout", (0.5, "float32")),
    ):
        assert compare(tmp_path, proto, proto).status is Status.EQUAL


def test_chance_that_no_file_tells(tmp_path: Path) -> None:
    """Two runs alone show it: here of a runner that counts them."""
    from tests.fake_runner import confront

    runs = [0]

    def counts(x: np.ndarray) -> np.ndarray:
        runs[0] += 1
        return np.asarray(x + np.float32(runs[0]))

    found, _ = confront(tmp_path, counts, counts)
    assert found.status is Status.INCONCLUSIVE
    assert "'y' is another one at every run" in found.detail and "is random" in found.detail


@pytest.mark.slow
def test_random_layers_of_keras(keras2: Any, tmp_path: Path) -> None:
    """tf_keras keeps ``training=True`` of a call; Keras 3 drops nothing in ``predict``."""
    x = keras2.Input((6,))
    keras2.Model(x, keras2.layers.Dropout(0.5, name="drops")(x, training=True)).save(tmp_path / "m.h5")
    assert detect(tmp_path / "m.h5").hints(tmp_path / "m.h5").random == ("Dropout 'drops'",)
    plain = keras2.Model(x, keras2.layers.Dropout(0.5)(x))
    plain.save(tmp_path / "p.h5")
    assert detect(tmp_path / "p.h5").hints(tmp_path / "p.h5").random == ()
