"""In Python a model may be a path, bytes, a file or an object: the new one is of the same kind, and right."""

from __future__ import annotations

import io
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper
from onnx.reference import ReferenceEvaluator

import bnfuse
from bnfuse import BnfuseError, Unproved, UnreadableModel, UsageError
from tests.cli_models import convnet

X = np.random.default_rng(3).standard_normal((2, 3, 9, 7)).astype(np.float32)
QUICK: dict[str, Any] = {"verify_time": 0.2, "bench": False}


def computed(proto: onnx.ModelProto) -> np.ndarray:
    """By onnx's own reference, in which no BatchNormalization is folded."""
    evaluator: Any = ReferenceEvaluator(proto)
    return np.asarray(evaluator.run(None, {"x": X})[0])


def as_string(path: Path) -> str:
    return str(path)


def as_bytes(path: Path) -> bytes:
    return path.read_bytes()


def as_view(path: Path) -> memoryview:
    return memoryview(path.read_bytes())


def as_file(path: Path) -> io.BytesIO:
    return io.BytesIO(path.read_bytes())


def as_proto(path: Path) -> onnx.ModelProto:
    return onnx.load(path)


KINDS: list[tuple[Callable[[Path], Any], type, str]] = [
    (as_string, Path, ""),
    (Path, Path, ""),
    (as_bytes, bytes, "<bytes>"),
    (as_view, bytes, "<bytes>"),
    (as_file, bytes, "<file>"),
    (as_proto, onnx.ModelProto, "<onnx.ModelProto>"),
]


def proto_of(model: Any) -> onnx.ModelProto:
    if isinstance(model, Path):
        return onnx.load(model)
    return onnx.load_from_string(model) if isinstance(model, bytes) else model


@pytest.mark.parametrize(("given", "kind", "name"), KINDS)
def test_the_new_model_is_of_the_same_kind(
    model: Path, given: Callable[[Path], Any], kind: type, name: str
) -> None:
    before = model.read_bytes()
    asked = given(model)
    report = bnfuse.optimize(asked, **QUICK)
    assert isinstance(report.model, kind)
    assert report.verification.status is bnfuse.Status.EQUAL
    made = proto_of(report.model)
    assert [node.op_type for node in made.graph.node] == ["Conv", "Softsign"]
    want, got = computed(onnx.load_from_string(before)), computed(made)
    assert np.abs(want - got).max() <= 2e-6 and want.std() > 0.1
    assert model.read_bytes() == before
    if name:
        assert report.output is not None
        assert (str(report.input.path), str(report.output.path)) == (name, name)
        assert {path.name for path in model.parent.iterdir()} == {"model.onnx"}
    if isinstance(asked, onnx.ModelProto):
        assert asked.SerializeToString() == before


def test_all_functions_take_all_kinds(model: Path) -> None:
    plan = bnfuse.inspect(as_proto(model))
    assert [one.node for one in plan.plan.decisions] == ["bn"] and plan.model is None
    folded = bnfuse.optimize(as_proto(model), verify=False, bench=False).model
    assert folded is not None
    assert bnfuse.verify(as_bytes(model), folded, verify_time=0.2).equal
    assert bnfuse.verify(str(model), as_file(model), verify_time=0.2).evidence
    timed = bnfuse.bench(as_file(model), folded, max_time=0.3)
    assert {run.batch for run in timed.runs} and timed.comparison.after is not None
    found = bnfuse.diff(str(model), folded)
    assert [node.operator for node in found.nodes_removed] == ["BatchNormalization"]


def test_an_output_is_written_for_an_object_too(model: Path, tmp_path: Path) -> None:
    report = bnfuse.optimize(as_proto(model), tmp_path / "new" / "out.onnx", **QUICK)
    assert report.output is not None and report.output.path == tmp_path / "new" / "out.onnx"
    assert report.model == onnx.load(tmp_path / "new" / "out.onnx")
    with pytest.raises(bnfuse.OutputError, match="exists"):
        bnfuse.optimize(as_proto(model), str(report.output.path), **QUICK)


def test_keras_files_in_memory(archive: Path, hdf5: Path) -> None:
    """Nothing folds, so the bytes stay; which format they are of is in them."""
    for path in (archive, hdf5):
        report = bnfuse.optimize(path.read_bytes(), verify=False, bench=False)
        assert report.model == path.read_bytes() and report.input.format == "keras"


def random_normal() -> onnx.ModelProto:
    proto = convnet()
    noise = helper.make_node("RandomNormalLike", ["n"], ["r"])
    proto.graph.node.insert(2, noise)
    proto.graph.node[3].input[0] = "r"
    return proto


class Raising:
    """A file object that raises when it is read."""

    def __init__(self, error: Exception) -> None:
        self.error = error

    def read(self, _size: int = -1) -> bytes:
        raise self.error


REFUSED: list[tuple[Any, dict[str, Any], type[BnfuseError], str]] = [
    (b"hello", {}, UnreadableModel, "'<bytes>' is not a model"),
    (b"", {}, UnreadableModel, "'<bytes>' is empty"),
    (io.BytesIO(b"<html>"), {}, UnreadableModel, "'<file>' is a web page"),
    (io.StringIO("x"), {}, UsageError, "open for text"),
    (Raising(TypeError("no bytes yet")), {}, UnreadableModel, "'<file>' cannot be read: TypeError: no bytes"),
    (Raising(OSError("the line is cut")), {}, UnreadableModel, "cannot be read: OSError: the line is cut"),
    (convnet(), {"keep": 5}, UsageError, "keep is 5: give a name, or a list of names"),
    (convnet(), {"keep": ["a", None]}, UsageError, r"keep is \['a', None\]"),
    (7, {}, UsageError, "'int' is no kind of model"),
    (None, {}, UsageError, "'NoneType' is no kind of model"),
    (onnx.ModelProto(), {}, UnreadableModel, "'<onnx.ModelProto>'"),
    (convnet(), {"keep": "other"}, UsageError, "no BatchNormalization of '<onnx.ModelProto>' is called"),
    (convnet(), {"precision": 1}, UsageError, "100 % or more"),
    (convnet(), {"precision": "many"}, UsageError, "a percentage such as '1%'"),
    (convnet(), {"device": "tpu"}, UsageError, "'cpu' or 'gpu', not 'tpu'"),
    (convnet(), {"batch": 0}, UsageError, "batch is 0"),
    (convnet(), {"threads": 1.5}, UsageError, "threads is 1.5"),
    (convnet(), {"verify_time": 0}, UsageError, "verify_time is 0"),
    (convnet(), {"labels": "y.npy"}, UsageError, "labels are for your own samples"),
    (convnet(), {"runtime_memory": "lots"}, UsageError, "not a size such as 2GB"),
    (convnet(), {"runtime_timeout": -1}, UsageError, "runtime_timeout is -1"),
    (random_normal(), {"verify_time": 0.2}, Unproved, "could not be proved equal"),
]


@pytest.mark.parametrize(("given", "options", "error", "sentence"), REFUSED, ids=[row[3] for row in REFUSED])
def test_errors(given: Any, options: dict[str, Any], error: type[BnfuseError], sentence: str) -> None:
    with pytest.raises(error, match=sentence) as raised:
        bnfuse.optimize(given, **{"bench": "precision" in options, **options})
    assert "/bnfuse-" not in str(raised.value), "no temporary file is named"
    assert issubclass(error, BnfuseError)


def test_no_room_for_a_model_in_memory(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "none"))
    for given in (b"hello", io.BytesIO(b"hello"), convnet()):
        with pytest.raises(bnfuse.OutputError, match="none' cannot be written: No such file"):
            bnfuse.inspect(given)


def test_the_report_of_a_failed_proof_names_no_temporary_file() -> None:
    with pytest.raises(Unproved) as raised:
        bnfuse.optimize(random_normal(), verify_time=0.2, bench=False)
    assert str(raised.value.report.input.path) == "<onnx.ModelProto>"
    assert raised.value.report.verification.status is bnfuse.Status.INCONCLUSIVE


def test_unknown_keywords() -> None:
    calls: list[Callable[..., Any]] = [bnfuse.optimize, bnfuse.inspect]
    for call in calls:
        with pytest.raises(TypeError, match="'activation'; did you mean 'activations'"):
            call(convnet(), activation="move")
    with pytest.raises(TypeError, match=r"diff\(\) got an unexpected keyword argument 'batch'"):
        bnfuse.diff(convnet(), convnet(), batch=2)  # type: ignore[call-arg]


def test_arrays_as_inputs(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By name, or alone; a name may be any text."""
    by_name = bnfuse.verify(model, model, inputs={"x": np.concatenate([X] * 3)})
    assert (by_name.own_samples, by_name.equal) == (6, True)
    assert bnfuse.verify(model, model, inputs=X).own_samples == 2
    proto = convnet()
    proto.graph.input[0].name = proto.graph.node[0].input[0] = "file/x:0"
    assert bnfuse.verify(proto, proto, inputs={"file/x:0": X}).own_samples == 2


def test_limits_hold_for_one_call(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BNFUSE_RUNTIME_TIMEOUT", "77")
    report = bnfuse.optimize(model.read_bytes(), runtime_timeout=44, runtime_memory="3GB", **QUICK)
    assert report.limits == {"answer_s": 44.0, "memory_bytes": 3_000_000_000}
    later = bnfuse.optimize(model.read_bytes(), **QUICK)
    assert later.limits is not None and later.limits["answer_s"] == 77.0
