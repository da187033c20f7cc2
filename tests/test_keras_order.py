"""The order by which weights bind, against the order Keras itself gives; edits keep to it."""

from __future__ import annotations

import copy
import json
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import h5py
import numpy as np
import pytest

from bnfuse.errors import UnreadableModel
from bnfuse.formats.keras.edit.rewrite import Remove, rewrite
from bnfuse.formats.keras.graph.config import parse
from bnfuse.formats.keras.graph.network import Network, walk
from bnfuse.formats.keras.graph.order import check_order, keras_order
from tests import keras_configs as made
from tests.keras_configs import Json, dense, functional, node, old, source, tensor
from tests.keras_graphs import random_model, shuffled
from tests.keras_trained import stored_config

MODELS = Path(__file__).resolve().parents[2] / "shared" / "models" / "keras"


def names(config: Json) -> list[str]:
    """The layers as a config lists them."""
    return [entry["name"] for entry in config["config"]["layers"]]


# --- by hand ---


@pytest.mark.parametrize("make", [made.merge_keras2, made.merge_keras3])
def test_taking_a_layer_out_changes_the_order_of_others(make: Callable[[], Json]) -> None:
    """Add([BN(d1), relu(d2)]): with the BN both Dense are equally deep, without it d2 is deeper."""
    config = make()
    assert keras_order(parse(config)) == ["x", "d1", "d2", "bn", "relu", "add"]
    assert names(rewrite(config, {("bn",): Remove()})) == ["x", "d2", "d1", "relu", "add"]


def test_unused_inputs_come_first_among_the_last() -> None:
    layers = [
        source("c"),
        source("a"),
        dense("d", old(("c", 0, 0))),
        source("b"),
        dense("e", old(("d", 0, 0))),
    ]
    network = parse(functional(layers, [["b", 0, 0], ["c", 0, 0], ["a", 0, 0]], [["e", 0, 0]]))
    assert keras_order(network) == ["c", "d", "b", "a", "e"]


def test_layers_that_no_output_needs() -> None:
    """Keras 2 keeps them (``add_loss``) behind all others; Keras 3 would drop them."""
    for call, accepted in ((old, True), (lambda ref: node(tensor(*ref)), False)):
        layers = [source(), dense("d", call(("x", 0, 0))), dense("loss", call(("x", 0, 0)))]
        network = parse(functional(layers, [["x", 0, 0]], [["d", 0, 0]]))
        assert keras_order(network) == ["x", "d", "loss"]
        if accepted:
            check_order(network)
        else:
            with pytest.raises(UnreadableModel, match="No output of the model depends on its layer 'loss'"):
                check_order(network)


def test_another_order_is_refused_at_any_depth() -> None:
    config = made.twice_keras3()
    check_order(parse(config))
    inner = config["config"]["layers"][2]["config"]["layers"]
    inner[1], inner[2] = inner[2], inner[1]
    with pytest.raises(UnreadableModel, match="order of the layers in the nested model 'inner'"):
        check_order(parse(config))


@pytest.mark.skipif(not MODELS.is_dir(), reason=f"no real models at {MODELS}")
def test_real_files_are_in_the_order_that_is_simulated() -> None:
    files = sorted(MODELS.glob("*.h*5"))
    assert files
    moved = 0
    for path in files:
        with h5py.File(path) as file:
            config = json.loads(file.attrs["model_config"])
        check_order(parse(config))
        if isinstance(config["config"], dict) and "output_layers" in config["config"]:
            mixed = shuffled(config, np.random.default_rng(1))
            moved += names(mixed) != names(config)
            assert names(rewrite(mixed, {})) == names(config), path.name
    assert moved > 5


# --- against Keras ---

# Chosen so that they find every mistake that the first fifty find: of fifteen tried (a call's depth or its
# layer's, ties, unused inputs, several outputs, shared layers, …), the rarest shows in two of fifty.
_TELLING = (*range(9), 12, 29, 36, 46)


def _seeds(usual: Sequence[int]) -> Sequence[int]:
    """Of random graphs; ``make fuzz`` takes others, one for every hundred of core's: Keras takes its time."""
    if "BNFUSE_FUZZ" not in os.environ:
        return usual
    first = int(os.environ.get("BNFUSE_FUZZ_SEED", "0"))
    return range(first, first + max(1, int(os.environ["BNFUSE_FUZZ"]) // 100))


def layer_names(model: Any) -> list[str]:
    """As Keras orders them, ``keras.ops`` nodes included."""
    return [each.name for each in getattr(model, "operations", model.layers)]


@pytest.mark.slow
def test_random_graphs_are_ordered_as_keras_does(either_keras: ModuleType) -> None:
    """Keras is handed the layers shuffled, so that its order is its own."""
    moved, seeds = 0, _seeds(_TELLING)
    for seed in seeds:
        rng = np.random.default_rng(seed)
        model = random_model(either_keras, rng, wrapped="BNFUSE_FUZZ" in os.environ)
        config = json.loads(json.dumps({"class_name": "Functional", "config": model.get_config()}))
        check_order(parse(config))
        mixed = shuffled(config, rng)
        moved += names(mixed) != names(config)
        loaded = either_keras.Model.from_config(json.loads(json.dumps(mixed["config"])))
        assert names(rewrite(mixed, {})) == layer_names(loaded), seed
    assert moved > 0.7 * len(seeds)


@pytest.mark.slow
def test_keras_binds_by_its_own_order_whatever_the_file_says(either_keras: ModuleType) -> None:
    """The trap: left in the file's order, the weights would go to the wrong Dense without an error."""
    layers = either_keras.layers
    x = either_keras.Input((4,), name="x")
    left = layers.BatchNormalization(epsilon=0.0, name="bn")(layers.Dense(4, name="d1")(x))
    right = layers.ReLU(name="relu")(layers.Dense(4, name="d2")(x))
    model = either_keras.Model(x, layers.Add(name="add")([left, right]))
    config = json.loads(json.dumps({"class_name": "Functional", "config": model.get_config()}))
    edited = rewrite(config, {("bn",): Remove()})
    unsorted = [name for name in names(config) if name != "bn"]
    slim = either_keras.Model.from_config(copy.deepcopy(edited["config"]))
    assert layer_names(slim) == names(edited) != unsorted

    data = np.random.default_rng(0).normal(size=(5, 4)).astype(np.float32)
    results = []
    for order in (names(edited), unsorted):
        slim.set_weights([w for name in order for w in model.get_layer(name).get_weights()])
        results.append(np.asarray(slim(data)))
    right_result, wrong_result = results
    np.testing.assert_allclose(right_result, np.asarray(model(data)), rtol=1e-6, atol=1e-6)
    assert np.abs(wrong_result - right_result).max() > 0.1


@pytest.mark.slow
def test_saved_files_pass_the_check(either_keras: ModuleType, tmp_path: Path) -> None:
    for seed in range(100, 108):
        model = random_model(either_keras, np.random.default_rng(seed))
        for suffix in (".keras", ".h5"):
            path = tmp_path / f"{seed}{suffix}"
            model.save(path)
            network = parse(stored_config(path)[0])
            check_order(network)
            assert [each.name for each in network.layers] == layer_names(model)
            assert len(network.outputs) == len(model.outputs)


def _bind_by_position(network: Network, slim: Any, model: Any) -> None:
    """Give the k-th layer that Keras lists the weights of the k-th layer that the config lists."""
    listed = [each for each in network.layers if ".ops." not in each.module]
    if network.kind == "Sequential" and listed[0].class_name == "InputLayer":
        del listed[0]
    for each, layer in zip(listed, slim.layers, strict=True):
        old_layer = model.get_layer(each.name)
        if each.inner is not None:
            _bind_by_position(each.inner, layer, old_layer)
        elif layer.weights:
            layer.set_weights(old_layer.get_weights())


def _flat(outputs: Any) -> list[np.ndarray]:
    if isinstance(outputs, dict):
        outputs = [outputs[key] for key in sorted(outputs)]
    return [np.asarray(each) for each in (outputs if isinstance(outputs, list | tuple) else [outputs])]


@pytest.mark.slow
def test_random_graphs_compute_the_same_without_their_batchnorms(either_keras: ModuleType) -> None:
    """The BNs are identities: without them, with the weights bound by position, nothing may change.

    These six graphs, of 18 steps, find each of the mistakes that ``_TELLING`` finds.
    """
    removed, seeds = 0, _seeds(range(1000, 1006))
    for seed in seeds:
        rng = np.random.default_rng(seed)
        model = random_model(either_keras, rng, steps=18, wrapped="BNFUSE_FUZZ" in os.environ)
        config = json.loads(json.dumps({"class_name": "Functional", "config": model.get_config()}))
        places = [
            (*path, each.name)
            for path, each in walk(parse(config))
            if each.class_name == "BatchNormalization"
        ]
        edited = rewrite(config, dict.fromkeys(places, Remove()))
        check_order(parse(edited))
        slim = either_keras.Model.from_config(json.loads(json.dumps(edited["config"])))
        assert names(edited) == layer_names(slim)
        _bind_by_position(parse(edited), slim, model)
        inputs = [rng.normal(size=(2, 3, 4)).astype(np.float32) for _ in model.inputs]
        before, after = (_flat(each(inputs)) for each in (model, slim))
        for one, two in zip(before, after, strict=True):
            np.testing.assert_allclose(one, two, rtol=1e-5, atol=1e-5)
        removed += len(places)
    assert removed > 1.4 * len(seeds)
