"""Weights stored in types that are not their layer's: what changes is still what Keras would compute.

Both files are computed by plain numpy in float64, each array first converted to the layer's float32, as Keras
converts what it loads. Either both agree, or the BatchNormalization stays.
"""

from __future__ import annotations

import json
from pathlib import Path

import h5py
import ml_dtypes
import numpy as np
import pytest

from bnfuse.core.reasons import Reason
from tests.command import call
from tests.keras_handmade import dense, legacy, norm

ARRAYS = {
    "d/kernel": (4, 3),
    "d/bias": (3,),
    "n/gamma": (3,),
    "n/beta": (3,),
    "n/moving_mean": (3,),
    "n/moving_variance": (3,),
}
ODD = ("int8", "int32", "uint64", "bool", "float16", "longdouble")
FINE = ("<f4", ">f4", "<f8", ">f8")


def _values(name: str, dtype: str) -> np.ndarray:
    rng = np.random.default_rng(sorted(ARRAYS).index(name))
    values = rng.uniform(1, 9, ARRAYS[name]) * rng.choice((-1, 1), ARRAYS[name])
    return (np.abs(values) if name == "n/moving_variance" or dtype[0] == "u" else values).astype(dtype)


def _model(path: Path, stored: dict[str, np.ndarray], stated: str | None = "float32") -> Path:
    settings = {} if stated is None else {"dtype": stated}
    layers = [dense("d", **settings), norm("n", epsilon=1e-3, **settings)]
    layers[0]["config"]["batch_input_shape"] = [None, 4]
    groups = {layer: {f"{n}:0": a for n, a in stored.items() if n.startswith(layer)} for layer in ("d", "n")}
    return legacy(path, layers, groups)


def _computed(path: Path) -> np.ndarray:
    """What the file computes: Dense, then the BatchNormalization if it is still there."""
    with h5py.File(path) as h5:
        found: dict[str, np.ndarray] = {}

        def keep(name: str, item: object) -> None:
            if isinstance(item, h5py.Dataset):
                raw = item[()]
                raw = raw.view(ml_dtypes.bfloat16) if raw.dtype.kind == "V" else raw
                key = "/".join(name.split("/")[-2:]).removesuffix(":0")
                found[key] = raw.astype(np.float32).astype(np.float64)

        h5["model_weights"].visititems(keep)
    y = np.random.default_rng(0).normal(size=(5, 4)) @ found["d/kernel"] + found["d/bias"]
    if "n/gamma" not in found:
        return y
    scale = found["n/gamma"] / np.sqrt(found["n/moving_variance"] + 1e-3)
    return (y - found["n/moving_mean"]) * scale + found["n/beta"]


def _folded(path: Path) -> tuple[np.ndarray, dict[str, str | None], str]:
    after = path.with_name("after.h5")
    done = call("optimize", path, "-o", after, "--no-verify", "--no-bench", "--json")
    assert done.exit_code == 0, done.output
    decided = json.loads(done.stdout)["decisions"]
    return (
        _computed(after),
        {d["name"]: d["reason"] for d in decided},
        " ".join(d["message"] for d in decided),
    )


@pytest.mark.parametrize("dtype", ODD)
@pytest.mark.parametrize("name", ARRAYS)
def test_an_odd_type_stays(name: str, dtype: str, tmp_path: Path) -> None:
    """The layer that has it is left alone, and the sentence names what holds what."""
    stored = {n: _values(n, dtype if n == name else "f4") for n in ARRAYS}
    model = _model(tmp_path / "m.h5", stored)
    before = _computed(model)
    after, reasons, message = _folded(model)
    assert reasons == {"n": Reason.LOCKED_WEIGHTS.name}
    assert f"its {name.partition('/')[2]} holds {np.dtype(dtype).name} values" in message
    np.testing.assert_array_equal(after, before)


@pytest.mark.parametrize("dtype", FINE)
@pytest.mark.parametrize("name", ARRAYS)
def test_byte_order_and_wider_types_fold(name: str, dtype: str, tmp_path: Path) -> None:
    stored = {n: _values(n, dtype if n == name else "f4") for n in ARRAYS}
    model = _model(tmp_path / "m.h5", stored)
    before = _computed(model)
    after, reasons, _ = _folded(model)
    assert reasons == {"n": None}
    np.testing.assert_allclose(after, before, rtol=1e-5, atol=1e-5 * np.abs(before).max())


@pytest.mark.parametrize(("stored", "stated"), [("bfloat16", "float16"), ("float16", "bfloat16")])
def test_types_of_one_size_are_not_one(stored: str, stated: str, tmp_path: Path) -> None:
    kind = np.dtype(ml_dtypes.bfloat16) if stored == "bfloat16" else np.dtype(stored)
    arrays = {n: _values(n, "f4").astype(kind) for n in ARRAYS}
    raw = {n: a.view("V2") if stored == "bfloat16" else a for n, a in arrays.items()}
    _, reasons, message = _folded(_model(tmp_path / "m.h5", raw, stated))
    assert reasons == {"n": Reason.LOCKED_WEIGHTS.name}
    assert f"holds {stored} values, not {stated}" in message


def test_a_file_that_states_no_type_has_that_of_its_arrays(tmp_path: Path) -> None:
    """Keras 1 and 2.0 did not say it."""
    arrays = {n: _values(n, "float16") for n in ARRAYS}
    model = _model(tmp_path / "m.h5", arrays, None)
    before = _computed(model)
    after, reasons, _ = _folded(model)
    assert reasons == {"n": None}
    np.testing.assert_allclose(after, before, rtol=2e-2, atol=2e-2 * np.abs(before).max())


@pytest.mark.parametrize("kind", ["complex", "compound", "text", "reference", "array", "enumeration"])
def test_what_is_no_number_is_refused(kind: str, tmp_path: Path) -> None:
    model = _model(tmp_path / "m.h5", {n: _values(n, "f4") for n in ARRAYS})
    made: dict[str, object] = {
        "complex": np.ones(3, "c8"),
        "compound": np.zeros(3, [("a", "f4"), ("b", "i4")]),
        "text": [b"a", b"b", b"c"],
    }
    place = "model_weights/d/d/bias:0"
    with h5py.File(model, "a") as h5:
        del h5[place]
        if kind in made:
            h5[place] = made[kind]
        elif kind == "reference":
            h5[place] = h5["model_weights"].ref
        else:
            dtype = np.dtype(("f4", (2,))) if kind == "array" else h5py.enum_dtype({"A": 0, "B": 1}, "i4")
            h5.create_dataset(place, (3,), dtype)
    done = call("inspect", model)
    assert done.exit_code == 3
    assert f"'{place}'" in done.stderr
    assert "numbers" in done.stderr or "cannot be weights" in done.stderr


@pytest.mark.parametrize("odd", ["gamma", "beta"])
def test_a_norm_whose_parameters_differ_in_size_takes_nothing_on(odd: str, tmp_path: Path) -> None:
    """The BatchNormalization behind would go into it, had its two parameters one size."""
    sizes = {"gamma": 3, "beta": 3, odd: 5}
    layers = [
        dense("d"),
        {"class_name": "LayerNormalization", "config": {"name": "l", "axis": [1]}},
        norm("n"),
    ]
    layers[0]["config"]["batch_input_shape"] = [None, 4]
    arrays = {n: _values(n, "f4") for n in ARRAYS}
    groups = {layer: {n: a for n, a in arrays.items() if n.startswith(layer)} for layer in ("d", "n")}
    groups["l"] = {f"l/{name}": np.ones(size, "f4") for name, size in sizes.items()}
    ordered = {layer: groups[layer] for layer in ("d", "l", "n")}
    done = call("inspect", legacy(tmp_path / "m.h5", layers, ordered), "--json")
    assert done.exit_code == 0, done.output
    assert [d["action"] for d in json.loads(done.stdout)["decisions"]] == ["keep"]
