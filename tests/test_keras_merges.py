"""Layers with several inputs: which demands a sum, a product, a maximum or a concatenation passes on."""

from __future__ import annotations

from enum import Enum
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bnfuse.core.reasons import Reason
from tests.keras_nets import Keras, Make, batchnorms, check, stir

pytestmark = pytest.mark.slow


def _branches(keras: Keras, merge: Make, *, pure: bool, gamma: str, same: bool = False) -> Any:
    """Two kernels (or a kernel and a tanh) → merge → BN → tanh."""
    layers = keras.layers
    x = layers.Input((4, 5), name="x")
    a = layers.Dense(6)(x)
    b = a if same else layers.Dense(6)(x) if pure else layers.Activation("tanh")(layers.Dense(6)(x))
    y = layers.BatchNormalization(name="norm")(merge(layers)([a, b]))
    return stir(keras.Model(x, layers.Activation("tanh")(y)), gamma=gamma)


class Goes(Enum):
    """Which BatchNormalizations behind a merge go up into its branches."""

    ALWAYS = "whatever their γ"
    POSITIVE = "those with γ > 0"
    NEVER = "none"

    def with_gamma(self, gamma: np.ndarray) -> bool:
        """Whether one with these numbers goes."""
        return self is Goes.ALWAYS or (self is Goes.POSITIVE and bool((gamma > 0).all()))


_LINEAR = {"pure": Goes.ALWAYS, "half": Goes.NEVER, "same": Goes.ALWAYS}
_CHOSEN = {"pure": Goes.POSITIVE, "half": Goes.NEVER, "same": Goes.POSITIVE}
MERGES: dict[str, tuple[Make, dict[str, Goes]]] = {
    # behind: two kernels, a kernel and a tanh, one kernel twice
    "Add": (lambda k: k.Add(), _LINEAR),
    "Subtract": (lambda k: k.Subtract(), {"pure": Goes.ALWAYS, "half": Goes.NEVER}),  # x − x is constant
    "Average": (lambda k: k.Average(), _LINEAR),
    "Concatenate": (lambda k: k.Concatenate(), {"pure": Goes.ALWAYS, "half": Goes.NEVER}),
    "Concatenate along 1": (lambda k: k.Concatenate(axis=1), _LINEAR),
    "Maximum": (lambda k: k.Maximum(), _CHOSEN),
    "Minimum": (lambda k: k.Minimum(), _CHOSEN),
    "Multiply": (lambda k: k.Multiply(), dict.fromkeys(("pure", "half", "same"), Goes.NEVER)),
}


@pytest.mark.parametrize("name", MERGES)
@pytest.mark.parametrize("gamma", ["mixed", "positive"])
def test_bn_behind_a_merge(keras: Keras, name: str, gamma: str, tmp_path: Path) -> None:
    merge, table = MERGES[name]
    for kind, goes in table.items():
        model = _branches(keras, merge, pure=kind == "pure", gamma=gamma, same=kind == "same")
        folded, _ = check(keras, model, tmp_path / kind)
        numbers = np.asarray(model.get_layer("norm").gamma)
        assert (folded.kept == {}) is goes.with_gamma(numbers), kind
        if goes is Goes.POSITIVE and gamma == "mixed":
            assert numbers.min() < 0 < numbers.max()
            assert Reason.NEGATIVE_SCALE in folded.kept["norm"]


@pytest.mark.parametrize("name", ["Maximum", "Minimum"])
def test_the_greatest_of_several(keras: Keras, name: str, tmp_path: Path) -> None:
    """Of three kernels each takes scale and shift; one that is broadcast is refused."""
    layers = keras.layers
    x = layers.Input((4, 5, 3), name="x")
    narrow = layers.Cropping2D(((0, 0), (0, 4)))(x)  # (4, 1, 3)
    for kind, last in (("alike", x), ("broadcast", narrow)):
        chosen = getattr(layers, name)()([layers.Dense(6)(x), layers.Dense(6)(x), layers.Dense(6)(last)])
        norm = layers.BatchNormalization(name="norm")(chosen)
        model = stir(keras.Model(x, layers.Activation("tanh")(norm)), gamma="positive")
        folded, _ = check(keras, model, tmp_path / kind)
        if kind == "alike":
            assert folded.kept == {}
        else:
            assert Reason.BROADCAST in folded.kept["norm"]


def test_a_scale_behind_a_product(keras: Keras, tmp_path: Path) -> None:
    """A gate takes on a scale in one of its factors; a square in none, since it would be squared."""
    for kind, goes in {"pure": True, "half": True, "same": False}.items():
        model = _branches(
            keras, lambda k: k.Multiply(), pure=kind == "pure", gamma="scale", same=kind == "same"
        )
        folded, _ = check(keras, model, tmp_path / kind)
        assert (folded.kept == {}) is goes, kind


def test_merges_that_broadcast(keras: Keras, tmp_path: Path) -> None:
    """(4, 1, 6) + (4, 5, 6): both take the scale, one the shift; (4, 5, 1) takes no scale per channel."""
    layers = keras.layers
    for name, goes in {"over space": True, "over channels": False}.items():
        x = layers.Input((4, 5, 3), name="x")
        a = layers.Dense(6)(x)
        b = layers.Dense(6)(layers.Cropping2D(((0, 0), (0, 4)))(x)) if goes else layers.Dense(1)(x)
        y = layers.BatchNormalization()(layers.Add()([a, b]))
        folded, _ = check(keras, stir(keras.Model(x, layers.Activation("tanh")(y))), tmp_path / name)
        assert (folded.kept == {}) is goes


def test_residual_add(keras: Keras, tmp_path: Path) -> None:
    """Two blocks, BN behind each kernel and behind the sum: all go, with γ of any sign but 0."""
    layers = keras.layers
    x = layers.Input((7, 6, 3), name="x")
    stream = layers.BatchNormalization()(layers.Conv2D(4, 3)(x))
    for _ in range(2):
        y = layers.BatchNormalization()(layers.Conv2D(4, 3, padding="same", use_bias=False)(stream))
        y = layers.BatchNormalization()(layers.Conv2D(4, 3, padding="same")(layers.ReLU()(y)))
        stream = layers.ReLU()(layers.Add()([stream, y]))
    _, loaded = check(keras, stir(keras.Model(x, stream)), tmp_path)
    assert batchnorms(loaded) == []


def test_concatenated_branches(keras: Keras, tmp_path: Path) -> None:
    """Slices of unlike size; a branch that cannot take its slice keeps the BN behind where it is."""
    layers = keras.layers
    x = layers.Input((7, 6, 3), name="x")
    a, b = layers.Conv2D(4, 3, padding="same")(x), layers.AveragePooling2D(3, 1, "same")(layers.Dense(2)(x))
    c = layers.DepthwiseConv2D(3, depth_multiplier=2, padding="same", use_bias=False)(x)
    y = layers.BatchNormalization(name="goes")(layers.Concatenate()([a, b, c]))
    z = layers.Concatenate()([layers.Activation("tanh")(y), a])
    z = layers.Conv2D(3, 2)(layers.BatchNormalization(name="goes too")(z))
    folded, _ = check(keras, stir(keras.Model(x, z), gamma="signed"), tmp_path / "a")
    assert folded.gone == {"goes", "goes too"}
    folded, _ = check(keras, stir(keras.Model(x, z), gamma="mixed"), tmp_path / "b")
    assert Reason.ZERO_SCALE in folded.kept["goes"]  # its neighbour reads the same branch


def test_squeeze_and_excite(keras: Keras, tmp_path: Path) -> None:
    """The BN before the gate is read by the gate's kernel and the product: it goes up into its own kernel.

    The one behind has a shift, which a product does not pass.
    """
    layers = keras.layers
    x = layers.Input((7, 6, 3), name="x")
    y = layers.BatchNormalization(name="before")(layers.Conv2D(4, 3, use_bias=False)(x))
    gate = layers.Dense(2, activation="relu")(layers.GlobalAveragePooling2D(keepdims=True)(y))
    gate = layers.Dense(4, activation="sigmoid")(gate)
    z = layers.Multiply()([y, gate])
    last = layers.BatchNormalization(name="last")(layers.Conv2D(5, 1)(z))
    folded, _ = check(keras, stir(keras.Model(x, last)), tmp_path / "a")
    assert folded.gone == {"before", "last"}
    behind = layers.Activation("tanh")(layers.BatchNormalization(name="behind")(z))
    folded, _ = check(keras, stir(keras.Model(x, behind)), tmp_path / "b")
    assert set(folded.kept) == {"behind"}
    # A scale does pass, on the side that is not the gate; the BN before then has moved on already.
    folded, _ = check(keras, stir(keras.Model(x, behind), gamma="scale"), tmp_path / "c")
    assert folded.kept == {}


def _preactivation(keras: Keras, blocks: int) -> Any:
    layers = keras.layers
    x = layers.Input((9, 8, 3), name="x")
    stream = layers.Conv2D(4, 3, name="stem")(x)
    for k in range(blocks):
        y = layers.ReLU()(layers.BatchNormalization(name=f"pre{k}")(stream))
        y = layers.Conv2D(5, 3, padding="same", use_bias=False)(y)
        y = layers.ReLU()(layers.BatchNormalization(name=f"mid{k}")(y))
        y = layers.Conv2D(4, 3, padding="same")(y)
        stream = layers.Add()([stream, y])
    y = layers.ReLU()(layers.BatchNormalization(name="post")(stream))
    return keras.Model(x, layers.Dense(3)(layers.GlobalAveragePooling2D()(y)))


def test_preactivation(keras: Keras, tmp_path: Path) -> None:
    """With γ > 0 all go: the shift up into the stream's writers, the scale down through the ReLU."""
    model = stir(_preactivation(keras, 3), gamma="positive")
    folded, loaded = check(keras, model, tmp_path)
    assert batchnorms(loaded) == []
    assert {d.split.value for d in folded.plan.order} == {"up", "shift-up"}


def test_preactivation_of_both_signs(keras: Keras, tmp_path: Path) -> None:
    """γ < 0 cannot pass a ReLU, and a sign on the stream is asked of all its writers."""
    folded, _ = check(keras, stir(_preactivation(keras, 3), gamma="signed"), tmp_path)
    assert {"mid0", "mid1", "mid2"} <= folded.gone
    assert set(folded.kept) <= {"pre0", "pre1", "pre2", "post"}
    told = {Reason.NEGATIVE_SCALE, Reason.CONFLICT, Reason.SHIFT_THROUGH_ACTIVATION}
    assert folded.kept
    assert all(why <= told for why in folded.kept.values())
