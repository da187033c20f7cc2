"""onnxruntime as a module: imported when first needed, and what it says put into a clause."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from types import ModuleType

from bnfuse.errors import RuntimeMissing


def import_runtime() -> ModuleType:
    """onnxruntime itself.

    Raises:
        RuntimeMissing: it is not there, or broken.
    """
    try:
        with stdout_to_stderr():
            import onnxruntime
    except ImportError as error:
        text = f"onnxruntime cannot be imported ({reason(error)}): install it with 'pip install onnxruntime'"
        raise RuntimeMissing(text) from error
    module: ModuleType = onnxruntime
    return module


def reason(error: Exception) -> str:
    """The first line of what onnxruntime says, without its codes."""
    lines = str(error).strip().splitlines()
    text = lines[0] if lines else type(error).__name__
    if text.startswith("[ONNXRuntimeError]"):
        text = text.split(" : ", 3)[-1]
    if text.startswith("Load model from "):  # the path is named by our own sentence
        text = text.partition(" failed:")[2] or text
    return text.strip().rstrip(".")


@contextlib.contextmanager
def stdout_to_stderr() -> Iterator[None]:
    """onnxruntime's Python layer prints advice to stdout, where only results belong."""
    with contextlib.redirect_stdout(sys.stderr):
        yield
