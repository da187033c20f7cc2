"""What this machine is, and what it has to offer: memory that is free, processors that may be used.

Memory and processors look at the limits of a container as well, which the system-wide figures do not
show. What cannot be found out is "" or None, never a guess.
"""

from __future__ import annotations

import contextlib
import os
import platform
import subprocess
from pathlib import Path

from bnfuse.results import Machine

_MEMINFO = Path("/proc/meminfo")
_CGROUP = Path("/sys/fs/cgroup")
_CPUINFO = Path("/proc/cpuinfo")
_STATUS = Path("/proc/self/status")
_NVIDIA = Path("/proc/driver/nvidia/gpus")
# What /proc/cpuinfo calls the processor: x86, then some ARM, POWER and s390 kernels.
_CPU_KEYS = ("model name", "Model", "cpu", "Hardware", "processor 0")
_ASK_S = 10.0


def describe(device: str) -> Machine:
    """The facts that a measurement depends on; the GPU only where ``device`` is one."""
    return Machine(
        cpu=cpu_name(),
        processors=usable_cpus(),
        memory_bytes=total_memory_bytes(),
        system=f"{platform.system()} {platform.machine()}".strip(),
        gpu=gpu_name() if device == "gpu" else "",
    )


def cpu_name() -> str:
    """The processor's model, "" where the system does not say."""
    entries: dict[str, str] = {}
    for line in _read(_CPUINFO).splitlines():
        key, colon, value = line.partition(":")
        if colon:
            entries.setdefault(key.strip(), " ".join(value.split()))
    named = (entries.get(key, "") for key in _CPU_KEYS)
    return next((name for name in named if name), platform.processor())


def gpu_name() -> str:
    """The NVIDIA GPUs of this machine, by the driver's own words; "" where there are none."""
    names = []
    for path in sorted(_NVIDIA.glob("*/information")):
        facts = dict(line.partition(":")[::2] for line in _read(path).splitlines())
        names.append(facts.get("Model", "").strip())
    found = [name for name in names if name] or _asked_nvidia()
    return ", ".join(dict.fromkeys(found))


def _asked_nvidia() -> list[str]:
    """The same from nvidia-smi, for systems without /proc."""
    command = ["nvidia-smi", "--query-gpu=name", "--format=csv,noheader"]
    with contextlib.suppress(OSError, subprocess.SubprocessError):
        answer = subprocess.run(command, capture_output=True, text=True, timeout=_ASK_S, check=True)
        return [line.strip() for line in answer.stdout.splitlines() if line.strip()]
    return []


def total_memory_bytes() -> int | None:
    """All memory of this machine or container; None where the system does not say."""
    figures = [_meminfo("MemTotal:")]
    limit = _read(_CGROUP / "memory.max").strip()
    if limit.isdigit():
        figures.append(int(limit))
    known = [figure for figure in figures if figure is not None]
    return min(known) if known else None


def peak_memory_bytes() -> int | None:
    """The most memory that was ever resident in this process; None where the system does not say.

    On Linux from /proc: what getrusage says there may be inherited from the process that started us.
    """
    for line in _read(_STATUS).splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    try:
        import resource
    except ImportError:  # Windows
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if platform.system() == "Darwin" else peak * 1024


def available_memory_bytes() -> int | None:
    """Memory that can be taken without swapping; None where the system does not say (not Linux)."""
    figures = [f for f in (_meminfo("MemAvailable:"), _cgroup_available()) if f is not None]
    return min(figures) if figures else None


def usable_cpus() -> int:
    """How many processors this process may run on: its affinity, and its container's quota."""
    affinity = getattr(os, "sched_getaffinity", None)
    count = len(affinity(0)) if affinity else (os.cpu_count() or 1)
    quota = _cpu_quota()
    return max(1, count if quota is None else min(count, quota))


def _meminfo(key: str) -> int | None:
    for line in _read(_MEMINFO).splitlines():
        if line.startswith(key):
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
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
