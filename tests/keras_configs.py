"""Small configs by hand, in the dialects of Keras 2 and Keras 3: no Keras is needed to make them."""

from __future__ import annotations

from typing import Any

Json = dict[str, Any]


def tensor(layer: str, node: int = 0, index: int = 0, shape: tuple[int | None, ...] = (None, 4)) -> Json:
    """A tensor as Keras 3 stores it."""
    config = {"shape": list(shape), "dtype": "float32", "keras_history": [layer, node, index]}
    return {"class_name": "__keras_tensor__", "config": config}


def node(*args: Any, **kwargs: Any) -> Json:
    """A call as Keras 3 stores it."""
    return {"args": list(args), "kwargs": kwargs}


def layer(class_name: str, name: str, *nodes: Any, module: str | None = None, **config: Any) -> Json:
    """A layer of a Functional; with ``module`` as Keras 3 writes it."""
    entry: Json = {"class_name": class_name, "config": {"name": name, **config}, "name": name}
    entry["inbound_nodes"] = list(nodes)
    if module is not None:
        entry |= {"module": module, "registered_name": None}
    return entry


def functional(layers: list[Json], inputs: Any, outputs: Any, name: str = "model") -> Json:
    """A whole model."""
    config = {"name": name, "layers": layers, "input_layers": inputs, "output_layers": outputs}
    return {"class_name": "Functional", "config": config}


def sequential(*layers: Json, name: str = "model", **more: Any) -> Json:
    """A whole Sequential; its layers need no names beside their configs'."""
    entries = [{k: v for k, v in entry.items() if k not in ("name", "inbound_nodes")} for entry in layers]
    return {"class_name": "Sequential", "config": {"name": name, "layers": entries, **more}}


def nested(model: Json, *nodes: Any) -> Json:
    """A model as a layer of a Functional."""
    return {**model, "name": model["config"]["name"], "inbound_nodes": list(nodes)}


def dense(name: str, *nodes: Any) -> Json:
    """A Dense with 4 units."""
    return layer("Dense", name, *nodes, units=4)


def source(name: str = "x") -> Json:
    """An input of 4 features."""
    return layer("InputLayer", name, batch_input_shape=[None, 4])


def old(*tensors: Any, **kwargs: Any) -> list[Any]:
    """A call as Keras 2 stores it, from ``(layer, node, tensor)``."""
    return [[*reference, kwargs] for reference in tensors]


def merge_keras2() -> Json:
    """``Add([BN(d1(x)), relu(d2(x))])``: without the BN, Keras lists d2 before d1."""
    layers = [
        source(),
        dense("d1", old(("x", 0, 0))),
        dense("d2", old(("x", 0, 0))),
        layer("BatchNormalization", "bn", old(("d1", 0, 0)), axis=[1]),
        layer("Activation", "relu", old(("d2", 0, 0)), activation="relu"),
        layer("Add", "add", old(("bn", 0, 0), ("relu", 0, 0))),
    ]
    return functional(layers, [["x", 0, 0]], [["add", 0, 0]])


def merge_keras3() -> Json:
    """The same as Keras 3 writes it."""
    layers = [
        source(),
        dense("d1", node(tensor("x"))),
        dense("d2", node(tensor("x"))),
        layer("BatchNormalization", "bn", node(tensor("d1"), mask=None), axis=-1),
        layer("Activation", "relu", node(tensor("d2")), activation="relu"),
        layer("Add", "add", node([tensor("bn"), tensor("relu")])),
    ]
    return functional(layers, ["x", 0, 0], ["add", 0, 0])


def one_dense(*nodes: Any) -> Json:
    """An input, and a Dense "d" that is called so."""
    return functional([source(), dense("d", *nodes)], [["x", 0, 0]], [["d", 0, 0]])


def twice_keras2() -> Json:
    """A nested Functional called twice, counted from 1, in a model with a keyword tensor and a constant."""
    inner = functional(
        [
            source("i"),
            dense("d", old(("i", 0, 0))),
            layer("BatchNormalization", "bn", old(("d", 0, 0)), axis=[1]),
            layer("Activation", "relu", old(("bn", 0, 0)), activation="relu"),
        ],
        [["i", 0, 0]],
        [["relu", 0, 0]],
        "inner",
    )
    layers = [
        source("x"),
        source("y"),
        nested(inner, old(("x", 0, 0)), old(("y", 0, 0))),
        layer(
            "TFOpLambda", "plus", ["inner", 1, 0, {"y": ["inner", 2, 0], "name": None}], function="math.add"
        ),
        layer(
            "TFOpLambda",
            "half",
            ["_CONSTANT_VALUE", -1, 0.5, {"y": ["plus", 0, 0]}],
            function="math.multiply",
        ),
    ]
    return functional(layers, [["x", 0, 0], ["y", 0, 0]], {"b": ["inner", 2, 0], "a": ["half", 0, 0]})


def twice_keras3() -> Json:
    """A nested Functional called twice: counted from 0 in calls, from 1 in output_layers."""
    inner = functional(
        [
            source("i"),
            dense("d", node(tensor("i"))),
            layer("BatchNormalization", "bn", node(tensor("d")), axis=-1),
            layer("Activation", "relu", node(tensor("bn")), activation="relu"),
        ],
        ["i", 0, 0],
        ["relu", 0, 0],
        "inner",
    )
    layers = [
        source("x"),
        source("y"),
        nested(inner, node(tensor("x"), mask=None), node(tensor("y"), mask=None)),
        layer("Add", "plus", node(tensor("inner", 0), tensor("inner", 1)), module="keras.src.ops.numpy"),
        layer("Multiply", "half", node(0.5, tensor("plus")), module="keras.src.ops.numpy"),
    ]
    return functional(layers, [["x", 0, 0], ["y", 0, 0]], {"b": ["inner", 2, 0], "a": ["half", 0, 0]})


def wrapped_sequential() -> Json:
    """TimeDistributed over a Sequential with a BN, and a Bidirectional LSTM, in an old Sequential."""
    inner = sequential(dense("d"), layer("BatchNormalization", "bn", axis=[1]), name="step")
    lstm = {"class_name": "LSTM", "config": {"name": "lstm", "units": 3, "return_sequences": True}}
    return sequential(
        layer("TimeDistributed", "td", batch_input_shape=[None, 5, 4], layer=inner),
        layer("Bidirectional", "both", layer=lstm, merge_mode="concat"),
    )


ALL = {
    make.__name__: make
    for make in (merge_keras2, merge_keras3, twice_keras2, twice_keras3, wrapped_sequential)
}
