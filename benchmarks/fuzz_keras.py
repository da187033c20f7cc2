"""Mutants of Keras files through ``inspect`` and ``optimize``: a result or one sentence, soon and in bounds.

    python -m benchmarks.fuzz_keras [--mutants 20000] [--seed 0] [MODEL …]

A mutant is a file with one to four changes that know the format: in its config (keys dropped, types and
values changed, parts exchanged, numbers made huge), in its HDF5 (links, arrays, types, shapes, attributes),
or in its bytes. It runs in a process that may take 10 s and 1 GiB for each; where that ends, the next begins
at the mutant behind. Mutants are told by their seed, and so can be made again: ``--mutants 1 --seed N``.

Prints how many ended how, and each escape (what was raised where, a crash, too long, too much memory, a
sentence of more than 300 characters) with a seed. Exits 1 where there is one. Mutants are never kept.
"""

from __future__ import annotations

import argparse
import collections
import contextlib
import copy
import io
import json
import random
import re
import resource
import select
import signal
import subprocess
import sys
import tempfile
import traceback
import warnings
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from bnfuse import inspect, optimize
from bnfuse.errors import BnfuseError

_SECONDS, _BYTES = 10, 1 << 30
_SILENT_SECONDS = 4 * _SECONDS  # C code hears of no timer
_LONGEST_SENTENCE = 300
_ROOT = Path(__file__).parents[1]
_JUNK: tuple[Any, ...] = (
    None, True, False, 0, -1, 1, 2, 3, 10**9, 2**31, 2**63, 10**30, -(2**63), 0.5, 1e308,
    float("nan"), float("inf"), "", "x", "same", "valid", "channels_first", "linear", "relu", "float16",
    "x" * 3000, "a/b", "\0", [], {}, [None], [[]], [1, 2], [2, "x"], [0, 0, 0], ["x", 0, 0], {"a": 1},
    {"class_name": "Dense"}, {"config": None},
)  # fmt: skip


class _TooLong(BaseException):
    """Raised by the timer; nothing catches it by chance."""


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
        arrays = [n for n in names if isinstance(h5[n], h5py.Dataset)]
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


# Trying them


def _tried(path: Path) -> str:
    """How a mutant ended."""
    target = path.with_name(f"out{path.suffix}")
    try:
        signal.setitimer(signal.ITIMER_REAL, _SECONDS)
        inspect(path, hashes=False)
        report = optimize(path, target, verify=False, bench=False, hashes=False, force=True)
    except BnfuseError as error:
        sentence = str(error).replace(str(path), "")
        long = len(sentence) > _LONGEST_SENTENCE or "\n" in sentence
        return f"escape: sentence {re.sub(r'x{20,}', 'x…', sentence)[:200]}" if long else "refused"
    except _TooLong as error:
        return f"escape: longer than {_SECONDS} s in {_place(error)}"
    except MemoryError as error:
        return f"escape: more than 1 GiB in {_place(error)}"
    except Exception as error:  # noqa: BLE001 - what this is for
        return f"escape: {type(error).__name__} in {_place(error)}: {' '.join(str(error).split())[:100]}"
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
    return "folded" if report.plan.rewrites else "kept"


def _place(error: BaseException) -> str:
    frames = traceback.extract_tb(error.__traceback__)
    own = [frame for frame in frames if "/bnfuse/" in frame.filename]
    return " < ".join(f"{Path(frame.filename).name}:{frame.lineno}" for frame in reversed(own[-2:]))


def _too_long(*_: object) -> None:
    raise _TooLong


def work(models: list[Path], first: int, beyond: int) -> None:
    """Try mutants one after the other; a line for each, before and after."""
    signal.signal(signal.SIGALRM, _too_long)
    warnings.simplefilter("ignore")
    np.seterr(all="ignore")
    held = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (held + _BYTES, resource.RLIM_INFINITY))
    with tempfile.TemporaryDirectory() as folder:
        for seed in range(first, beyond):
            model = models[seed % len(models)]
            path = Path(folder) / f"mutant{model.suffix}"
            print(f"{seed} begins", flush=True)
            try:
                path.write_bytes(mutant(model, seed))
            except Exception as error:  # noqa: BLE001 - HDF5 refuses to make some of them
                print(f"{seed} not made ({type(error).__name__})", flush=True)
                continue
            print(f"{seed} {_tried(path)}", flush=True)


def outcomes(models: list[Path], first: int, beyond: int) -> Iterator[tuple[int, str]]:
    """(seed, how it ended) of every mutant, whatever becomes of the processes that try them."""
    while first < beyond:
        command = [
            sys.executable,
            "-X",
            "faulthandler",
            "-m",
            "benchmarks.fuzz_keras",
            "--work",
            f"{first}:{beyond}",
        ]
        with subprocess.Popen(
            [*command, *map(str, models)],
            cwd=_ROOT,
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        ) as worker:
            yield from _lines(worker)
            at = _last[0]
            if worker.wait() and at >= first:
                where = re.findall(r'File ".*/bnfuse/.*?(\w+\.py)", line (\d+)', worker.stderr.read())[:2]  # type: ignore[union-attr]
                yield at, f"escape: ended by {worker.returncode} in {' < '.join(':'.join(w) for w in where)}"
            elif worker.returncode:
                raise SystemExit(f"the worker does not start: {worker.stderr.read()[-500:]}")  # type: ignore[union-attr]
            first = at + 1


_last = [-1]


def _lines(worker: subprocess.Popen[str]) -> Iterator[tuple[int, str]]:
    stream = worker.stdout
    assert stream is not None
    while True:
        if not select.select([stream], [], [], _SILENT_SECONDS)[0]:
            worker.kill()
            return
        line = stream.readline()
        if not line:
            return
        seed, _, ending = line.rstrip("\n").partition(" ")
        _last[0] = int(seed)
        if ending != "begins":
            yield int(seed), ending


def main() -> None:
    """Try them all, and tell."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("models", nargs="*", type=Path, metavar="MODEL", help="default: those of fixtures/")
    parser.add_argument("--mutants", type=int, default=20_000)
    parser.add_argument("--seed", type=int, default=0, help="of the first mutant")
    parser.add_argument("--work", help=argparse.SUPPRESS)
    asked = parser.parse_args()
    models = asked.models or sorted(
        p for p in (_ROOT / "fixtures").iterdir() if p.suffix in (".keras", ".h5")
    )
    if asked.work:
        work(models, *map(int, asked.work.split(":")))
        return
    counts: collections.Counter[str] = collections.Counter()
    seeds: dict[str, int] = {}
    for seed, ending in outcomes(models, asked.seed, asked.seed + asked.mutants):
        counts[ending] += 1
        seeds.setdefault(ending, seed)
    for ending, count in counts.most_common():
        print(f"{count:8d}  {ending}" + (f"  (seed {seeds[ending]})" if ending.startswith("escape") else ""))
    sys.exit(any(ending.startswith("escape") for ending in counts))


if __name__ == "__main__":
    main()
