"""What the machine has to offer: free memory and usable processors, limits of a container included."""

from __future__ import annotations

from pathlib import Path

import pytest

from bnfuse import machine


def _fake_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, files: dict[str, str]) -> None:
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    monkeypatch.setattr(machine, "_MEMINFO", tmp_path / "meminfo")
    monkeypatch.setattr(machine, "_CGROUP", tmp_path)


MEMORY = [
    ({"meminfo": "MemTotal: 9 kB\nMemAvailable:   2048 kB\n"}, 2048 * 1024),
    ({"meminfo": "MemAvailable: 2048 kB\n", "memory.max": "max\n", "memory.current": "5"}, 2048 * 1024),
    ({"meminfo": "MemAvailable: 2048 kB\n", "memory.max": "1000\n", "memory.current": "400"}, 600),
    ({"memory.max": "1000", "memory.current": "400", "memory.stat": "anon 1\ninactive_file 300\n"}, 900),
    ({}, None),
]


@pytest.mark.parametrize(("files", "expected"), MEMORY)
def test_available_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, files: dict[str, str], expected: int | None
) -> None:
    _fake_machine(tmp_path, monkeypatch, files)
    assert machine.available_memory_bytes() == expected


QUOTAS = [("max 100000", 4), ("200000 100000", 2), ("50000 100000", 1), ("", 4)]


@pytest.mark.parametrize(("quota", "expected"), QUOTAS)
def test_usable_cpus(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, quota: str, expected: int) -> None:
    _fake_machine(tmp_path, monkeypatch, {"cpu.max": quota})
    monkeypatch.setattr("os.sched_getaffinity", lambda _: {0, 1, 2, 3}, raising=False)
    assert machine.usable_cpus() == expected
