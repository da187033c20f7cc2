"""A live Keras model, of Keras 3 or of tf_keras: saved as an archive, and a new model loaded of the result.

The Keras that made the object saves and loads it: it is there, or the object were not. The new model is
compiled as the old one was, from its configuration, so its optimiser begins anew: the state of the old one
belongs to weights that are gone.

When it does not act: it imports no Keras, and changes nothing in the object. Code in a Lambda is loaded as it
was saved: it came from this very process.
"""

from __future__ import annotations

import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

from bnfuse.errors import UnreadableModel

_ROOTS = ("keras", "tf_keras")


class _KerasObjects:
    """``keras.Model`` and ``tf_keras.Model``."""

    def name(self, model: object) -> str:
        """By its classes' names: whoever is none of Keras' is asked for nothing."""
        root = _root(model)
        return f"<{root}.Model>" if root else ""

    def save(self, model: Any, folder: Path) -> Path:
        """See ``InMemory.save``."""
        path = folder / "model.keras"
        try:
            with _quiet():
                model.save(path)
        except Exception as error:
            raise UnreadableModel(f"Keras cannot save '{model.name}': {_first_line(error)}") from error
        return path

    def load(self, path: Path, like: Any) -> Any:
        """See ``InMemory.load``."""
        keras = sys.modules[_root(like)]
        own = {kind.__name__: kind for kind in _classes(like)}
        try:
            with keras.utils.custom_object_scope(own), _quiet():
                made = keras.models.load_model(path, compile=False, safe_mode=False)
        except Exception as error:
            raise UnreadableModel(
                f"Keras cannot load the result of '{like.name}' into this process: {_first_line(error)}; "
                "give an output, which keeps it as a file"
            ) from error
        with keras.utils.custom_object_scope(own):
            _compile(made, like, keras)
        return made


def _root(model: object) -> str:
    """The package whose Model an object is; "" for other objects."""
    for kind in type(model).__mro__:
        root = kind.__module__.partition(".")[0]
        if root in _ROOTS and kind.__name__ == "Model":
            return root
    return ""


def _classes(model: Any) -> Iterator[type]:
    """Classes of the program's own among its layers, so that they need not be registered."""
    flat = model._flatten_layers() if hasattr(model, "_flatten_layers") else model.layers
    for layer in flat:
        if type(layer).__module__.partition(".")[0] not in _ROOTS:
            yield type(layer)


def _compile(made: Any, like: Any, keras: ModuleType) -> None:
    """As the old one is: optimiser, losses and metrics are made anew from their configuration.

    Warns where a part of it cannot be made so; the model itself is none the worse for it.
    """
    if not _is_compiled(like):
        return
    try:
        config = like.get_compile_config()
        with keras.utils.custom_object_scope(dict(_named(_compiled_with(like)))):
            made.compile_from_config(config)
    except Exception as error:  # noqa: BLE001 - whatever custom losses and metrics raise
        warnings.warn(
            f"the new model is not compiled as '{like.name}' is ({_first_line(error)}): compile it yourself",
            stacklevel=2,
        )


def _is_compiled(model: Any) -> bool:
    return bool(getattr(model, "compiled", False) or getattr(model, "_is_compiled", False))


def _compiled_with(model: Any) -> Any:
    """What ``compile`` was called with, by its keywords."""
    return getattr(getattr(model, "_compile_config", None), "config", {})


def _named(given: Any) -> Iterator[tuple[str, object]]:
    """Functions and classes of the program's own, by the names that their configuration has for them."""
    match given:
        case dict():
            for each in given.values():
                yield from _named(each)
        case list() | tuple():
            for each in given:
                yield from _named(each)
        case str() | int() | float() | None:
            return
        case _:
            kind = given if hasattr(given, "__name__") else type(given)
            if kind.__module__.partition(".")[0] not in _ROOTS:
                yield kind.__name__, kind


@contextmanager
def _quiet() -> Iterator[None]:
    """Without what Keras says of its own format while it saves and loads."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


IN_MEMORY = _KerasObjects()
