"""Damaged files by the thousand: each ends in a result or in one sentence, in bounds, and leaves nothing.

Shared by ``benchmarks.fuzz_onnx``, ``fuzz_keras`` and ``fuzz_guided``, which make the mutants. Each goes
through ``inspect`` and ``optimize``, one in ``--every`` with details, ``diff`` and ``verify``, in a process
that may take 10 s of processor time and 1 GiB more than it begins with for each. Where that ends, the next
begins at the mutant behind. Mutants are told by their seed, and so can be made again. None is kept.

An *escape* is whatever should not have come: an exception that is no ``BnfuseError``, a crash, too long, too
much memory, a sentence of more than 300 characters, a file left behind, a result that does not load where the
original does, or that computes something else (``benchmarks.fuzz_judge``).
"""

from __future__ import annotations

import argparse
import json
import os
import re
import resource
import signal
import subprocess
import sys
import tempfile
import time
import traceback
import warnings
import zlib
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from benchmarks.fuzz_judge import Judge
from benchmarks.fuzz_lines import Lines
from bnfuse import diff, inspect, optimize, verify
from bnfuse.errors import BnfuseError

SECONDS, BYTES, FILE_BYTES = 10, 1 << 30, 1 << 30
_SILENT_CPU_SECONDS, _SILENT_SECONDS = 6 * SECONDS, 600  # C code hears of no timer
_LONGEST_SENTENCE = 300
_SIDE = re.compile(r"out\.onnx\.[0-9a-f]{12}\.data")
_ROOT = Path(__file__).parents[1]
_MEMORY = Path("/dev/shm")
_TICKS = os.sysconf("SC_CLK_TCK")


class Subject(Protocol):
    """A format's mutants."""

    def write(self, folder: Path, seed: int) -> Path:
        """Make the mutant of a seed in the folder, over the last one.

        Raises:
            NotMade: there is none of this seed.
        """

    judged: bool  # whether onnxruntime runs originals and results
    runtime_seconds: float  # that the runtime may take for an answer
    runtime_memory: str


class NotMade(Exception):
    """A library refuses to write such a file."""


class TooLong(BaseException):
    """Raised by the timer; nothing catches it by chance."""


Ended = dict[str, Any]  # a use → how it ended
Quick = dict[str, Any]  # keywords


# In the worker


class Trial:
    """What one worker does with its mutants."""

    def __init__(self, subject: Subject, folder: Path, every: int, verified: int) -> None:
        self._subject, self._folder = subject, folder
        self._every, self._verified_of = every, verified
        self._judge = Judge() if subject.judged else None
        self._held = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()

    def __call__(self, seed: int) -> Ended:
        """How every use of the mutant ended."""
        try:
            path = self._subject.write(self._folder, seed)
        except NotMade as error:
            return {"made": f"no ({error})"}
        target, before = path.with_name(f"out{path.suffix}"), self._names()
        drawn = zlib.crc32(b"%d" % seed)  # so that no model or mode is left out
        more = drawn % self._every == 0
        quick: Quick = {"hashes": False, "details": more}
        fold: Quick = {"verify": False, "bench": False, "force": True, **quick}
        ended: Ended = {"inspect": self._bounded(lambda: _told(inspect(path, **quick)), path)}
        ended["optimize"] = self._bounded(lambda: _folded(optimize(path, target, **fold)), path)
        if more:
            other = target if target.exists() else path
            ended["diff"] = self._bounded(lambda: _told(diff(path, other)), path)
            if drawn // self._every % self._verified_of == 0:
                ended["verify"] = self._verified(path, other)
        self._look_around(ended, before, target)
        if self._judge is not None and target.exists() and target.read_bytes() != path.read_bytes():
            ended["onnxruntime"] = self._judge(path, target)
        for name in self._names() - before:
            (self._folder / name).unlink()
        return ended

    def _names(self) -> set[str]:
        return {path.name for path in self._folder.iterdir()}

    def _look_around(self, ended: Ended, before: set[str], target: Path) -> None:
        made = self._names() - before
        if not _escaped(ended["optimize"]):
            wanted = {target.name} if ended["optimize"] in ("folded", "kept") else set()
            beside = {
                name for name in made if wanted and re.fullmatch(r"out\.onnx\.[0-9a-f]{12}\.data", name)
            }
            if made - beside != wanted or len(beside) > 1:
                ended["files"] = f"escape: {sorted(made)} after {ended['optimize']}"

    def _bounded(self, use: Callable[[], str], path: Path) -> str:
        """How a use ends within its bounds."""
        resource.setrlimit(resource.RLIMIT_AS, (self._held + BYTES, resource.RLIM_INFINITY))
        try:
            return _ended(use, path)
        finally:
            resource.setrlimit(resource.RLIMIT_AS, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))

    def _verified(self, path: Path, other: Path) -> str:
        """The runtime's process has bounds of its own; here memory is looked at afterwards."""
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        begin = time.monotonic()
        ended = _ended(lambda: self._compared(path, other), path)
        grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - peak
        if grown > BYTES // 1024:
            return f"escape: {grown >> 10} MiB more in verify"
        if ended == "different":
            return "escape: different from its original, says verify"
        return (
            f"{ended}, after more than {SECONDS} s on the clock"
            if time.monotonic() - begin > SECONDS
            else ended
        )

    def _compared(self, path: Path, other: Path) -> str:
        limits: Quick = {
            "runtime_timeout": self._subject.runtime_seconds,
            "runtime_memory": self._subject.runtime_memory,
        }
        return verify(path, other, verify_time=1.0, samples=2, hashes=False, **limits).status.value


def _told(_: object) -> str:
    return "done"


def _folded(report: Any) -> str:
    return "folded" if report.plan.rewrites else "kept"


def _ended(use: Callable[[], str], path: Path) -> str:
    try:
        signal.setitimer(signal.ITIMER_PROF, SECONDS)
        return use()
    except BnfuseError as error:
        sentence = str(error).replace(str(path), "").replace(str(path.parent), "")
        sound = "\n" not in sentence and 10 < len(sentence) <= _LONGEST_SENTENCE
        if not sound:
            return f"escape: sentence {re.sub(r'x{20,}', 'x…', sentence)[:200]!r}"
        return f"{type(error).__name__} ({int(error.exit_code)})"
    except TooLong as error:
        return f"escape: longer than {SECONDS} s in {_place(error)}"
    except MemoryError as error:
        return f"escape: more than {BYTES >> 20} MiB in {_place(error)}"
    except Exception as error:  # noqa: BLE001 - what this is for
        return f"escape: {type(error).__name__} in {_place(error)}: {' '.join(str(error).split())[:100]}"
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)


def _escaped(ended: str) -> bool:
    return ended.startswith("escape")


def _place(error: BaseException) -> str:
    frames = traceback.extract_tb(error.__traceback__)
    own = [frame for frame in frames if "/bnfuse/" in frame.filename]
    return " < ".join(f"{Path(frame.filename).name}:{frame.lineno}" for frame in reversed(own[-2:]))


def _too_long(*_: object) -> None:
    raise TooLong


def work(subject: Subject, first: int, beyond: int, asked: argparse.Namespace) -> None:
    """Try mutants one after the other; a line for each, before and after."""
    signal.signal(signal.SIGPROF, _too_long)
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (FILE_BYTES, resource.RLIM_INFINITY))
    warnings.simplefilter("ignore")
    np.seterr(all="ignore")
    with tempfile.TemporaryDirectory(dir=_MEMORY if _MEMORY.is_dir() else None) as folder:
        trial = Trial(subject, Path(folder), asked.every, asked.verified)
        for seed in range(first, beyond):
            print(f"{seed} begins", flush=True)
            print(f"{seed} {json.dumps(trial(seed))}", flush=True)


# Beside it


def outcomes(command: list[str], first: int, beyond: int) -> Iterator[tuple[int, Ended]]:
    """(seed, how it ended) of every mutant, whatever becomes of the processes that try them."""
    while first < beyond:
        with (
            tempfile.TemporaryFile() as errors,
            subprocess.Popen(
                [sys.executable, "-X", "faulthandler", *command, "--work", f"{first}:{beyond}"],
                cwd=_ROOT,
                stdout=subprocess.PIPE,
                stderr=errors,
            ) as worker,
        ):
            at = first - 1
            try:
                for seed, ending in _lines(worker):
                    at = seed
                    if ending is not None:
                        yield seed, ending
            except BaseException:
                worker.kill()
                raise
            if not worker.wait():
                return
            errors.seek(0)
            said = errors.read().decode("utf-8", "replace")
            if at < first:
                raise SystemExit(f"the worker does not start: {said[-2000:]}")
            where = re.findall(r'File ".*/bnfuse/.*?(\w+\.py)", line (\d+)', said)[:2]
            told = " < ".join(":".join(w) for w in where) or said.strip()[-200:]
            yield at, {"process": f"escape: ended by {worker.returncode} in {told}"}
            first = at + 1


def _lines(worker: subprocess.Popen[bytes]) -> Iterator[tuple[int, Ended | None]]:
    assert worker.stdout is not None
    lines, begun, spent = Lines(worker.stdout), time.monotonic(), 0.0
    while True:
        line = lines.next(5.0)
        if line is None:
            late = time.monotonic() - begun > _SILENT_SECONDS
            if late or _cpu_seconds(worker.pid) - spent > _SILENT_CPU_SECONDS:
                worker.kill()
                return
            continue
        if not line:
            return
        seed, _, ending = line.partition(" ")
        if ending == "begins":
            begun, spent = time.monotonic(), _cpu_seconds(worker.pid)
        yield int(seed), None if ending == "begins" else json.loads(ending)


def _cpu_seconds(pid: int) -> float:
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0.0
    return (int(fields[11]) + int(fields[12])) / _TICKS


def count(found: Iterator[tuple[int, Ended]]) -> int:
    """Print how many ended how, by use, and each kind of escape with its first seed; how many escaped.

    What ends this program early (SIGTERM, Ctrl-C) ends the trying.
    """
    counts, seeds, tried, begin = Counter[tuple[str, str]](), dict[str, int](), 0, time.monotonic()
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    with suppress(KeyboardInterrupt):
        for seed, ending in found:
            tried += 1
            for use, how in ending.items():
                counts[use, how] += 1
                if _escaped(how) and how not in seeds:
                    seeds[how] = seed
                    print(f"seed {seed}: {use}: {how}", flush=True)
    escaped = sum(n for (_, how), n in counts.items() if _escaped(how))
    print(f"{tried} mutants in {time.monotonic() - begin:.0f} s: {escaped} escapes")
    for (use, how), number in sorted(counts.items(), key=lambda item: (item[0][0], -item[1])):
        print(f"{number:9}  {use}: {how}" + (f" (seed {seeds[how]})" if how in seeds else ""))
    return escaped


def parser(told: str) -> argparse.ArgumentParser:
    """The options that all have."""
    made = argparse.ArgumentParser(description=told)
    made.add_argument("--mutants", type=int, default=20_000)
    made.add_argument("--seed", type=int, default=0, help="of the first mutant")
    made.add_argument(
        "--every", type=int, default=10, metavar="N", help="one in N through diff and verify, too"
    )
    made.add_argument(
        "--verified", type=int, default=1, metavar="N", help="of those, one of N through verify"
    )
    made.add_argument("--work", help=argparse.SUPPRESS)
    return made


def main(subject: Callable[[], Subject], asked: argparse.Namespace, command: list[str]) -> None:
    """Work, or let others work and tell."""
    if asked.work:
        first, beyond = map(int, asked.work.split(":"))
        work(subject(), first, beyond, asked)
        return
    command = ["-m", *command, "--every", str(asked.every), "--verified", str(asked.verified)]
    sys.exit(count(outcomes(command, asked.seed, asked.seed + asked.mutants)) > 0)
