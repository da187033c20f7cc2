"""Configs that are refused, and damaged ones, which never crash."""

from __future__ import annotations

import contextlib
import copy
import random
from typing import Any

import pytest

from bnfuse.errors import BnfuseError, UnreadableModel
from bnfuse.formats.keras.edit.rewrite import Remove, rewrite
from bnfuse.formats.keras.graph.config import parse
from bnfuse.formats.keras.graph.network import walk
from bnfuse.formats.keras.graph.order import check_order
from bnfuse.formats.keras.graph.shapes import infer
from tests import keras_configs as made
from tests.keras_configs import (
    Json,
    dense,
    functional,
    layer,
    nested,
    node,
    old,
    one_dense,
    sequential,
    source,
    tensor,
)
from tests.keras_files import real_configs


def _deep(levels: int) -> Json:
    model = sequential(dense("d"))
    for _ in range(levels):
        model = sequential(model)
    return model


def _list(levels: int) -> list[Any]:
    value: list[Any] = []
    for _ in range(levels):
        value = [value]
    return value


REFUSED: tuple[tuple[Any, str], ...] = (
    (None, "names no class"),
    ([], "names no class"),
    ({"class_name": 3}, "names no class"),
    ({"class_name": "MyModel", "config": {"units": 3}}, "subclassed 'MyModel'"),
    ({"class_name": "MyModel", "config": None}, "subclassed"),
    ({"class_name": "Functional", "config": {"name": "m", "layers": []}}, "subclassed"),
    ({"class_name": "MySequential", "config": {"layers": []}}, "subclassed"),
    ({"class_name": "Sequential", "config": {"layers": 3}}, "no list"),
    (sequential(dense("a"), dense("a")), "two layers named 'a'"),
    (one_dense(old(("gone", 0, 0))), "'gone' that is read does not exist"),
    (one_dense(old(("x", 1, 0))), "node 1 of layer 'x'"),
    (one_dense(old(("x", -1, 0))), "node -1"),
    (one_dense(old(("x", True, 0))), "inbound node"),
    (one_dense(old(("d", 0, 0))), "reads its own output"),
    (one_dense([["x", 0, 0, {"y": ["gone", 0, 0]}]]), "'gone'"),
    (one_dense([["x"]]), "inbound node"),
    (one_dense([["x", 0, 0, 7]]), "inbound node"),
    (one_dense(7), "inbound node"),
    (one_dense(node({"class_name": "__keras_tensor__"})), "does not say which layer"),
    (one_dense(node(tensor("x", 0, -1))), "output -1"),
    (functional([source()], [["x", 0, 0]], []), "no outputs"),
    (functional([source()], [["x", 0, 0]] * 2, [["x", 0, 0]]), "listed twice"),
    (functional([source()], [["x", 0, 0]], [["x", 0, 0, 0]]), "output_layers"),
    (
        functional([source(), dense("d", old(("x", 0, 0)))], [["d", 0, 0]], [["d", 0, 0]]),
        "the input 'd' reads",
    ),
    (functional([{"class_name": "Dense", "name": "d"}], [["d", 0, 0]], [["d", 0, 0]]), "no settings"),
    (
        functional([{"class_name": "Dense", "name": "d", "config": {}}], [["d", 0, 0]], [["d", 0, 0]]),
        "inbound nodes",
    ),
    (sequential({"class_name": "Functional", "config": {"name": "f"}}), "nested model 'f' has no layers"),
    (sequential(layer("TimeDistributed", "t", layer=None)), "names no class"),
    (_deep(60), "levels deep"),
    (sequential(layer("Custom", "c", value=_list(5000))), "levels deep"),
    (
        functional(
            [
                source(),
                nested(sequential(source("i"), dense("d"), name="inner"), old(("x", 0, 0))),
                dense("d", old(("inner", 1, 1))),
            ],
            [["x", 0, 0]],
            [["d", 0, 0]],
        ),
        "output 1 of node 1 of layer 'inner'",
    ),
)


@pytest.mark.parametrize(("config", "message"), REFUSED)
def test_refused_in_one_sentence(config: Any, message: str) -> None:
    with pytest.raises(UnreadableModel) as caught:
        parse(config, "2.9.0")
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_cycle_through_several_layers() -> None:
    layers = [
        source(),
        layer("Add", "a", old(("x", 0, 0), ("c", 0, 0))),
        dense("b", old(("a", 0, 0))),
        dense("c", old(("b", 0, 0))),
    ]
    with pytest.raises(UnreadableModel, match="reads its own output"):
        parse(functional(layers, [["x", 0, 0]], [["x", 0, 0]]))


JUNK: tuple[Any, ...] = (
    None,
    -1,
    0,
    1,
    2**70,
    1.5,
    "",
    "x",
    "Sequential",
    "TimeDistributed",
    [],
    {},
    [None],
    ["x", 0, 0],
    True,
)


def _mutate(value: Any, dice: random.Random) -> None:
    """Damage one random place of a config."""
    places: list[tuple[Any, Any]] = []
    stack = [value]
    while stack:
        current = stack.pop()
        keys = list(current) if isinstance(current, dict) else list(range(len(current)))
        places += [(current, key) for key in keys]
        stack += [current[key] for key in keys if isinstance(current[key], dict | list)]
    holder, key = dice.choice(places)
    other, other_key = dice.choice(places)
    match dice.randrange(4):
        case 0:
            holder[key] = copy.deepcopy(dice.choice(JUNK))
        case 1:
            del holder[key]
        case 2:
            holder[key] = copy.deepcopy(other[other_key])
        case _ if isinstance(holder, list):
            holder.insert(key, copy.deepcopy(holder[key]))


@pytest.mark.parametrize("name", [*made.ALL, "mlperf_tiny_resnet8.h5", "stm32_esc10_yamnet_nested.h5"])
def test_damaged_configs_are_read_or_refused(name: str) -> None:
    config = made.ALL[name]() if name in made.ALL else real_configs().get(name)
    if config is None:
        pytest.skip(f"no {name}")
    dice = random.Random(name)
    refused = 0
    for _ in range(400 if name in made.ALL else 60):
        damaged = copy.deepcopy(config)
        for _ in range(dice.randrange(1, 4)):
            _mutate(damaged, dice)
        before = copy.deepcopy(damaged)
        try:
            network = parse(damaged)
            infer(network)
            rewrite(damaged, {})
            with contextlib.suppress(ValueError):  # a damaged BN that reads nothing, or several tensors
                places = [
                    (*p, each.name) for p, each in walk(network) if each.class_name == "BatchNormalization"
                ]
                parse(rewrite(damaged, dict.fromkeys(places, Remove())))
            check_order(network)
        except BnfuseError:
            refused += 1
        assert damaged == before  # reading changes nothing
    assert refused > 10
