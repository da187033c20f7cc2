"""The process in which one cold start happens: imports the runtime, loads the model, answers once.

Started by ``bnfuse.measure.cold``, which tells it the model's path, the settings and the inputs as data.
What only bnfuse needs (its own modules, receiving the inputs) is timed apart, so that it can be taken
off: a program of the user's would not do it.
"""

from __future__ import annotations

from time import perf_counter_ns

_BEGIN_NS = perf_counter_ns()

import numpy  # noqa: E402, F401 (every runtime imports it: it is part of a start, not bnfuse's own)

_NUMPY_NS = perf_counter_ns() - _BEGIN_NS

from pathlib import Path  # noqa: E402
from typing import Any  # noqa: E402

from bnfuse.errors import BnfuseError  # noqa: E402
from bnfuse.formats import detect  # noqa: E402
from bnfuse.formats.base import RunSettings  # noqa: E402
from bnfuse.formats.child.loop import serve  # noqa: E402
from bnfuse.formats.child.settings import settings_from_json  # noqa: E402
from bnfuse.machine import peak_memory_bytes  # noqa: E402

Head = dict[str, Any]


def main(token: str) -> None:
    """Answer requests until they end; only the first is a cold start."""
    serve(token, _respond)


def _respond(head: Head, arrays: dict[str, Any]) -> tuple[Head, dict[str, Any]]:
    try:
        return _start(Path(head["path"]), settings_from_json(head["settings"]), arrays), {}
    except BnfuseError as error:
        return {"error": type(error).__name__, "text": str(error)}, {}
    except MemoryError:
        return {"error": "memory"}, {}
    except Exception as error:  # noqa: BLE001  (told to whoever asked, who reports it)
        return {"error": "BnfuseError", "text": f"{type(error).__name__}: {error}"}, {}


def _start(path: Path, settings: RunSettings, feeds: dict[str, Any]) -> Head:
    """From nothing to the first answer, in ns by stage."""
    form = detect(path)
    ready = perf_counter_ns()
    load = form.here(settings)
    imported = perf_counter_ns()
    runner = load(path)
    loaded = perf_counter_ns()
    runner.run(feeds)
    answered = perf_counter_ns()
    return {
        "own_ns": ready - _BEGIN_NS - _NUMPY_NS,
        "runtime_ns": imported - ready + _NUMPY_NS,
        "load_ns": loaded - imported,
        "run_ns": answered - loaded,
        "peak_bytes": peak_memory_bytes(),
    }
