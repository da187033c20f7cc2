"""Says by onnxruntime whether a result loads where its damaged original does, and computes the same.

In a process of its own with limits, since a damaged model may end the process that loads it. Graph
optimisation is off. The process tells each step before it takes it, so that whoever waits knows what a death
belongs to.
"""

from __future__ import annotations

import resource
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.fuzz_lines import Lines

_SECONDS, _BYTES = 30, 4 << 30
# Damage may make a model lose digits; a wrong fold is off by more than this share of the range.
_TOLERANCE = 1e-3
_MOST_ELEMENTS = 1 << 20
_STEPS = ("original loads", "original runs", "result loads", "result runs")
_ROOT = Path(__file__).parents[1]


class Judge:
    """Asks the process; starts it anew where a model ended it."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[bytes] | None = None
        self._lines: Lines | None = None

    def __call__(self, original: Path, result: Path) -> str:
        """A verdict; one that begins with "escape" is the result's fault."""
        if self._process is None or self._lines is None or self._process.poll() is not None:
            command = [sys.executable, "-m", "benchmarks.fuzz_judge"]
            self._process = subprocess.Popen(
                command, cwd=_ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
            )
            assert self._process.stdout is not None
            self._lines = Lines(self._process.stdout)
        assert self._process.stdin is not None
        self._process.stdin.write(f"{original}\t{result}\n".encode())
        self._process.stdin.flush()
        step, line = "", self._lines.next(_SECONDS)
        while line in _STEPS:
            step, line = line, self._lines.next(_SECONDS)
        if line:
            return line
        how = "it took too long" if line is None else "its process ended"
        self._process.kill()
        self._process.wait()
        return f"{'escape: ' if step.startswith('result') else ''}not known whether the {step}: {how}"


def _judged(original: Path, result: Path) -> str:
    before, _ = _loaded(original, "original loads")
    if before is None:
        return "the original does not load"
    after, why = _loaded(result, "result loads")
    if after is None:
        return f"escape: the result does not load{why}"
    for seed in range(2):
        feeds = _feeds(before, seed)
        if feeds is None:
            return "inputs of this kind are not made"
        _tell(_STEPS[1])
        try:
            want = _run(before, feeds)
        except Exception:  # noqa: BLE001 - onnxruntime raises anything
            return "the original does not run"
        _tell(_STEPS[3])
        try:
            got = _run(after, feeds)
        except Exception as error:  # noqa: BLE001
            return f"escape: the result does not run: {' '.join(str(error).split())[:200]}"
        if [o.name for o in before.get_outputs()] != [o.name for o in after.get_outputs()]:
            return "escape: other outputs"
        for a, b in zip(want, got, strict=True):
            told = _difference(a, b)
            if told and any(_difference(a, b) for a, b in zip(want, _run(before, feeds), strict=True)):
                return "the original's outputs are random"
            if told and _as_far_by_rounding(before, feeds, want, got):
                return "differs, but no further than rounding moves the original"
            if told:
                return f"escape: {told}"
        if not all(_is_finite(a) for a in want):
            return "agrees where it is finite"
    return "agrees"


def _loaded(path: Path, step: str) -> tuple[Any, str]:
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 4
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    _tell(step)
    try:
        return ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"]), ""
    except Exception as error:  # noqa: BLE001 - onnxruntime raises anything
        return None, f": {' '.join(str(error).split())[:200]}"


def _feeds(session: Any, seed: int) -> dict[str, Any] | None:
    rng, feeds = np.random.default_rng(seed), {}
    for given in session.get_inputs():
        shape = [n if isinstance(n, int) and n >= 0 else 2 for n in given.shape or ()]
        if np.prod(np.maximum(shape, 1), dtype=float) > _MOST_ELEMENTS:
            return None
        match given.type:
            case "tensor(float)" | "tensor(double)" | "tensor(float16)":
                kind = {"tensor(float)": "f4", "tensor(double)": "f8"}.get(given.type, "f2")
                feeds[given.name] = rng.standard_normal(shape).astype(kind)
            case "tensor(bool)":
                feeds[given.name] = rng.random(shape) < 0.5
            case "tensor(int64)" | "tensor(int32)" | "tensor(uint8)" | "tensor(int8)":
                feeds[given.name] = rng.integers(0, 3, shape).astype(given.type[7:-1])
            case _:
                return None
    return feeds


def _run(session: Any, feeds: dict[str, Any]) -> list[Any]:
    return list(session.run(None, feeds))


def _as_far_by_rounding(before: Any, feeds: dict[str, Any], want: list[Any], got: list[Any]) -> bool:
    """Whether the original moves as far where its inputs move by one unit of half precision."""
    largest = 0.0
    for seed in range(8):
        rng = np.random.default_rng(seed)
        moved = {
            name: x * (1 + rng.choice((-1, 1), x.shape) * 2.0**-11).astype(x.dtype)
            if x.dtype.kind == "f"
            else x
            for name, x in feeds.items()
        }
        largest = max(largest, _distance(want, _run(before, moved)))
    return 2 * largest >= _distance(want, got)


def _distance(one: list[Any], other: list[Any]) -> float:
    with np.errstate(all="ignore"):
        gaps = [
            np.abs(np.asarray(a, np.float64) - b)
            for a, b in zip(one, other, strict=True)
            if a.dtype.kind == "f"
        ]
    return max((float(np.nanmax(gap[np.isfinite(gap)], initial=0.0)) for gap in gaps), default=0.0)


def _is_finite(value: Any) -> bool:
    return not isinstance(value, np.ndarray) or value.dtype.kind not in "fc" or bool(np.isfinite(value).all())


def _difference(a: Any, b: Any) -> str:
    """How two outputs differ where both are finite; "" if they do not."""
    if not isinstance(a, np.ndarray) or not isinstance(b, np.ndarray):
        return "" if type(a) is type(b) else "another kind of output"
    if (a.shape, a.dtype) != (b.shape, b.dtype):
        return f"{b.dtype}{b.shape} instead of {a.dtype}{a.shape}"
    if a.dtype.kind not in "fiub":
        return "" if a.dtype.kind not in "OU" or bool((a == b).all()) else "other texts"
    wide, other = a.astype(np.float64), b.astype(np.float64)
    both = np.isfinite(wide) & np.isfinite(other)
    if not both.any():
        return ""
    largest = float(np.abs(wide[both]).max())
    error = float(np.abs(other - wide, where=both, out=np.zeros_like(wide))[both].max())
    if error <= _TOLERANCE * max(largest, 1e-6):
        return ""
    return f"off by {error:.3g}, where the largest value is {largest:.3g}"


_answers = sys.stdout  # before others print there


def _tell(line: str) -> None:
    print(line, file=_answers, flush=True)


def _serve() -> None:
    sys.stdout = sys.stderr  # where onnxruntime's Python prints, too
    import onnxruntime  # noqa: F401 - before the limit, and once

    held = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (held + _BYTES, held + _BYTES))
    np.seterr(all="ignore")
    for line in sys.stdin:
        original, _, result = line.rstrip("\n").partition("\t")
        _tell(_judged(Path(original), Path(result)))


if __name__ == "__main__":
    _serve()
