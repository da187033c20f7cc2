"""The networks of keras.applications: how many BatchNormalizations go, with equal outputs in stock Keras.

And the shape of every layer, as bnfuse infers it, is Keras's own. Random weights, statistics of every scale;
small images where the architecture allows, logits instead of a softmax, which would hide differences.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from msgspec import Struct
from msgspec.structs import replace

from bnfuse.core.reasons import Reason
from bnfuse.formats.keras.graph.config import parse
from bnfuse.formats.keras.graph.network import Ref
from bnfuse.formats.keras.graph.shapes import infer
from tests.keras_fewer_blocks import fewer_blocks
from tests.keras_graphs import without_shapes
from tests.keras_models import import_keras
from tests.keras_nets import assert_same, batchnorms, computing_in, fold, outputs_of, stir

pytestmark = pytest.mark.slow

# Of the output's range, in float32 through up to 200 layers; measured: 1.3e-6 at most.
_TOLERANCE = 1e-5


class Application(Struct, frozen=True):
    """A network, how many BNs it has, and how many of them go (at least).

    ``affines``: Rescaling and Normalization layers in front, all of which go; None where that is not told.
    """

    name: str
    found: int
    folded: int
    gamma: str = "signed"
    size: tuple[int | None, int | None] = (64, 64)
    suffix: str = ".keras"
    affines: int | None = None
    top: bool = True


# Each in one of the containers, for both hold the same layers; some of sizes that no stride divides. Those of
# ``keras_fewer_blocks`` are counted by their blocks: as many go in each as in those of the published network.
APPLICATIONS = (
    Application("ResNet", 29, 29, "mixed", size=(97, None), suffix=".h5", top=False),
    Application("MobileNet", 27, 27),
    Application("MobileNetV2", 52, 52, size=(96, 128), suffix=".h5"),
    Application("MobileNetV3Small", 34, 34),
    # It begins with Rescaling → Normalization → ZeroPadding → Conv.
    Application("EfficientNet", 25, 25, size=(65, 99), affines=2),
    Application("EfficientNetV2", 22, 22, suffix=".h5"),
    Application("InceptionV3", 94, 94, size=(79, 91)),
    Application("Xception", 40, 40, size=(72, 72), suffix=".h5"),
    Application("NASNet", 83, 79, size=(64, 96)),
    Application("ResNetV2", 31, 20),
    Application("ResNetV2", 31, 30, "positive", suffix=".h5"),
    Application("DenseNet", 23, 13),
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
    drawn = module.initializers.VarianceScaling
    with computing_in(module, "float32"), pytest.MonkeyPatch.context() as here:
        # What Keras draws is drawn anew, or read from the file.
        here.setattr(drawn, "__call__", lambda _, shape, dtype=None: np.zeros(shape, dtype))
        yield module
    _MADE.clear()
    module.backend.clear_session(free_memory=False)


_MADE: dict[Application, Any] = {}  # one at a time: cases of one network follow each other


def _built(keras: Any, wanted: Application) -> Any:
    """The network with all its weights drawn anew."""
    key = replace(wanted, gamma="", suffix="", folded=0)
    if key not in _MADE:
        _MADE.clear()
        make = fewer_blocks(wanted.name) or getattr(keras.applications, wanted.name)
        end = {"classes": 7, "classifier_activation": None} if wanted.top else {"pooling": "avg"}
        shape = (*wanted.size, 3)
        _MADE[key] = make(weights=None, input_shape=shape, include_top=wanted.top, **end)
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
    images = (
        np.random.default_rng(2).uniform(0, 255, (3, *(n or 71 for n in wanted.size), 3)).astype("float32")
    )
    assert_same(outputs_of(model, [images]), outputs_of(loaded, [images]), _TOLERANCE)
    assert loaded.output_names == model.output_names
    config = without_shapes(model)
    assert '"shape"' not in json.dumps(config)
    shapes = infer(parse(config))
    inferred = {each.name: shapes.of((), Ref(each.name, 0, 0)) for each in model.layers}
    assert inferred == {each.name: tuple(each.output.shape) for each in model.layers}
