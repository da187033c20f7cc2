"""A BatchNormalization behind or before every layer that moves values: it passes, or it stays as told."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bnfuse.core.reasons import Reason
from tests.keras_movers import ARRIVING, MOVERS, Mover, arrival
from tests.keras_nets import Keras, batchnorms, chain, check, fold, stir
from tests.keras_together import Network, Outcome, outcomes, telling

pytestmark = pytest.mark.slow


Tried = dict[str, tuple[Mover, str]]  # by test: the mover, and the kind of γ


def _tried(movers: Iterable[Mover]) -> Tried:
    return {f"{mover.name}, {gamma}": (mover, gamma) for mover in movers for gamma in telling(mover.why)}


BEHIND, BEFORE = _tried(ARRIVING), _tried(MOVERS.values())


@pytest.fixture(scope="module")
def behind(keras3: Keras, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Outcome]:
    """kernel → mover → BN, for every mover that leaves the channels in one axis.

    The BN's axis is the one in which the kernel's channels arrive, found from where they went.
    """

    def network(mover: Mover, gamma: str) -> Network:
        def steps(layers: Any, name: str) -> list[Any]:
            axis = arrival(mover, len(mover.make(layers)(layers.Input(mover.shape)).shape))
            assert axis is not None
            norm = layers.BatchNormalization(axis=axis, name=name)
            return [_pointwise(layers, mover), mover.make(layers), norm]

        return Network(mover.shape, steps, mover.floatx, gamma)

    networks = {name: network(*tried) for name, tried in BEHIND.items()}
    return outcomes(keras3, networks, tmp_path_factory.mktemp("behind"))


@pytest.fixture(scope="module")
def before(keras3: Keras, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Outcome]:
    """tanh → BN → mover → Dense, for every mover."""

    def network(mover: Mover, gamma: str) -> Network:
        def steps(layers: Any, name: str) -> list[Any]:
            norm = layers.BatchNormalization(axis=mover.axis, name=name)
            return [layers.Activation("tanh"), norm, mover.make(layers), layers.Flatten(), layers.Dense(3)]

        return Network(mover.shape, steps, mover.floatx, gamma)

    networks = {name: network(*tried) for name, tried in BEFORE.items()}
    return outcomes(keras3, networks, tmp_path_factory.mktemp("before"))


@pytest.mark.parametrize("name", BEHIND)
def test_bn_behind_a_mover(behind: dict[str, Outcome], name: str) -> None:
    """kernel → mover → BN: up through the mover, or not, and then for the reason in the table."""
    mover, gamma = BEHIND[name]
    behind[name].assert_told(mover.why(gamma))


@pytest.mark.parametrize("name", BEFORE)
def test_bn_before_a_mover(before: dict[str, Outcome], name: str) -> None:
    """tanh → BN → mover → Dense: down through the mover."""
    mover, gamma = BEFORE[name]
    before[name].assert_told(mover.why(gamma))


def _pointwise(layers: Any, mover: Mover) -> Any:
    """A kernel over the channels that runs on a CPU whatever their axis."""
    if mover.axis == -1:
        return layers.Dense(mover.shape[-1], use_bias=False)
    return layers.EinsumDense("abcd,be->aecd", output_shape=mover.shape, bias_axes=None)


def test_a_flattened_bn_goes_up(keras: Keras, tmp_path: Path) -> None:
    """Behind a Flatten every element has its own factor: it stays, unless the factors repeat by channel."""
    layers = keras.layers
    steps = (layers.Dense(3), layers.Flatten(), layers.BatchNormalization(name="norm"))
    model = chain(keras, (4, 5), *steps)
    assert Reason.AXIS in check(keras, model, tmp_path / "a")[0].kept["norm"]
    repeated = ([2.0, -1, 0], [1.0, 2, 3], [4.0, 5, 6], [1.0, 2, 3])
    for weight, values in zip(model.layers[-1].weights, repeated, strict=True):
        weight.assign(np.tile(values, 4))
    assert check(keras, model, tmp_path / "b")[0].kept == {}


def test_a_reshape_apart_goes_up(keras: Keras, tmp_path: Path) -> None:
    """(24,) → (2, 4, 3): a factor per last axis repeats along the kernel's outputs."""
    layers = keras.layers
    steps = (layers.Dense(24), layers.Reshape((2, 4, 3)), layers.BatchNormalization())
    _, loaded = check(keras, chain(keras, (5,), *steps), tmp_path)
    assert batchnorms(loaded) == []


AUGMENTED: dict[str, Callable[[Any], list[Any]]] = {
    "keras3": lambda k: [
        k.AugMix(), k.CutMix(), k.MixUp(), k.RandAugment(), k.RandomBrightness(0.3),
        k.RandomColorDegeneration(0.3), k.RandomColorJitter(), k.RandomContrast(0.3),
        k.RandomElasticTransform(), k.RandomErasing(), k.RandomFlip(), k.RandomGaussianBlur(),
        k.RandomGrayscale(), k.RandomHue(0.3), k.RandomInvert(), k.RandomPerspective(),
        k.RandomPosterization(4), k.RandomRotation(0.3), k.RandomSaturation(0.3), k.RandomSharpness(0.3),
        k.RandomShear(), k.RandomTranslation(0.2, 0.2), k.RandomZoom(0.2), k.Solarization(),
    ],
    "keras2": lambda k: [
        k.RandomBrightness(0.3), k.RandomContrast(0.3), k.RandomFlip(), k.RandomHeight(0.3),
        k.RandomRotation(0.3), k.RandomTranslation(0.2, 0.2), k.RandomWidth(0.3), k.RandomZoom(0.2),
        k.RandomCrop(5, 6),
    ],
}  # fmt: skip


@pytest.mark.parametrize("library", AUGMENTED)
def test_augmentation_is_the_identity(library: str, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    """Through all of them, one after the other; all that is left of a BN in front of them is its kernel."""
    module = request.getfixturevalue(library)
    layers = module.layers
    steps = AUGMENTED[library](layers)
    x = y = layers.Input((8, 7, 3), name="x")
    for step in (
        layers.Dense(3),
        layers.BatchNormalization(axis=-1),
        *steps,
        layers.GlobalAveragePooling2D(),
    ):
        y = step(y)
    norm = layers.BatchNormalization(name="norm")(y)
    model = stir(module.Model(x, layers.Activation("tanh")(norm)))
    folded, _ = check(module, model, tmp_path, tolerance=1e-5)
    assert folded.kept == {}
    assert len(folded.gone) == 2


def test_augmentation_that_was_asked_for(tf_keras: Keras, tmp_path: Path) -> None:
    """Keras 2 obeys ``training=True`` of a call at inference, too: nothing passes."""
    layers = tf_keras.layers
    x = layers.Input((8, 7, 3), name="x")
    y = layers.RandomContrast(0.5)(layers.Dense(3)(x), training=True)
    norm = layers.BatchNormalization(name="norm")(y)
    model = stir(tf_keras.Model(x, layers.Activation("tanh")(norm)))
    assert Reason.TRAINING_MODE in fold(model, tmp_path).kept["norm"]


def test_padding_is_judged_by_sizes_at_inference(keras: Keras, tmp_path: Path) -> None:
    """Keras 3 hands whole images through a RandomCrop at inference, whatever size the file tells."""
    layers = keras.layers
    for crop, kept in ((layers.CenterCrop(4, 6), set()), (layers.RandomCrop(4, 6), {"norm"})):
        steps = (layers.Activation("tanh"), crop, layers.BatchNormalization(name="norm"))
        conv = layers.Conv2D(4, 2, strides=2, padding="same")
        folded, _ = check(keras, chain(keras, (9, 7, 3), *steps, conv), tmp_path / crop.name)
        assert folded.kept.keys() == kept
