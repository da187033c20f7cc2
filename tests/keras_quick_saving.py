"""What makes Keras quick to find what of a model is to be saved, or loaded; what it finds is as ever."""

from __future__ import annotations

import functools
import importlib
from collections.abc import Hashable, Iterator
from typing import Any, cast


def look_only_at_what_may_be_saved() -> None:
    """Of some three hundred attributes of a layer, Keras skips nearly all after it has put them in order."""
    _remember_what_is_not_saved()
    saving = importlib.import_module("keras.src.saving.saving_lib")
    slowly = saving._walk_saveable
    if slowly.__name__ == "quickly" or not hasattr(saving, "get_attr_skipset"):
        return

    skipped = functools.cache(lambda kind: frozenset(saving.get_attr_skipset(kind)))

    @functools.cache
    def of_its_class(layer: Hashable, kind: str) -> frozenset[str]:
        return frozenset(name for name in dir(layer) if name[:2] != "__") - skipped(kind)

    def quickly(saveable: Any) -> Iterator[tuple[str, Any]]:
        kind, layer = saveable._obj_type(), cast(Hashable, type(saveable))
        if kind in ("Sequential", "Functional"):
            yield "layers", saveable.layers
        its_own = {name for name in vars(saveable) if name[:2] != "__"} - skipped(kind)
        for name in sorted(its_own | of_its_class(layer, kind), key=saving._name_key):
            try:
                value = getattr(saveable, name)
            except Exception:  # noqa: BLE001 - as Keras does
                continue
            yield name, value

    saving._walk_saveable = quickly  # type: ignore[attr-defined]


def _remember_what_is_not_saved() -> None:
    """Which attributes Keras never saves, found once per kind of object, not by making one for every layer.

    Keras 3.15 means to keep them, but keeps them by one name and looks for them by another: a third of the
    time that small models take to save and load.
    """
    saving = importlib.import_module("keras.src.saving.saving_lib")
    found = getattr(saving, "get_attr_skipset", None)
    if found is not None and not hasattr(found, "cache_info"):
        saving.get_attr_skipset = functools.cache(found)  # type: ignore[attr-defined]


def look_at_no_text_for_what_to_save() -> None:
    """tf_keras takes every attribute for something to save, one of which it makes anew each time: a text.

    Nine tenths of the time that archives take to save and load beside what is in them.
    """
    saving = importlib.import_module("tf_keras.src.saving.saving_lib")
    saving.ATTR_SKIPLIST = saving.ATTR_SKIPLIST | {"_tracking_metadata"}  # type: ignore[attr-defined]
