"""One call of a layer as a config stores it, in either dialect: read it, or copy it with other sources.

Keras 3 stores ``{"args": [...], "kwargs": {...}}`` with ``__keras_tensor__`` objects anywhere inside.
Keras 2 stores the structure of the first argument, each tensor as ``[layer, node, tensor, kwargs]``;
tensors among the kwargs are ``[layer, node, tensor]``, constants ``["_CONSTANT_VALUE", -1, value, kwargs]``.
Both are walked by one function that hands every stored tensor to a visitor, in Keras's own order of
flattening: lists as they are, dicts sorted by key, positional arguments before keywords. It decides
nothing about whether the layers that are named exist. It recurses: ``config.parse`` bounds the depth.

Sources: keras/src/models/functional.py (``serialize_node``, ``deserialize_node``),
tf_keras/src/engine/node.py (``Node.serialize``), tf_keras/src/utils/tf_utils.py
(``convert_inner_node_data``).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from msgspec import Struct

from bnfuse.errors import UnreadableModel
from bnfuse.formats.keras.graph.network import Shape

_TENSOR = "__keras_tensor__"
_CONSTANT = "_CONSTANT_VALUE"
_T = TypeVar("_T")


class StoredRef(Struct, frozen=True):
    """A tensor as a config names it: ``node`` is the stored index (see ``Network.first_node``)."""

    layer: str
    node: int
    tensor: int
    shape: Shape | None = None
    dtype: str | None = None


class StoredCall(Struct, frozen=True):
    """A stored call, taken apart; fields as in ``network.Call``."""

    tensors: tuple[StoredRef, ...]
    keywords: tuple[str, ...]
    arguments: Mapping[str, Any]
    constants: Mapping[int, Any]


Replace = Callable[[StoredRef], StoredRef]


def is_keras3(raw: Any) -> bool:
    """Whether a stored call is in Keras 3's dialect."""
    return (
        isinstance(raw, dict)
        and set(raw) == {"args", "kwargs"}
        and isinstance(raw["args"], list | tuple)
        and isinstance(raw["kwargs"], dict)
    )


def read_call(raw: Any) -> StoredCall:
    """Take a stored inbound node apart.

    Raises:
        UnreadableModel: it has neither dialect's form.
    """
    return _read_keras3(raw) if is_keras3(raw) else _read_keras2(raw)


def rewire_call(raw: Any, replace: Replace) -> Any:
    """A copy of a stored inbound node in which every tensor is what ``replace`` makes of it."""
    if is_keras3(raw):
        return {"args": _map_tensors(raw["args"], replace), "kwargs": _map_tensors(raw["kwargs"], replace)}
    return _map_first_argument(raw, replace)


def read_ends(structure: Any, what: str) -> tuple[StoredRef, ...]:
    """The tensors of ``input_layers`` or ``output_layers`` (``what``), flattened.

    Raises:
        UnreadableModel: something in it is no ``[layer, node, tensor]``.
    """
    found: list[StoredRef] = []
    _map_ends(structure, _into(found), what)
    return tuple(found)


def rewire_ends(structure: Any, replace: Replace) -> Any:
    """A copy of ``input_layers`` or ``output_layers`` with other sources."""
    return _map_ends(structure, replace, "output_layers")


MOST_AXES, _MOST_SIZE = 64, 1 << 62


def as_shape(value: Any) -> Shape | None:
    """A stored shape: axes in order, None for an unknown size; None where it is no shape at all."""
    if isinstance(value, dict):  # a tuple or TensorShape as Keras's JSON encoder spells it
        value = value.get("items", value.get("config"))
        value = value.get("value") if isinstance(value, dict) else value
    if not isinstance(value, list | tuple):
        return None
    if len(value) <= MOST_AXES and all(dim is None or (_is_int(dim) and dim >= 0) for dim in value):
        return plausible(tuple(value))
    return None


def plausible(shape: Shape | None) -> Shape | None:
    """A shape that some runtime could have, else None: others grow with every layer that hands them on."""
    if shape is None or len(shape) > MOST_AXES or any(dim is not None and dim > _MOST_SIZE for dim in shape):
        return None
    return shape


def _into(found: list[_T]) -> Callable[[_T], _T]:
    """A visitor that keeps what it sees and changes nothing."""

    def take(value: _T) -> _T:
        found.append(value)
        return value

    return take


def _is_int(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _sorted_items(mapping: dict[Any, Any]) -> list[tuple[Any, Any]]:
    return sorted(mapping.items(), key=lambda item: str(item[0]))


# --- Keras 3 ---


def _read_keras3(raw: dict[str, Any]) -> StoredCall:
    tensors: list[StoredRef] = []
    keywords: list[str] = []
    constants = {k: value for k, value in enumerate(raw["args"]) if _collect(value, "", tensors, keywords)}
    arguments = {
        str(name): value
        for name, value in _sorted_items(raw["kwargs"])
        if _collect(value, str(name), tensors, keywords)
    }
    return StoredCall(tuple(tensors), tuple(keywords), arguments, constants)


def _collect(value: Any, keyword: str, tensors: list[StoredRef], keywords: list[str]) -> bool:
    """Add the tensors of one argument; whether there is anything else in it."""
    before = len(tensors)
    _map_tensors(value, _into(tensors))
    keywords += [keyword] * (len(tensors) - before)
    return len(tensors) == before or not _only_tensors(value)


def _only_tensors(value: Any) -> bool:
    if isinstance(value, dict):
        return value.get("class_name") == _TENSOR or all(_only_tensors(v) for v in value.values())
    return isinstance(value, list | tuple) and all(_only_tensors(v) for v in value)


def _map_tensors(value: Any, replace: Replace) -> Any:
    if isinstance(value, dict):
        if value.get("class_name") == _TENSOR:
            return _with_history(value, replace)
        mapped = {key: _map_tensors(item, replace) for key, item in _sorted_items(value)}
        return {key: mapped[key] for key in value}
    if isinstance(value, list | tuple):
        return [_map_tensors(item, replace) for item in value]
    return value


def _with_history(value: dict[str, Any], replace: Replace) -> dict[str, Any]:
    config = value.get("config")
    history = config.get("keras_history") if isinstance(config, dict) else None
    if not isinstance(config, dict) or history is None or not _is_reference(history):
        raise UnreadableModel(
            "A tensor in the model's config does not say which layer it comes from: "
            "the file is damaged, save the model anew."
        )
    dtype = config.get("dtype")
    layer, node, tensor = history
    shape = as_shape(config.get("shape"))
    stored = StoredRef(layer, node, tensor, shape, dtype if isinstance(dtype, str) else None)
    new = replace(stored)
    changed = dict(config, keras_history=[new.layer, new.node, new.tensor])
    if new.shape is not None:
        changed["shape"] = list(new.shape)
    if new.dtype is not None:
        changed["dtype"] = new.dtype
    return dict(value, config=changed)


def _is_reference(value: Any) -> bool:
    return (
        isinstance(value, list | tuple)
        and len(value) == 3
        and isinstance(value[0], str)
        and _is_int(value[1])
        and _is_int(value[2])
    )


# --- Keras 2 ---


def _read_keras2(raw: Any) -> StoredCall:
    tensors: list[StoredRef] = []
    keywords: list[str] = []
    constants: dict[int, Any] = {}
    arguments: dict[str, Any] = {}
    leaves: list[list[Any]] = []
    _map_leaves(raw, _into(leaves))
    for position, leaf in enumerate(leaves):
        if leaf[0] == _CONSTANT:
            constants[position] = leaf[2]
        else:
            tensors.append(StoredRef(*leaf[:3]))
            keywords.append("")
    # Keras hangs the same kwargs on every tensor and reads the last.
    kwargs = leaves[-1][3] if leaves and len(leaves[-1]) == 4 else {}
    for name, value in kwargs.items():
        before = len(tensors)
        _map_keyword(value, _into(tensors))
        keywords += [str(name)] * (len(tensors) - before)
        if len(tensors) == before or not _only_references(value):
            arguments[str(name)] = value
    return StoredCall(tuple(tensors), tuple(keywords), arguments, constants)


def _only_references(value: Any) -> bool:
    if _is_reference(value[:3] if isinstance(value, list | tuple) else None):
        return True
    if isinstance(value, dict):
        return all(_only_references(item) for item in value.values())
    return isinstance(value, list | tuple) and all(_only_references(item) for item in value)


def _map_first_argument(raw: Any, replace: Replace) -> Any:
    def leaf(stored: list[Any]) -> list[Any]:
        new = list(stored)
        if stored[0] != _CONSTANT:
            target = replace(StoredRef(*stored[:3]))
            new[:3] = [target.layer, target.node, target.tensor]
        if len(stored) == 4:
            new[3] = {name: _map_keyword(value, replace) for name, value in stored[3].items()}
        return new

    return _map_leaves(raw, leaf)


def _map_leaves(raw: Any, change: Callable[[list[Any]], list[Any]]) -> Any:
    """The structure of a first argument with every ``[layer, node, tensor(, kwargs)]`` changed."""
    if isinstance(raw, dict):
        mapped = {key: _map_leaves(item, change) for key, item in _sorted_items(raw)}
        return {key: mapped[key] for key in raw}
    if isinstance(raw, list | tuple):
        if not raw or not isinstance(raw[0], str):
            return [_map_leaves(item, change) for item in raw]
        tensor = _is_reference(raw[:3]) or (raw[0] == _CONSTANT and len(raw) > 2 and raw[1] == -1)
        if tensor and (len(raw) == 3 or (len(raw) == 4 and isinstance(raw[3], dict))):
            return change(list(raw))
    raise UnreadableModel(
        "A layer's inbound node in the model's config is neither [layer, node, tensor] nor a structure of "
        "such: the file is damaged, save the model anew."
    )


def _map_keyword(value: Any, replace: Replace) -> Any:
    if isinstance(value, dict):
        mapped = {key: _map_keyword(item, replace) for key, item in _sorted_items(value)}
        return {key: mapped[key] for key in value}
    if isinstance(value, list | tuple):
        if len(value) in (3, 4) and _is_reference(value[:3]):
            new = replace(StoredRef(*value[:3]))
            return [new.layer, new.node, new.tensor, *value[3:]]
        return [_map_keyword(item, replace) for item in value]
    return value


# --- input_layers and output_layers ---


def _map_ends(structure: Any, replace: Replace, what: str) -> Any:
    if _is_reference(structure):
        new = replace(StoredRef(*structure))
        return [new.layer, new.node, new.tensor]
    if isinstance(structure, dict):
        mapped = {k: _map_ends(v, replace, what) for k, v in _sorted_items(structure)}
        return {key: mapped[key] for key in structure}
    if isinstance(structure, list | tuple):
        return [_map_ends(item, replace, what) for item in structure]
    raise UnreadableModel(
        f"The model's config has something other than [layer, node, tensor] in {what}: "
        "the file is damaged, save the model anew."
    )
