"""What all tests share: the order they run in, and the command line as a user calls it."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import onnx
import pytest

from tests.cli_models import convnet

Cli = Callable[..., "subprocess.CompletedProcess[str]"]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Fast tests first: a mistake shows in seconds."""
    items.sort(key=lambda item: item.get_closest_marker("slow") is not None)


@pytest.fixture(scope="session")
def bnfuse_cli() -> Cli:
    """Call ``bnfuse`` with these arguments in a process of its own; never raises on an exit code."""
    environment = {**os.environ, "NO_COLOR": "1", "COLUMNS": "120", "PYTHONUTF8": "1"}

    def call(*arguments: object, timeout: float = 120) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "bnfuse", *map(str, arguments)],
            capture_output=True,
            text=True,
            encoding="utf-8",
            env=environment,
            timeout=timeout,
            check=False,
        )

    return call


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A saved convnet with one BN that folds."""
    path = tmp_path / "model.onnx"
    onnx.save(convnet(), path)
    return path


@pytest.fixture
def plain_model(tmp_path: Path) -> Path:
    """The same without a BN."""
    path = tmp_path / "plain.onnx"
    onnx.save(convnet(norm=False), path)
    return path
