"""Real Keras models by other people: how many BatchNormalizations go, and that the result computes the same.

The models are no part of the project: the tests run where they lie beside it and skip elsewhere.
"""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from bnfuse.core.reasons import Reason
from tests.keras_models import import_keras, import_tf_keras
from tests.keras_nets import Folded, assert_same, batchnorms, fold_file, input_names, output_names, outputs_of

MODELS = Path(__file__).resolve().parents[2] / "shared" / "models" / "keras"

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not MODELS.is_dir(), reason=f"no real models at {MODELS}"),
]


@dataclass(frozen=True)
class Real:
    """A file, how many BNs it has and how many go, and which library loads it.

    ``compiled``: it computes channels first, which on a CPU only XLA can.
    """

    file: str
    found: int
    folded: int
    library: str = "keras"
    compiled: bool = False


REAL = (
    Real("cifar10_channels_first_theano.h5", 4, 4, "tf_keras", compiled=True),
    Real("deepfake_voice_cnn.keras", 2, 2),
    Real("fer2013_mini_xception.hdf5", 14, 14),
    Real("mlperf_tiny_autoencoder.h5", 9, 9),
    Real("mlperf_tiny_person_nested_mobilenet.h5", 27, 27, "tf_keras"),
    Real("mlperf_tiny_resnet8.h5", 7, 7),
    Real("mlperf_tiny_wakeword_ds_conv.h5", 4, 4, "tf_keras"),
    Real("stm32_emnist_stmnist.h5", 5, 5, "tf_keras"),
    Real("stm32_esc10_miniresnet_v2_preact.h5", 9, 8),
    Real("stm32_esc10_yamnet_nested.h5", 11, 11, "tf_keras"),
    Real("stm32_flowers_mobilenet_v2.h5", 52, 52, "tf_keras"),
    Real("stm32_wisdm_gmp.h5", 2, 2),
    Real("waste_classifier_nested_sequential.h5", 52, 52, "tf_keras"),
    Real("zinc_property_dense_dropout_bn.h5", 2, 2),
)
real = pytest.mark.parametrize("model", REAL, ids=[r.file for r in REAL])


def _library(name: str) -> Any:
    return import_keras() if name == "keras" else import_tf_keras()


def _inputs(model: Any) -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    made = []
    for tensor in model.inputs:
        shape = (4, *(8 if n is None else int(n) for n in tensor.shape[1:]))
        made.append(rng.normal(0, 1, shape).astype("float32"))
    return made


@pytest.fixture(scope="module")
def fold_once(tmp_path_factory: pytest.TempPathFactory) -> Callable[[Path], Folded]:
    """What folds each file the first time that it is asked for; nobody changes the result."""
    folder = tmp_path_factory.mktemp("real")
    return functools.cache(lambda source: fold_file(source, folder / source.name))


@real
def test_folds_and_computes_the_same(model: Real, fold_once: Callable[[Path], Folded]) -> None:
    """Counts are floors; both files are loaded by the library that loads the original."""
    source = MODELS / model.file
    digest = hashlib.sha256(source.read_bytes()).hexdigest()
    folded = fold_once(source)
    found, gone, kept = folded.plan.counts(batchnorm=True)
    assert found == model.found
    assert gone >= model.folded
    assert len(folded.kept) == kept
    assert hashlib.sha256(source.read_bytes()).hexdigest() == digest
    library = _library(model.library)
    before = library.models.load_model(source, compile=False)
    after = library.models.load_model(folded.after, compile=False)
    assert len(batchnorms(after)) == kept
    assert (input_names(after), output_names(after)) == (input_names(before), output_names(before))
    feeds = _inputs(before)
    want, got = (outputs_of(m, feeds, compiled=model.compiled) for m in (before, after))
    assert_same(want, got, 1e-4)


@real
def test_the_result_is_in_the_same_dialect(
    model: Real, fold_once: Callable[[Path], Folded], tmp_path: Path
) -> None:
    """By content, with the version that wrote it; twice nothing; the same bytes each time."""
    source = MODELS / model.file
    first, second = fold_once(source).after, tmp_path / f"b{source.suffix}"
    again = fold_file(first, second)
    assert again.gone == set()
    assert second.read_bytes() == first.read_bytes()
    fold_file(source, second)
    assert second.read_bytes() == first.read_bytes()
    assert h5py.is_hdf5(first) == h5py.is_hdf5(source)
    if not h5py.is_hdf5(source):
        return
    with h5py.File(source) as before, h5py.File(first) as after:
        for name in ("keras_version", "backend"):
            values = [_attribute(file, name) for file in (before, after)]
            assert values[0] == values[1]


def _attribute(file: Any, name: str) -> Any:
    holder = file if name in file.attrs else file["model_weights"]
    return holder.attrs.get(name)


def test_why_the_rest_stays(fold_once: Callable[[Path], Folded]) -> None:
    """The last BN of the pre-activation network has negative γ, which no ReLU passes."""
    source = MODELS / "stm32_esc10_miniresnet_v2_preact.h5"
    folded = fold_once(source)
    assert len(folded.kept) <= 1
    for reasons in folded.kept.values():
        assert reasons <= {
            Reason.NEGATIVE_SCALE,
            Reason.CONFLICT,
            Reason.SHIFT_THROUGH_ACTIVATION,
            Reason.ZERO_PADDING,
        }


def test_the_comparison_can_fail(fold_once: Callable[[Path], Folded]) -> None:
    """One moved bias is found out, so the agreements above mean something."""
    keras = import_keras()
    source = MODELS / "mlperf_tiny_resnet8.h5"
    folded = fold_once(source)
    before, after = (keras.models.load_model(p, compile=False) for p in (source, folded.after))
    conv = next(layer for layer in after.layers if type(layer).__name__ == "Conv2D")
    conv.bias.assign_add(np.full(conv.bias.shape, 0.01, np.float32))
    feeds = _inputs(before)
    with pytest.raises(AssertionError, match="relative error"):
        assert_same(outputs_of(before, feeds), outputs_of(after, feeds), 1e-4)
