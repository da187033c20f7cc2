"""Runs an ONNX file in onnxruntime, in this very process.

Which is a child process (``runtime.child``), or one in which a cold start is measured: a model
may end the process that loads or runs it. Decides which execution provider runs the model and refuses when
that is not the one that was asked for. It never falls back: a GPU that is not there, or that gets not a
single node, is ``RuntimeMissing``, not a slow run on the CPU.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

import numpy as np
from msgspec.structs import replace

from bnfuse.errors import BnfuseError, RuntimeMissing, UnreadableModel, UsageError
from bnfuse.formats.base import CallTimes, Probe, RunSettings, Tensors, TensorSpec
from bnfuse.formats.onnx.runtime.io_binding import bind, bindable, time_bound
from bnfuse.formats.onnx.runtime.missing_operators import refusal
from bnfuse.formats.onnx.runtime.module import import_runtime, reason, stdout_to_stderr
from bnfuse.formats.onnx.runtime.ort_values import as_array, from_value, on_cuda, spec_of, to_value
from bnfuse.formats.onnx.runtime.providers import CUDA, INSTALL_GPU, choose_provider, providers_in_use

if TYPE_CHECKING:
    from bnfuse.formats.onnx.runtime.probe import Probed


class OrtRunner:
    """A model loaded into an onnxruntime session (the ``Runner`` protocol).

    ``inputs`` are those a caller must give: initializers that are also listed as inputs are not
    among them. onnxruntime shows a scalar and an unknown rank alike; both have ``shape`` None here.
    ``seams`` are those of a probe, which the session has as outputs, and as inputs where they are forced.
    """

    def __init__(
        self,
        session: Any,
        version: str,
        providers: Sequence[str],
        *,
        profiled: bool = False,
        probed: Probed | None = None,
        load_s: float = 0.0,
    ) -> None:
        self._session = session
        self._profiled = profiled
        self._probed = probed  # the session does not copy its constants
        seams = {} if probed is None else {output: seam for seam, output in probed.answers.items()}
        forced = frozenset[str]() if probed is None else probed.given
        given, made = (
            [spec_of(arg) for arg in args] for args in (session.get_inputs(), session.get_outputs())
        )
        self.inputs: Sequence[TensorSpec] = tuple(s for s in given if s.name not in forced)
        self.outputs: Sequence[TensorSpec] = tuple(s for s in made if s.name not in seams)
        self.providers: Sequence[str] = tuple(providers)
        self.runtime = f"onnxruntime {version}"
        self.versions: Mapping[str, str] = {"onnxruntime": version}
        self.optimises = "folds Conv+BatchNormalization itself when its optimisation is on"
        self.load_s = load_s
        self._given = given
        self._names = [spec.name for spec in made]
        self._answers = [seams.get(name, name) for name in self._names]  # timed calls look nothing up
        # numpy has no bfloat16 of its own, and session.run refuses it: such models go by OrtValue.
        self._by_value = any(spec.dtype == "bfloat16" for spec in (*given, *made))

    def run(self, feeds: Tensors) -> dict[str, np.ndarray]:
        """All outputs, and seams, by name. A sequence or map comes as an object array of its elements.

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
        return {name: as_array(value) for name, value in zip(self._answers, values, strict=True)}

    def time(self, feeds: Tensors, calls: int) -> list[int]:
        """Nanoseconds of each of ``calls`` calls in a row; synchronous, as ``run`` is.

        With CUDA, inputs are on the device before the first call and outputs stay there (``io_binding``).

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
        missing = [spec.name for spec in self._given if spec.name not in feeds]
        if missing:
            raise UsageError(f"the model needs a value for its input '{missing[0]}'")

    def _time_on_cuda(self, feeds: Tensors, calls: int) -> list[int]:
        self._check(feeds)
        try:
            bound = bind(self._session, self.inputs, self.outputs, feeds, "cuda", on_cuda)
            return time_bound(self._session, bound, calls)
        except Exception as error:  # onnxruntime's exceptions share no base class of their own
            raise BnfuseError(f"the model stopped while running in onnxruntime: {reason(error)}") from error

    def profile(self, feeds: Tensors, calls: int) -> Sequence[CallTimes]:
        """Some calls in a row, node by node; see ``formats.base.Profiling``.

        Raises:
            UsageError, BnfuseError: as ``run``; it was not loaded with ``profile``; no profile was written.
        """
        if not self._profiled:
            raise BnfuseError("this model was loaded without its profiler")
        for _ in range(calls):
            self.run(feeds)
        from bnfuse.formats.onnx.runtime.profile_trace import read_trace

        return read_trace(Path(self._session.end_profiling()))

    def _run_values(self, feeds: Tensors) -> list[Any]:
        """The same through OrtValues, for bfloat16."""
        given = {spec.name: to_value(np.asarray(feeds[spec.name]), spec.dtype) for spec in self._given}
        values = self._session.run_with_ort_values(self._names, given)
        return [from_value(value) for value in values]

    def __enter__(self) -> OrtRunner:
        return self

    def __exit__(self, *error: object) -> None:
        self._session = None  # the last reference: onnxruntime frees weights, arena and threads


def load_session(path: Path, settings: RunSettings, traces: Path | None = None) -> OrtRunner:
    """Load the model at ``path`` into onnxruntime, which keeps a profile in the folder ``traces``.

    The file is given by path, so external data and files beyond 2 GB work.

    Raises:
        RuntimeMissing: onnxruntime, or the GPU that was asked for, is not there.
        UnreadableModel: onnxruntime refuses the model.
        UsageError: the device is neither "cpu" nor "gpu".
    """
    ort = import_runtime()
    options = _options(ort, settings)
    if traces is not None:
        options.enable_profiling = True
        options.profile_file_prefix = str(traces / "trace")  # the current folder's otherwise
    providers = choose_provider(ort, options, settings)
    if not path.is_file():
        raise UnreadableModel(f"{path} does not exist")
    probed = None if settings.probe is None else _probed(path, settings.probe, options)
    begin = time.perf_counter()
    try:
        session = _session(ort, path if probed is None else probed.model, options, providers)
    except Exception as error:  # onnxruntime's exceptions share no base class of their own
        if settings.device == "gpu" and _loads_on_cpu(path, settings):
            raise RuntimeMissing(f"the GPU cannot be used ({reason(error)}): {INSTALL_GPU}") from error
        version = ort.__version__
        raise UnreadableModel(
            f"onnxruntime {version} cannot load '{path.name}': {refusal(error, path)}"
        ) from error
    load_s = time.perf_counter() - begin
    used = providers_in_use(session, settings.device)
    version = str(ort.__version__)
    return OrtRunner(session, version, used, profiled=traces is not None, probed=probed, load_s=load_s)


def _probed(path: Path, probe: Probe, options: Any) -> Probed:
    """The model opened up, its data where it is, its shaken constants beside it."""
    from bnfuse.formats.onnx.runtime.probe import probed

    made = probed(path, probe)
    for name, array in made.shaken.items():
        made.held.append(to_value(array, array.dtype.name))
        options.add_initializer(name, made.held[-1])
    folder = str(path.resolve().parent)
    options.add_session_config_entry("session.model_external_initializers_file_folder_path", folder)
    return made


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


def _session(ort: ModuleType, model: Path | bytes, options: Any, providers: list[Any] | None) -> Any:
    """A session that does not fall back to another provider by itself."""
    source = model if isinstance(model, bytes) else str(model)
    with stdout_to_stderr():
        return ort.InferenceSession(source, options, providers=providers, enable_fallback=0)


def _loads_on_cpu(path: Path, settings: RunSettings) -> bool:
    """Whether the device is to blame, not the model."""
    try:
        with load_session(path, replace(settings, device="cpu")):
            return True
    except BnfuseError:
        return False
