"""Runs an ONNX file in onnxruntime, for ``verify`` and ``bench``.

Decides which execution provider runs the model and refuses when that is not the one that was
asked for. It never falls back: a GPU that is not there, or that gets not a single node, is
``RuntimeMissing``, not a slow run on the CPU.

onnxruntime is imported inside functions: it costs 0.1 s that ``inspect`` must not pay.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import ModuleType, TracebackType
from typing import Any

import numpy as np

from bnfuse.errors import BnfuseError, RuntimeMissing, UnreadableModel, UsageError
from bnfuse.formats.base import CallTimes, Probe, RunSettings, Tensors, TensorSpec
from bnfuse.formats.onnx.bound import bind, bindable, time_bound
from bnfuse.formats.onnx.providers import CUDA, INSTALL_GPU, choose_provider, providers_in_use
from bnfuse.formats.onnx.runtime import import_runtime, reason, stdout_to_stderr
from bnfuse.formats.onnx.values import as_array, from_value, on_cuda, spec_of, to_value

Traces = tempfile.TemporaryDirectory[str]


class OrtRunner:
    """A model loaded into an onnxruntime session (the ``Runner`` protocol).

    ``inputs`` are those a caller must give: initializers that are also listed as inputs are not
    among them. onnxruntime shows a scalar and an unknown rank alike; both have ``shape`` None here.
    """

    def __init__(
        self,
        session: Any,
        runtime: str,
        providers: Sequence[str],
        traces: Traces | None = None,
        answers: Mapping[str, str] | None = None,
    ) -> None:
        self._session = session
        self._traces = traces
        self._seams = {output: seam for seam, output in (answers or {}).items()}
        given, made = set(self._seams.values()), [spec_of(arg) for arg in session.get_outputs()]
        self.inputs: Sequence[TensorSpec] = tuple(
            spec_of(arg) for arg in session.get_inputs() if arg.name not in given
        )
        self.outputs: Sequence[TensorSpec] = tuple(spec for spec in made if spec.name not in self._seams)
        self.providers: Sequence[str] = tuple(providers)
        self.runtime = runtime
        self._names = [spec.name for spec in made]
        # numpy has no bfloat16 of its own, and session.run refuses it: such models go by OrtValue.
        self._by_value = any(spec.dtype == "bfloat16" for spec in (*self.inputs, *self.outputs))

    def run(self, feeds: Tensors) -> dict[str, np.ndarray]:
        """All outputs by name. A sequence or map output comes as an object array of its elements.

        Raises:
            UsageError: an input is missing or does not fit the model's declaration.
            BnfuseError: the model stops while it runs.
        """
        self._check(feeds)
        try:
            values = (
                self._run_values(feeds) if self._by_value else self._session.run(self._names, dict(feeds))
            )
        except Exception as error:  # onnxruntime's exceptions share no base class of their own
            raise BnfuseError(f"the model stopped while running in onnxruntime: {reason(error)}") from error
        names = [self._seams.get(name, name) for name in self._names]
        return {name: as_array(value) for name, value in zip(names, values, strict=True)}

    def time(self, feeds: Tensors, calls: int) -> list[int]:
        """Nanoseconds of each of ``calls`` calls in a row; synchronous, as ``run`` is.

        With CUDA, inputs are on the device before the first call and outputs stay there (``bound``).

        Raises:
            UsageError, BnfuseError: as ``run``.
        """
        if CUDA in self.providers and bindable((*self.inputs, *self.outputs)):
            return self._time_on_cuda(feeds, calls)
        clock, times = time.perf_counter_ns, []
        for _ in range(calls):
            begin = clock()
            self.run(feeds)
            times.append(clock() - begin)
        return times

    def _check(self, feeds: Tensors) -> None:
        if self._session is None:
            raise BnfuseError("this model was closed before it was run")
        missing = [spec.name for spec in self.inputs if spec.name not in feeds]
        if missing:
            raise UsageError(f"the model needs a value for its input '{missing[0]}'")

    def _time_on_cuda(self, feeds: Tensors, calls: int) -> list[int]:
        self._check(feeds)
        try:
            binding = bind(self._session, self.inputs, self.outputs, feeds, "cuda", on_cuda)
            return time_bound(self._session, binding, calls)
        except Exception as error:  # onnxruntime's exceptions share no base class of their own
            raise BnfuseError(f"the model stopped while running in onnxruntime: {reason(error)}") from error

    def profile(self, feeds: Tensors, calls: int) -> Sequence[CallTimes]:
        """Some calls in a row, node by node; see ``formats.base.Profiling``.

        Raises:
            UsageError, BnfuseError: as ``run``; it was not loaded with ``profile``; no profile was written.
        """
        if self._traces is None:
            raise BnfuseError("this model was loaded without its profiler")
        for _ in range(calls):
            self.run(feeds)
        from bnfuse.formats.onnx.trace import read_trace

        return read_trace(Path(self._session.end_profiling()))

    def _run_values(self, feeds: Tensors) -> list[Any]:
        """The same through OrtValues, for bfloat16."""
        given = {spec.name: to_value(np.asarray(feeds[spec.name]), spec.dtype) for spec in self.inputs}
        values = self._session.run_with_ort_values(self._names, given)
        return [from_value(value) for value in values]

    def __enter__(self) -> OrtRunner:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._session = None  # the last reference: onnxruntime frees weights, arena and threads
        if self._traces is not None:
            self._traces.cleanup()


def load(path: Path, settings: RunSettings) -> OrtRunner:
    """Load the model at ``path`` into onnxruntime.

    The file is given by path, so external data and files beyond 2 GB work.

    Raises:
        RuntimeMissing: onnxruntime, or the GPU that was asked for, is not there.
        UnreadableModel: onnxruntime refuses the model.
        UsageError: the device is neither "cpu" nor "gpu".
    """
    ort = import_runtime()
    options = _options(ort, settings)
    traces = _traced(options) if settings.profile else None
    providers = choose_provider(ort, options, settings)
    if not path.is_file():
        raise UnreadableModel(f"{path} does not exist")
    answers: Mapping[str, str] = {}
    try:
        if settings.probe is not None:
            session, answers = _opened_up(ort, path, options, providers, settings.probe)
        else:
            session = _session(ort, path, options, providers)
    except Exception as error:  # onnxruntime's exceptions share no base class of their own
        if settings.device == "gpu" and _loads_on_cpu(path, settings):
            raise RuntimeMissing(f"the GPU cannot be used ({reason(error)}): {INSTALL_GPU}") from error
        raise UnreadableModel(f"onnxruntime cannot load {path.name}: {reason(error)}") from error
    used = providers_in_use(session, settings.device)
    return OrtRunner(session, f"onnxruntime {ort.__version__}", used, traces, answers)


def _opened_up(
    ort: ModuleType, path: Path, options: Any, providers: list[Any] | None, probe: Probe
) -> tuple[Any, Mapping[str, str]]:
    """A session of the model opened up, and the outputs that answer for seams."""
    from bnfuse.formats.onnx.probe import probed

    made = probed(path, probe)
    values = {name: to_value(array, array.dtype.name) for name, array in made.shaken.items()}
    for name, value in values.items():
        options.add_initializer(name, value)
    folder = str(path.resolve().parent)
    options.add_session_config_entry("session.model_external_initializers_file_folder_path", folder)
    with stdout_to_stderr():
        session = ort.InferenceSession(made.model, options, providers=providers, enable_fallback=0)
    session.bnfuse_keeps = values  # the session does not copy them
    return session, made.answers


def _traced(options: Any) -> Traces:
    """A folder for what the profiler writes, which is the current one otherwise."""
    folder = tempfile.TemporaryDirectory(prefix="bnfuse-")
    options.enable_profiling = True
    options.profile_file_prefix = str(Path(folder.name) / "trace")
    return folder


def _options(ort: ModuleType, settings: RunSettings) -> Any:
    options = ort.SessionOptions()
    level = ort.GraphOptimizationLevel
    options.graph_optimization_level = level.ORT_ENABLE_ALL if settings.optimise else level.ORT_DISABLE_ALL
    options.intra_op_num_threads = settings.threads
    options.inter_op_num_threads = 1
    # Errors arrive as exceptions and are told once, by us: 4 (fatal) keeps them off the user's terminal.
    options.log_severity_level = 4
    # Threads spin while a call lasts, as by default, but stop when it ends: otherwise the threads
    # of one session burn the cores under the next one (measured: 4 times slower, interleaved).
    options.add_session_config_entry("session.intra_op.allow_spinning", "1")
    options.add_session_config_entry("session.force_spinning_stop", "1")
    if settings.device == "gpu":
        options.add_session_config_entry("session.record_ep_graph_assignment_info", "1")
    return options


def _session(ort: ModuleType, path: Path, options: Any, providers: list[Any] | None) -> Any:
    """A session that does not fall back to another provider by itself."""
    with stdout_to_stderr():
        return ort.InferenceSession(str(path), options, providers=providers, enable_fallback=0)


def _loads_on_cpu(path: Path, settings: RunSettings) -> bool:
    """Whether the device is to blame, not the model."""
    try:
        with load(path, replace(settings, device="cpu")):
            return True
    except BnfuseError:
        return False
