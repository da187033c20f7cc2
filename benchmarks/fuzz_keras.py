"""Damaged Keras files by the thousand through bnfuse: a result, or one sentence (``benchmarks.fuzzing``).

    python -m benchmarks.fuzz_keras [--mutants 20000] [--seed 0] [--every 10] [MODEL …]

A mutant is a file with one to four changes that know the format: in its config (keys dropped, types and
values changed, parts exchanged, numbers made huge), in its HDF5 (links, arrays, types, shapes, attributes),
or in its bytes. ``python -m tests.keras_saved build FOLDER`` saves small models of every kind. Not part of
the tests: it takes minutes.
"""

from __future__ import annotations

import contextlib
import copy
import io
import json
import random
import zipfile
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from benchmarks.fuzzing import NotMade, main, parser

_ROOT = Path(__file__).parents[1]
_LARGE = 1 << 20  # elements, which earlier changes may have declared
_JUNK: tuple[Any, ...] = (
    None, True, False, 0, -1, 1, 2, 3, 10**9, 2**31, 2**63, 10**30, -(2**63), 0.5, 1e308,
    float("nan"), float("inf"), "", "x", "same", "valid", "channels_first", "linear", "relu", "float16",
    "x" * 3000, "a/b", "\0", [], {}, [None], [[]], [1, 2], [2, "x"], [0, 0, 0], ["x", 0, 0], {"a": 1},
    {"class_name": "Dense"}, {"config": None},
)  # fmt: skip


# Configs


def _spots(value: Any) -> list[tuple[Any, Any]]:
    """Every (list or dict, index or key) in a JSON value."""
    found: list[tuple[Any, Any]] = []
    todo = [value]
    while todo:
        holder = todo.pop()
        for key, inner in list(holder.items() if isinstance(holder, dict) else enumerate(holder)):
            found.append((holder, key))
            if isinstance(inner, dict | list):
                todo.append(inner)
    return found


def _mutate_config(config: Any, rng: random.Random) -> Any:
    config = copy.deepcopy(config)
    for _ in range(rng.choice((1, 1, 1, 2, 4))):
        spots = _spots(config)
        holder, key = rng.choice(spots)
        other, elsewhere = rng.choice(spots)
        match rng.randrange(7):
            case 0:
                del holder[key]
            case 1 | 2:
                holder[key] = copy.deepcopy(rng.choice(_JUNK))
            case 3:  # exchanged
                kept = copy.deepcopy(holder[key])
                holder[key] = copy.deepcopy(other[elsewhere])
                with contextlib.suppress(KeyError, IndexError):
                    other[elsewhere] = kept
            case 4 if isinstance(holder, list):
                holder.insert(rng.randrange(len(holder) + 1), copy.deepcopy(holder[key]))
            case 5 if isinstance(holder[key], int):
                holder[key] = holder[key] * rng.choice((-1, 0, 2, 10**6)) + rng.choice((-1, 0, 1))
            case _ if isinstance(holder, dict):
                holder[str(rng.choice(spots)[1])] = holder.pop(key)
    return config


# HDF5


def _names(h5: h5py.File) -> list[str]:
    found: list[str] = []
    h5.visit(found.append)  # append returns None
    return found


def _mutate_hdf5(h5: h5py.File, rng: random.Random) -> None:
    for _ in range(rng.choice((1, 1, 2, 3))):
        names = _names(h5)
        if not names:
            return
        name, other = rng.choice(names), rng.choice(names)
        if rng.random() < 0.35:
            _mutate_attributes(h5[rng.choice([name, "/"])].attrs, rng)
            continue
        arrays = [n for n in names if isinstance(h5[n], h5py.Dataset) and (h5[n].size or 0) < _LARGE]
        if arrays and rng.random() < 0.6:
            name = rng.choice(arrays)
            values = h5[name][()]
            del h5[name]
            h5.create_dataset(name, **_other_array(values, rng))
            continue
        with contextlib.suppress(ValueError, OSError, RuntimeError):  # HDF5 refuses some itself
            _mutate_link(h5, name, other, rng)


def _other_array(values: Any, rng: random.Random) -> dict[str, Any]:
    """What ``create_dataset`` is to make in an array's place."""
    match rng.randrange(6):
        case 0:
            return {
                "shape": values.shape,
                "dtype": rng.choice(("i1", "u8", "?", "f2", ">f4", "f8", "c8", "V1", "V2")),
            }
        case 1:
            return {"data": np.resize(values, rng.choice(((), (0,), (1,), (2, 3), (1, 1, 3), (7,), (0, 3))))}
        case 2:
            return {"data": np.full(values.shape, rng.choice((np.nan, np.inf, 0.0, -1.0, 1e38)), "f4")}
        case 3 if values.ndim and values.size:
            return {
                "data": values,
                "chunks": tuple(rng.randint(1, n) for n in values.shape),
                "compression": "gzip",
            }
        case 4:
            return {"shape": (rng.choice((10**6, 10**9)),), "dtype": "f4", "chunks": (1024,)}
        case _:
            return {
                "data": rng.choice(
                    (b"text", [b"a", b"b"], h5py.Empty("f4"), values.T if values.ndim else values)
                )
            }


def _mutate_link(h5: h5py.File, name: str, other: str, rng: random.Random) -> None:
    target = h5[other]
    match rng.randrange(5):
        case 0:
            h5.move(name, f"{name}{rng.choice(('_1', '/x', 'x' * 3000))}")
            return
        case 1:
            h5[f"{name}_again"] = target
            return
        case 2:
            h5.move(name, "moved")
            h5.move(other, name)
            return
    del h5[name]
    made = (h5py.SoftLink(f"/{other}"), h5py.ExternalLink("none.h5", f"/{other}"), target, np.ones(3))
    h5[name] = rng.choice(made)


def _mutate_attributes(attributes: Any, rng: random.Random) -> None:
    names = list(attributes)
    if not names:
        attributes["layer_names"] = [b"a"]
        return
    name = rng.choice(names)
    value = attributes[name]
    junk: tuple[Any, ...] = (
        3,
        0.5,
        "",
        "x",
        b"\xff",
        [b"a"],
        [b"a", b"a"],
        [1, 2],
        h5py.Empty("f4"),
        "[" * 3000,
    )
    if isinstance(value, np.ndarray) and value.ndim == 1 and len(value) and rng.random() < 0.6:
        listed = [v.encode() if isinstance(v, str) else v for v in value.tolist()]
        rng.choice((rng.shuffle, lambda items: items.pop(), lambda items: items.append(items[0])))(listed)
        value = listed or [b""]
    else:
        value = rng.choice(junk)
    del attributes[name]
    if rng.random() < 0.8:
        attributes[name] = value


# Bytes


def _mutate_bytes(data: bytes, rng: random.Random) -> bytes:
    made = bytearray(data)
    if rng.random() < 0.1:
        return data[: rng.randrange(len(data))]
    for _ in range(rng.choice((1, 1, 2, 5, 20))):
        at = rng.randrange(min(len(made), 4096) if rng.random() < 0.6 else len(made))
        made[at] = rng.choice((0, 255, rng.randrange(256), made[at] ^ (1 << rng.randrange(8))))
    return bytes(made)


def mutant(model: Path, seed: int) -> bytes:
    """The mutant of a model that belongs to a seed."""
    rng, data = random.Random(f"{model.name} {seed}"), model.read_bytes()
    how = rng.choice(("config", "config", "config", "hdf5", "hdf5", "bytes"))
    if not data.startswith(b"PK"):
        if how == "bytes":
            return _mutate_bytes(data, rng)
        return _in_hdf5(data, how, rng)
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    weights = members["model.weights.h5"]
    if how == "config":
        members["config.json"] = json.dumps(_mutate_config(json.loads(members["config.json"]), rng)).encode()
    elif how == "hdf5":
        members["model.weights.h5"] = _in_hdf5(weights, how, rng)
    elif rng.random() < 0.5:
        members["model.weights.h5"] = _mutate_bytes(weights, rng)
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    same = how == "bytes" and members["model.weights.h5"] is weights
    return _mutate_bytes(packed.getvalue(), rng) if same else packed.getvalue()


def _in_hdf5(data: bytes, how: str, rng: random.Random) -> bytes:
    inner = io.BytesIO(data)
    with h5py.File(inner, "a") as h5:
        if how == "config" and "model_config" in h5.attrs:
            config = _mutate_config(json.loads(h5.attrs["model_config"]), rng)
            h5.attrs["model_config"] = json.dumps(config)
        else:
            _mutate_hdf5(h5, rng)
    return inner.getvalue()


class Mutants:
    """Those of some files, in turn. Keras takes half a second for each, and some ten to come up."""

    judged, runtime_seconds, runtime_memory = False, 60.0, "2GB"

    def __init__(self, models: list[Path]) -> None:
        self._models = models

    def write(self, folder: Path, seed: int) -> Path:
        """The mutant of a seed."""
        model = self._models[seed % len(self._models)]
        for old in folder.glob("mutant.*"):
            old.unlink()
        path = folder / f"mutant{model.suffix}"
        try:
            path.write_bytes(mutant(model, seed))
        except Exception as error:
            raise NotMade(type(error).__name__) from error
        return path


def _files(named: list[Path]) -> list[Path]:
    """Files as they are, and those of folders."""
    folders = [path for path in named or [_ROOT / "fixtures"] if path.is_dir()]
    inside = [p for folder in folders for p in sorted(folder.iterdir()) if p.suffix in (".keras", ".h5")]
    return [*(path.resolve() for path in named if not path.is_dir()), *inside]


if __name__ == "__main__":
    options = parser((__doc__ or "").partition("\n")[0])
    options.add_argument("models", nargs="*", type=Path, metavar="MODEL", help="files or folders: fixtures/")
    asked = options.parse_args()
    files = _files(asked.models)
    main(lambda: Mutants(files), asked, ["benchmarks.fuzz_keras", *map(str, files)])
