"""Many models, and Ctrl-C in the middle: everybody ends, and nothing is left half-written."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import onnx
import pytest

from tests.command import PATIENCE_S, ROOT, gone, interruptible
from tests.many_models import save

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="children are looked for in /proc"),
]


def children(pid: int) -> set[int]:
    """A process's children, and theirs."""
    found: set[int] = set()
    for path in Path(f"/proc/{pid}/task").glob("*/children"):
        for child in map(int, path.read_text().split()):
            found |= {child, *children(child)}
    return found


def test_ctrl_c_ends_all_of_it(tmp_path: Path) -> None:
    for k in range(60):
        save(tmp_path / "zoo" / f"m{k:02}.onnx")
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "BNFUSE_CACHE": str(tmp_path / "cache")}
    words = ("optimize", "zoo", "--output-dir", "out", "--no-bench", "-j", "2", "--report", "r.json")
    with interruptible():
        program = subprocess.Popen(
            [sys.executable, "-m", "bnfuse", *words],
            cwd=tmp_path,
            env={**environment, "TMPDIR": str(tmp_path)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
    end = time.monotonic() + PATIENCE_S
    while len(list(tmp_path.glob("out/*.fused.onnx"))) < 3 and time.monotonic() < end:
        time.sleep(0.02)
    at_work = children(program.pid)
    os.killpg(program.pid, signal.SIGINT)  # as a terminal does: to all of them
    out, told = program.communicate(timeout=PATIENCE_S)
    assert (program.returncode, out) == (130, "")
    assert told.endswith("bnfuse: interrupted: nothing was left half-written\n")
    assert "Traceback" not in told
    assert len(at_work) >= 3  # two workers, and a runtime
    assert all(gone(pid) for pid in at_work)
    written = list((tmp_path / "out").iterdir())
    assert 3 <= len(written) < 60
    for path in written:
        assert path.name.endswith(".fused.onnx")
        onnx.checker.check_model(onnx.load(path))
    assert not list(tmp_path.glob("bnfuse-*"))
