"""Looking into Keras models: what a probe sees, sets and shakes, against Keras itself in this process."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest

from bnfuse.core.apply import Patch
from bnfuse.errors import BnfuseError, UnreadableModel, UsageError
from bnfuse.formats.base import Probe, ReadOptions, RunSettings
from bnfuse.formats.child.shaking import stepped
from bnfuse.formats.keras import FORMAT
from bnfuse.formats.keras.runtime.backends import make_backend
from bnfuse.formats.keras.runtime.probe import shake
from tests.keras_nets import output_names, stir
from tests.keras_probed import NETS, Probed, as_array, residual

# --- one step


_finfo: Any = ml_dtypes.finfo  # untyped
FLOATS = {"float16": np.int16, "float32": np.int32, "float64": np.int64, "bfloat16": np.int16}


@pytest.mark.parametrize("name", FLOATS)
def test_every_float_moves_by_one_step_of_its_type(name: str) -> None:
    """Told by the bits: neighbours differ by 1 as integers, both ways are taken, zeros stay."""
    dtype = np.dtype(getattr(ml_dtypes, name, name))
    rng = np.random.default_rng(0)
    drawn = rng.normal(size=999) * 10.0 ** rng.uniform(-3, 3, 999)
    array = drawn.astype(dtype)
    array[:9] = 0.0
    top = float(_finfo(dtype).max)
    array[9:69] = np.repeat(np.array([top, -top, np.inf], dtype), 20)
    moved = stepped(array, dtype, np.random.default_rng(1))
    assert moved.dtype == dtype
    steps = np.abs(moved.view(FLOATS[name]).astype("i8") - array.view(FLOATS[name]).astype("i8"))
    assert set(steps[:9]) == set(steps[49:69]) == {0}
    assert set(steps[9:49]) == {0, 1}  # the largest have but one neighbour
    assert set(steps[69:]) == {1}
    assert np.isfinite(moved[9:49].astype("f8")).all()
    up = (moved.astype("f8") > array.astype("f8"))[69:].mean()
    assert 0.4 < up < 0.6
    again = stepped(array, dtype, np.random.default_rng(1))
    assert again.tobytes() == moved.tobytes()
    assert stepped(array, dtype, np.random.default_rng(2)).tobytes() != moved.tobytes()


@pytest.mark.parametrize("narrow", ["float16", "bfloat16"])
def test_a_step_of_the_type_that_is_computed_in(narrow: str) -> None:
    """float32 as stored, but what it is cast to is the neighbour of what it was cast to."""
    kind = np.dtype(getattr(ml_dtypes, narrow, narrow))
    array = np.random.default_rng(0).normal(size=500).astype(np.float32)
    moved = stepped(array, kind, np.random.default_rng(1))
    assert moved.dtype == np.float32
    bits = [a.astype(kind).view(np.int16).astype(int) for a in (array, moved)]
    assert set(np.abs(bits[1] - bits[0])) == {1}


@pytest.mark.slow
def test_only_the_layers_named_are_shaken(either_keras: Any) -> None:
    """Each of their floats by one step: of float16 where a mixed policy casts, which it does not a norm's."""
    net = residual(either_keras, dtype="mixed_float16").model
    before = {layer.name: [np.array(v) for v in layer.get_weights()] for layer in net.layers}
    shake(
        net,
        Probe(shaken=(json.dumps(["a"]), json.dumps(["norm"])), seed=7),
        make_backend("tensorflow", "cpu", 0),
    )
    for layer in net.layers:
        for old, new in zip(before[layer.name], layer.get_weights(), strict=True):
            if layer.name not in ("a", "norm"):
                assert new.tobytes() == old.tobytes()
                continue
            kind, bits = (np.float16, np.int16) if layer.name == "a" else (np.float32, np.int32)
            pair = [w.astype(kind).view(bits).astype(int)[old != 0] for w in (old, new)]
            assert set(np.abs(pair[1] - pair[0])) == {1}
            assert (new[old == 0] == 0).all()


@pytest.mark.slow
def test_a_layer_of_several_names_is_shaken_once_and_moved_back(either_keras: Any) -> None:
    """Networks may share it, and a model is loaded no second time for the next who asks for it."""
    layers = either_keras.layers
    shared, x = layers.Dense(3, name="shared"), layers.Input((4,))
    inner = [either_keras.Model(x, shared(x), name=name) for name in ("one", "other")]
    model = stir(either_keras.Model(x, layers.Add()([net(x) for net in inner])))
    before = [np.array(v) for v in shared.get_weights()]
    names = tuple(json.dumps([net.name, "shared"]) for net in inner)
    back = shake(model, Probe(shaken=names), make_backend("tensorflow", "cpu", 0))
    for old, new in zip(before, shared.get_weights(), strict=True):
        steps = old.view(np.int32).astype(int) - new.view(np.int32)
        assert set(np.abs(steps[old != 0])) == {1}
    back()
    assert [v.tobytes() for v in shared.get_weights()] == [v.tobytes() for v in before]


@pytest.mark.slow
def test_a_normalisation_computes_with_what_was_shaken(either_keras: Any) -> None:
    """It keeps what follows from its variables, and works it out anew."""
    layers = either_keras.layers
    x = layers.Input((4,), name="x")
    norm = layers.Normalization(name="n")
    data = np.random.default_rng(0).normal(3, 2, (64, 4)).astype(np.float32)
    norm.adapt(data)
    model = either_keras.Model(x, norm(x))
    before = as_array(model(data))
    shake(model, Probe(shaken=(json.dumps(["n"]),)), make_backend("tensorflow", "cpu", 0))
    change = np.abs(as_array(model(data)) - before).max()
    assert 0 < change < 1e-5


# --- seams


def names_of(path: Path, values: Any) -> dict[str, str]:
    """The seams' names for core values, of a model that is not changed."""
    model = FORMAT.read(path, ReadOptions())
    points = model.probe_points(values, Patch())
    model.close()
    assert {here == there for here, there in points.values()} <= {True}
    return {value: here for value, (here, _) in points.items()}


def ran(path: Path, probe: Probe | None, feeds: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    with FORMAT.load(path, RunSettings(probe=probe)) as runner:
        assert not probe or not set(probe.seams) & {s.name for s in (*runner.inputs, *runner.outputs)}
        return runner.run(feeds)


def saved(net: Probed, folder: Path, suffix: str) -> Path:
    path = folder / f"m{suffix}"
    net.model.save(path)
    return path


# In the container that each library writes today; the other one, and its names, for two networks with many.
CASES = [
    *((name, *pair) for name in NETS for pair in (("keras3", ".keras"), ("keras2", ".h5"))),
    *((name, *pair) for name in ("nested", "shared") for pair in (("keras3", ".h5"), ("keras2", ".keras"))),
]


@pytest.mark.slow
@pytest.mark.parametrize(("name", "library", "suffix"), CASES)
def test_a_seam_is_what_the_layer_puts_out(
    request: pytest.FixtureRequest, tmp_path: Path, name: str, library: str, suffix: str
) -> None:
    """And forced, what is read; and forced to what it is, nothing changes by a bit."""
    net = NETS[name](request.getfixturevalue(library))
    path = saved(net, tmp_path, suffix)
    names = names_of(path, net.inside)
    assert names.keys() == net.inside.keys()
    seams = tuple(names.values())
    (output,) = output_names(net.model)
    seen = ran(path, Probe(seams), net.feeds)
    assert seen.keys() == {output, *seams}
    for value, expected in net.inside.items():
        want, got = expected(net.feeds), seen[names[value]]
        assert (got.shape, got.dtype) == (want.shape, want.dtype), value
        np.testing.assert_allclose(got, want, rtol=2e-6, atol=1e-6 * np.abs(want).max(), err_msg=value)
    kept = {seam: seen[seam] for seam in seams}
    again = ran(path, Probe(seams, forced=True), {**net.feeds, **kept})
    assert {key: array.tobytes() for key, array in again.items()} == {
        key: array.tobytes() for key, array in seen.items()
    }
    at = names[net.forced]
    given = np.random.default_rng(9).normal(size=seen[at].shape).astype(seen[at].dtype)
    forced = ran(path, Probe((at,), forced=True), {**net.feeds, at: given.astype("f8")})  # gets its type
    want = net.after(net.feeds, given)
    np.testing.assert_allclose(forced[output], want, rtol=1e-5, atol=1e-5 * np.abs(want).max())
    assert np.abs(forced[output] - seen[output]).max() > 1e-2 * np.abs(want).max()
    assert forced[at].tobytes() == seen[at].tobytes()  # what was computed, not what was given


@pytest.mark.slow
def test_seams_beyond_a_size_are_left_out(keras3: Any, tmp_path: Path) -> None:
    net = residual(keras3)
    path = saved(net, tmp_path, ".keras")
    seams = tuple(names_of(path, net.inside).values())
    every = ran(path, Probe(seams), net.feeds)
    total = sum(every[seam].nbytes for seam in seams)
    assert ran(path, Probe(seams, most_bytes=total), net.feeds).keys() == every.keys()
    some = ran(path, Probe(seams, most_bytes=total - 1), net.feeds)
    assert some.keys() < every.keys() and "y" in some
    assert sum(some[seam].nbytes for seam in seams if seam in some) < total
    assert all(array.tobytes() == every[name].tobytes() for name, array in some.items())


@pytest.mark.slow
def test_behind_a_forced_seam_the_given_value_is_read(keras3: Any, tmp_path: Path) -> None:
    """A seam behind another says what follows from what was given there."""
    net = residual(keras3)
    path = saved(net, tmp_path, ".keras")
    names = names_of(path, net.inside)
    relu, norm2 = names["relu:0:0"], names["norm2:0:0"]
    seen = ran(path, Probe((relu, norm2)), net.feeds)
    given = {relu: seen[relu] + 1.0, norm2: seen[norm2]}
    forced = ran(path, Probe((relu, norm2), forced=True), {**net.feeds, **given})
    layer = net.model.get_layer
    want = as_array(layer("norm2")(layer("c")(given[relu]), training=False))
    np.testing.assert_allclose(forced[norm2], want, rtol=1e-5, atol=1e-5)
    total = as_array(layer("y")(layer("pool")(given[relu] + given[norm2])))
    np.testing.assert_allclose(forced["y"], total, rtol=1e-5, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("policy", ["float16", "bfloat16", "mixed_float16", "mixed_bfloat16", "float64"])
def test_seams_have_the_type_that_is_computed_in(keras3: Any, tmp_path: Path, policy: str) -> None:
    """And what is forced gets it."""
    net = residual(keras3, dtype=policy)
    path = saved(net, tmp_path, ".keras")
    names = names_of(path, net.inside)
    seams = tuple(names.values())
    seen = ran(path, Probe(seams), net.feeds)
    for value, expected in net.inside.items():
        want, got = expected(net.feeds), seen[names[value]]
        assert got.dtype.name == policy.removeprefix("mixed_")
        error = np.abs(got.astype("f8") - want.astype("f8")).max() / np.abs(want.astype("f8")).max()
        assert error <= 2 * float(_finfo(got.dtype).eps), value
    kept = {seam: seen[seam] for seam in seams}
    with FORMAT.load(path, RunSettings(probe=Probe(seams, forced=True))) as runner:
        again = runner.run({**net.feeds, **kept})
        wide = runner.run({**net.feeds, **{s: a.astype("f8") for s, a in kept.items()}})
    for key, array in seen.items():
        assert array.tobytes() == again[key].tobytes() == wide[key].tobytes()


@pytest.mark.slow
def test_shaken_models_move_by_their_rounding(either_keras: Any, tmp_path: Path) -> None:
    """The file's own names lead to the layers; seeds differ; what is in front of the layer does not move."""
    net = residual(either_keras)
    path = saved(net, tmp_path, ".h5")
    model = FORMAT.read(path, ReadOptions())
    nodes = {node.name: node for node in model.graph.nodes}
    constants = model.constants_of([nodes["c"], nodes["norm2"], nodes["relu"], nodes["c"]])
    model.close()
    assert [json.loads(name) for name in constants] == [["c"], ["norm2"]]
    names = names_of(path, net.inside)
    seams = names["relu:0:0"], names["norm2:0:0"]
    plain = ran(path, Probe(seams), net.feeds)
    moved = [ran(path, Probe(seams, shaken=constants, seed=seed), net.feeds) for seed in (0, 1, 0)]
    assert moved[0][seams[0]].tobytes() == plain[seams[0]].tobytes()
    assert moved[0][seams[1]].tobytes() == moved[2][seams[1]].tobytes()
    assert moved[0][seams[1]].tobytes() != moved[1][seams[1]].tobytes()
    size = np.abs(plain[seams[1]]).max()
    for found in moved:
        assert 1e-8 * size < np.abs(found[seams[1]] - plain[seams[1]]).max() < 1e-5 * size


@pytest.mark.slow
def test_what_does_not_fit_is_refused(keras3: Any, tmp_path: Path) -> None:
    net = residual(keras3)
    path = saved(net, tmp_path, ".keras")
    seam = names_of(path, net.inside)["a:0:0"]
    with FORMAT.load(path, RunSettings(probe=Probe((seam,), forced=True))) as runner:
        with pytest.raises(UsageError, match="force"):
            runner.run(net.feeds)
        with pytest.raises(BnfuseError, match="shape"):
            runner.run({**net.feeds, seam: np.zeros((1, 2), np.float32)})
        given = np.zeros((2, 8, 7, 4), np.float32)
        assert runner.run({**net.feeds, seam: given})["y"].shape == (2, 3)  # and goes on afterwards
    with pytest.raises(UnreadableModel, match="nowhere"):
        FORMAT.load(path, RunSettings(probe=Probe(('[["nowhere", 0], 0]',))))
    with pytest.raises(ValueError, match="compiled"):
        FORMAT.load(path, RunSettings(optimise=True, probe=Probe((seam,))))


@pytest.mark.slow
def test_what_keras_cannot_be_asked_for(keras3: Any, tmp_path: Path) -> None:
    """Inputs and outputs of the model, what is inside one layer, and inside wrappers."""
    layers = keras3.layers
    x = layers.Input((5, 4), name="x")
    y = layers.Dense(3, activation="relu", name="fused")(x)
    y = layers.TimeDistributed(layers.Dense(3, name="step"), name="steps")(y)
    y = layers.Bidirectional(layers.LSTM(2, return_sequences=True, name="rnn"), name="both")(y)
    z = layers.Input((3,), name="z")
    one = keras3.Model(z, layers.Activation("tanh", name="t")(layers.Dense(3, name="inner")(z)), name="one")
    y = layers.Dense(3, name="mid")(y)
    y = layers.TimeDistributed(one, name="each")(y)
    keras3_model = stir(keras3.Model(x, layers.Dense(2, name="y")(y)))
    keras3_model.save(tmp_path / "m.keras")
    model = FORMAT.read(tmp_path / "m.keras", ReadOptions())
    values = [value for node in model.graph.nodes for value in (*node.inputs, *node.outputs)]
    model.close()
    assert {"x:0:0", "fused:0:0/linear", "y:0:0", "each/one/inner:0:0"} <= set(values)
    assert names_of(tmp_path / "m.keras", values).keys() == {"fused:0:0", "steps:0:0", "both:0:0", "mid:0:0"}
