"""SpectralNormalization: at inference it is what it wraps, and so it folds; two places hold its kernel."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from bnfuse.core.decisions import Fold, Split
from bnfuse.core.reasons import Reason
from bnfuse.formats.base import ReadOptions
from bnfuse.formats.keras.graph.hints import read_hints
from tests.keras_kernels import KERNELS
from tests.keras_nets import (
    Keras,
    Make,
    assert_same,
    batchnorms,
    both_containers,
    chain,
    check,
    computing_in,
    fold,
    fold_file,
    outputs_of,
    random_inputs,
    stir,
)
from tests.keras_together import Made, Network, made_once, outcomes

pytestmark = pytest.mark.slow
# One of each class that has one kernel, and zeros at a border.
_WRAPPED = (
    "dense", "conv1d", "conv2d groups", "conv2d same", "conv3d", "conv1d transpose", "conv2d transpose",
    "conv3d transpose", "depthwise 1d", "depthwise 2d",
)  # fmt: skip
_EQUATION = {"equation": "abc,cd->abd", "output_shape": (6, 4)}


@pytest.fixture(params=["keras3", "keras2"])
def library(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[Keras]:
    """Keras 3 and tf_keras in float64; tf_keras knows this class by its name only where it is told."""
    library = request.getfixturevalue(request.param)
    with computing_in(library, "float64"):
        if request.param == "keras3":
            yield library
            return
        from tf_keras.src.layers.normalization import spectral_normalization as module

        monkeypatch.setattr(module.tf, "keras", library)
        with library.utils.custom_object_scope(
            {"SpectralNormalization": library.layers.SpectralNormalization}
        ):
            yield library


def _networks(library: Keras) -> Iterator[tuple[str, Network, Reason | None]]:
    """A BatchNormalization on both sides of each kernel, with and without bias; why the one before stays."""
    for name in _WRAPPED:
        kernel = KERNELS[name]
        if name.startswith("depthwise") and not hasattr(library, "config"):
            continue  # of tf_keras, which has no kernel by that name
        for bias, powers in ((True, 1), (False, 3)):

            def wrapped(k: Any, kernel: Any = kernel, bias: bool = bias, powers: int = powers) -> Any:
                inner = kernel.make(k, use_bias=bias, activation="tanh" if bias else None)
                return k.SpectralNormalization(inner, power_iterations=powers)

            def before(k: Any, norm: str, wrapped: Any = wrapped) -> list[Any]:
                return [
                    k.Activation("tanh"),
                    k.BatchNormalization(name=norm),
                    wrapped(k),
                    k.Activation("tanh"),
                ]

            def behind(k: Any, norm: str, wrapped: Any = wrapped) -> list[Any]:
                return [wrapped(k), k.BatchNormalization(name=norm), k.Activation("tanh")]

            yield f"before {name}, {bias}", Network(kernel.shape, before), kernel.shift
            nonlinear = Reason.NONLINEAR if bias else None
            yield f"behind {name}, {bias}", Network(kernel.shape, behind), nonlinear

    def einsum(k: Any, norm: str) -> list[Any]:
        inner = k.EinsumDense(**_EQUATION)
        return [k.SpectralNormalization(inner), k.BatchNormalization(name=norm), k.Activation("tanh")]

    def steps(k: Any, norm: str) -> list[Any]:
        inner = k.SpectralNormalization(k.Conv1D(4, 2, use_bias=False))
        return [k.TimeDistributed(inner), k.BatchNormalization(name=norm), k.Activation("tanh")]

    yield "behind einsum", Network((6, 5), einsum), None
    yield "in steps", Network((3, 6, 5), steps), None


@pytest.fixture(scope="module")
def made() -> dict[str, Made]:
    """By library, what is folded out of both kinds of file."""
    return {}


@both_containers
def test_it_folds_as_what_it_wraps(
    library: Keras, suffix: str, made: dict[str, Made], tmp_path: Path
) -> None:
    """Every layer with one kernel; zeros at the borders keep a shift out as ever."""
    told = list(_networks(library))
    networks = {name: network for name, network, _ in told}
    if library.__name__ not in made:
        made[library.__name__] = made_once(library, networks)
    found = outcomes(library, networks, tmp_path, suffix=suffix, made=made[library.__name__])
    assert len(found) >= 34
    for name, _, why in told:
        found[name].assert_told(why)


@both_containers
@pytest.mark.parametrize("frozen", ["", "wrapper", "what it wraps", "nested"])
def test_in_nested_and_frozen_models(library: Keras, frozen: str, suffix: str, tmp_path: Path) -> None:
    """HDF5 lists what is trainable first: in a frozen wrapper its vector stands between kernel and bias."""
    layers = library.layers
    if frozen == "what it wraps" and not hasattr(library, "config"):
        pytest.skip("tf_keras does not save it")
    z = layers.Input((5, 4, 3))
    conv = layers.Conv2D(4, 2, trainable=frozen != "what it wraps")
    wrapper = layers.SpectralNormalization(conv, name="spectral")
    y = layers.BatchNormalization(name="behind")(wrapper(layers.BatchNormalization(name="before")(z)))
    inner = library.Model(z, layers.Conv2D(3, 1)(layers.Activation("tanh")(y)), name="inner")
    sequential = library.Sequential(
        [layers.Input((4, 3, 3)), layers.SpectralNormalization(layers.Dense(4)), layers.BatchNormalization()]
    )
    sequential.add(layers.Activation("tanh"))
    if frozen in ("wrapper", "nested"):
        {"wrapper": wrapper, "nested": inner}[frozen].trainable = False
    alone = layers.SpectralNormalization(layers.Dense(4), trainable=not frozen)
    steps = (layers.Activation("tanh"), inner, sequential, alone, layers.BatchNormalization())
    folded, _ = check(library, chain(library, (5, 4, 3), *steps, layers.ReLU()), tmp_path, suffix=suffix)
    assert folded.kept == {}


@pytest.mark.parametrize("trainable", [True, False])
def test_both_copies_of_the_kernel_change(library: Keras, trainable: bool, tmp_path: Path) -> None:
    """Whichever a reader takes; the one that wins is the one that is folded, and the vector stays."""
    layers = library.layers
    inner = layers.Conv1D(4, 2, use_bias=False, trainable=trainable)
    model = chain(
        library, (6, 3), layers.SpectralNormalization(inner), layers.BatchNormalization(name="norm")
    )
    folded = fold(model, tmp_path)
    assert folded.gone == {"norm"}
    group = "layers/spectral_normalization"

    def stored(path: Path) -> dict[str, np.ndarray]:
        with h5py.File(io.BytesIO(zipfile.ZipFile(path).read("model.weights.h5"))) as file:
            return {at: file[f"{group}/{at}"][()] for at in ("vars/0", "layer/vars/0", "vars/1")}

    before, after = stored(folded.before), stored(folded.after)
    assert np.array_equal(after["vars/0"], after["layer/vars/0"])
    assert not np.array_equal(after["vars/0"], before["vars/0"])
    assert np.array_equal(after["vars/1"], before["vars/1"])


def test_copies_that_differ(keras: Keras, tmp_path: Path) -> None:
    """Keras takes the one in the layer, whatever the wrapper's says."""
    layers = keras.layers
    model = chain(keras, (6, 3), layers.SpectralNormalization(layers.Dense(4)), layers.BatchNormalization())
    model.save(tmp_path / "model.keras")
    with zipfile.ZipFile(tmp_path / "model.keras") as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    weights = io.BytesIO(members["model.weights.h5"])
    with h5py.File(weights, "r+") as file:
        file["layers/spectral_normalization/vars/0"][...] = 7.0
    with zipfile.ZipFile(tmp_path / "model.keras", "w") as archive:
        for name, data in {**members, "model.weights.h5": weights.getvalue()}.items():
            archive.writestr(name, data)
    odd = keras.models.load_model(tmp_path / "model.keras", compile=False)
    feeds = random_inputs(model)
    assert_same(outputs_of(model, feeds), outputs_of(odd, feeds), 1e-12)
    folded = fold_file(tmp_path / "model.keras", tmp_path / "after.keras")
    assert len(folded.gone) == 1
    loaded = keras.models.load_model(folded.after, compile=False)
    assert_same(outputs_of(model, feeds), outputs_of(loaded, feeds), 1e-12)


def test_it_goes_on_training(keras: Keras, tmp_path: Path) -> None:
    layers = keras.layers
    steps = (layers.SpectralNormalization(layers.Dense(4, use_bias=False)), layers.BatchNormalization())
    _, loaded = check(keras, chain(keras, (5,), *steps, layers.Dense(2)), tmp_path)
    kernel = loaded.layers[1].layer.kernel.numpy()
    loaded.compile("sgd", "mse")
    loaded.run_eagerly = True
    rng = np.random.default_rng(3)
    loaded.fit(rng.normal(size=(8, 5)), rng.normal(size=(8, 2)), verbose=0)
    trained = loaded.layers[1].layer.kernel.numpy()
    assert np.isfinite(trained).all()
    assert not np.array_equal(kernel, trained)


def test_an_activation_moves_out_of_it(keras: Keras, tmp_path: Path) -> None:
    """``activation="relu"`` of the wrapped layer, which gets a bias at the same time."""
    layers = keras.layers
    inner = layers.Conv2D(4, 2, use_bias=False, activation="relu")
    steps = (layers.BatchNormalization(), layers.SpectralNormalization(inner, name="spectral"))
    y = layers.Conv2D(3, 3, padding="same")
    model = chain(keras, (6, 5, 3), layers.Activation("tanh"), *steps, layers.BatchNormalization(), y)
    folded = fold(model, tmp_path, options=ReadOptions(activations="move"))
    assert folded.kept == {}
    loaded = keras.models.load_model(folded.after, compile=False)
    assert batchnorms(loaded) == []
    feeds = random_inputs(model)
    assert_same(outputs_of(model, feeds), outputs_of(loaded, feeds), 1e-12)
    assert loaded.get_layer("spectral").layer.use_bias
    assert loaded.get_layer("spectral").layer.activation is keras.activations.linear


def _called(keras: Keras, make: Make, *, training: bool = False, dtype: str = "float64") -> Any:
    layers = keras.layers
    x = layers.Input((6,), name="x", dtype=dtype)
    y = make(layers)(x, training=True) if training else make(layers)(x)
    return stir(keras.Model(x, layers.Activation("tanh")(layers.BatchNormalization(name="norm")(y))))


def test_what_stays(keras: Keras, tmp_path: Path) -> None:
    """Told to train it changes its kernel; of rows that whole numbers choose Keras 3 makes whole numbers."""
    narrow = {"dtype": "float32"}
    for name, why, model in (
        (
            "training",
            Reason.TRAINING_MODE,
            _called(keras, lambda k: k.SpectralNormalization(k.Dense(4)), training=True),
        ),
        (
            "whole numbers",
            Reason.OTHER_TYPE,
            _called(keras, lambda k: k.SpectralNormalization(k.Embedding(9, 4)), dtype="int32"),
        ),
        (
            "two types",
            Reason.OTHER_TYPE,
            _called(keras, lambda k: k.SpectralNormalization(k.Dense(4, **narrow))),
        ),
        (
            "a mask",
            Reason.UNSUPPORTED_OP,
            _called(keras, lambda k: k.SpectralNormalization(k.Embedding(9, 4, mask_zero=True))),
        ),
        (
            "a wrapper in it",
            Reason.UNSUPPORTED_OP,
            _called(keras, lambda k: k.SpectralNormalization(k.SpectralNormalization(k.Dense(4)))),
        ),
    ):
        folded = fold(model, tmp_path / name)
        assert why in folded.kept["norm"], name
        assert folded.after.read_bytes()


@both_containers
def test_a_table(library: Keras, suffix: str, tmp_path: Path) -> None:
    """An Embedding takes on what follows; the model's input may hold no number beyond its rows."""
    layers = library.layers
    x = layers.Input((6,), name="x")
    y = layers.SpectralNormalization(layers.Embedding(9, 4))(x)
    model = stir(
        library.Model(x, layers.Activation("tanh")(layers.BatchNormalization()(layers.Dropout(0.1)(y))))
    )
    folded = fold(model, tmp_path, suffix)
    assert len(folded.gone) == 1
    feeds = [np.random.default_rng(5).integers(0, 9, (4, 6)).astype(np.float64)]
    loaded = library.models.load_model(folded.after, compile=False)
    assert_same(outputs_of(model, feeds), outputs_of(loaded, feeds), 1e-12)
    (values,) = read_hints(folded.before).values.values()
    assert (values.least, values.beyond) == (0, 9)


def test_no_channel_is_added(keras: Keras, tmp_path: Path) -> None:
    """Its vector has one number for each channel: a constant one beside them would not fit."""
    layers = keras.layers
    steps = (layers.Conv2D(3, 1, activation="tanh"), layers.BatchNormalization(name="norm"))
    wrapped = layers.SpectralNormalization(layers.Conv2D(4, 2, padding="same"))
    model = chain(keras, (5, 4, 3), *steps, wrapped, layers.Flatten(), gamma="positive")
    folded = fold(model, tmp_path, options=ReadOptions(target="no-bn"))
    assert not any(isinstance(d, Fold) and d.split is Split.CONSTANT for d in folded.plan.decisions)
    loaded = keras.models.load_model(folded.after, compile=False)
    feeds = random_inputs(model)
    assert_same(outputs_of(model, feeds), outputs_of(loaded, feeds), 1e-12)
