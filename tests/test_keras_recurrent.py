"""Recurrent layers: a BatchNormalization before one enters its input kernel; behind one nothing goes back."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from bnfuse.core.reasons import Reason
from tests.keras_channels_first import channels_first_on_a_cpu
from tests.keras_nets import Keras, Make, batchnorms, chain, check, fold, stir
from tests.keras_together import Made, Network, Outcome, made_once, outcomes

pytestmark = pytest.mark.slow
# All in an archive, and every second one in either kind of HDF5 file.
saved = pytest.mark.parametrize(
    ("library", "suffix", "half"), [("keras", ".keras", None), ("keras", ".h5", 0), ("tf_keras", ".h5", 1)]
)
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


def _behind_a_norm(make: Make) -> Network:
    """BN → the layer; its states, where it puts them out, beside what it puts out."""

    def steps(layers: Any, name: str) -> list[Any]:
        def beside(found: Any) -> Any:
            if not isinstance(found, list | tuple):
                return found
            return layers.Concatenate()([layers.Flatten()(value) for value in found])

        return [layers.BatchNormalization(name=name), make(layers), beside]

    return Network((2, 3), steps)


NETWORKS = {name: _behind_a_norm(make) for name, make in RECURRENT.items()}


@pytest.fixture(scope="module")
def made(keras3: Keras) -> Made:
    return made_once(keras3, NETWORKS)


@pytest.fixture(scope="module", params=[".keras", ".h5"])
def before(
    keras3: Keras, made: Made, tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest
) -> dict[str, Outcome]:
    """What becomes of a BN before each of them; all are in one model."""
    folder = tmp_path_factory.mktemp("recurrent")
    return outcomes(keras3, NETWORKS, folder, suffix=request.param, made=made)


@pytest.mark.parametrize("name", RECURRENT)
def test_bn_before_recurrent(before: dict[str, Outcome], name: str) -> None:
    """Into the input kernel; γ of both signs and 0 are fine, since the kernel reads."""
    before[name].assert_told(None)


def _every_merge(keras: Keras, half: int | None) -> Any:
    """BN → Bidirectional → BN → Dense, for every merge, with and without sequences and states."""
    layers = keras.layers
    x = layers.Input((2, 3), name="x")
    wrapped = (layers.LSTM, layers.GRU, layers.SimpleRNN)
    outputs = []
    for k, mode in enumerate(("concat", "sum", "ave", "mul", None)):
        for several in _of_half((True, False), k, half):
            states = several and mode in ("sum", None)
            inner = wrapped[k % 3](4, return_sequences=several, return_state=states)
            y = layers.BatchNormalization(name=f"before_{mode}_{several}")(x)
            made = layers.Bidirectional(inner, merge_mode=mode)(y)
            made = list(made) if isinstance(made, list | tuple) else [made]
            for j, value in enumerate(made):
                norm = layers.BatchNormalization(name=f"behind_{mode}_{several}_{j}")
                outputs.append(layers.Dense(2)(norm(value)))
    return stir(keras.Model(x, outputs))


def _of_half(pair: tuple[bool, bool], number: int, half: int | None) -> tuple[bool, ...]:
    """Both, or one: the first of even numbers and the second of odd ones, or the others."""
    return pair if half is None else (pair[(number + half) % 2],)


@saved
def test_every_merge_of_both_directions(
    library: str, suffix: str, half: int | None, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    """Those in front enter both input kernels; those behind, of sequences and states, enter their readers."""
    module = request.getfixturevalue(library)
    model = _every_merge(module, half)
    assert len(batchnorms(model)) == (26 if half is None else 13)
    folded, loaded = check(module, model, tmp_path, suffix=suffix)
    assert folded.kept == {}
    assert batchnorms(loaded) == []


# The shape of the input and the layer, by whether it has a bias.
CELLS: dict[str, tuple[tuple[int, ...], Callable[[Any, bool], Any]]] = {
    "RNN of an LSTMCell": ((2, 3), lambda k, b: k.RNN(k.LSTMCell(4, use_bias=b))),
    "RNN of a GRUCell": ((2, 3), lambda k, b: k.RNN(k.GRUCell(4, use_bias=b), return_sequences=True)),
    "RNN of a SimpleRNNCell": ((2, 3), lambda k, b: k.RNN(k.SimpleRNNCell(4, use_bias=b))),
    "a stack": (
        (2, 3),
        lambda k, b: k.RNN(
            [k.GRUCell(3, use_bias=b, reset_after=False), k.LSTMCell(2), k.GRUCell(4)], return_sequences=True
        ),
    ),
    "a stack, both ways": (
        (2, 3), lambda k, b: k.Bidirectional(k.RNN([k.GRUCell(3, use_bias=b), k.LSTMCell(2)])),
    ),
    "ConvLSTM1D": ((2, 7, 3), lambda k, b: k.ConvLSTM1D(4, 3, use_bias=b)),
    "ConvLSTM2D": (
        (2, 7, 8, 3), lambda k, b: k.ConvLSTM2D(4, (3, 2), use_bias=b, return_sequences=True, strides=2),
    ),
    "ConvLSTM2D of one, same": ((2, 7, 8, 3), lambda k, b: k.ConvLSTM2D(4, 1, use_bias=b, padding="same")),
    "ConvLSTM3D, both ways": (
        (2, 3, 4, 5, 3),
        lambda k, b: k.Bidirectional(k.ConvLSTM3D(2, 2, use_bias=b, return_sequences=True)),
    ),
    "ConvLSTM1D at each step": ((2, 2, 5, 3), lambda k, b: k.TimeDistributed(k.ConvLSTM1D(4, 3, use_bias=b))),
    "both ways at each step": (
        (4, 2, 3), lambda k, b: k.TimeDistributed(k.Bidirectional(k.LSTM(4, use_bias=b))),
    ),
    "at each step of each step": (
        (2, 5, 7, 3), lambda k, b: k.TimeDistributed(k.TimeDistributed(k.Dense(4, use_bias=b))),
    ),
}  # fmt: skip


def _every_cell(keras: Keras, half: int | None) -> Any:
    """BN → layer → BN → Dense, for every cell with and without a bias, in one model."""
    layers = keras.layers
    inputs, outputs = [], []
    for number, (shape, make) in enumerate(CELLS.values()):
        inputs.append(layers.Input(shape, name=f"x{number}"))
        for biased in _of_half((True, False), number, half):
            norm, behind = layers.BatchNormalization(), layers.BatchNormalization()
            outputs.append(layers.Dense(2)(behind(make(layers, biased)(norm(inputs[-1])))))
    return stir(keras.Model(inputs, outputs))


@saved
def test_every_cell(
    library: str, suffix: str, half: int | None, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    """The first cell's kernel reads the input, scale and shift; its bias is made where there was none."""
    module = request.getfixturevalue(library)
    folded, loaded = check(module, _every_cell(module, half), tmp_path, suffix=suffix)
    assert folded.kept == {}
    assert batchnorms(loaded) == []


def test_zeros_around_the_steps(keras: Keras, tmp_path: Path) -> None:
    """A padded kernel takes a scale of both signs, no shift."""
    layers = keras.layers
    for gamma, kept in (("signed scale", None), ("mixed", Reason.ZERO_PADDING)):
        norm = layers.BatchNormalization(name="norm")
        model = chain(keras, (4, 7, 8, 3), norm, layers.ConvLSTM2D(4, (3, 2), padding="same"), gamma=gamma)
        folded, _ = check(keras, model, tmp_path / gamma)
        assert kept in folded.kept.get("norm", {None})


def test_a_cell_of_somebody_else(keras: Keras, tmp_path: Path) -> None:
    """It has the name of one of Keras's and other code: nothing goes into it."""

    class LSTMCell(keras.layers.LSTMCell):  # type: ignore[misc]
        def call(self, inputs: Any, states: Any, training: bool = False) -> Any:
            return super().call(inputs * inputs, states, training=training)

    layers = keras.layers
    x = layers.Input((6, 3), name="x")
    y = layers.RNN(LSTMCell(4))(layers.BatchNormalization(name="norm")(layers.Activation("tanh")(x)))
    assert fold(stir(keras.Model(x, y)), tmp_path).kept.keys() == {"norm"}


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


def test_dropping_inputs_in_training(keras: Keras, tmp_path: Path) -> None:
    """Dropout acts on the input before the kernel: with ``training=True`` nothing may go into it."""
    layers = keras.layers
    x, outputs = layers.Input((6, 3), name="x"), []
    for dropout in (0.0, 0.5):
        for training in (False, True):
            y = layers.BatchNormalization(name=f"norm {dropout} {training}")(x)
            outputs.append(layers.LSTM(4, dropout=dropout)(y, training=training))
    folded = fold(stir(keras.Model(x, outputs)), tmp_path)
    assert folded.kept.keys() == {"norm 0.5 True"}
    assert Reason.TRAINING_MODE in folded.kept["norm 0.5 True"]


def test_channels_first(keras3: Keras, tmp_path: Path) -> None:
    """A convolution at each step, and at each step of each step, of channels in front of the places."""

    def network(shape: tuple[int, ...], axis: int, make: Make) -> Network:
        steps = lambda k, name: [k.BatchNormalization(axis=axis, name=name), make(k)]  # noqa: E731
        return Network(shape, steps)

    first = {"data_format": "channels_first"}
    networks = {
        "at each step": network((2, 3, 7, 6), 2, lambda k: k.ConvLSTM2D(4, (3, 2), **first)),
        "of each step": network((2, 2, 3, 7), 3, lambda k: k.TimeDistributed(k.ConvLSTM1D(4, 3, **first))),
    }
    with channels_first_on_a_cpu():
        for outcome in outcomes(keras3, networks, tmp_path).values():
            outcome.assert_told(None)
