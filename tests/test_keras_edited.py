"""Edited files: Keras loads them, and each layer holds exactly what was written for it."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bnfuse.formats.keras.edit.write import write
from bnfuse.formats.keras.graph.network import walk
from bnfuse.formats.keras.graph.variables import NewVariable
from tests.keras_files import NamePath, as_hex, edited, entry, held, opened, rewritten, without
from tests.keras_saved import reload
from tests.keras_saved_models import FILES

# What Keras itself does not load again, whoever wrote it.
UNLOADABLE = {
    "keras3-bfloat16.h5",  # raw bytes to it
    "tf_keras-bfloat16.h5",
    "tf_keras-bfloat16.keras",
    "keras3-ops.h5",  # "Unknown layer: 'Relu'"
    "keras3-dot.h5",  # takes score_mode="dot" for a function
}
# What a file of these holds is not what the model held, or a Normalization had not looked at its new weights:
# they are compared with the file that Keras wrote.
_OTHERWISE = ("keras3-lora", "keras3-spectral", "keras3-int8", "keras3-normalized")


def shorten(path: Path, target: Path) -> dict[NamePath, list[np.ndarray]]:
    """Take both BatchNormalizations out of the model "sequential", give "first" a bias, change "third"."""
    container, network = opened(path)
    with closing(container):
        config = without(container.config, "bn_a", "bn_b")
        entry(config, "first")["config"]["use_bias"] = True
        new = edited(network, config)
        rng = np.random.default_rng(11)
        first, third = new.layer("first"), new.layer("third")
        first.variables.append(NewVariable("bias", rng.normal(size=5).astype(np.float32)))
        kernel = third.variables[0]
        array = rng.normal(size=kernel.shape).astype(np.float32)
        third.variables[0] = NewVariable("kernel", array, source=kernel.source)
        write(container, config, new, target)
        return {path: [v.read() for v in layer.variables] for path, layer in held(new).items()}


def widen_attention(path: Path, target: Path) -> dict[NamePath, list[np.ndarray]]:
    """Give the attention without biases its four biases."""
    container, network = opened(path)
    with closing(container):
        config = copy.deepcopy(container.config)
        entry(config, "bare")["config"]["use_bias"] = True
        new = edited(network, config)
        bare, rng = new.layer("bare"), np.random.default_rng(3)
        kernels = {v.name.split("/")[0]: v for v in bare.variables}
        bare.variables = []
        for part, shape in (
            ("query", (2, 3)),
            ("key", (2, 3)),
            ("value", (2, 3)),
            ("attention_output", (4,)),
        ):
            array = rng.normal(size=shape).astype(np.float32)
            bare.variables += [kernels[part], NewVariable(f"{part}/bias", array)]
        write(container, config, new, target)
        return {path: [v.read() for v in layer.variables] for path, layer in held(new).items()}


def prune_nested(path: Path, target: Path) -> dict[NamePath, list[np.ndarray]]:
    """Replace the first BatchNormalization inside the nested network by Activation("linear")."""
    container, network = opened(path)
    with closing(container):
        config = copy.deepcopy(container.config)
        inner = entry(config, "inner")
        at = next(e for e in inner["config"]["layers"] if e["class_name"] == "BatchNormalization")
        at["class_name"] = "Activation"
        at["config"] = {"name": at["config"]["name"], "activation": "linear", "trainable": True}
        for node in at["inbound_nodes"]:
            if isinstance(node, dict):
                node["kwargs"] = {}  # an Activation takes no mask
        new = edited(network, config)
        gone = ("inner", at["config"]["name"])
        for names, layer in walk(new):
            if (*names, layer.name) == gone:
                layer.variables = []
        write(container, config, new, target)
        return {path: [v.read() for v in layer.variables] for path, layer in held(new).items()}


EDITS: dict[str, Callable[[Path, Path], dict[NamePath, list[np.ndarray]]]] = {
    "sequential": shorten,
    "compiled": shorten,
    "attention": widen_attention,
    "nested": prune_nested,
}
EDITED = [
    f"{lib}-{name}{end}" for lib in ("keras3", "tf_keras") for name in EDITS for end in (".keras", ".h5")
]


@pytest.fixture(scope="session")
def reloaded(saved: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What Keras says of every round trip, and of every edited file."""
    folder = tmp_path_factory.mktemp("keras_written")
    failed = json.loads((saved / "failed").read_text())
    pairs, edits = [], {}
    for name in FILES:
        if name in failed or name.startswith("keras2"):
            continue
        rewritten(saved / name, folder / name)
        by_file = name in UNLOADABLE or name.startswith(_OTHERWISE)
        pairs.append((name, str(saved / (name if by_file else f"{name}.json")), str(folder / name)))
    for name in EDITED:
        stem, _, end = name.partition("-")[2].rpartition(".")
        target = folder / f"edited-{name}"
        truth = EDITS[stem](saved / name, target)
        edits[name] = {"/".join(path): [as_hex(a) for a in arrays] for path, arrays in truth.items()}
        pairs.append((f"{name}+edited", str(target), str(target)))
        assert end in ("keras", "h5")
    return {"results": reload(pairs), "edits": edits}


@pytest.mark.slow
@pytest.mark.parametrize("name", [f for f in FILES if not f.startswith("keras2")])
def test_keras_loads_the_round_trip(saved: Path, reloaded: dict[str, Any], name: str) -> None:
    """With the same weights and outputs; where Keras cannot load its own file, it fails in the same way."""
    if name in json.loads((saved / "failed").read_text()):
        pytest.skip("this Keras does not save it")
    outcome = reloaded["results"][name]
    if name in UNLOADABLE:
        assert "first" in outcome
        assert "second" in outcome
        return
    assert not outcome.keys() & {"first", "second"}, outcome
    assert outcome["weights"] is True
    assert outcome["outputs"] is True


@pytest.mark.slow
@pytest.mark.parametrize("name", EDITED)
def test_keras_binds_an_edited_file(reloaded: dict[str, Any], name: str) -> None:
    """Removed, renumbered, new: each layer holds exactly what was written for it."""
    outcome = reloaded["results"][f"{name}+edited"]
    assert "second" not in outcome, outcome
    loaded = {"/".join(path): values for path, _, values in outcome["layers"]}
    assert loaded == reloaded["edits"][name]
