"""Which versions a report lists: those of what really ran, as it told itself."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
import pytest

from bnfuse import __version__
from bnfuse.use_cases.provenance import versions
from tests.command import FAST, call
from tests.keras_models import FIXTURE

OURS = {"bnfuse", "python", "numpy"}


def listed(command: str, *arguments: object) -> dict[str, str]:
    done = call(command, *arguments, "--json")
    assert done.exit_code == 0, done.stderr
    found: dict[str, str] = json.loads(done.stdout)["versions"]
    return found


def test_what_did_not_run_is_not_listed(model: Path, tmp_path: Path) -> None:
    assert set(versions()) == OURS
    assert versions({"made up": "7"})["made up"] == "7"
    assert set(listed("inspect", model)) == OURS
    unproved = listed("optimize", model, "-o", tmp_path / "out.onnx", "--no-verify", "--no-bench")
    assert unproved["bnfuse"] == __version__ and unproved["numpy"] == np.__version__
    assert set(unproved) == OURS


@pytest.mark.parametrize("steps", [("--no-bench",), ("--no-verify",), ()])
def test_onnxruntime_is_listed_where_it_ran(model: Path, tmp_path: Path, steps: tuple[str, ...]) -> None:
    found = listed("optimize", model, "-o", tmp_path / "out.onnx", *FAST, *steps)
    assert found["onnxruntime"] == ort.__version__
    assert set(found) == OURS | {"onnxruntime"}


def test_both_other_commands_list_it(model: Path) -> None:
    assert listed("verify", model, model, *FAST[:2])["onnxruntime"] == ort.__version__
    assert listed("bench", model, *FAST[2:])["onnxruntime"] == ort.__version__


@pytest.mark.slow
def test_keras_and_its_backend_are_listed(keras3: Any, tmp_path: Path) -> None:
    found = listed("optimize", FIXTURE, "-o", tmp_path / "out.keras", *FAST, "--no-bench")
    assert found["keras"] == keras3.__version__
    assert set(found) == OURS | {"keras", "tensorflow"}
