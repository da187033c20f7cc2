"""Random Keras networks, folded in every way there is, against Keras itself.

    python -m benchmarks.random_keras_moves --models 300 --seed 0

A network is drawn by its seed: convolutions of several kinds, activations as layers, inside layers and as
functions, pooling, sums, concatenations, nested models, BatchNormalizations along any axis and of all signs;
often a shift stands between an activation and zero padding. Each is folded as by default, with moving
activations and for a target without BatchNormalization, loaded by Keras and compared in float64 (each fourth
in float32, where a Rescaling may stand for a BatchNormalization). Ends with 1 where one differs. What was
folded is folded once more: what a second run finds is told, and counted.
"""

from __future__ import annotations

import argparse
import collections
import os
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np

os.environ.setdefault("KERAS_BACKEND", "tensorflow")

from bnfuse.formats.base import ReadOptions
from tests.keras_nets import batchnorms, computing_in, fold, fold_file, outputs_of, random_inputs, stir

_WAYS = {
    "default": ReadOptions(),
    "move": ReadOptions(activations="move"),
    "no-bn": ReadOptions(target="no-bn"),
}
_NEAR = {"float64": 1e-9, "float32": 2e-3}
_FUSED = (None, None, "relu", "relu", "relu6", "tanh", "elu", "sigmoid", "swish", "softplus", "hard_tanh")
_SIZE = 6


class Drawn:
    """A network that grows: every value has the shape (batch, 6, 6, channels)."""

    def __init__(self, keras: Any, rng: np.random.Generator) -> None:
        self.keras, self.layers, self.rng = keras, keras.layers, rng
        self.values: list[Any] = []

    def pick(self) -> Any:
        """One of the last values."""
        return self.values[-1 - int(self.rng.integers(min(3, len(self.values))))]

    def choose(self, among: Any) -> Any:
        """One of several."""
        return among[int(self.rng.integers(len(among)))]

    def grown(self, y: Any, steps: int) -> Any:
        """What comes of so many steps from a value on."""
        kinds: tuple[Callable[[Any], Any], ...] = (
            self.conv, self.conv, self.conv, self.norm, self.norm, self.norm, self.clamp, self.clamp,
            self.smooth, self.window, self.joined, self.other, self.walled, self.walled, self.walled,
        )  # fmt: skip
        before, self.values = self.values, [y]
        for _ in range(steps):
            self.values.append(self.choose(kinds)(self.pick()))
        made, self.values = self.values[-1], before
        return made

    def walled(self, y: Any) -> Any:
        """A shift between an activation and zero padding."""
        y = self.choose((self.clamp, self.clamp, self.smooth))(self.conv(y))
        y = self.norm(self.window(y) if self.rng.random() < 0.3 else y)
        return self.layers.Conv2D(int(self.rng.integers(2, 6)), 3, padding="same")(y)

    def conv(self, y: Any) -> Any:
        """A linear layer."""
        fused = {"activation": self.choose(_FUSED), "use_bias": bool(self.rng.integers(2))}
        n, layers = int(self.rng.integers(2, 6)), self.layers
        window = {"padding": "same", **fused}
        makers: tuple[Callable[[], Any], ...] = (
            lambda: layers.Conv2D(n, 3, **window), lambda: layers.Conv2D(n, 3, **window),
            lambda: layers.Conv2D(n, 1, **fused), lambda: layers.Dense(n, **fused),
            lambda: layers.DepthwiseConv2D(3, **window), lambda: layers.SeparableConv2D(n, 3, **window),
            lambda: layers.Conv2DTranspose(n, 3, **window),
        )  # fmt: skip
        return self.choose(makers)()(y)

    def norm(self, y: Any) -> Any:
        """A BatchNormalization, mostly along the channels, or another scale and shift."""
        draw = self.rng.random()
        if draw < 0.1:
            return self.layers.BatchNormalization(axis=int(self.rng.integers(1, 3)))(y)
        if draw < 0.15:
            return self.layers.Rescaling(self.rng.uniform(0.5, 2.0, y.shape[-1]).tolist(), offset=-0.3)(y)
        return self.layers.BatchNormalization(scale=draw > 0.2, center=draw < 0.9)(y)

    def clamp(self, y: Any) -> Any:
        """An activation that is a clamp, or nearly."""
        layers, ops = self.layers, self.keras.ops
        makers: tuple[Callable[[], Any], ...] = (
            layers.ReLU, layers.ReLU, lambda: layers.ReLU(max_value=float(self.rng.uniform(0.5, 6.0))),
            lambda: layers.Activation(self.choose(("relu", "relu6", "hard_tanh"))), lambda: ops.relu,
            lambda: lambda v: ops.clip(v, -0.5, 2), lambda: lambda v: ops.maximum(v, 0.3),
            lambda: lambda v: ops.minimum(0.7, v), lambda: ops.relu6, lambda: layers.ReLU(negative_slope=0.1),
            lambda: layers.ReLU(threshold=0.2), layers.LeakyReLU,
        )  # fmt: skip
        return self.choose(makers)()(y)

    def smooth(self, y: Any) -> Any:
        """An activation that lets nothing through."""
        names = ("tanh", "elu", "sigmoid", "softplus", "swish", "selu", "hard_sigmoid", "softsign")
        return self.layers.Activation(self.choose(names))(y)

    def window(self, y: Any) -> Any:
        """What works on every channel by itself."""
        layers = self.layers
        makers: tuple[Callable[[Any], Any], ...] = (
            lambda v: layers.MaxPooling2D(2, strides=1, padding="same")(v),
            lambda v: layers.AveragePooling2D(3, strides=1, padding="same")(v),
            lambda v: layers.Dropout(0.2)(v), lambda v: layers.Cropping2D(1)(layers.ZeroPadding2D(1)(v)),
            lambda v: layers.UpSampling2D(2)(layers.MaxPooling2D(2)(v)),
        )  # fmt: skip
        return self.choose(makers)(y)

    def joined(self, y: Any) -> Any:
        """Of two values."""
        other = self.pick()
        if other.shape == y.shape and self.rng.random() < 0.6:
            kind = self.choose(("Add", "Add", "Multiply", "Maximum", "Subtract"))
            return getattr(self.layers, kind)()([y, other])
        return self.layers.Concatenate()([y, other])

    def other(self, y: Any) -> Any:
        """A nested model, once or twice, or a layer that is called twice."""
        x = self.layers.Input(y.shape[1:])
        inner = self.keras.Model(x, self.grown(x, 4)) if self.rng.random() < 0.6 else self.layers.Dense(3)
        made = inner(y)
        return self.layers.Add()([made, inner(self.smooth(y))]) if self.rng.random() < 0.3 else made


def network(keras: Any, seed: int) -> Any:
    """The network of a seed, its BatchNormalizations of mixed, signed or positive γ."""
    rng = np.random.default_rng(seed)
    drawn = Drawn(keras, rng)
    x = keras.layers.Input((_SIZE, _SIZE, 3), name="x")
    y = drawn.grown(x, int(rng.integers(6, 22)))
    end = keras.layers.Dense(3)(keras.layers.GlobalAveragePooling2D()(y))
    model = keras.Model(x, [end, y] if rng.random() < 0.3 else end)
    return stir(model, gamma=drawn.choose(("mixed", "signed", "positive")), seed=seed)


def differs(keras: Any, seed: int, dtype: str, counts: collections.Counter[str]) -> str:
    """Where a fold of a seed's network computes something else; "" where none does."""
    with computing_in(keras, dtype), tempfile.TemporaryDirectory() as folder:
        model = network(keras, seed)
        feeds = random_inputs(model, seed=seed)
        want = outputs_of(model, feeds)
        for way, options in _WAYS.items():
            folded = fold(model, Path(folder) / way, options=options)
            loaded = keras.models.load_model(folded.after, compile=False)
            for old, new in zip(want, outputs_of(loaded, feeds), strict=True):
                size = np.abs(old).max()
                error = np.abs(old - new).max() / size if size else np.abs(new).max()
                if not error <= _NEAR[dtype]:
                    return f"{way}: off by {error:.1e} of the range"
            if again := fold_file(folded.after, Path(folder) / "again.keras", options).gone:
                named = ", ".join(sorted(again))
                print(f"seed {seed} ({dtype}), {way}: a second run finds {named}", flush=True)
                counts[f"{way}: networks in which a second run finds more"] += 1
            counts[f"{way}: BatchNormalizations"] += sum(d.is_batchnorm for d in folded.plan.decisions)
            counts[f"{way}: left"] += len(batchnorms(loaded))
            counts[f"{way}: spelled out"] += len(folded.plan.arithmetic)
            for decision in folded.plan.order:
                counts[f"{way}: by {decision.split.value}"] += 1
                for _, becomes in decision.becomes:
                    counts[f"{way}: becomes {becomes}"] += 1
    return ""


def main() -> None:
    """Try them all, and tell."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--models", type=int, default=300)
    parser.add_argument("--seed", type=int, default=0, help="of the first network")
    asked = parser.parse_args()
    import keras

    counts: collections.Counter[str] = collections.Counter()
    wrong, begun = 0, time.monotonic()
    for seed in range(asked.seed, asked.seed + asked.models):
        dtype = "float32" if seed % 4 == 3 else "float64"
        why = differs(keras, seed, dtype, counts)
        wrong += bool(why)
        if why:
            print(f"seed {seed} ({dtype}): {why}", flush=True)
        if seed % 25 == 24:
            with suppress(Exception):
                keras.backend.clear_session()
            print(f"{seed + 1 - asked.seed} networks, {time.monotonic() - begun:.0f} s", flush=True)
    for what, count in sorted(counts.items()):
        print(f"{count:8d}  {what}")
    print(f"{wrong} of {asked.models} differ")
    sys.exit(wrong > 0)


if __name__ == "__main__":
    main()
