"""What tools of this kind get wrong with Keras files: it folds exactly, stays and says why, or is refused."""

from __future__ import annotations

import hashlib
import json
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from bnfuse.core.reasons import Reason
from tests.command import call
from tests.keras_models import import_keras
from tests.keras_nets import (
    assert_same,
    batchnorms,
    check,
    computing_in,
    every_layer,
    fold,
    fold_file,
    outputs_of,
    random_inputs,
    stir,
)

pytestmark = pytest.mark.slow

Keras = Any
BOTH = pytest.mark.parametrize("suffix", [".keras", ".h5"])


@pytest.fixture(scope="module")
def library() -> Any:
    return import_keras()


@pytest.fixture(autouse=True)
def keras(library: Any) -> Iterator[Any]:
    """Keras 3 in float64."""
    with computing_in(library, "float64"):
        yield library


@pytest.fixture
def tf_keras() -> Iterator[Any]:
    """Keras 2 in float64."""
    module = pytest.importorskip("tf_keras")
    module.backend.set_floatx("float64")
    yield module
    module.backend.set_floatx("float32")


# --- what a BN is asked to do ---------------------------------------------------------------------


def test_training_in_the_call(keras: Keras, tmp_path: Path) -> None:
    """The statistics of the batch are no constants; ``training=False`` asks for what inference does."""
    layers = keras.layers
    x = layers.Input((5,), name="x")
    y = layers.BatchNormalization(name="live")(layers.Dense(4)(x), training=True)
    y = layers.BatchNormalization(name="still")(layers.Dense(3)(y), training=False)
    folded, loaded = check(keras, stir(keras.Model(x, y)), tmp_path)
    assert folded.kept == {"live": {Reason.TRAINING_MODE}}
    assert batchnorms(loaded) == ["live"]


@BOTH
def test_training_is_inherited(keras: Keras, suffix: str, tmp_path: Path) -> None:
    """``inner(x, training=True)`` means every BN in it, and its Dropout is no identity."""
    layers = keras.layers
    z = layers.Input((5,), name="z")
    h = layers.BatchNormalization(name="deep")(layers.Dense(4)(z))
    inner = keras.Model(z, layers.Dense(4)(h), name="inner")
    x = layers.Input((5,), name="x")
    y = layers.BatchNormalization(name="outer")(inner(x, training=True))
    folded, _ = check(keras, stir(keras.Model(x, y)), tmp_path, suffix=suffix)
    assert folded.kept == {"inner/deep": {Reason.TRAINING_MODE}}
    assert folded.gone == {"outer"}


def test_dropout_in_training_lets_nothing_pass(keras: Keras, tmp_path: Path) -> None:
    layers = keras.layers
    x = layers.Input((5,), name="x")
    y = layers.Dropout(0.5)(layers.Dense(4)(x), training=True)
    folded = fold(
        stir(keras.Model(x, layers.Activation("tanh")(layers.BatchNormalization(name="n")(y)))), tmp_path
    )
    assert Reason.TRAINING_MODE in folded.kept["n"]


@pytest.mark.parametrize("option", [{"renorm": True}, {"virtual_batch_size": 4}], ids=["renorm", "virtual"])
def test_other_batch_normalizations(tf_keras: Any, option: dict[str, Any], tmp_path: Path) -> None:
    """Keras 2 had variants that compute something else, and stored more variables for them."""
    layers = tf_keras.layers
    x = layers.Input((5,), batch_size=4 if "virtual_batch_size" in option else None, name="x")
    y = layers.BatchNormalization(name="other", **option)(layers.Dense(4)(x))
    y = layers.BatchNormalization(name="plain")(layers.Dense(3)(y))
    folded = fold(stir(tf_keras.Model(x, y)), tmp_path, ".h5")
    assert folded.kept == {"other": {Reason.UNSUPPORTED_OP}}
    assert folded.gone == {"plain"}


@pytest.mark.parametrize(
    ("name", "value"), [("variance", -1.0), ("variance", np.nan), ("gamma", np.inf), ("mean", np.nan)]
)
def test_statistics_that_make_no_affine(keras: Keras, name: str, value: float, tmp_path: Path) -> None:
    layers = keras.layers
    model = stir(keras.Sequential([layers.Input((5,)), layers.Dense(4), layers.BatchNormalization(name="n")]))
    for weight in model.layers[-1].weights:
        if name in weight.path:
            array = np.asarray(weight).copy()
            array[1] = value
            weight.assign(array)
    folded = fold(model, tmp_path)
    assert folded.kept == {"n": {Reason.INVALID_STATISTICS}}
    assert folded.after.read_bytes() == folded.before.read_bytes()


def test_tiny_variance_is_no_obstacle(keras: Keras, tmp_path: Path) -> None:
    """Dead channels have a variance of 0: ε is what is left."""
    layers = keras.layers
    model = stir(keras.Sequential([layers.Input((5,)), layers.Dense(4), layers.BatchNormalization()]))
    model.layers[-1].moving_variance.assign([0.0, 1e-12, 0.5, 1e-6])
    _, loaded = check(keras, model, tmp_path)
    assert batchnorms(loaded) == []


# --- layers that are called more than once --------------------------------------------------------


@BOTH
def test_a_dense_called_twice(keras: Keras, suffix: str, tmp_path: Path) -> None:
    """One kernel for both calls: what one wants must suit the other."""
    layers = keras.layers
    x, z = layers.Input((4,), name="x"), layers.Input((4,), name="z")
    shared = layers.Dense(4, name="shared")
    one = layers.BatchNormalization(name="one")(shared(x))
    alone = layers.Activation("tanh")(shared(z))
    folded, _ = check(keras, stir(keras.Model([x, z], [one, alone])), tmp_path / "a", suffix=suffix)
    assert folded.kept == {"one": {Reason.NONLINEAR, Reason.GRAPH_OUTPUT}}
    # The other call is read by a kernel, which takes the inverse.
    shared = layers.Dense(4, name="shared")
    one = layers.BatchNormalization(name="one")(shared(x))
    other = layers.Dense(3)(shared(z))
    model = stir(keras.Model([x, z], [one, other]), gamma="signed")
    folded, _ = check(keras, model, tmp_path / "b", suffix=suffix)
    assert folded.gone == {"one"}


@BOTH
def test_a_bn_called_twice(keras: Keras, suffix: str, tmp_path: Path) -> None:
    """It goes from both places or from none."""
    layers = keras.layers
    x, z = layers.Input((4,), name="x"), layers.Input((4,), name="z")
    norm = layers.BatchNormalization(name="norm")
    both = [norm(layers.Dense(4)(x)), norm(layers.Dense(4)(z))]
    folded, _ = check(keras, stir(keras.Model([x, z], both)), tmp_path / "a", suffix=suffix)
    assert folded.gone == {"norm"}
    norm = layers.BatchNormalization(name="norm")
    model = stir(keras.Model([x, z], [norm(layers.Dense(4)(x)), norm(z)]))
    folded, _ = check(keras, model, tmp_path / "b", suffix=suffix)
    assert set(folded.kept) == {"norm"}


def _block(keras: Keras, name: str, *, bn_first: bool = False) -> Any:
    layers = keras.layers
    x = layers.Input((4,), name=f"{name}_in")
    y = layers.BatchNormalization(name="first")(x) if bn_first else x
    y = layers.BatchNormalization(name="last")(layers.Dense(4, name="dense")(y))
    return keras.Model(x, y, name=name)


@BOTH
def test_a_network_called_twice(keras: Keras, suffix: str, tmp_path: Path) -> None:
    layers = keras.layers
    x, z = layers.Input((4,), name="x"), layers.Input((4,), name="z")
    block = _block(keras, "block", bn_first=True)
    model = keras.Model([x, z], layers.Concatenate()([block(x), block(layers.Activation("tanh")(z))]))
    folded, loaded = check(keras, stir(model), tmp_path / "a", suffix=suffix)
    assert batchnorms(loaded) == []
    assert folded.gone == {"block/first", "block/last"}
    # Its first BN could leave through the kernel before one of its calls, but not before the other.
    twice = layers.Input((4,), name="in")
    first = keras.Model(
        twice, layers.Activation("tanh")(layers.BatchNormalization(name="first")(twice)), name="b"
    )
    model = keras.Model([x, z], layers.Concatenate()([first(layers.Dense(4)(x)), first(z)]))
    folded, _ = check(keras, stir(model), tmp_path / "b", suffix=suffix)
    assert set(folded.kept) == {"b/first"}


def test_a_network_called_twice_in_a_row(keras: Keras, tmp_path: Path) -> None:
    """The second call reads what the first has written: values of one layer, yet not one value."""
    x = keras.layers.Input((4,), name="x")
    block = _block(keras, "block")
    folded, loaded = check(keras, stir(keras.Model(x, block(block(x)))), tmp_path)
    assert batchnorms(loaded) == []
    assert folded.gone == {"block/last"}


# --- order, names, structure ----------------------------------------------------------------------


@BOTH
def test_the_order_of_layers(keras: Keras, suffix: str, tmp_path: Path) -> None:
    """Without its BN, D1 is as deep as D2: Keras lists them the other way round, and binds weights so."""
    layers = keras.layers
    x = layers.Input((4,), name="x")
    y = layers.Add()(
        [
            layers.BatchNormalization()(layers.Dense(5, name="D1")(x)),
            layers.ReLU()(layers.Dense(5, name="D2")(x)),
        ]
    )
    folded, loaded = check(keras, stir(keras.Model(x, layers.Activation("tanh")(y))), tmp_path, suffix=suffix)
    assert batchnorms(loaded) == []
    before = keras.models.load_model(folded.before, compile=False)
    names = [[layer.name for layer in model.layers if "D" in layer.name] for model in (before, loaded)]
    assert names[0] != names[1], "the order did not change: the test shows nothing"


@BOTH
@pytest.mark.parametrize("seed", range(6))
def test_random_branches(keras: Keras, seed: int, suffix: str, tmp_path: Path) -> None:
    """Many branches of unlike depth, all of one shape, so that a mix-up of weights loads without a sound."""
    layers = keras.layers
    rng = np.random.default_rng(seed)
    x = layers.Input((4,), name="x")
    values = [x]
    for k in range(14):
        source = values[int(rng.integers(max(0, len(values) - 4), len(values)))]
        kind = int(rng.integers(4))
        if kind == 0:
            made = layers.BatchNormalization(name=f"bn{k}")(layers.Dense(4, name=f"d{k}")(source))
        elif kind == 1:
            made = layers.Dense(4, activation="tanh")(layers.BatchNormalization(name=f"bn{k}")(source))
        elif kind == 2:
            made = layers.Add()([source, layers.Dense(4)(values[-1])])
        else:
            made = layers.LeakyReLU(0.3)(layers.Dense(4, use_bias=False)(source))
        values.append(made)
    model = keras.Model(x, layers.Concatenate()([layers.Activation("tanh")(v) for v in values[-5:]]))
    folded, _ = check(keras, stir(model, gamma="signed", seed=seed), tmp_path, suffix=suffix)
    assert folded.gone


@BOTH
def test_a_bn_that_names_an_output(keras: Keras, suffix: str, tmp_path: Path) -> None:
    layers = keras.layers
    x = layers.Input((4,), name="x")
    h = layers.BatchNormalization(name="features")(layers.Dense(5)(x))
    y = layers.Dense(2, name="classes")(h)
    folded, loaded = check(keras, stir(keras.Model(x, [h, y])), tmp_path, suffix=suffix)
    assert folded.gone == {"features"}
    assert loaded.output_names == ["features", "classes"]


@BOTH
def test_bn_at_the_ends_of_a_sequential(keras: Keras, suffix: str, tmp_path: Path) -> None:
    layers = keras.layers
    model = stir(
        keras.Sequential(
            [
                layers.Input((5,), name="x"),
                layers.BatchNormalization(),
                layers.Dense(4),
                layers.BatchNormalization(name="end"),
            ]
        )
    )
    _, loaded = check(keras, model, tmp_path, suffix=suffix)
    assert batchnorms(loaded) == []
    assert type(loaded).__name__ == "Sequential"


@BOTH
def test_nothing_but_a_bn(keras: Keras, suffix: str, tmp_path: Path) -> None:
    """Nobody is there to take it."""
    layers = keras.layers
    model = stir(keras.Sequential([layers.Input((5,), name="x"), layers.BatchNormalization(name="n")]))
    folded, _ = check(keras, model, tmp_path / "a", suffix=suffix)
    assert folded.kept == {"n": {Reason.GRAPH_INPUT, Reason.GRAPH_OUTPUT}}
    assert folded.after.read_bytes() == folded.before.read_bytes()
    # Inside another network somebody is, and something must be left where it was.
    only = keras.Sequential([layers.Input((5,)), layers.BatchNormalization()], name="only")
    x = layers.Input((4,), name="x")
    model = stir(keras.Model(x, only(layers.Dense(5)(x))))
    _, loaded = check(keras, model, tmp_path / "b", suffix=suffix)
    assert batchnorms(loaded) == []
    assert loaded.output_names == ["only"]


@BOTH
@pytest.mark.parametrize("trainable", [True, False])
def test_nested_both_ways(keras: Keras, suffix: str, trainable: bool, tmp_path: Path) -> None:
    """Functional in Sequential in Functional; a frozen base, as transfer learning leaves it."""
    layers = keras.layers
    z = layers.Input((8, 7, 3), name="z")
    h = layers.BatchNormalization(name="a")(layers.Conv2D(4, 3, use_bias=False)(z))
    h = layers.BatchNormalization(name="b")(layers.DepthwiseConv2D(3, use_bias=False)(layers.ReLU()(h)))
    base = keras.Model(z, h, name="base")
    base.trainable = trainable
    middle = keras.Sequential(
        [
            layers.Input((8, 7, 3)),
            base,
            layers.GlobalAveragePooling2D(),
            layers.BatchNormalization(name="c"),
        ],
        name="middle",
    )
    x = layers.Input((8, 7, 3), name="x")
    y = layers.Dense(3, name="top")(layers.Dropout(0.3)(middle(layers.Rescaling(0.5)(x))))
    folded, loaded = check(keras, stir(keras.Model(x, y)), tmp_path, suffix=suffix)
    assert batchnorms(loaded) == []
    assert {"middle/base/a", "middle/base/b", "middle/c"} <= folded.gone
    assert loaded.get_layer("middle").get_layer("base").trainable is trainable


@BOTH
def test_dicts_of_inputs_and_outputs(keras: Keras, suffix: str, tmp_path: Path) -> None:
    """Keys, not positions: they must be the same after loading."""
    layers = keras.layers
    left, right = layers.Input((4,), name="in_l"), layers.Input((3,), name="in_r")
    x = layers.BatchNormalization(name="joined")(layers.Concatenate()([left, right]))
    named = layers.BatchNormalization(name="named")(layers.Dense(5)(x))
    outputs = {"z": layers.Dense(2, name="d1")(x), "a": named}
    model = stir(keras.Model({"right": right, "left": left}, outputs))
    folded = fold(model, tmp_path, suffix)
    assert folded.gone == {"joined", "named"}
    loaded = keras.models.load_model(folded.after, compile=False)
    rng = np.random.default_rng(0)
    feeds = {"left": rng.normal(size=(3, 4)), "right": rng.normal(size=(3, 3))}
    want, got = model(feeds, training=False), loaded(feeds, training=False)
    assert set(want) == set(got) == {"z", "a"}
    for key in want:
        assert_same([np.asarray(want[key])], [np.asarray(got[key])], 1e-12)
    assert batchnorms(loaded) == []


@BOTH
def test_several_inputs_and_outputs(keras: Keras, suffix: str, tmp_path: Path) -> None:
    layers = keras.layers
    image, table = layers.Input((8, 7, 3), name="image"), layers.Input((5,), name="table")
    a = layers.BatchNormalization()(layers.GlobalAveragePooling2D()(layers.Conv2D(4, 3)(image)))
    b = layers.BatchNormalization()(layers.Dense(4)(table))
    both = layers.BatchNormalization()(layers.Concatenate()([a, b]))
    model = keras.Model([table, image], [layers.Dense(2, name="p")(both), both, layers.Dense(3, name="q")(b)])
    _, loaded = check(keras, stir(model, gamma="signed"), tmp_path, suffix=suffix)
    assert batchnorms(loaded) == []


# --- what nobody can look into --------------------------------------------------------------------


def test_functions_as_layers(keras: Keras, tmp_path: Path) -> None:
    """``keras.ops`` nodes: sums are understood, the rest is opaque, and all is copied as it is.

    (In .h5 Keras 3 cannot load them itself.)
    """
    layers, ops = keras.layers, keras.ops
    x = layers.Input((4,), name="x")
    a = layers.BatchNormalization(name="into_a")(layers.Dense(5)(x))
    b = ops.relu(layers.BatchNormalization(name="into_b")(layers.Dense(5)(x)))
    y = ops.add(a, b) * 2.0 - 1.0
    y = layers.BatchNormalization(name="sum")(y)
    y = layers.BatchNormalization(name="into_c")(layers.Dense(3)(ops.concatenate([y, x], axis=-1)))
    folded, _ = check(keras, stir(keras.Model(x, layers.Activation("tanh")(y))), tmp_path)
    assert folded.gone == {"into_a", "into_b", "into_c"}
    assert set(folded.kept) == {"sum"}


def test_a_sum_of_operators(keras: Keras, tmp_path: Path) -> None:
    """``a + b`` is an Add."""
    layers = keras.layers
    x = layers.Input((4,), name="x")
    y = layers.BatchNormalization()(layers.Dense(5)(x) + layers.Dense(5)(x))
    folded, _ = check(keras, stir(keras.Model(x, layers.Activation("tanh")(y))), tmp_path)
    assert folded.kept == {}


def test_a_lambda_is_opaque(keras: Keras, tmp_path: Path) -> None:
    """It is neither run nor read; the layers around it fold; its bytes stay."""
    layers = keras.layers
    x = layers.Input((4,), name="x")
    y = layers.BatchNormalization(name="before")(layers.Dense(5)(x))
    y = layers.Lambda(lambda t: t * 3.0, output_shape=(5,), name="code")(y)
    y = layers.BatchNormalization(name="behind")(y)
    y = layers.BatchNormalization(name="last")(layers.Dense(3, activation="tanh")(y))
    model = stir(keras.Model(x, layers.Dense(2)(y)))
    folded = fold(model, tmp_path)
    assert folded.gone == {"before", "behind", "last"}
    loaded = keras.models.load_model(folded.after, compile=False, safe_mode=False)
    feeds = random_inputs(model)
    assert_same(outputs_of(model, feeds), outputs_of(loaded, feeds), 1e-12)
    y = layers.Lambda(lambda t: t * 3.0, output_shape=(4,))(layers.BatchNormalization(name="held")(x))
    assert Reason.UNSUPPORTED_OP in fold(stir(keras.Model(x, y)), tmp_path / "held").kept["held"]


def _custom(keras: Keras) -> type[Any]:
    class Cube(keras.layers.Layer):  # type: ignore[misc]
        def build(self, input_shape: Any) -> None:
            self.kernel = self.add_weight(shape=(input_shape[-1],), name="kernel")

        def call(self, inputs: Any) -> Any:
            return inputs**3 * self.kernel

    return Cube


@BOTH
@pytest.mark.parametrize("registered", [True, False])
def test_a_custom_layer_folds_without_its_code(
    keras: Keras, registered: bool, suffix: str, tmp_path: Path
) -> None:
    layers = keras.layers
    cube = _custom(keras)
    if registered:
        cube = keras.saving.register_keras_serializable(package="Shop")(cube)
    x = layers.Input((4,), name="x")
    y = layers.BatchNormalization(name="before")(layers.Dense(5)(x))
    y = layers.BatchNormalization(name="behind")(cube(name="cube")(y))
    model = stir(keras.Model(x, layers.Dense(2)(y)))
    (tmp_path / "m").mkdir()
    before = tmp_path / f"before{suffix}"
    model.save(before)
    keras.saving.get_custom_objects().pop("Shop>Cube", None)
    folded = fold_file(before, tmp_path / f"after{suffix}")
    assert folded.gone == {"before", "behind"}
    with keras.saving.custom_object_scope({"Shop>Cube": cube, "Cube": cube}):
        loaded = keras.models.load_model(folded.after, compile=False)
    feeds = random_inputs(model)
    assert_same(outputs_of(model, feeds), outputs_of(loaded, feeds), 1e-12)
    assert batchnorms(loaded) == []


# --- types ----------------------------------------------------------------------------------------


def _policy_net(keras: Keras, policy: str, last: str) -> Any:
    layers = keras.layers
    x = layers.Input((8, 7, 3), name="x", dtype="float32")
    y = layers.Conv2D(4, 3, dtype=policy, use_bias=False)(x)
    y = layers.BatchNormalization(dtype=policy)(y)
    y = layers.GlobalAveragePooling2D(dtype=policy)(layers.ReLU(dtype=policy)(y))
    y = layers.Dense(5, dtype=policy)(layers.BatchNormalization(dtype=policy)(y))
    return stir(keras.Model(x, layers.Dense(3, dtype=last)(y)), gamma="signed")


@BOTH
@pytest.mark.parametrize(
    ("policy", "last", "tolerance"),
    [
        ("mixed_float16", "float32", 2e-2),
        ("mixed_bfloat16", "float32", 1e-1),
        ("float64", "float64", 1e-7),  # the input is float32, which is widened
        ("float32", "float32", 1e-5),
        ("float16", "float16", 2e-2),
    ],
)
def test_policies(
    keras: Keras, policy: str, last: str, tolerance: float, suffix: str, tmp_path: Path
) -> None:
    """What is stored keeps its type: float32 under a mixed policy."""
    model = _policy_net(keras, policy, last)
    _, loaded = check(keras, model, tmp_path, suffix=suffix, tolerance=tolerance)
    assert batchnorms(loaded) == []
    stored = "float32" if policy.startswith("mixed") else policy
    assert {str(w.dtype) for w in loaded.weights} == {stored, last}


@pytest.mark.parametrize("policy", ["mixed_float16", "mixed_bfloat16", "float16"])
def test_a_wider_bn_in_a_narrow_net_stays(keras: Keras, policy: str, tmp_path: Path) -> None:
    layers = keras.layers
    x = layers.Input((5,), name="x", dtype="float32")
    y = layers.BatchNormalization(dtype="float32", name="wide")(layers.Dense(4, dtype=policy)(x))
    model = stir(keras.Model(x, layers.Dense(3, dtype=policy)(y)))
    folded, _ = check(keras, model, tmp_path, tolerance=1e-1)
    assert folded.kept == {"wide": {Reason.OTHER_TYPE}}


def test_no_demand_crosses_a_cast_to_a_narrower_type(keras: Keras, tmp_path: Path) -> None:
    """x of mean 3000 in float32: normalised, then cast, it is exact enough; cast first, it is not.

    Folded into the float16 kernel behind, 3000 would be rounded to a multiple of 2.
    """
    layers = keras.layers
    x = layers.Input((5,), name="x", dtype="float32")
    y = layers.BatchNormalization(dtype="float32", name="wide")(x)
    model = keras.Model(x, layers.Dense(3, dtype="mixed_float16")(y))
    stir(model)
    model.layers[1].moving_mean.assign(np.full(5, 3000.0))
    model.layers[1].gamma.assign(np.full(5, 1.5))
    folded = fold(model, tmp_path)
    assert folded.kept == {"wide": {Reason.GRAPH_INPUT, Reason.OTHER_TYPE}}
    loaded = keras.models.load_model(folded.after, compile=False)
    feeds = [np.random.default_rng(0).normal(3000, 1, (6, 5)).astype(np.float32)]
    assert_same(outputs_of(model, feeds), outputs_of(loaded, feeds), 1e-3)


def test_a_cast_to_a_wider_type_costs_nothing(keras: Keras, tmp_path: Path) -> None:
    """The float32 layer at the end of a mixed net reads what its BN read."""
    layers = keras.layers
    x = layers.Input((5,), name="x", dtype="float16")
    y = layers.BatchNormalization(dtype="mixed_float16", name="narrow")(x)
    model = stir(keras.Model(x, layers.Dense(3, dtype="float32")(y)))
    folded, loaded = check(keras, model, tmp_path, tolerance=2e-2)
    assert folded.gone == {"narrow"}
    assert batchnorms(loaded) == []


@pytest.mark.parametrize("policy", ["float16", "mixed_float16"])
def test_float16_overflow(keras: Keras, policy: str, tmp_path: Path) -> None:
    """A kernel beyond 65504 is infinite: under a mixed policy, too, which casts it before use."""
    layers = keras.layers
    x = layers.Input((5,), name="x", dtype="float16")
    y = layers.BatchNormalization(dtype=policy, name="n")(layers.Dense(4, dtype=policy)(x))
    model = stir(keras.Model(x, layers.Activation("tanh", dtype=policy)(y)), gamma="positive")
    model.layers[1].kernel.assign(np.full((5, 4), 1000.0))
    model.layers[2].gamma.assign(np.full(4, 100.0))
    folded = fold(model, tmp_path)
    assert Reason.OVERFLOW in folded.kept["n"]
    assert folded.after.read_bytes() == folded.before.read_bytes()


# --- the file -------------------------------------------------------------------------------------


def _trained(keras: Keras, folder: Path, suffix: str) -> tuple[Any, Path]:
    layers = keras.layers
    model = keras.Sequential(
        [
            layers.Input((5,), name="x"),
            layers.Dense(4, use_bias=False),
            layers.BatchNormalization(),
            layers.ReLU(),
            layers.Dense(2),
        ]
    )
    model.compile(keras.optimizers.Adam(0.003), "huber", metrics=["mae"])
    rng = np.random.default_rng(0)
    model.fit(rng.normal(size=(32, 5)), rng.normal(size=(32, 2)), verbose=0)
    stir(model)
    path = folder / f"trained{suffix}"
    model.save(path)
    return model, path


@BOTH
def test_the_optimizer_is_left_out_and_said(keras: Keras, suffix: str, tmp_path: Path) -> None:
    """Its state no longer fits; how the model was compiled still does, and it can be trained on."""
    model, path = _trained(keras, tmp_path, suffix)
    folded = fold_file(path, tmp_path / f"after{suffix}")
    assert any("optimiser" in note for note in folded.notes)
    loaded = keras.models.load_model(folded.after)
    assert loaded.loss == keras.models.load_model(path).loss
    assert type(loaded.optimizer).__name__ == "Adam"
    assert float(loaded.optimizer.learning_rate) == pytest.approx(0.003)
    rng = np.random.default_rng(1)
    x, y = rng.normal(size=(16, 5)), rng.normal(size=(16, 2))
    assert loaded.evaluate(x, y, verbose=0) == pytest.approx(model.evaluate(x, y, verbose=0), rel=1e-9)
    loaded.fit(x, y, verbose=0)
    assert len(loaded.weights) == len(model.weights) - 4 + 1


@BOTH
def test_twice_the_same_bytes_and_nothing_left(keras: Keras, suffix: str, tmp_path: Path) -> None:
    _, path = _trained(keras, tmp_path, suffix)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    first, second = (tmp_path / f"{name}{suffix}" for name in "ab")
    assert fold_file(path, first).gone
    fold_file(path, second)
    assert first.read_bytes() == second.read_bytes()
    assert hashlib.sha256(path.read_bytes()).hexdigest() == digest
    again = fold_file(first, tmp_path / f"again{suffix}")
    assert again.plan.decisions == ()
    assert again.after.read_bytes() == first.read_bytes()


@BOTH
def test_dialect_and_metadata_are_kept(keras: Keras, suffix: str, tmp_path: Path) -> None:
    """Names, version, modules, build and compile configs: as they were."""
    _, path = _trained(keras, tmp_path, suffix)
    after = fold_file(path, tmp_path / f"after{suffix}").after
    (old, new), (old_meta, new_meta) = zip(*(_config(p) for p in (path, after)), strict=True)
    assert old_meta == new_meta
    assert {k: v for k, v in old.items() if k != "config"} == {
        k: v for k, v in new.items() if k not in ("config",)
    }
    by_name = {entry["config"]["name"]: entry for entry in old["config"]["layers"]}
    for entry in new["config"]["layers"]:
        before = by_name[entry["config"]["name"]]
        changed = {k for k in before["config"] if before["config"][k] != entry["config"][k]}
        assert changed <= {"use_bias"}
        assert {k: v for k, v in before.items() if k != "config"} == {
            k: v for k, v in entry.items() if k != "config"
        }


def _config(path: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            return json.loads(archive.read("config.json")), json.loads(archive.read("metadata.json"))
    with h5py.File(path) as file:
        told = {k: file.attrs[k] for k in ("keras_version", "backend", "training_config") if k in file.attrs}
        return json.loads(file.attrs["model_config"]), told


# --- refused --------------------------------------------------------------------------------------


def _refused(path: Path, *words: str) -> None:
    """Exit 3, one sentence on stderr that has these words, nothing written."""
    out = path.parent / "out.keras"
    done = call("optimize", path, "-o", out, "--no-verify", "--no-bench")
    assert done.exit_code == 3, done.stderr
    assert done.stdout == ""
    message = done.stderr.strip()
    assert message.count("\n") <= 1
    assert "Traceback" not in message
    for word in words:
        assert word.lower() in " ".join(message.split()).lower()
    assert not out.exists()


def test_weights_without_a_model(keras: Keras, tmp_path: Path) -> None:
    model, _ = _trained(keras, tmp_path, ".keras")
    model.save_weights(tmp_path / "m.weights.h5")
    _refused(tmp_path / "m.weights.h5", "weights")


def test_a_subclassed_model(keras: Keras, tmp_path: Path) -> None:
    class Own(keras.Model):  # type: ignore[misc]
        def __init__(self, **more: Any) -> None:
            super().__init__(**more)
            self.dense, self.norm = keras.layers.Dense(3), keras.layers.BatchNormalization()

        def call(self, inputs: Any) -> Any:
            return self.norm(self.dense(inputs))

    model = Own()
    model(np.ones((1, 4)))
    model.save(tmp_path / "own.keras")
    _refused(tmp_path / "own.keras", "subclassed", "Own", "ONNX")


def test_quantised_layers_are_left_alone(keras: Keras, tmp_path: Path) -> None:
    """The BN behind one stays and says so; the rest of the file folds; the int8 arrays keep their bytes."""
    with computing_in(keras, "float32"):
        layers = keras.layers
        x = layers.Input((4,), name="x")
        y = layers.BatchNormalization(name="stays")(layers.Dense(5, name="small")(x))
        y = layers.EinsumDense("ab,bc->ac", 3, name="other")(layers.Activation("tanh")(y))
        y = layers.BatchNormalization(name="end")(layers.ReLU()(y))
        y = layers.BatchNormalization(name="goes")(y)
        model = stir(keras.Model(x, layers.Activation("tanh")(y)))
        model.quantize("int8")
        folded, loaded = check(keras, model, tmp_path, tolerance=1e-4)
    assert Reason.LOCKED_WEIGHTS in folded.kept["stays"]
    assert len(folded.gone) == 1  # one of the last two goes into the other
    kernel = np.asarray(loaded.get_layer("small").kernel)
    np.testing.assert_array_equal(kernel, np.asarray(model.get_layer("small").kernel))


@BOTH
def test_lora_is_locked(keras: Keras, suffix: str, tmp_path: Path) -> None:
    """Its kernel is in three parts in .h5, merged in .keras: neither is touched."""
    layers = keras.layers
    model = keras.Sequential(
        [
            layers.Input((5,), name="x"),
            layers.Dense(4, name="tuned"),
            layers.BatchNormalization(name="n"),
            layers.Activation("tanh"),
            layers.Dense(3, name="plain"),
            layers.BatchNormalization(name="goes"),
        ]
    )
    model.layers[0].enable_lora(2)
    stir(model)
    folded, _ = check(keras, model, tmp_path, suffix=suffix)
    assert Reason.LOCKED_WEIGHTS in folded.kept["n"]
    assert folded.gone == {"goes"}


# --- Keras 2 --------------------------------------------------------------------------------------


def _old_mlp(k: Any) -> Any:
    layers = k.layers
    return k.Sequential(
        [
            layers.Input((5,), name="x"),
            layers.BatchNormalization(name="a"),
            layers.Dense(4, use_bias=False),
            layers.BatchNormalization(name="b", scale=False),
            layers.ReLU(),
            layers.Dense(3),
            layers.BatchNormalization(name="c"),
        ]
    )


def _old_convnet(k: Any) -> Any:
    layers = k.layers
    x = layers.Input((8, 7, 3), name="x")
    y = layers.BatchNormalization(axis=[3])(layers.Conv2D(4, 3, use_bias=False)(x))
    y = layers.BatchNormalization(axis=-1)(layers.DepthwiseConv2D(3, depth_multiplier=2)(layers.ReLU()(y)))
    z = layers.BatchNormalization()(layers.SeparableConv2D(8, 1, use_bias=False)(y))
    y = layers.Add()([y, z])
    return k.Model(x, layers.Dense(3)(layers.GlobalAveragePooling2D()(layers.LeakyReLU(0.2)(y))))


def _old_nested(k: Any) -> Any:
    layers = k.layers
    z = layers.Input((4,), name="z")
    inner = k.Model(z, layers.BatchNormalization()(layers.Dense(4)(z)), name="inner")
    deep = k.Sequential([layers.Input((4,)), layers.BatchNormalization(), inner], name="deep")
    deep.layers[0].trainable = False
    x = layers.Input((4,), name="x")
    return k.Model(
        x,
        [layers.Dense(3)(deep(x)), layers.BatchNormalization(name="out")(deep(layers.Activation("tanh")(x)))],
    )


def _old_sequences(k: Any) -> Any:
    layers = k.layers
    x = layers.Input((6, 3), name="x")
    y = layers.Bidirectional(layers.LSTM(4, return_sequences=True))(layers.BatchNormalization()(x))
    y = layers.TimeDistributed(layers.BatchNormalization())(layers.TimeDistributed(layers.Dense(5))(y))
    y = layers.GRU(4, use_bias=False)(y)
    return k.Model(x, layers.Dense(2)(layers.BatchNormalization()(y)))


OLD: dict[str, tuple[Callable[[Any], Any], int]] = {
    "mlp": (_old_mlp, 3),
    "convnet": (_old_convnet, 3),
    "nested": (_old_nested, 3),
    "sequences": (_old_sequences, 3),
}


@BOTH
@pytest.mark.parametrize("name", OLD)
def test_files_of_keras_2(tf_keras: Any, name: str, suffix: str, tmp_path: Path) -> None:
    """They come out in their own dialect: Keras 2 loads them, with its names."""
    build, count = OLD[name]
    model = stir(build(tf_keras), gamma="signed")
    folded, loaded = check(tf_keras, model, tmp_path, suffix=suffix)
    assert len(batchnorms(model)) == count
    assert batchnorms(loaded) == []
    assert folded.kept == {}
    old, new = _config(folded.before)[0], _config(folded.after)[0]
    assert {k: v for k, v in old.items() if k != "config"} == {k: v for k, v in new.items() if k != "config"}


def test_functions_of_keras_2(tf_keras: Any, tmp_path: Path) -> None:
    """TFOpLambda: copied, with its constants; BNs around it fold."""
    import tensorflow as tf

    layers = tf_keras.layers
    x = layers.Input((4,), name="x")
    y = layers.BatchNormalization(name="before")(layers.Dense(5)(x))
    y = tf.nn.relu(y) * 2.0 + layers.Dense(5)(x)
    y = layers.BatchNormalization(name="behind")(y)
    y = tf.concat([layers.Dense(3)(y), x], axis=-1)
    for suffix in (".h5", ".keras"):
        folded, loaded = check(tf_keras, stir(tf_keras.Model(x, y)), tmp_path, suffix=suffix)
        assert folded.gone == {"before", "behind"}
        assert batchnorms(loaded) == []


def test_thresholded_relu_of_keras_2(tf_keras: Any, tmp_path: Path) -> None:
    """It cuts at θ > 0: no scale passes."""
    layers = tf_keras.layers
    x = layers.Input((4,), name="x")
    y = layers.ThresholdedReLU(0.4)(layers.BatchNormalization(name="n", center=False)(layers.ReLU()(x)))
    folded, _ = check(tf_keras, stir(tf_keras.Model(x, layers.Dense(3)(y)), gamma="scale"), tmp_path)
    assert Reason.NONLINEAR in folded.kept["n"]


# --- the command line -----------------------------------------------------------------------------


@BOTH
def test_optimize_on_the_command_line(keras: Keras, suffix: str, tmp_path: Path) -> None:
    """One report, the result beside it, and nothing else."""
    model, path = _trained(keras, tmp_path, suffix)
    out = tmp_path / f"out{suffix}"
    done = call("optimize", path, "-o", out, "--no-verify", "--no-bench", "--json")
    assert done.exit_code == 0, done.stderr
    report = json.loads(done.stdout)
    assert report["batchnorms"] == {"found": 1, "folded": 1, "kept": 0}
    assert report["operators"]["before"]["BatchNormalization"] == 1
    assert "BatchNormalization" not in report["operators"]["after"]
    loaded = keras.models.load_model(out, compile=False)
    feeds = random_inputs(model)
    assert_same(outputs_of(model, feeds), outputs_of(loaded, feeds), 1e-12)
    assert [type(layer).__name__ for layer in every_layer(loaded)].count("BatchNormalization") == 0
    assert call("optimize", out, "--check", "--no-verify", "--no-bench").exit_code == 0
    assert call("optimize", path, "--check", "--no-verify", "--no-bench").exit_code == 1


def test_proved_on_the_command_line(keras: Keras, tmp_path: Path) -> None:
    """With the proof, in Keras itself."""
    _, path = _trained(keras, tmp_path, ".keras")
    done = call("optimize", path, "--json", "--no-bench", "--verify-time", "0.5")
    assert done.exit_code == 0, done.stderr
    report = json.loads(done.stdout)
    assert report["verification"]["status"] == "equal"
    assert (tmp_path / "trained.fused.keras").is_file()


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
    ],
)
def test_settings_that_make_no_sense(keras: Keras, layer: str, key: str, value: Any, tmp_path: Path) -> None:
    """Such a layer stays as it is, and the others fold."""
    layers = keras.layers
    x = layers.Input((4,), name="x")
    y = layers.Rescaling([1.0, 2, 3, 4])(layers.Activation("tanh")(x))
    y = layers.Normalization(mean=[1.0, 2, 3, 4], variance=[4.0, 3, 2, 1])(layers.Activation("tanh")(y))
    y = layers.BatchNormalization()(layers.Dense(4)(layers.Activation("tanh")(y)))
    y = layers.BatchNormalization(name="sound")(layers.Dense(3)(layers.Activation("tanh")(y)))
    model = stir(keras.Model(x, y))
    model.save(tmp_path / "sound.keras")
    _resave(tmp_path / "sound.keras", tmp_path / "odd.keras", layer, key, value)
    folded = fold_file(tmp_path / "odd.keras", tmp_path / "after.keras")
    assert "sound" in folded.gone
    assert len({**folded.kept, **folded.kept_affines}) >= 1


def _resave(source: Path, target: Path, layer: str, key: str, value: Any) -> None:
    """The same archive with one setting of the first layer of a class changed."""
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(target, "w") as new:
        for name in old.namelist():
            data = old.read(name)
            if name == "config.json":
                config = json.loads(data)
                entries = config["config"]["layers"]
                next(e for e in entries if e["class_name"] == layer)["config"][key] = value
                data = json.dumps(config).encode()
            new.writestr(name, data)
