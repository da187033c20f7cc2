"""The networks of keras.applications: how many BatchNormalizations go, with equal outputs in stock Keras.

Random weights, statistics of every scale; small images where the architecture allows, logits instead of a
softmax, which would hide differences.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bnfuse.core.reasons import Reason
from tests.keras_models import import_keras
from tests.keras_nets import assert_same, batchnorms, computing_in, fold, outputs_of, stir

pytestmark = pytest.mark.slow

# Of the output's range, in float32 through up to 200 layers; measured: 1.3e-6 at most.
_TOLERANCE = 1e-5


@dataclass(frozen=True)
class Application:
    """A network, how many BNs it has, and how many of them go (at least).

    ``affines``: Rescaling and Normalization layers in front, all of which go; None where that is not told.
    """

    name: str
    found: int
    folded: int
    gamma: str = "signed"
    size: int = 64
    suffix: str = ".keras"
    affines: int | None = None


APPLICATIONS = (
    Application("ResNet50", 53, 53),
    Application("ResNet50", 53, 53, "mixed", suffix=".h5"),
    Application("MobileNet", 27, 27),
    Application("MobileNetV2", 52, 52),
    Application("MobileNetV2", 52, 52, suffix=".h5"),
    Application("MobileNetV3Small", 34, 34),
    # It begins with Rescaling → Normalization → ZeroPadding → Conv.
    Application("EfficientNetB0", 49, 49, affines=2),
    Application("EfficientNetB0", 49, 49, suffix=".h5", affines=2),
    Application("EfficientNetV2B0", 59, 59),
    Application("InceptionV3", 94, 94, size=80),
    Application("Xception", 40, 40, size=72),
    Application("NASNetMobile", 192, 188),
    Application("ResNet50V2", 49, 32),
    Application("ResNet50V2", 49, 48, "positive"),
    Application("ResNet50V2", 49, 48, "positive", suffix=".h5"),
    Application("DenseNet121", 121, 62),
    Application("DenseNet121", 121, 62, "positive"),
)
# Why BNs of pre-activation networks stay: γ < 0 in front of a ReLU, a stream that others read, a zero Pad.
_ALLOWED = {
    Reason.NEGATIVE_SCALE,
    Reason.SHIFT_THROUGH_ACTIVATION,
    Reason.ZERO_PADDING,
    Reason.CONFLICT,
    Reason.TOO_MANY_CHOICES,
}


@pytest.fixture(scope="module")
def keras() -> Iterator[Any]:
    module = import_keras()
    with computing_in(module, "float32"):
        yield module
    _MADE.clear()
    module.backend.clear_session()


_MADE: dict[tuple[str, int], Any] = {}  # one at a time: cases of one network follow each other


def _built(keras: Any, wanted: Application) -> Any:
    """The network with all its weights drawn anew."""
    key = wanted.name, wanted.size
    if key not in _MADE:
        _MADE.clear()
        make = getattr(keras.applications, wanted.name)
        shape = (wanted.size, wanted.size, 3)
        _MADE[key] = make(weights=None, input_shape=shape, classes=7, classifier_activation=None)
    return stir(_MADE[key], gamma=wanted.gamma)


@pytest.mark.parametrize("wanted", APPLICATIONS, ids=[f"{a.name}-{a.gamma}{a.suffix}" for a in APPLICATIONS])
def test_folds_and_computes_the_same(keras: Any, wanted: Application, tmp_path: Path) -> None:
    model = _built(keras, wanted)
    folded = fold(model, tmp_path, wanted.suffix)
    found, gone, kept = folded.plan.counts(batchnorm=True)
    assert found == wanted.found
    assert gone >= wanted.folded
    if wanted.affines is not None:
        assert folded.plan.counts(batchnorm=False) == (wanted.affines, wanted.affines, 0)
    assert set().union(*folded.kept.values()) <= _ALLOWED
    loaded = keras.models.load_model(folded.after, compile=False)
    assert len(batchnorms(loaded)) == kept
    images = np.random.default_rng(2).uniform(0, 255, (3, wanted.size, wanted.size, 3)).astype("float32")
    assert_same(outputs_of(model, [images]), outputs_of(loaded, [images]), _TOLERANCE)
    assert loaded.output_names == model.output_names
