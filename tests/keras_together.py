"""Many small networks side by side in one model: Keras saves, loads and runs them once, each is judged alone.

Nothing connects them: every network is a chain of layers with an input of its own, its output is one of the
model's. What a model costs whatever is in it is paid once for all of them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

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


@dataclass(frozen=True)
class Network:
    """A chain of layers, made in one type; ``steps`` gets ``keras.layers`` and the name for its BN.

    ``gamma``: of its BN, as ``stirred_together`` draws it.
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
    """One model of all networks; those of number k have the input ``x{k}`` and the BN ``norm{k}``."""
    inputs, outputs = [], []
    for number, network in enumerate(networks.values()):
        with computing_in(keras, network.floatx):
            x = y = keras.layers.Input(network.shape, name=f"x{number}")
            for step in network.steps(keras.layers, f"norm{number}"):
                y = step(y)
        inputs.append(x)
        outputs.append(y)
    return keras.Model(inputs, outputs)


def stirred_together(keras: Keras, networks: Mapping[str, Network]) -> Any:
    """One model of all networks with random weights, each BN's statistics of the kind its network asks for."""
    kinds = {f"norm{number}": network.gamma for number, network in enumerate(networks.values())}
    return stir(joined(keras, networks), gamma=kinds)


def outcomes(
    keras: Keras,
    networks: Mapping[str, Network],
    model: Any,
    folder: Path,
    *,
    compiled: bool = False,
    suffix: str = ".keras",
) -> dict[str, Outcome]:
    """Fold the model of all networks and run the result in the same Keras; by network, what became of it."""
    folded = fold(model, folder, suffix)
    loaded = keras.models.load_model(folded.after, compile=False)
    feeds = random_inputs(model)
    want, got = (outputs_of(each, feeds, compiled=compiled) for each in (model, loaded))
    assert len(want) == len(got) == len(networks)
    assert [tuple(t.shape) for t in loaded.inputs] == [tuple(t.shape) for t in model.inputs]
    assert [tuple(t.shape) for t in loaded.outputs] == [tuple(t.shape) for t in model.outputs]
    assert input_names(loaded) == input_names(model)
    assert set(batchnorms(loaded)) == set(folded.kept)
    norms = [f"norm{number}" for number in range(len(networks))]
    assert set(folded.kept) | folded.gone == set(norms)
    assert not set(folded.kept) & folded.gone
    kept = map(folded.kept.get, norms)
    names = zip(output_names(model), output_names(loaded), strict=True)
    types = (network.floatx for network in networks.values())
    rows = zip(networks, kept, want, got, names, types, strict=True)
    return {name: Outcome(*found) for name, *found in rows}
