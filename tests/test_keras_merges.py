"""Layers with several inputs: which demands a sum, a product, a maximum or a concatenation passes on."""

from __future__ import annotations

from enum import Enum
from pathlib import Path
from typing import Any

import pytest

from bnfuse.core.reasons import Reason
from tests.keras_nets import Keras, Make, batchnorms, check, stir
from tests.keras_together import Network, Outcome, outcomes

pytestmark = pytest.mark.slow


def _merged(layers: Any, x: Any, merge: Make, kind: str, name: str) -> Any:
    """Two kernels ("pure"), a kernel and a tanh ("half"), or one kernel twice ("same") → merge → BN."""
    a = layers.Dense(6)(x)
    b = a if kind == "same" else layers.Dense(6)(x)
    b = layers.Activation("tanh")(b) if kind == "half" else b
    return layers.BatchNormalization(name=name)(merge(layers)([a, b]))


class Goes(Enum):
    """Which BatchNormalizations behind a merge go up into its branches."""

    ALWAYS = "whatever their γ"
    POSITIVE = "those with γ > 0"
    NEVER = "none"

    def with_gamma(self, gamma: str) -> bool:
        """Whether one whose γ are of this kind goes."""
        return self is Goes.ALWAYS or (self is Goes.POSITIVE and gamma == "positive")


_LINEAR = {"pure": Goes.ALWAYS, "half": Goes.NEVER, "same": Goes.ALWAYS}
_CHOSEN = {"pure": Goes.POSITIVE, "half": Goes.NEVER, "same": Goes.POSITIVE}
MERGES: dict[str, tuple[Make, dict[str, Goes]]] = {
    # behind: see ``_merged``
    "Add": (lambda k: k.Add(), _LINEAR),
    "Subtract": (lambda k: k.Subtract(), {"pure": Goes.ALWAYS, "half": Goes.NEVER}),  # x − x is constant
    "Average": (lambda k: k.Average(), _LINEAR),
    "Concatenate": (lambda k: k.Concatenate(), {"pure": Goes.ALWAYS, "half": Goes.NEVER}),
    "Concatenate along 1": (lambda k: k.Concatenate(axis=1), _LINEAR),
    "Maximum": (lambda k: k.Maximum(), _CHOSEN),
    "Minimum": (lambda k: k.Minimum(), _CHOSEN),
    "Multiply": (lambda k: k.Multiply(), dict.fromkeys(("pure", "half", "same"), Goes.NEVER)),
}


GAMMAS = ("mixed", "positive")


@pytest.fixture(scope="module")
def behind(keras3: Keras, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Outcome]:
    """What becomes of a BN behind each merge of each kind of branches, with each γ: all in one model."""

    def network(merge: Make, kind: str, gamma: str) -> Network:
        def steps(layers: Any, name: str) -> list[Any]:
            def called(x: Any) -> Any:
                return _merged(layers, x, merge, kind, name)

            return [called, layers.Activation("tanh")]

        return Network((4, 5), steps, gamma=gamma)

    networks = {
        f"{name}, {kind}, {gamma}": network(merge, kind, gamma)
        for name, (merge, table) in MERGES.items()
        for kind in table
        for gamma in GAMMAS
    }
    return outcomes(keras3, networks, tmp_path_factory.mktemp("merges"))


@pytest.mark.parametrize("name", MERGES)
@pytest.mark.parametrize("gamma", GAMMAS)
def test_bn_behind_a_merge(behind: dict[str, Outcome], name: str, gamma: str) -> None:
    for kind, goes in MERGES[name][1].items():
        found = behind[f"{name}, {kind}, {gamma}"]
        found.assert_equal()
        assert (found.kept is None) is goes.with_gamma(gamma), kind
        if goes is Goes.POSITIVE and gamma == "mixed":
            assert found.kept is not None and Reason.NEGATIVE_SCALE in found.kept


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
    layers = keras.layers
    for kind, goes in {"pure": True, "half": True, "same": False}.items():
        x = layers.Input((4, 5), name="x")
        norm = _merged(layers, x, lambda k: k.Multiply(), kind, "norm")
        model = stir(keras.Model(x, layers.Activation("tanh")(norm)), gamma="scale")
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
