"""What this machine has to offer: memory that is free, and processors that may be used.

Both look at the limits of a container as well, which the system-wide figures do not show.
"""

from __future__ import annotations

import os
from pathlib import Path

_MEMINFO = Path("/proc/meminfo")
_CGROUP = Path("/sys/fs/cgroup")


def available_memory_bytes() -> int | None:
    """Memory that can be taken without swapping; None where the system does not say (not Linux)."""
    figures = [f for f in (_meminfo_available(), _cgroup_available()) if f is not None]
    return min(figures) if figures else None


def usable_cpus() -> int:
    """How many processors this process may run on: its affinity, and its container's quota."""
    affinity = getattr(os, "sched_getaffinity", None)
    count = len(affinity(0)) if affinity else (os.cpu_count() or 1)
    quota = _cpu_quota()
    return max(1, count if quota is None else min(count, quota))


def _meminfo_available() -> int | None:
    for line in _read(_MEMINFO).splitlines():
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) * 1024
    return None


def _cgroup_available() -> int | None:
    """Version 2 of the control groups: limit less what is in use and cannot be reclaimed."""
    limit, used = _read(_CGROUP / "memory.max").strip(), _read(_CGROUP / "memory.current").strip()
    if not limit.isdigit() or not used.isdigit():
        return None
    cache = [
        line for line in _read(_CGROUP / "memory.stat").splitlines() if line.startswith("inactive_file ")
    ]
    reclaimable = int(cache[0].split()[1]) if cache else 0
    return max(0, int(limit) - int(used) + reclaimable)


def _cpu_quota() -> int | None:
    fields = _read(_CGROUP / "cpu.max").split()
    if len(fields) != 2 or not fields[0].isdigit():
        return None
    return max(1, round(int(fields[0]) / int(fields[1])))


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="ascii", errors="replace")
    except OSError:
        return ""
