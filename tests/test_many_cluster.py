"""A real Dask cluster of two workers on this machine, one of which is killed in the middle.

Skipped where distributed is not installed (``pip install 'bnfuse[cluster]'``).
"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.command import PATIENCE_S, ROOT, call
from tests.many_models import save
from tests.report_schema import assert_many_fit

pytest.importorskip("distributed", reason="distributed is not installed (bnfuse[cluster])")
pytestmark = pytest.mark.slow

_QUIET = {"DASK_DISTRIBUTED__DASHBOARD__LINK": "", "DASK_LOGGING__DISTRIBUTED": "error"}


def _free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


def _started(*words: str) -> subprocess.Popen[bytes]:
    environment = {**os.environ, **_QUIET, "PYTHONPATH": str(ROOT)}
    return subprocess.Popen(
        [sys.executable, "-m", *words],
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )


@pytest.fixture(scope="module")
def cluster() -> Iterator[tuple[str, list[subprocess.Popen[bytes]]]]:
    """The scheduler's address, and two workers of one thread each that nobody starts again."""
    from distributed import Client

    address = f"tcp://127.0.0.1:{_free_port()}"
    with ExitStack() as stack:
        place = ("--host", "127.0.0.1", "--port", address.rpartition(":")[2])
        every = [_started("distributed.cli.dask_scheduler", *place, "--no-dashboard")]
        worker = ("distributed.cli.dask_worker", address, "--nthreads", "1", "--no-nanny", "--no-dashboard")
        every += [_started(*worker) for _ in range(2)]
        for process in every:
            stack.callback(process.wait, PATIENCE_S)
            stack.callback(process.kill)
        with Client(address, timeout=PATIENCE_S, set_as_default=False) as client:
            client.wait_for_workers(2, timeout=PATIENCE_S)
        yield address, every[1:]


def test_models_go_to_the_workers_and_those_of_one_that_is_killed_to_the_other(
    cluster: tuple[str, list[subprocess.Popen[bytes]]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    address, workers = cluster
    monkeypatch.setenv("BNFUSE_CACHE", str(tmp_path / "cache"))
    for k in range(40):
        save(tmp_path / "zoo" / f"m{k:02}.onnx")
    environment = {**os.environ, **_QUIET, "PYTHONPATH": str(ROOT)}
    words = (
        "optimize",
        str(tmp_path / "zoo"),
        "--cluster",
        address,
        "--no-bench",
        "--json",
        "--verify-time",
        "0.2",
    )
    program = subprocess.Popen(
        [sys.executable, "-m", "bnfuse", *words],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    end = time.monotonic() + PATIENCE_S
    while len(list((tmp_path / "zoo").glob("*.fused.onnx"))) < 3 and time.monotonic() < end:
        time.sleep(0.02)
    done_before = len(list((tmp_path / "zoo").glob("*.fused.onnx")))
    workers[0].send_signal(signal.SIGKILL)
    out, told = program.communicate(timeout=PATIENCE_S)
    document = json.loads(out)
    assert_many_fit(document)
    assert 0 < done_before < 40
    assert {one["exit_code"] for one in document["reports"]} == {0}, told
    assert len(list((tmp_path / "zoo").glob("*.fused.onnx"))) == 40
    assert document["jobs"] == 2
    assert not list((tmp_path / "zoo").glob(".bnfuse-*/*.onnx"))


def test_nobody_there_is_a_machine_that_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from bnfuse.use_cases.many import cluster as module

    monkeypatch.setattr(module, "_CONNECT_S", 0.5)
    address = f"tcp://127.0.0.1:{_free_port()}"
    done = call("inspect", save(tmp_path / "a.onnx"), "--cluster", address)
    assert done.exit_code == 5
    assert f"no Dask scheduler answers at '{address}'" in done.stderr
