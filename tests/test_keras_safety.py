"""What is refused before any Keras sees a file, and what is allowed to run."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest

from bnfuse.errors import UnreadableModel, UnsafeModel
from bnfuse.formats.keras.file.opening import open_container
from bnfuse.formats.keras.runtime import safety
from bnfuse.formats.keras.runtime.safety import dangers
from tests.keras_models import FIXTURE


def entry(class_name: str, module: str | None = "keras.layers", /, **config: Any) -> dict[str, Any]:
    return {"module": module, "class_name": class_name, "config": config, "registered_name": None}


def function(name: str, module: str) -> dict[str, Any]:
    return {"module": module, "class_name": "function", "config": name, "registered_name": name}


HARMLESS: list[Any] = [
    entry("Dense", units=3, activation="relu", kernel_initializer=entry("Zeros", "keras.initializers")),
    entry("Dense", dtype=entry("DTypePolicy", "keras", name="float32")),
    entry("Functional", "keras.src.models.functional"),
    entry("Dense", "keras.src.layers.core.dense"),
    entry("Functional", "keras.src.engine.functional"),
    entry("Functional", "keras", layers=[]),
    entry("Activation", activation=function("relu6", "builtins")),
    entry("Lambda", function=function("relu", "keras.activations")),
    entry("Add", "keras.src.ops.numpy", name="add"),
    entry("TFOpLambda", function="math.multiply"),
    entry("TFOpLambda", function="__operators__.add"),
    entry("TFOpLambda", function="nn.relu6"),
    entry("TFOpLambda", function="cast"),
    entry("TFOpLambda", function="compat.v1.nn.conv2d"),
    entry("TFOpLambda", function="keras.backend.mean"),
    entry("SlicingOpLambda", function="__operators__.getitem"),
    entry("ClassMethod", cls_symbol="RaggedTensor", method_name="from_row_splits"),
    entry("TensorFlowOpLayer", None, node_def='{"name": "Mul", "op": "Mul"}'),
    entry("StringLookup", vocabulary=["a", "b"]),
    {"class_name": "MyLayer", "config": {"name": "mine"}},  # Keras 2: no module to import
    entry("TransformerEncoder", "keras_hub.src.layers.modeling.transformer_encoder"),
    entry("Model", None, spec={"class_name": "__typespec__", "spec_name": "TensorSpec", "config": [],
                               "module": "tensorflow.python.framework.tensor"}),
]  # fmt: skip

DANGEROUS: list[tuple[str, Any]] = [
    ("Lambda layer 'f' with code", entry("Lambda", name="f", function=["4wEAAA==", None, None])),
    ("Lambda layer 'f' with code", entry("Lambda", name="f", function="system", module="os")),
    ("Lambda layer", entry("Lambda", function=function("relu", "builtins"), output_shape_type="lambda")),
    ("Python code", entry("Lambda", function={"class_name": "__lambda__", "config": {"value": "4wEAAA=="}})),
    ("Python code", entry("Dense", activation={"class_name": "__lambda__", "config": {"value": "4w=="}})),
    ("class my_package.Layer", entry("Layer", "my_package")),
    ("function os.system", entry("Activation", activation=function("system", "os"))),
    ("get_file", entry("Lambda", function=function("get_file", "keras.utils"))),
    ("load_model", entry("Lambda", function=function("load_model", "keras.models"))),
    ("load_model", entry("load_model", "keras.models")),
    ("enable_unsafe", entry("Dense", activation=function("enable_unsafe_deserialization", "keras.config"))),
    ("keras_evil", entry("Dense", "keras_evil.layers")),
    ("keras.layers\n", entry("Dense", "keras.layers\n")),
    ("unpickles", entry("TorchModuleWrapper", name="t", module="gASV")),
    ("another saved model", entry("TFSMLayer", filepath="/somewhere")),
    ("io.write_file", entry("TFOpLambda", name="w", function="io.write_file")),
    ("raw_ops.ReadFile", entry("TFOpLambda", name="w", function="raw_ops.ReadFile")),
    ("v1.read_file", entry("SlicingOpLambda", name="w", function="compat.v1.read_file")),
    ("keras.utils.get_file", entry("TFOpLambda", name="w", function="keras.utils.get_file")),
    ("io.gfile", entry("ClassMethod", name="w", cls_symbol="io.gfile.GFile", method_name="write")),
    ("numpy_function", entry("TFOpLambda", name="w", function="numpy_function")),
    ("ReadFile", entry("TensorFlowOpLayer", None, node_def='{"name": "x", "op": "ReadFile"}')),
    ("/etc/passwd", entry("StringLookup", name="s", vocabulary="/etc/passwd")),
]


@pytest.mark.parametrize("config", HARMLESS, ids=lambda c: str(c["class_name"]))
def test_what_is_part_of_keras_passes(config: dict[str, Any]) -> None:
    assert list(dangers({"class_name": "Sequential", "config": {"layers": [config]}})) == []


def test_how_a_model_was_compiled_does_not_matter() -> None:
    """Models are loaded uncompiled; but one within a model is compiled all the same."""
    compiled = {**entry("Sequential", "keras"), "compile_config": {"loss": function("f", "my.package")}}
    assert list(dangers(compiled)) == []
    assert len(list(dangers(entry("Sequential", "keras", layers=[compiled])))) == 1


@pytest.mark.parametrize(("says", "config"), DANGEROUS, ids=[says for says, _ in DANGEROUS])
def test_what_would_run_or_read_something_else_is_found(says: str, config: dict[str, Any]) -> None:
    """At any depth, also in the bare list that old Sequentials are."""
    for around in (
        {"layers": [config]},
        [config],
        {"layers": [entry("Functional", "keras", layers=[config])]},
    ):
        found = list(dangers({"class_name": "Sequential", "config": around}))
        assert len(found) == 1
        assert says in found[0]


def test_a_file_is_looked_at_once_until_it_changes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    looked: list[Path] = []

    def opened(path: Path) -> Any:
        looked.append(path)
        return open_container(path)

    monkeypatch.setattr(safety, "open_container", opened)
    path = tmp_path / FIXTURE.name
    path.write_bytes(FIXTURE.read_bytes())
    facts = safety.refuse_unsafe(path, False)
    assert safety.refuse_unsafe(path, False) == facts
    assert len(looked) == 2  # it is so young that it could change and look the same
    late = time.time_ns() + 3_000_000_000
    monkeypatch.setattr("time.time_ns", lambda: late)
    assert [safety.refuse_unsafe(path, False) for _ in range(3)] == [facts] * 3
    assert len(looked) == 3
    path.write_bytes(b"something else")
    with pytest.raises(UnreadableModel):
        safety.refuse_unsafe(path, False)
    assert len(looked) == 4


def test_what_was_allowed_once_is_refused_to_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    late = time.time_ns() + 3_000_000_000
    monkeypatch.setattr("time.time_ns", lambda: late)
    monkeypatch.setattr(safety, "dangers", lambda _: iter(["has a trap"]))
    path = tmp_path / FIXTURE.name
    path.write_bytes(FIXTURE.read_bytes())
    safety.refuse_unsafe(path, True)
    for _ in range(2):
        with pytest.raises(UnsafeModel, match="has a trap"):
            safety.refuse_unsafe(path, False)
