"""Keras files whose settings make no sense: every layer is refused or read, and nothing else is raised.

What a row of the op table trips over would be a bug of its own, which is told apart from the file's faults;
so a damaged setting must never reach one. Files are damaged in their config, one to three settings at a
time, and all rules are asked for, whether a fold would need them or not.
"""

from __future__ import annotations

import copy
import json
import os
import random
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from msgspec.structs import replace

from bnfuse.core.planning.plan import plan
from bnfuse.errors import BnfuseError
from bnfuse.formats.base import ReadOptions
from bnfuse.formats.keras import FORMAT
from bnfuse.formats.keras.rows import ops as keras_ops
from tests.command import call
from tests.keras_subjects import SUBJECTS, Saved

pytestmark = pytest.mark.slow

_MUTANTS = int(os.environ.get("BNFUSE_FUZZ", "12"))
JUNK: tuple[Any, ...] = (
    None, -1, 0, 1, 2, 3, 2**70, 1.5, float("nan"), "", "x", "same", "channels_first", [], {}, [None],
    [1, 2], [2, "x"], [[1]], {"a": 1}, True,
)  # fmt: skip
_NAMES = ("class_name", "layers", "config", "name", "inbound_nodes")


def settings(config: Any) -> list[tuple[Any, Any]]:
    """Every setting of every layer: (what holds it, its key)."""
    found: list[tuple[Any, Any]] = []
    stack = [config]
    while stack:
        current = stack.pop()
        for key, value in current.items() if isinstance(current, dict) else enumerate(current):
            if isinstance(value, (dict, list)):
                stack.append(value)
            if isinstance(current, dict) and key not in (
                "class_name",
                "layers",
                "config",
                "name",
                "inbound_nodes",
            ):
                found.append((current, key))
    return found


def damaged(config: Any, rng: random.Random) -> Any:
    """A copy with some settings changed or gone."""
    made = copy.deepcopy(config)
    for _ in range(rng.choice((1, 1, 2, 3))):
        holder, key = rng.choice(settings(made))
        if rng.random() < 0.15:
            del holder[key]
        else:
            holder[key] = copy.deepcopy(rng.choice(JUNK))
    return made


@pytest.mark.parametrize("kind", SUBJECTS)
def test_damaged_settings_are_refused_or_read(network: Saved, kind: str, tmp_path: Path) -> None:
    model, target = network(kind)[0], tmp_path / "damaged.keras"
    with zipfile.ZipFile(model) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    config, rng, read = json.loads(members["config.json"]), random.Random(kind), 0
    for _ in range(_MUTANTS):
        members["config.json"] = json.dumps(damaged(config, rng)).encode()
        with zipfile.ZipFile(target, "w") as archive:
            for name, data in members.items():
                archive.writestr(name, data)
        read += _read(target)
    assert read > _MUTANTS / 4


def _read(path: Path) -> bool:
    """Whether a file is read; all its rules are asked for, and what ``diff`` would read."""
    try:
        opened = FORMAT.read(path, ReadOptions())
        FORMAT.contents(path).close()
    except BnfuseError as error:
        assert "\n" not in str(error)
        return False
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")  # numpy's, about numbers that the damage made infinite
        for node in opened.graph.nodes:
            opened.graph.rule(node)
        plan(opened.graph)
    opened.close()
    return True


def test_a_bug_of_a_row_is_not_blamed_on_the_file(network: Saved, monkeypatch: pytest.MonkeyPatch) -> None:
    model, _ = network("Dense")
    for error in (TypeError("a bug"), AttributeError("a bug"), ValueError("a bug"), KeyError("a bug")):
        monkeypatch.setattr(
            keras_ops,
            "ROWS",
            {**keras_ops.ROWS, "Dense": replace(keras_ops.ROWS["Dense"], parts=_raising(error))},
        )
        done = call("inspect", model)
        assert done.exit_code == 70
        assert f"internal error ({type(error).__name__}: " in done.stderr and "a bug" in done.stderr
        assert "damaged" not in done.stderr and "together" not in done.stderr


def _raising(error: Exception) -> Callable[..., Any]:
    def row(*_: Any) -> Any:
        raise error

    return row
