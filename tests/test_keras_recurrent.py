"""Recurrent layers: a BatchNormalization before one enters its input kernel; behind one nothing goes back."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from bnfuse.core.reasons import Reason
from tests.keras_nets import Keras, Make, batchnorms, both_containers, chain, check, fold, stir

pytestmark = pytest.mark.slow
RECURRENT: dict[str, Make] = {
    "LSTM": lambda k: k.LSTM(4),
    "LSTM without bias": lambda k: k.LSTM(4, use_bias=False, return_sequences=True),
    "GRU reset after": lambda k: k.GRU(4, reset_after=True),
    "GRU reset before": lambda k: k.GRU(4, reset_after=False),
    "GRU reset after without bias": lambda k: k.GRU(4, use_bias=False, go_backwards=True),
    "GRU reset before without bias": lambda k: k.GRU(4, reset_after=False, use_bias=False),
    "SimpleRNN": lambda k: k.SimpleRNN(4),
    "SimpleRNN without bias": lambda k: k.SimpleRNN(4, use_bias=False, activation="relu"),
    "LSTM with states": lambda k: k.LSTM(4, return_state=True, return_sequences=True),
    "bidirectional LSTM": lambda k: k.Bidirectional(k.LSTM(4, return_sequences=True)),
    "bidirectional GRU, summed": lambda k: k.Bidirectional(k.GRU(4), merge_mode="sum"),
    "bidirectional of two": lambda k: k.Bidirectional(
        k.LSTM(4), backward_layer=k.GRU(4, go_backwards=True, use_bias=False)
    ),
}


@pytest.mark.parametrize("make", RECURRENT.values(), ids=RECURRENT.keys())
@both_containers
def test_bn_before_recurrent(keras: Keras, make: Make, suffix: str, tmp_path: Path) -> None:
    """Into the input kernel; γ of both signs and 0 are fine, since the kernel reads."""
    layers = keras.layers
    model = chain(keras, (6, 3), layers.BatchNormalization(), make(layers))
    _, loaded = check(keras, model, tmp_path, suffix=suffix)
    assert batchnorms(loaded) == []


def _every_merge(keras: Keras) -> Any:
    """BN → Bidirectional → BN → Dense, for every merge, with and without sequences and states."""
    layers = keras.layers
    x = layers.Input((6, 3), name="x")
    wrapped = (layers.LSTM, layers.GRU, layers.SimpleRNN)
    outputs = []
    for k, mode in enumerate(("concat", "sum", "ave", "mul", None)):
        for several in (True, False):
            states = several and mode in ("sum", None)
            inner = wrapped[k % 3](4, return_sequences=several, return_state=states)
            y = layers.BatchNormalization(name=f"before_{mode}_{several}")(x)
            made = layers.Bidirectional(inner, merge_mode=mode)(y)
            made = list(made) if isinstance(made, list | tuple) else [made]
            for j, value in enumerate(made):
                norm = layers.BatchNormalization(name=f"behind_{mode}_{several}_{j}")
                outputs.append(layers.Dense(2)(norm(value)))
    return stir(keras.Model(x, outputs))


@pytest.mark.parametrize(("library", "suffix"), [("keras", ".keras"), ("keras", ".h5"), ("tf_keras", ".h5")])
def test_every_merge_of_both_directions(
    library: str, suffix: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    """Those in front enter both input kernels; those behind, of sequences and states, enter their readers."""
    module = request.getfixturevalue(library)
    model = _every_merge(module)
    assert len(batchnorms(model)) == 26
    folded, loaded = check(module, model, tmp_path, suffix=suffix)
    assert folded.kept == {}
    assert batchnorms(loaded) == []


def test_nothing_goes_back_through_a_merge(keras: Keras, tmp_path: Path) -> None:
    """Behind it a BN that no reader takes stays; so does one on a state, which enters by no kernel."""
    layers = keras.layers
    x, s = layers.Input((6, 3), name="x"), layers.Input((4,), name="s")
    state = layers.BatchNormalization(name="on state")(layers.Activation("tanh")(s))
    y = layers.Bidirectional(layers.GRU(4))(x, initial_state=[state, layers.Activation("tanh")(s)])
    model = keras.Model([x, s], layers.Activation("tanh")(layers.BatchNormalization(name="behind")(y)))
    folded, _ = check(keras, stir(model), tmp_path)
    assert folded.kept.keys() == {"on state", "behind"}
    assert Reason.NONLINEAR in folded.kept["behind"]


def test_bn_after_recurrent(keras: Keras, tmp_path: Path) -> None:
    layers = keras.layers
    norm = layers.BatchNormalization(name="norm")
    folded, _ = check(keras, chain(keras, (6, 3), layers.LSTM(4), norm), tmp_path / "a")
    assert Reason.NONLINEAR in folded.kept["norm"]
    model = chain(keras, (6, 3), layers.LSTM(4), layers.BatchNormalization(), layers.Dense(2))
    assert batchnorms(check(keras, model, tmp_path / "b")[1]) == []


def test_bn_on_an_initial_state(keras: Keras, tmp_path: Path) -> None:
    """A state enters the cell by another way than the kernel: it stays."""
    layers = keras.layers
    x, s = layers.Input((6, 3), name="x"), layers.Input((4,), name="s")
    state = layers.BatchNormalization(name="on state")(layers.Activation("tanh")(s))
    y = layers.GRU(4)(layers.BatchNormalization(name="on input")(x), initial_state=state)
    folded, _ = check(keras, stir(keras.Model([x, s], y)), tmp_path)
    assert set(folded.kept) == {"on state"}
    assert folded.gone == {"on input"}


def test_a_recurrent_layer_that_drops_inputs_in_training(keras: Keras, tmp_path: Path) -> None:
    """Dropout acts on the input before the kernel: with ``training=True`` nothing may go into it."""
    layers = keras.layers
    x = layers.Input((6, 3), name="x")
    y = layers.LSTM(4, dropout=0.5)(layers.BatchNormalization(name="norm")(x), training=True)
    folded = fold(stir(keras.Model(x, y)), tmp_path)
    assert Reason.TRAINING_MODE in folded.kept["norm"]
