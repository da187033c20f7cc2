"""Runs a Keras file in Keras itself, for ``verify`` and ``bench``, in a process of its own.

Decides which runtime that is: TensorFlow where it is installed, else JAX, else PyTorch, each under
Keras 3; a file that Keras 3 refuses goes to ``tf_keras`` where that is installed (half of the published
``.h5`` files need it). ``BNFUSE_KERAS_BACKEND`` in the environment overrides the choice. ``runtime`` says
which one ran. It never falls back to another device: a GPU that is not there is ``RuntimeMissing``.

With ``optimise`` off the model is called eagerly, operation by operation; with ``optimise`` on it is the
compiled call of ``runtime.backends``. Neither is ``model.predict``, whose own cost of some
50 ms a call hides what folding gains. Nothing is loaded before ``safety`` has looked at the file.
"""

from __future__ import annotations

import contextlib
import importlib.util
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from msgspec import to_builtins

from bnfuse.errors import RuntimeLost, RuntimeMissing, UnreadableModel, UsageError
from bnfuse.formats.base import RunSettings
from bnfuse.formats.child.pool import Process, acquire, release
from bnfuse.formats.child.pool import prepare as pool_prepare
from bnfuse.formats.child.process import ProcessLost, Reply
from bnfuse.formats.child.runner import ChildRunner
from bnfuse.formats.keras.runtime.process import KerasSetup
from bnfuse.formats.keras.runtime.safety import LoadFacts, refuse_unsafe

if TYPE_CHECKING:
    from bnfuse.formats.keras.runtime.in_process import InProcess

BACKEND_VARIABLE = "BNFUSE_KERAS_BACKEND"
BACKENDS = ("tensorflow", "jax", "torch", "tf_keras")
WITHOUT_RUNNING = "--no-verify --no-bench folds without running"
INSTALL = (
    "install one with pip install 'bnfuse[tensorflow]' (files of Keras 2 may need 'bnfuse[keras2]'), "
    f"or {WITHOUT_RUNNING}"
)
_GPU_BUILDS = {"jax": "pip install 'jax[cuda12]'", "torch": "a CUDA build of PyTorch"}


def prepare(settings: RunSettings) -> None:
    """Start the process, which imports its backend at once; ``load`` tells what is missing."""
    with contextlib.suppress(OSError, RuntimeMissing, UsageError):
        pool_prepare(setup_for(settings))


def load(path: Path, settings: RunSettings) -> ChildRunner:
    """Load the model at ``path`` into Keras, in a child process.

    An input is called what its InputLayer is called, or by its key where the inputs are a dict;
    a Sequential without InputLayer has the one input "input". Outputs are called what the model
    calls them (``output_names``), or by their keys.

    Raises:
        RuntimeMissing: no Keras runtime, or not the device that was asked for.
        RuntimeLost: the runtime crashes, hangs or takes too much memory over it.
        UnsafeModel: loading it would run code of its own, and ``settings.allow_unsafe`` is off.
        UnreadableModel: it does not exist, or the runtime refuses it.
        UsageError: the device is neither "cpu" nor "gpu", or the environment names an unknown backend.
    """
    if settings.device not in ("cpu", "gpu"):
        raise UsageError(f"'{settings.device}' is not a device: use cpu or gpu")
    if settings.probe is not None and settings.optimise:
        raise ValueError("a compiled model cannot be looked into: a probe needs optimise off")
    if not path.is_file():
        raise UnreadableModel(f"'{path}' does not exist: check the path to the model")
    facts = refuse_unsafe(path, settings.allow_unsafe)
    process = _started(setup_for(settings))
    try:
        return load_into(process, path, settings, facts)
    except BaseException:
        release(process)
        raise


def load_into(
    process: Process | InProcess, path: Path, settings: RunSettings, facts: LoadFacts
) -> ChildRunner:
    """Load the model at ``path``, of which ``refuse_unsafe`` has told the facts, into this process.

    Raises:
        RuntimeLost: the runtime does not survive it.
        UnreadableModel: the runtime refuses it.
    """
    try:
        with _suffixed(path, facts.suffix) as seen:
            request = {"op": "load", "path": str(seen), "optimise": settings.optimise}
            request["flavour"] = flavour_of(settings.runtime)
            only = {"input_name": facts.only_input, "input_rank": facts.only_input_rank}
            probe = {"probe": to_builtins(settings.probe)} if settings.probe is not None else {}
            loaded, _ = process.ask({**request, **only, **probe})
    except ProcessLost as error:
        raise RuntimeLost(f"{_runtime(process)} {error} while it was loading '{path.name}'") from error
    except Reply as error:
        raise UnreadableModel(_refusal(path, error)) from error
    return ChildRunner(process, loaded, path.name, probe=settings.probe)


def flavour_of(runtime: str) -> str:
    """Which Keras a runner's ``runtime`` speaks of; "" if none is."""
    return runtime.partition(" ")[0]


def setup_for(settings: RunSettings) -> KerasSetup:
    """What a process for these settings starts with.

    Raises:
        RuntimeMissing, UsageError: as ``choose_backend``.
    """
    threads = settings.threads or _all_processors()
    return KerasSetup(choose_backend(), settings.device, threads, settings.allow_unsafe)


def choose_backend() -> str:
    """The backend to use.

    Raises:
        RuntimeMissing: none is installed, or not the one that the environment names.
        UsageError: the environment names something else.
    """
    wanted = os.environ.get(BACKEND_VARIABLE, "")
    if wanted and wanted not in BACKENDS:
        raise UsageError(f"{BACKEND_VARIABLE} is '{wanted}', but it can only be {', '.join(BACKENDS)}")
    for name in (wanted,) if wanted else BACKENDS:
        if _installed(name):
            return name
    if wanted:
        needs = "tensorflow and tf_keras" if wanted == "tf_keras" else f"keras and {wanted}"
        raise RuntimeMissing(
            f"{BACKEND_VARIABLE} asks for {wanted}, but {needs} are not both installed: {INSTALL}"
        )
    raise RuntimeMissing(f"no runtime for Keras models is installed: {INSTALL}")


def _installed(backend: str) -> bool:
    """Whether a backend and a Keras for it can be imported, as far as can be told without importing."""

    def there(name: str) -> bool:
        return importlib.util.find_spec(name) is not None

    if backend == "tf_keras":
        return there("tensorflow") and there("tf_keras")
    return there(backend) and there("keras")


def _all_processors() -> int:
    """What a runtime takes by default. Said outright, so that ``verify`` and ``bench`` share a process."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _started(setup: KerasSetup) -> Process:
    """The process to load into.

    Raises:
        RuntimeLost: it is there and does not come up.
        RuntimeMissing: it is not there, or has no GPU.
    """
    try:
        return acquire(setup)
    except ProcessLost as error:
        killed = ", as systems end what takes too much memory" if "SIGKILL" in str(error) else ""
        raise RuntimeLost(
            f"{setup.backend} {error}{killed} while it was starting: {WITHOUT_RUNNING}"
        ) from error
    except Reply as error:
        raise no_start(setup, error) from error
    except MemoryError as error:
        raise RuntimeLost(
            f"{setup.backend} ran out of memory while it was starting: {WITHOUT_RUNNING}"
        ) from error


def no_start(setup: KerasSetup, error: Reply) -> RuntimeMissing | RuntimeLost:
    """Why a process for this setup did not come up, and what to do: missing is only what is not there."""
    if error.kind == "no-gpu":
        build = _GPU_BUILDS.get(setup.backend, "pip install 'tensorflow[and-cuda]'")
        return RuntimeMissing(
            f"no GPU was found by {error}: install its GPU build ({build}), or use --device cpu"
        )
    if error.kind == "missing":
        return RuntimeMissing(f"{setup.backend} cannot be used ({error}): {INSTALL}")
    return RuntimeLost(
        f"{setup.backend} is installed but cannot be started ({error}): repair it, or {WITHOUT_RUNNING}"
    )


def _runtime(process: Process | InProcess) -> str:
    return f"Keras ({process.facts['version']})"


def _refusal(path: Path, error: Reply) -> str:
    """One sentence for a file that no runtime could load."""
    text = str(error)
    if error.kind == "unknown-class":
        name, _, runtimes = text.partition("\n")
        neither = "neither " if " nor " in runtimes else ""
        knows = "knows" if neither else "does not know"
        return f"'{path.name}' has a layer that {neither}{runtimes} {knows}, {name}: {WITHOUT_RUNNING}"
    hint = (
        ""
        if "tf_keras" in text or not _installed("tensorflow") or _installed("tf_keras")
        else ", and so may tf_keras (pip install 'bnfuse[keras2]')"
    )
    return f"'{path.name}' cannot be loaded by {text}: {WITHOUT_RUNNING}{hint}"


@contextlib.contextmanager
def _suffixed(path: Path, suffix: str) -> Iterator[Path]:
    """A path with the suffix by which Keras tells formats apart, where the file's own is another."""
    path = path.resolve()
    if path.name.endswith((".h5", ".hdf5") if suffix == ".h5" else suffix):
        yield path
        return
    with tempfile.TemporaryDirectory(prefix="bnfuse-") as folder:
        renamed = Path(folder) / f"model{suffix}"
        try:
            renamed.symlink_to(path)
        except OSError:  # no right to make links
            shutil.copyfile(path, renamed)
        yield renamed
