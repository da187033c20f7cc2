"""Settings that make no sense: the layer and what stands beside it stay, or the file is refused.

There is never a traceback, and whatever Keras still loads computes the same before and after.
"""

from __future__ import annotations

import json
import random
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bnfuse.core.reasons import Reason
from tests.command import call
from tests.keras_files import entry, with_setting
from tests.keras_nets import Keras, assert_same, fold_file, outputs_of, random_inputs, stir
from tests.keras_subjects import SUBJECTS, Saved

pytestmark = pytest.mark.slow

NONSENSE: tuple[Any, ...] = (
    "x", "", -1, 0, None, [], [1, -1], [[1, 2], [3, 4]], {}, {"class_name": "x", "config": None},
    1e308, 2**70, 1.5, True, False, float("nan"), "channels_first", "same", "relu",
)  # fmt: skip
# What no number and no list of numbers can be read from.
NO_NUMBERS: tuple[Any, ...] = ("x", "", None, [[1, 2], [3, 4]], {}, {"class_name": "x"}, float("nan"))


@pytest.mark.parametrize(
    ("layer", "key", "value"),
    [
        ("BatchNormalization", "axis", "channels"),
        ("BatchNormalization", "axis", {"class_name": "__tuple__", "items": [1]}),
        ("BatchNormalization", "epsilon", "small"),
        ("BatchNormalization", "epsilon", None),
        ("Normalization", "axis", ["x"]),
        ("Normalization", "mean", "many"),
        ("Normalization", "mean", [[1.0], [2.0, 3.0]]),
        ("Normalization", "variance", [1.0, 2.0]),
        ("Normalization", "variance", [-1.0, 2.0, 3.0, 4.0]),
        ("Rescaling", "scale", "big"),
        ("Rescaling", "offset", [1.0, 2.0]),
        ("Rescaling", "scale", {"class_name": "int"}),
        ("Rescaling", "scale", []),
        ("Rescaling", "scale", float("nan")),
        ("Rescaling", "offset", None),
        ("Rescaling", "offset", 1e308),
    ],
)
def test_settings_that_make_no_sense(
    network: Saved, layer: str, key: str, value: Any, tmp_path: Path
) -> None:
    """Such a layer stays as it is, for a reason of its own, and the others fold."""
    with_setting(network(layer)[0], tmp_path / "odd.keras", "it", key, value)
    folded = fold_file(tmp_path / "odd.keras", tmp_path / "after.keras")
    assert "sound" in folded.gone
    assert {**folded.kept, **folded.kept_affines}["it"] <= {
        Reason.BAD_PARAMETERS,
        Reason.INVALID_STATISTICS,
        Reason.PARAMETER_NOT_CONSTANT,
        Reason.SHAPE_UNKNOWN,
        Reason.AXIS,
    }


_NO_SIZES: tuple[Any, ...] = (*NO_NUMBERS, [], [1, -1], 0, -1, 1.5, 1e308, 2**70, True)
_SOME_GROUPS = ("x", -1, [[1, 2]], {"class_name": "x"}, 1e308, 2**70, float("nan"))
_NOT_EMPTY = ("x", -1, [1], [[1, 2], [3, 4]], {"class_name": "x"}, 1e308, 2**70, float("nan"))
# kind, setting, values, the BNs beside it that stay, why: what the row of the layer reads before it decides
BESIDE: tuple[tuple[str, str, tuple[Any, ...], str, set[Reason]], ...] = (
    ("Dense", "activation", _NOT_EMPTY, "behind", {Reason.NONLINEAR}),
    ("EinsumDense", "equation", NONSENSE, "before behind", {Reason.SHAPE_UNKNOWN}),
    ("EinsumDense", "bias_axes", _NOT_EMPTY, "before behind", {Reason.UNSUPPORTED_OP}),
    ("Conv2D", "groups", _SOME_GROUPS, "before behind", {Reason.BAD_PARAMETERS}),
    ("Conv2D", "padding", NONSENSE, "before", {Reason.ZERO_PADDING}),
    ("Conv2D 1x1, same", "kernel_size", _NO_SIZES, "before behind", {Reason.BAD_PARAMETERS}),
    ("DepthwiseConv2D", "padding", NONSENSE, "before", {Reason.ZERO_PADDING}),
    ("SeparableConv2D", "padding", NONSENSE, "before", {Reason.ZERO_PADDING}),
    ("GRU", "reset_after", ("", 0, None, [], {}), "before", {Reason.BAD_PARAMETERS}),
    ("LayerNormalization", "axis", ("x", 0, None, [], [1, 2], {}, 2**70), "behind", {Reason.UNSUPPORTED_OP}),
    ("GroupNormalization", "axis", ("x", 0, None, [], [1, 2], {}), "behind", {Reason.UNSUPPORTED_OP}),
    ("MaxPooling2D", "pool_size", _NO_SIZES, "before", {Reason.BAD_PARAMETERS}),
    ("AveragePooling2D", "pool_size", _NO_SIZES, "before", {Reason.BAD_PARAMETERS}),
    ("ZeroPadding2D", "padding", NO_NUMBERS, "before", {Reason.BAD_PARAMETERS, Reason.ZERO_PADDING}),
    ("UpSampling2D", "interpolation", NONSENSE, "before", {Reason.UNSUPPORTED_OP}),
    ("Permute", "dims", NONSENSE, "before", {Reason.BAD_PARAMETERS, Reason.AXIS}),
    ("Activation", "activation", _NOT_EMPTY, "before", {Reason.NONLINEAR}),
    (
        "Concatenate",
        "axis",
        ("x", None, [], [1], {}, 1.5, 2**70),
        "behind",
        {Reason.SHAPE_UNKNOWN, Reason.AXIS},
    ),
)


@pytest.mark.parametrize(
    ("kind", "key", "values", "stay", "why"), BESIDE, ids=[f"{kind}-{key}" for kind, key, *_ in BESIDE]
)
def test_what_stands_beside_it_stays(
    network: Saved,
    kind: str,
    key: str,
    values: tuple[Any, ...],
    stay: str,
    why: set[Reason],
    tmp_path: Path,
) -> None:
    """Each BN goes while the setting is sound, and stays for a fitting reason when it is not."""
    path, _ = network(kind)
    assert {*stay.split(), "sound"} <= fold_file(path, tmp_path / "sound.keras").gone
    for value in values:
        with_setting(path, tmp_path / "odd.keras", "it", key, value)
        folded = fold_file(tmp_path / "odd.keras", tmp_path / "after.keras")
        assert "sound" in folded.gone, value
        for name in stay.split():
            assert why & folded.kept[name], (name, value)


# Settings that the arithmetic does not depend on.
_TRAINING = ("initializer", "regularizer", "constraint", "seed")


@pytest.mark.parametrize("kind", SUBJECTS)
def test_any_setting_of_any_layer(keras: Keras, network: Saved, kind: str, tmp_path: Path) -> None:
    """On the command line: done or refused in one sentence; equal outputs wherever Keras loads the file."""
    path, feeds = network(kind)
    keys = [key for key in _settings(path) if key != "name" and not key.endswith(_TRAINING)]
    dice = random.Random(kind)
    for _ in range(4):
        key, value = dice.choice(keys), dice.choice(NONSENSE)
        told = f"{kind}: {key} = {value!r}"
        odd, after = tmp_path / "odd.keras", tmp_path / "after.keras"
        with_setting(path, odd, "it", key, value)
        done = call("optimize", odd, "-o", after, "--force", "--no-verify", "--no-bench", "--json")
        assert done.exit_code in (0, 3), (told, done.stderr)
        assert "internal error" not in done.stderr, (told, done.stderr)
        assert "Traceback" not in done.stderr, (told, done.stderr)
        if done.exit_code == 0:
            names = {d["name"]: d["action"] for d in json.loads(done.stdout)["decisions"]}
            assert names["sound"] == "fold", told
            _assert_equal_if_loadable(keras, odd, after, feeds, told)


def _settings(path: Path) -> list[str]:
    """The names of all settings of the layer "it"."""
    with zipfile.ZipFile(path) as archive:
        return list(entry(json.loads(archive.read("config.json")), "it")["config"])


def _assert_equal_if_loadable(
    keras: Keras, before: Path, after: Path, feeds: list[np.ndarray], told: str
) -> None:
    """What Keras refuses, or computes no finite number from, has no outputs to compare."""
    try:
        want = outputs_of(keras.models.load_model(before, compile=False), feeds)
    except Exception:  # noqa: BLE001 - Keras raises what it likes
        return
    if all(np.isfinite(y).all() for y in want):
        got = outputs_of(keras.models.load_model(after, compile=False), feeds)
        for a, b in zip(want, got, strict=True):
            assert float(np.abs(a - b).max()) <= 1e-11 * float(np.abs(a).max()), told


def test_a_layout_in_capitals_is_the_same_layout(keras: Keras, tmp_path: Path) -> None:
    """Keras reads ``data_format`` in any case, so a Flatten moves the channels in any case."""
    layers = keras.layers
    x = layers.Input((3, 5, 4), name="x")
    y = layers.Flatten(data_format="channels_first", name="it")(layers.BatchNormalization(axis=1)(x))
    model = stir(keras.Model(x, layers.Dense(6)(y)))
    model.save(tmp_path / "small.keras")
    with_setting(tmp_path / "small.keras", tmp_path / "a.keras", "it", "data_format", "CHANNELS_FIRST")
    folded = fold_file(tmp_path / "a.keras", tmp_path / "b.keras")
    assert not folded.kept
    feeds = random_inputs(model)
    loaded = [keras.models.load_model(tmp_path / name, compile=False) for name in ("a.keras", "b.keras")]
    assert_same(outputs_of(loaded[0], feeds), outputs_of(loaded[1], feeds), 1e-12)
