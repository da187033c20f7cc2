"""Random Keras networks, folded and run again by the Keras that made them: none may compute something else.

    python -m benchmarks.random_keras_rows [--networks 1000] [--seed 0] [--library tf_keras] [--suffix .h5]

A network begins at an input of one to four axes and goes on by rows drawn from the tables of the tests:
layers with kernels, layers and functions that move or average, merges of two branches, norms, recurrent
layers, nested networks that are called once or twice; BatchNormalizations of all kinds of numbers in between.
Twenty stand side by side in one model, so that Keras saves, loads and runs twenty at a time; each is judged
alone, by the range of its own output. Keras 3 computes in float64, tf_keras in float32: its files hold no
other constants.

Prints differences with their seeds, what became of the BatchNormalizations, and how often each row was drawn.
Exits 1 where a network differs or cannot be folded.
"""

from __future__ import annotations

import argparse
import collections
import importlib
import sys
import tempfile
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from bnfuse.formats.keras.file.opening import open_container
from bnfuse.formats.keras.graph.config import parse
from bnfuse.formats.keras.graph.network import walk
from tests.keras_functions import of_keras, of_tensorflow
from tests.keras_kernels import KERNELS, Kernel
from tests.keras_movers import MOVERS
from tests.keras_nets import computing_in, fold, outputs_of, random_inputs, stir
from tests.test_keras_affines import NORMS, WITHOUT_SHIFT
from tests.test_keras_merges import MERGES
from tests.test_keras_recurrent import RECURRENT

Step = Callable[[Any, Any, np.random.Generator], Any]  # the library, a tensor, random numbers -> a tensor
_SHAPES = ((5,), (8, 3), (9, 4), (6, 6), (8, 7, 3), (9, 8, 6), (4, 5, 6), (6, 5, 4, 3))
_SPECTRAL = [k for k in KERNELS.values() if not k.channels_first and not k.name.startswith("separable")]
_TOGETHER = 20
_MOST_ELEMENTS, _MOST_AXES, _ATTEMPTS = 4000, 5, 12
TOLERANCE = {"float64": 1e-8, "float32": 1e-4}
_NOT_DRAWN = ("divided, reversed", "cast to a narrower one", "index of all but channels", "an unknown one")


def steps_of(library: Any) -> list[list[Step]]:
    """Steps by the table they come from; each table is drawn alike."""
    is_keras3 = hasattr(library, "config")
    if is_keras3:
        functions, namespace = of_keras(), library.ops
    else:
        functions, namespace = of_tensorflow(), importlib.import_module("tensorflow")
    layers = [
        *(kernel.make for kernel in KERNELS.values() if not kernel.channels_first),
        *(m.make for m in MOVERS.values() if m.axis == -1 and (not is_keras3 or m.floatx == "float64")),
    ]
    if is_keras3:  # tf_keras does not load it by its name
        layers += [partial(_spectral, k) for k in _SPECTRAL]
    recurrent = {**RECURRENT}
    if not is_keras3:  # tf_keras divides the weights of both directions by two, and does not load this one
        del recurrent["bidirectional of two"]
    norms = [*NORMS.values(), *WITHOUT_SHIFT.values(), *recurrent.values()]
    floatx = ("float64",) if is_keras3 else ("float64", "float32")
    calls = [f.call for f in functions if f.name not in _NOT_DRAWN and f.floatx in floatx]
    return [
        [_layer(make) for make in layers],
        [_layer(make) for make in norms],
        [_function(namespace, call) for call in calls],
        [_merge(make) for make, _ in MERGES.values()],
        [_nested, _twice, _activated],
    ]


def _spectral(kernel: Kernel, layers: Any) -> Any:
    return layers.SpectralNormalization(kernel.make(layers))


def _layer(make: Callable[[Any], Any]) -> Step:
    return lambda library, x, rng: make(library.layers)(x)


def _function(namespace: Any, call: Callable[[Any, Any, Any], Any]) -> Step:
    def step(library: Any, x: Any, rng: np.random.Generator) -> Any:
        return call(namespace, x, _mixed(library, x))

    return step


def _merge(make: Callable[[Any], Any]) -> Step:
    def step(library: Any, x: Any, rng: np.random.Generator) -> Any:
        other = x if rng.random() < 0.3 else _norm(library, _mixed(library, x), rng)
        return make(library.layers)([_mixed(library, x), other])

    return step


def _mixed(library: Any, x: Any) -> Any:
    """Something linear of the same shape."""
    return library.layers.Dense(x.shape[-1])(x)


def _nested(library: Any, x: Any, rng: np.random.Generator) -> Any:
    """A network of its own, called once or twice."""
    z = library.layers.Input(tuple(x.shape[1:]))
    y = _norm(library, _mixed(library, _norm(library, z, rng)), rng)
    inner = library.Model(z, library.layers.Activation("relu")(y))
    return inner(inner(x)) if rng.random() < 0.5 else inner(x)


def _twice(library: Any, x: Any, rng: np.random.Generator) -> Any:
    """One layer called twice, with a BatchNormalization behind it or not."""
    layer, norm = library.layers.Dense(x.shape[-1]), library.layers.BatchNormalization()
    return norm(layer(norm(layer(x)) if rng.random() < 0.5 else layer(x)))


def _activated(library: Any, x: Any, rng: np.random.Generator) -> Any:
    return library.layers.Activation(str(rng.choice(("relu", "tanh", "linear", "gelu"))))(x)


def _norm(library: Any, x: Any, rng: np.random.Generator) -> Any:
    """A BatchNormalization, mostly along the last axis."""
    axis = -1 if rng.random() < 0.8 else int(rng.integers(1, len(x.shape)))
    return library.layers.BatchNormalization(axis=axis)(x)


def network(library: Any, tables: list[list[Step]], x: Any, rng: np.random.Generator) -> Any:
    """What comes out of some steps behind ``x``; those that do not take its shape are drawn anew."""
    y = x
    for _ in range(int(rng.integers(2, 7))):
        for _ in range(_ATTEMPTS):
            table = tables[int(rng.integers(len(tables)))]
            step = table[int(rng.integers(len(table)))]
            made = _tried(step, library, y, rng)
            if made is not None:
                y = made
                break
        if rng.random() < 0.6:
            y = _norm(library, y, rng)
    return y


def _tried(step: Step, library: Any, x: Any, rng: np.random.Generator) -> Any | None:
    try:
        made = step(library, x, rng)
        made = made[0] if isinstance(made, list | tuple) else made
        sizes = list(made.shape[1:])
    except Exception:  # noqa: BLE001 - whatever a library says of a shape that does not fit
        return None
    fits = 0 < len(sizes) < _MOST_AXES and None not in sizes and int(np.prod(sizes)) <= _MOST_ELEMENTS
    return made if fits and np.dtype(_type(made)) == np.dtype(_type(x)) else None


def _type(x: Any) -> str:
    return str(x.dtype if isinstance(x.dtype, str) else x.dtype.name)


def model_of(library: Any, tables: list[list[Step]], seed: int, count: int, floatx: str) -> Any:
    """Networks side by side, with random weights."""
    inputs, outputs = [], []
    with computing_in(library, floatx):
        for number in range(count):
            rng = np.random.default_rng([seed, number])
            y = None
            while y is None:
                x = library.layers.Input(_SHAPES[int(rng.integers(len(_SHAPES)))], name=f"x{number}")
                y = _running(library, x, network(library, tables, x, rng))
            inputs.append(x)
            outputs.append(library.layers.Activation("linear")(y))
        model = library.Model(inputs, outputs)
    kind = ("mixed", "signed", "positive", "scale")[seed % 4]
    return stir(model, gamma=kind, seed=seed)


def _running(library: Any, x: Any, y: Any) -> Any | None:
    """What came out, if the library runs it: some functions are told the wrong shape."""
    try:
        library.Model(x, y)(np.zeros((2, *x.shape[1:]), _type(x)))
    except Exception:  # noqa: BLE001 - whatever it says
        return None
    return y


def drawn(path: Path) -> collections.Counter[str]:
    """Layers by class, functions by name, of a file."""
    container = open_container(path)
    try:
        network = parse(container.config, container.keras_version)
        return collections.Counter(layer.function or layer.class_name for _, layer in walk(network))
    finally:
        container.close()


def differences(library: Any, seed: int, count: int, options: argparse.Namespace) -> Iterator[Any]:
    """One model: rows that were drawn, BatchNormalizations gone and kept, and networks that differ."""
    floatx = "float64" if hasattr(library, "config") else "float32"
    model = model_of(library, steps_of(library), seed, count, floatx)
    with tempfile.TemporaryDirectory() as folder:
        folded = fold(model, Path(folder), options.suffix)
        loaded = library.models.load_model(folded.after, compile=False)
        yield drawn(folded.before)
        yield len(folded.gone), len(folded.kept)
        feeds = random_inputs(model)
        want, got = outputs_of(model, feeds), outputs_of(loaded, feeds)
    for number, (a, b) in enumerate(zip(want, got, strict=True)):
        size = float(np.abs(a).max(initial=0.0))
        if not np.isfinite(a).all() or not size:
            yield "no numbers"
        elif a.shape != b.shape or not float(np.abs(a - b).max()) <= TOLERANCE[floatx] * size:
            yield f"seed {seed}, network {number}: {float(np.abs(a - b).max()) / size:.1e} of the range"
        else:
            yield "equal"


def main() -> None:
    """Draw them all, and tell."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--networks", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0, help="of the first model")
    parser.add_argument("--library", choices=("keras", "tf_keras"), default="keras")
    parser.add_argument("--suffix", choices=(".keras", ".h5"), default=".keras")
    options = parser.parse_args()
    library = importlib.import_module(options.library)
    rows: collections.Counter[str] = collections.Counter()
    told: collections.Counter[str] = collections.Counter()
    gone = kept = 0
    for at in range(0, options.networks, _TOGETHER):
        seed = options.seed + at // _TOGETHER
        try:
            found, counts, *verdicts = differences(library, seed, _TOGETHER, options)
        except Exception as error:  # noqa: BLE001 - a model that cannot be folded is told, and the next one tried
            told[f"seed {seed}: {type(error).__name__} {' '.join(str(error).split())[:200]}"] += 1
            print(f"seed {seed}: {type(error).__name__} {' '.join(str(error).split())[:200]}", flush=True)
            continue
        rows += found
        gone, kept = gone + counts[0], kept + counts[1]
        told.update(verdicts)
        for verdict in verdicts:
            if verdict.startswith("seed"):
                print(verdict, flush=True)
        print(f"seed {seed} done: {told['equal']} equal so far, {gone} folded, {kept} kept", file=sys.stderr)
    bad = sum(n for text, n in told.items() if text.startswith("seed"))
    ending = f"{told['equal']} equal, {bad} bad, {told['no numbers']} without numbers"
    print(f"{options.library} {options.suffix}: {ending}")
    print(f"{gone} folded, {kept} BatchNormalizations kept")
    print(", ".join(f"{name} {count}" for name, count in rows.most_common()))
    sys.exit(bad > 0)


if __name__ == "__main__":
    main()
