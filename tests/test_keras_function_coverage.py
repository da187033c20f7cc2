"""Every function of ``keras.ops`` has a line or a reason why it has none."""

from __future__ import annotations

import inspect
import re
from collections import Counter
from collections.abc import Iterator
from types import ModuleType
from typing import Any

import pytest

from bnfuse.formats.keras.rows.functions import FUNCTIONS
from tests.keras_nets import Keras
from tests.refused_functions import REFUSED

pytestmark = pytest.mark.slow

_NODES = {name.partition(".")[2] for name in FUNCTIONS if name.startswith("ops.")}


def _public(ops: ModuleType) -> Iterator[tuple[str, Any]]:
    """Every function once: most of ``ops.nn`` and its like stand in ``ops`` as well."""
    known = set()
    for prefix, module in {"": ops, "image.": ops.image, "linalg.": ops.linalg, "nn.": ops.nn}.items():
        for name, found in vars(module).items():
            if callable(found) and not inspect.ismodule(found) and name[0] != "_" and id(found) not in known:
                known.add(id(found))
                yield f"{prefix}{name}", found


def _nodes_of(function: Any) -> set[str]:
    """The classes of the nodes that it makes, as files name them."""
    found = set(re.findall(r"\b([A-Z]\w+)\(", inspect.getsource(inspect.unwrap(function))))
    return found or {"Absolute"} if function.__name__ == "abs" else found


def test_every_function_has_a_line_or_a_reason(keras: Keras) -> None:
    public = dict(_public(keras.ops))
    assert len(public) > 280
    has_line = {name for name, function in public.items() if _nodes_of(function) & _NODES}
    count = Counter(name for group in REFUSED.values() for name in group)
    assert not {name: n for name, n in count.items() if n > 1}
    assert public.keys() - has_line - count.keys() == set()
    assert count.keys() & has_line == set()
    assert count.keys() - public.keys() == set()


def test_a_line_names_a_node_that_there_is(keras: Keras) -> None:
    """By its class, among those that ``keras.ops`` is made of, and the activations."""
    from keras.src.activations import activations
    from keras.src.ops import core, image, math, nn, numpy

    classes = {name for module in (core, image, math, nn, numpy, activations) for name in vars(module)}
    assert classes >= _NODES


def test_a_line_of_tensorflow_names_a_function_that_there_is(tf_keras: Keras) -> None:
    import tensorflow as tf

    def exists(path: str) -> bool:
        found: Any = tf
        for name in path.split("."):
            found = getattr(found, name, None)
        return callable(found)

    # Some are there in one of the two interfaces.
    names = {n.removeprefix("compat.v1.") for n in FUNCTIONS if not n.startswith(("ops.", "__operators__"))}
    assert {n for n in names if not exists(n) and not exists(f"compat.v1.{n}")} == set()
