"""Many small networks side by side in one model: Keras saves, loads and runs them once, each is judged alone.

Nothing connects them: every network is a chain of layers with an input of its own, its output is one of the
model's. What a model costs whatever is in it is paid once for all of them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from bnfuse.core.reasons import Reason
from tests.keras_nets import (
    TOLERANCE,
    Keras,
    assert_same,
    batchnorms,
    computing_in,
    fold,
    input_names,
    output_names,
    outputs_of,
    random_inputs,
    stir,
)

# Of each kind of γ, as ``keras_nets.stir`` draws it, the kinds that ask for less.
_LESS = {
    "scale": (),
    "positive": ("scale",),
    "signed scale": ("scale",),
    "signed": ("scale", "positive", "signed scale"),
    "mixed": ("scale", "positive", "signed scale", "signed"),
}


def telling(why: Callable[[str], Reason | None]) -> list[str]:
    """The kinds of γ to try: the most that passes and, for every reason, the least that is refused.

    What passes with both signs, a zero and a shift passes with less of it.

    >>> telling(lambda gamma: None)
    ['mixed']
    >>> telling(lambda gamma: None if gamma in ("scale", "positive") else Reason.NEGATIVE_SCALE)
    ['positive', 'signed scale']
    """
    passing = {gamma for gamma in _LESS if why(gamma) is None}
    below = {less for gamma in passing for less in _LESS[gamma]}
    refused = {g for g in _LESS if g not in passing and why(g) not in {why(less) for less in _LESS[g]}}
    return [gamma for gamma in _LESS if gamma in refused or gamma in passing - below]


@dataclass(frozen=True)
class Network:
    """A chain of layers, made in one type; ``steps`` gets ``keras.layers`` and the name for its BN.

    ``gamma``: the kind of its BN's numbers.
    """

    shape: tuple[int | None, ...]
    steps: Callable[[Any, str], Sequence[Any]]
    floatx: str = "float64"
    gamma: str = "mixed"


@dataclass(frozen=True)
class Outcome:
    """What became of one network: its BN's reasons to stay, and its output before and after.

    ``kept`` is None where the BN is gone; ``outputs`` names the layers its output comes from.
    """

    kept: set[Reason] | None
    want: np.ndarray
    got: np.ndarray
    outputs: tuple[str, str]
    floatx: str

    def assert_equal(self) -> None:
        """It computes the same, within its type, under its old name."""
        assert_same([self.want], [self.got], TOLERANCE[self.floatx])
        assert self.outputs[0] == self.outputs[1]

    def assert_told(self, why: Reason | None) -> None:
        """The same, and its BN is gone, or stays for this reason among others."""
        self.assert_equal()
        if why is None:
            assert self.kept is None
        else:
            assert self.kept is not None
            assert why in self.kept


def joined(keras: Keras, networks: Mapping[str, Network]) -> Any:
    """One model of all networks, stirred; number k has the input ``x{k}`` and the BN ``norm{k}``."""
    inputs, outputs = [], []
    for number, network in enumerate(networks.values()):
        with computing_in(keras, network.floatx):
            x = y = keras.layers.Input(network.shape, name=f"x{number}")
            for step in network.steps(keras.layers, f"norm{number}"):
                y = step(y)
        inputs.append(x)
        outputs.append(y)
    kinds = {f"norm{number}": network.gamma for number, network in enumerate(networks.values())}
    return stir(keras.Model(inputs, outputs), gamma=kinds)


class Made(NamedTuple):
    """A model of all networks, inputs, and what it makes of them."""

    model: Any
    feeds: list[np.ndarray]
    want: list[np.ndarray]


def made_once(keras: Keras, networks: Mapping[str, Network]) -> Made:
    """For models that are folded out of more than one kind of file."""
    model = joined(keras, networks)
    feeds = random_inputs(model)
    return Made(model, feeds, outputs_of(model, feeds))


def outcomes(
    keras: Keras,
    networks: Mapping[str, Network],
    folder: Path,
    *,
    suffix: str = ".keras",
    made: Made | None = None,
) -> dict[str, Outcome]:
    """Fold a model of all networks and run the result in the same Keras; by network, what became of it."""
    model, feeds, want = made or made_once(keras, networks)
    folded = fold(model, folder, suffix)
    loaded = keras.models.load_model(folded.after, compile=False)
    got = outputs_of(loaded, feeds)
    assert len(want) == len(got) == len(networks)
    assert [tuple(t.shape) for t in loaded.inputs] == [tuple(t.shape) for t in model.inputs]
    assert [tuple(t.shape) for t in loaded.outputs] == [tuple(t.shape) for t in model.outputs]
    assert input_names(loaded) == input_names(model)
    assert set(batchnorms(loaded)) == set(folded.kept)
    norms = [f"norm{number}" for number in range(len(networks))]
    gone = folded.gone & set(norms)  # not arithmetic
    assert set(folded.kept) | gone == set(norms)
    assert not set(folded.kept) & gone
    kept = map(folded.kept.get, norms)
    names = zip(output_names(model), output_names(loaded), strict=True)
    types = (network.floatx for network in networks.values())
    rows = zip(networks, kept, want, got, names, types, strict=True)
    return {name: Outcome(*found) for name, *found in rows}
