"""Stand-ins for onnxruntime that end badly: harmless code under its name, found before it.

A stand-in loads any model as one from x (1, 3, 9, 7) to y, and does what a test says when it is imported,
when it loads, or when it runs.
"""

from __future__ import annotations

from pathlib import Path

DIES = "os.kill(os.getpid(), signal.SIGSEGV)"
LEAVES = "os.write(2, b'last words\\n'); os._exit(3)"
HANGS = "time.sleep(60)"
GROWS = "held = [bytes([n + 1]) * (32 << 20) for n in range(9)]; time.sleep(60)"  # 288 MiB, if let

_MODULE = """
import os, signal, time
import numpy as np

__version__ = "9.9.9"

def act(when):
    if when == {when!r}:
        {code}

class GraphOptimizationLevel:
    ORT_ENABLE_ALL, ORT_DISABLE_ALL = 99, 0

class SessionOptions:
    def add_session_config_entry(self, name, value):
        pass

class Arg:
    def __init__(self, name):
        self.name, self.type, self.shape = name, "tensor(float)", [1, 3, 9, 7]

class InferenceSession:
    def __init__(self, *_, **__):
        act("load")

    def get_providers(self):
        return ["CPUExecutionProvider"]

    def get_inputs(self):
        return [Arg("x")]

    def get_outputs(self):
        return [Arg("y")]

    def run(self, names, feeds):
        act("run")
        return [feeds["x"] * np.float32(2)]

act("import")
"""


def stand_in(folder: Path, when: str, code: str) -> Path:
    """A folder with a module ``onnxruntime`` that does this at "import", "load" or "run"."""
    found = folder / "runtime"
    found.mkdir()
    (found / "onnxruntime.py").write_text(_MODULE.format(when=when, code=code), encoding="utf-8")
    return found
