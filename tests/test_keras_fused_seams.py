"""Folds that end inside a Keras layer: proved, and defects found, at what Keras shows next.

The kernel's own sum, before the activation that is fused to it, is shown by nobody, nor is what is inside a
wrapper. What follows is untouched, so the layer's output is held as it was.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bnfuse.core.apply import apply
from bnfuse.core.planning.plan import plan
from bnfuse.formats import load
from bnfuse.formats.base import ReadOptions, RunSettings
from bnfuse.formats.child.pool import keeping_models
from bnfuse.formats.keras import FORMAT
from bnfuse.proof.inside import inside
from bnfuse.proof.seams import SeamProof
from bnfuse.proof.stretches import Models, Stretches
from tests.calls import optimize
from tests.keras_nets import stir

pytestmark = pytest.mark.slow

_CURVES = ("elu", "softmax", "sigmoid", "tanh", "gelu", "exponential")
FIXTURE = Path(__file__).resolve().parents[1] / "fixtures" / "digits_a.h5"


def _branches(k: Any) -> Iterator[tuple[str, Any]]:
    """A layer of each kind, by its name; each takes on the BatchNormalization before it."""
    for curve in _CURVES:
        yield curve, k.Dense(9, activation=curve, name=curve)
    yield "conv", k.Conv1D(9, 2, activation="elu", name="conv")
    yield "separable", k.SeparableConv1D(9, 2, activation="tanh", name="separable")
    yield "steps", k.TimeDistributed(k.Dense(9, activation="elu"), name="steps")
    yield "directions", k.Bidirectional(k.LSTM(4, return_sequences=True), name="directions")


def _network(keras: Any) -> Any:
    """Branch by branch: a BatchNormalization, the layer, and one more that nothing folds into."""
    k = keras.layers
    x, ends = k.Input((6, 4), name="x"), []
    for name, layer in _branches(k):
        ends.append(k.Dense(2, name=f"end_{name}")(layer(k.BatchNormalization(name=f"norm_{name}")(x))))
    return stir(keras.Model(x, ends), gamma="signed")


def _spoil(result: Path, original: Any, names: list[str], keras: Any) -> None:
    """Take the shift that was folded back out of one channel of these layers."""
    folded = keras.models.load_model(result)
    for name in names:
        layers = [_taking(model, name) for model in (folded, original)]
        weights, before = layers[0].get_weights(), layers[1].get_weights()
        weights[-1][1] = before[-1][1] if len(before) == len(weights) else 0.0
        layers[0].set_weights(weights)
    folded.save(result)


def _taking(model: Any, name: str) -> Any:
    layer = model.get_layer(name)
    return getattr(layer, "forward_layer", None) or getattr(layer, "layer", layer)


@pytest.mark.parametrize("first", [0, 1], ids=["even", "odd"])
def test_a_defect_shows_at_its_layers_output_and_nowhere_else(
    keras3: Any, tmp_path: Path, first: int
) -> None:
    """Every other branch is spoiled: those differ, all others are proved."""
    model = _network(keras3)
    path, result = tmp_path / "m.keras", tmp_path / "out.keras"
    model.save(path)
    opened = FORMAT.read(path, ReadOptions())
    patch = apply(opened.graph, plan(opened.graph))
    near = opened.constants_of(patch.near)
    found = inside(opened, patch, near)
    opened.write(patch, result)
    opened.close()
    names = [name for name, _ in _branches(keras3.layers)]
    assert sorted(found.folds) == sorted(f"norm_{name}" for name in names)
    assert not found.hidden and not found.exits[0]
    told = {point.original.split('"')[1]: k for k, point in enumerate(found.points)}
    assert {found.folds[point.folds[0]] for point in found.points} == {f"norm_{name}" for name in told}
    _spoil(result, model, names[first::2], keras3)
    rng = np.random.default_rng(3)
    assert found.exact
    proof = SeamProof(Models(path, result, found, RunSettings(), load, 2.0**-24), deadline=float("inf"))
    with keeping_models():  # as ``optimize`` does: a second look opens both some ten times
        proof.run([{"x": rng.standard_normal((4, 6, 4)).astype(np.float32)} for _ in range(2)])
    parted = {name for name, k in told.items() if proof.worst[k].share > 1.0}
    assert (proof.problem, parted) == ("", set(names[first::2]))
    agreement = proof.agreement()
    assert agreement.proved == len(names) - len(parted)


def _half(keras: Any) -> Any:
    """Types that meet: float16 inside, a float32 head, a sum in between."""
    k, policy = keras.layers, keras.mixed_precision.set_dtype_policy
    before = keras.mixed_precision.dtype_policy()
    policy("mixed_float16")
    try:
        x = k.Input((6, 4), name="x")
        y = k.BatchNormalization(name="one")(k.Conv1D(9, 3, padding="same", name="conv")(x))
        y = k.Add(name="sum")([k.Dense(9, activation="relu", name="dense")(y), y])
        y = k.BatchNormalization(name="two")(y)
        return stir(keras.Model(x, k.Dense(2, dtype="float32", name="head")(y)), gamma="signed")
    finally:
        policy(before)


@pytest.mark.parametrize("make", [_network, _half])
def test_what_keras_shows_at_a_seam_is_what_goes_on_from_there(
    keras3: Any, tmp_path: Path, make: Any
) -> None:
    """Forced to its own values, the original makes the very same: it need not be run so (``exact``)."""
    path = tmp_path / "m.keras"
    make(keras3).save(path)
    opened = FORMAT.read(path, ReadOptions())
    patch = apply(opened.graph, plan(opened.graph))
    found = inside(opened, patch, opened.constants_of(patch.near))
    opened.close()
    points = list(range(len(found.points)))
    rng = np.random.default_rng(3)
    feeds = [{"x": rng.standard_normal((4, 6, 4)).astype(np.float32)} for _ in range(2)]
    models = Models(path, path, found, RunSettings(), load, 2.0**-24)
    both = Stretches(models, points, feeds, along=points)
    both._note()
    assert both.points
    for row, made in enumerate(both._forced(True, range(2))):
        assert made.keys() == {pair for pair in both.noted if pair[0] == row}
        for pair, array in made.items():
            assert array.tobytes() == both.noted[pair].tobytes()


def test_the_fixture_is_proved_fold_by_fold(tmp_path: Path) -> None:
    """Dense layers that end in an ELU, the last one in a softmax that is the model's output."""
    path = shutil.copy(FIXTURE, tmp_path)
    found = optimize(path, bench=False).verification.inside
    assert found is not None and (found.folds, found.proved, found.seams, found.detail) == (3, 3, 3, "")
