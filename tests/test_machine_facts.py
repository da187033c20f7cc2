"""What a report says of the machine: each fact from where the system tells it, else nothing."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bnfuse import machine

X86 = "processor\t: 0\nvendor_id\t: AuthenticAMD\nmodel name\t: AMD  EPYC 7B13\n\nmodel name\t: other\n"
ARM = "processor\t: 0\nBogoMIPS\t: 50.00\n\nHardware\t: BCM2835\nModel\t: Raspberry Pi 4\n"
POWER = "processor\t: 0\ncpu\t\t: POWER9, altivec supported\n"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (X86, "AMD EPYC 7B13"),
        (ARM, "Raspberry Pi 4"),
        (POWER, "POWER9, altivec supported"),
        ("", "by platform"),
    ],
)
def test_the_processor(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, expected: str) -> None:
    (tmp_path / "cpuinfo").write_text(text)
    monkeypatch.setattr(machine, "_CPUINFO", tmp_path / "cpuinfo")
    monkeypatch.setattr("platform.processor", lambda: "by platform")
    assert machine.cpu_name() == expected


MEMORY = [
    ({"meminfo": "MemTotal:  4096 kB\nMemAvailable: 1 kB\n"}, 4096 * 1024),
    ({"meminfo": "MemTotal: 4096 kB\n", "memory.max": "max\n"}, 4096 * 1024),
    ({"meminfo": "MemTotal: 4096 kB\n", "memory.max": "1000\n"}, 1000),
    ({"memory.max": "1000\n"}, 1000),
    ({}, None),
]


@pytest.mark.parametrize(("files", "expected"), MEMORY)
def test_all_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, files: dict[str, str], expected: int | None
) -> None:
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    monkeypatch.setattr(machine, "_MEMINFO", tmp_path / "meminfo")
    monkeypatch.setattr(machine, "_CGROUP", tmp_path)
    assert machine.total_memory_bytes() == expected


def test_the_gpu_by_its_driver(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "_NVIDIA", tmp_path)
    for bus, name in (("0000:01", "NVIDIA H100"), ("0000:02", "NVIDIA H100"), ("0000:03", "NVIDIA T4")):
        (tmp_path / bus).mkdir()
        (tmp_path / bus / "information").write_text(f"Model: \t {name}\nIRQ:   16\nGPU UUID: GPU-1\n")
    assert machine.gpu_name() == "NVIDIA H100, NVIDIA T4"
    assert machine.describe("gpu").gpu == "NVIDIA H100, NVIDIA T4"
    assert machine.describe("cpu").gpu == ""


@pytest.mark.parametrize(
    ("answer", "expected"),
    [("NVIDIA A10G\nNVIDIA A10G\n", "NVIDIA A10G"), (FileNotFoundError(), ""), (PermissionError(), "")],
)
def test_the_gpu_by_nvidia_smi(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, answer: str | Exception, expected: str
) -> None:
    def run(command: list[str], **options: Any) -> Any:
        assert command[0] == "nvidia-smi" and options["timeout"] > 0
        if isinstance(answer, Exception):
            raise answer
        return subprocess.CompletedProcess(command, 0, answer, "")

    monkeypatch.setattr(machine, "_NVIDIA", tmp_path / "none")
    monkeypatch.setattr(subprocess, "run", run)
    assert machine.gpu_name() == expected


def test_peak_memory_counts_what_was_freed_again() -> None:
    """Of a fresh process, that takes 64 MB and gives them back."""
    code = (
        "import numpy as np\nfrom bnfuse.machine import peak_memory_bytes as peak\n"
        "before = peak()\nnp.ones(1 << 26, np.uint8)\nprint(peak() - before)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert 60e6 < int(done.stdout) < 80e6


@pytest.mark.skipif(sys.platform != "linux", reason="what /proc says, and what getrusage inherits")
def test_peak_memory_is_not_inherited(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    ballast = np.ones(1 << 28, np.uint8)
    code = "from bnfuse.machine import peak_memory_bytes as peak; print(peak())"
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, check=True, close_fds=False)
    assert int(done.stdout) < ballast.nbytes // 2
    monkeypatch.setattr(machine, "_STATUS", tmp_path / "none")
    fallback = machine.peak_memory_bytes()
    assert fallback is not None and fallback >= ballast.nbytes


def test_this_machine() -> None:
    found = machine.describe("cpu")
    assert found.processors <= (os.cpu_count() or 1)
    if sys.platform == "linux":
        assert found.memory_bytes is not None and found.memory_bytes > 1 << 28
        assert found.system.startswith("Linux ")
