"""A live Keras model, of Keras 3 and of tf_keras: a new one comes back, compiled alike; the old one stays."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import bnfuse
from bnfuse import UnreadableModel
from tests.keras_nets import assert_same, outputs_of, random_inputs, stir


def half_squared(wanted: Any, got: Any) -> Any:
    """A loss of the program's own, registered nowhere."""
    return (wanted - got) ** 2 / 2


def network(library: Any, own: type | None = None) -> Any:
    """Conv → BN → ReLU → [a layer of the program's own] → Conv → BN → mean → Dense; compiled with its own."""
    layers = library.layers
    x = y = layers.Input((7, 6, 3), name="x")
    steps = [
        layers.Conv2D(4, 3, use_bias=False, name="c1"),
        layers.BatchNormalization(name="bn1"),
        layers.ReLU(name="relu"),
        *([own(name="own")] if own else []),
        layers.Conv2D(5, 3, name="c2"),
        layers.BatchNormalization(name="bn2"),
        layers.GlobalAveragePooling2D(name="mean"),
        layers.Dense(2, name="dense"),
    ]
    for step in steps:
        y = step(y)
    model = stir(library.Model(x, y, name="net"))
    model.get_layer("c1").trainable = False
    model.compile(
        optimizer=library.optimizers.Adam(learning_rate=0.0123, beta_1=0.8),
        loss=half_squared,
        loss_weights=[0.25],
        metrics=["mae"],
    )
    return model


def own_layer(library: Any) -> type:
    class Doubling(library.layers.Layer):  # type: ignore[misc]
        def call(self, x: Any) -> Any:
            return x * 2

    return Doubling


@pytest.mark.slow
def test_a_live_model(either_keras: Any) -> None:
    """Equal outputs, the compile configuration kept, a step of training possible; the original as it was."""
    model = network(either_keras)
    feeds = random_inputs(model)
    want, weights = outputs_of(model, feeds), model.get_weights()
    optimizer = model.optimizer.get_config()
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        report = bnfuse.optimize(model, verify_time=0.5, bench=False)
    made = report.model
    assert made is not None and made is not model and made.name == "net"
    assert report.verification.status is bnfuse.Status.EQUAL
    assert str(report.input.path) == f"<{either_keras.__name__}.Model>"
    assert [layer.name for layer in made.layers] == ["x", "c1", "relu", "c2", "mean", "dense"]
    assert not made.get_layer("c1").trainable and made.get_layer("c2").trainable
    assert_same(want, outputs_of(made, feeds), 1e-5)

    assert made.optimizer.get_config() == optimizer and made.optimizer is not model.optimizer
    assert made.loss is half_squared
    assert bnfuse.verify(model, made, verify_time=0.3).equal
    config = made.get_compile_config()
    assert config["loss_weights"] == [0.25] and config["metrics"] == ["mae"]
    assert np.isfinite(made.train_on_batch(feeds[0], np.zeros((len(feeds[0]), 2)))).all()

    assert [layer.name for layer in model.layers][2] == "bn1" and model.loss is half_squared
    for was, now in zip(weights, model.get_weights(), strict=True):
        assert np.array_equal(was, now)
    assert_same(want, outputs_of(model, feeds), 0.0)


@pytest.mark.slow
def test_layers_of_the_programs_own(either_keras: Any) -> None:
    """They need be registered nowhere for the fold; the process of the proof cannot know them."""
    model = network(either_keras, own_layer(either_keras))
    feeds = random_inputs(model)
    made = bnfuse.optimize(model, verify=False, bench=False).model
    assert made is not None and made.get_layer("own").__class__ is model.get_layer("own").__class__
    assert len(model.layers) - len(made.layers) == 2 and made.optimizer.get_config()["beta_1"] == 0.8
    assert_same(outputs_of(model, feeds), outputs_of(made, feeds), 1e-5)
    assert [one.node for one in bnfuse.inspect(model).plan.decisions] == ["bn1", "bn2"]


@pytest.mark.slow
def test_what_is_not_compiled_stays_so_and_what_cannot_be_saved_is_told(
    either_keras: Any, tmp_path: Path
) -> None:
    layers = either_keras.layers
    model = stir(either_keras.Sequential([layers.Input((4,)), layers.Dense(3), layers.BatchNormalization()]))
    report = bnfuse.optimize(model, tmp_path / "out.keras", verify=False, bench=False)
    made: Any = report.model
    assert type(made) is type(model) and getattr(made, "optimizer", None) is None
    assert_same(outputs_of(model, random_inputs(model)), outputs_of(made, random_inputs(made)), 1e-5)
    loaded = either_keras.models.load_model(tmp_path / "out.keras")
    assert [layer.name for layer in loaded.layers] == [layer.name for layer in made.layers]

    class Subclassed(either_keras.Model):  # type: ignore[misc]
        def call(self, x: Any) -> Any:
            return x

    with pytest.raises(UnreadableModel, match=r"Keras cannot save|\.Model>'?"):
        bnfuse.optimize(Subclassed(), verify=False, bench=False)
