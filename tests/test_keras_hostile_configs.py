"""Configs that would take far more memory or time than their size: refused before that is spent."""

from __future__ import annotations

import json
import re
import time
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from bnfuse.errors import BnfuseError
from bnfuse.formats.keras.file.json_documents import parse_json
from bnfuse.formats.keras.graph.config import parse
from bnfuse.formats.keras.graph.network import Ref
from bnfuse.formats.keras.graph.shapes import infer
from tests.command import call
from tests.keras_configs import functional, layer, node, old, sequential, source, tensor
from tests.keras_damage import members, repack
from tests.keras_handmade import make_archive

Make = Callable[[], Any]


def _read_far(tensor_index: int) -> Any:
    layers = [
        source(),
        layer("Dropout", "drop", node(tensor("x"))),
        layer("Activation", "end", node(tensor("drop", 0, tensor_index)), activation="relu"),
    ]
    return functional(layers, [["x", 0, 0]], [["end", 0, 0]])


def _read_far_keras2(tensor_index: int) -> Any:
    layers = [source(), layer("Dropout", "drop", old(("x", 0, 0)))]
    return functional(layers, [["x", 0, 0]], [["drop", 0, tensor_index]])


def _twice_each(levels: int) -> Any:
    """A model that calls a model twice, which calls a model twice …"""
    relu = layer("Activation", "a", node(tensor("i")), activation="relu")
    model = functional([source("i"), relu], [["i", 0, 0]], [["a", 0, 0]], "n0")
    for level in range(1, levels):
        name = model["config"]["name"]
        inner = {**model, "name": name, "inbound_nodes": [node(tensor("i")), node(tensor(name, 0))]}
        model = functional([source("i"), inner], [["i", 0, 0]], [[name, 2, 0]], f"n{level}")
    return model


def _many_outputs(calls: int, outputs: int) -> Any:
    """A model whose one tensor is all of its outputs, called again and again: calls × outputs tensors."""
    relu = layer("Activation", "a", node(tensor("i")), activation="relu")
    inner = functional([source("i"), relu], [["i", 0, 0]], [["a", 0, 0]] * outputs, "inner")
    called = {**inner, "name": "inner", "inbound_nodes": [node(tensor("x"))] * calls}
    joined = layer("Add", "end", node([tensor("inner", at) for at in range(calls)]))
    return functional([source(), called, joined], [["x", 0, 0]], [["end", 0, 0]])


def _with_values(text: str, count: int) -> str:
    config = json.dumps(sequential(source("x")))
    return f'{config[:-1]}, "more": [{",".join([text] * count)}]}}'


REFUSED: dict[str, tuple[Make, str]] = {
    "an output far away": (lambda: _read_far(30_000_000), "output 30000000 of layer 'drop' is read"),
    "an output of the model far away": (lambda: _read_far_keras2(10**9), "output 1000000000 of layer 'drop'"),
    "two calls at each of twenty levels": (lambda: _twice_each(20), "call each other far more often"),
    "many calls of many outputs": (lambda: _many_outputs(300, 1200), "call each other far more often"),
    "a model with a long name": (
        lambda: sequential(source(), sequential(layer("ReLU", "a" * 5000), name="m" * 5001)),
        "holds other layers has 5,001 characters",
    ),
    "empty objects": (lambda: _with_values("{}", 700_000), "more values than any model"),
    "empty lists": (lambda: _with_values("[]", 700_000), "more values than any model"),
    "short texts": (lambda: _with_values('"a"', 1_200_000), "more values than any model"),
    "lists in lists": (lambda: _with_values("[[[[]]]]", 400_000), "more values than any model"),
}


def _rescaled(call: Any) -> Any:
    """A Rescaling that its reader could take on, called in some way."""
    layers = [
        source(),
        layer("Rescaling", "first", call, scale=2.0, offset=1.0),
        layer("Rescaling", "second", node(tensor("first")), scale=3.0, offset=0.5),
        layer("Activation", "end", node(tensor("second")), activation="tanh"),
    ]
    return functional(layers, [["x", 0, 0]], [["end", 0, 0]])


def _cell(class_name: Any) -> Any:
    return layer("RNN", "rnn", cell={"class_name": class_name, "config": {"units": 2}})


KEPT: dict[str, Make] = {
    "a call with a tensor": lambda: _rescaled(node(tensor("x"))),
    "a call with two tensors": lambda: _rescaled(node(tensor("x"), tensor("x"))),
    "a call with a tensor by keyword": lambda: _rescaled(node(inputs=tensor("x"))),
    "a cell whose class is a list": lambda: sequential(source(), _cell(["LSTMCell"])),
    "a cell whose class is an object": lambda: sequential(source(), _cell({})),
    "some calls of some outputs": lambda: _many_outputs(3, 12),
    "few outputs": lambda: _read_far(7),
    "some levels": lambda: _twice_each(5),
    "brackets in a text": lambda: sequential(source("x"), note="[{" * 200_000),
    "escaped quotes between them": lambda: sequential(source("x"), note='["{\\' * 100_000),
    "numbers of a constant": lambda: _with_values("0.4375", 200_000),
}


def _archive(path: Path, make: Make, kind: int = zipfile.ZIP_STORED) -> Path:
    made = make()
    contents = members(make_archive(path, [], {}))
    contents["config.json"] = (made if isinstance(made, str) else json.dumps(made)).encode()
    repack(path, list(contents.items()), kind)
    return path


@pytest.mark.parametrize("name", REFUSED)
def test_refused(name: str, tmp_path: Path) -> None:
    make, says = REFUSED[name]
    path = _archive(tmp_path / "m.keras", make)
    started = time.process_time()
    done = call("inspect", path)
    assert done.exit_code == 3
    assert re.search(says, done.stderr), done.stderr
    assert time.process_time() - started < 5


@pytest.mark.parametrize("shape", [[None] + [1] * 64, [None, 1 << 63]], ids=["axes", "size"])
def test_shapes_that_no_runtime_has_are_not_handed_on(shape: list[int | None]) -> None:
    """Each layer would have a copy; what they compute of it would grow from layer to layer."""
    first = layer("InputLayer", "x", batch_shape=shape)
    found = infer(parse(sequential(first, layer("ReLU", "a"))))
    assert found.of((), Ref("x", 0, 0)) is None and found.of((), Ref("a", 0, 0)) is None


@pytest.mark.parametrize("name", KEPT)
def test_kept(name: str, tmp_path: Path) -> None:
    done = call("inspect", _archive(tmp_path / "m.keras", KEPT[name]))
    assert done.exit_code == 0, done.stderr


def test_a_document_that_unpacks_a_hundredfold(tmp_path: Path) -> None:
    """Weights may grow to 256 MiB before their ratio counts; what is held whole may not."""
    path = _archive(
        tmp_path / "m.keras", lambda: _with_values(" " * 5_000_000 + "1", 1), zipfile.ZIP_DEFLATED
    )
    done = call("inspect", path)
    assert done.exit_code == 3
    assert "'config.json' would grow from" in done.stderr


def test_brackets_in_texts_are_told_from_others_in_linear_time() -> None:
    """Also where a text never ends: each escaped quote in it might begin the search anew."""
    data = b'{"a": "' + b'\\"[[' * 200_000
    started = time.process_time()
    with pytest.raises(BnfuseError, match="not valid JSON"):
        parse_json(data, Path("m.keras"), "config.json")
    assert time.process_time() - started < 5


def test_layers_without_names_are_named_in_linear_time() -> None:
    """Each once looked for a free number from 1 on: 800 million looks for these."""
    nameless = {"class_name": "Dropout", "config": {"rate": 0.5}}
    started = time.process_time()
    network = parse({"class_name": "Sequential", "config": [nameless] * 40_000})
    assert time.process_time() - started < 10
    assert [network.layers[k].name for k in (0, -1)] == ["dropout_1", "dropout_40000"]
