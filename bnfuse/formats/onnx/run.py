"""Runs an ONNX file in onnxruntime, for ``verify`` and ``bench``.

Decides which execution provider runs the model and refuses when that is not the one that was
asked for. It never falls back: a GPU that is not there, or that gets not a single node, is
``RuntimeMissing``, not a slow run on the CPU.

Two ways to a GPU, because ``onnxruntime`` and ``onnxruntime-gpu`` install the same Python package
and so cannot live side by side:

1. swap: ``pip uninstall onnxruntime && pip install onnxruntime-gpu`` gives ``CUDAExecutionProvider``;
2. add: ``pip install bnfuse[gpu]`` puts a plugin provider beside the plain ``onnxruntime``.

onnxruntime is imported inside functions: it costs 0.1 s that ``inspect`` must not pay.
"""

from __future__ import annotations

import contextlib
import ctypes
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from types import ModuleType, TracebackType
from typing import Any

import numpy as np

from bnfuse.errors import BnfuseError, RuntimeMissing, UnreadableModel, UsageError
from bnfuse.formats.base import CallTimes, RunSettings, Tensors, TensorSpec
from bnfuse.formats.onnx.bound import bind, bindable, time_bound

Traces = tempfile.TemporaryDirectory[str]

INSTALL_GPU = (
    "install a GPU provider beside onnxruntime with 'pip install bnfuse[gpu]', "
    "or swap onnxruntime for onnxruntime-gpu"
)
CUDA = "CUDAExecutionProvider"
CPU = "CPUExecutionProvider"
# Packages that bring a GPU as a plugin of the plain onnxruntime, and so can be installed beside it.
PLUGINS = ("onnxruntime_ep_nv_tensorrt_rtx",)

# onnxruntime's element types that numpy has under the same or another name.
_NUMPY_NAMES = {
    "float": "float32",
    "double": "float64",
    "string": "string",
    "bool": "bool",
    **{name: name for name in ("float16", "int8", "int16", "int32", "int64")},
    **{name: name for name in ("uint8", "uint16", "uint32", "uint64", "bfloat16")},
}


class OrtRunner:
    """A model loaded into an onnxruntime session (the ``Runner`` protocol).

    ``inputs`` are those a caller must give: initializers that are also listed as inputs are not
    among them. onnxruntime shows a scalar and an unknown rank alike; both have ``shape`` None here.
    """

    def __init__(
        self, session: Any, runtime: str, providers: Sequence[str], traces: Traces | None = None
    ) -> None:
        self._session = session
        self._traces = traces
        self.inputs: Sequence[TensorSpec] = tuple(_spec(arg) for arg in session.get_inputs())
        self.outputs: Sequence[TensorSpec] = tuple(_spec(arg) for arg in session.get_outputs())
        self.providers: Sequence[str] = tuple(providers)
        self.runtime = runtime
        self._names = [spec.name for spec in self.outputs]
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
            raise BnfuseError(f"the model stopped while running in onnxruntime: {_reason(error)}") from error
        return {name: _as_array(value) for name, value in zip(self._names, values, strict=True)}

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
            binding = bind(self._session, self.inputs, self.outputs, feeds, "cuda", _on_cuda)
            return time_bound(self._session, binding, calls)
        except Exception as error:  # onnxruntime's exceptions share no base class of their own
            raise BnfuseError(f"the model stopped while running in onnxruntime: {_reason(error)}") from error

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
        given = {spec.name: _to_value(np.asarray(feeds[spec.name]), spec.dtype) for spec in self.inputs}
        values = self._session.run_with_ort_values(self._names, given)
        return [_from_value(value) for value in values]

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
    providers = _choose_provider(ort, options, settings)
    if not path.is_file():
        raise UnreadableModel(f"{path} does not exist")
    try:
        session = _session(ort, path, options, providers)
    except Exception as error:  # onnxruntime's exceptions share no base class of their own
        if settings.device == "gpu" and _loads_on_cpu(path, settings):
            raise RuntimeMissing(f"the GPU cannot be used ({_reason(error)}): {INSTALL_GPU}") from error
        raise UnreadableModel(f"onnxruntime cannot load {path.name}: {_reason(error)}") from error
    used = _providers_in_use(session, settings.device)
    return OrtRunner(session, f"onnxruntime {ort.__version__}", used, traces)


def _traced(options: Any) -> Traces:
    """A folder for what the profiler writes, which is the current one otherwise."""
    folder = tempfile.TemporaryDirectory(prefix="bnfuse-")
    options.enable_profiling = True
    options.profile_file_prefix = str(Path(folder.name) / "trace")
    return folder


def import_runtime() -> ModuleType:
    """onnxruntime itself.

    Raises:
        RuntimeMissing: it is not there, or broken.
    """
    try:
        with _stdout_to_stderr():
            import onnxruntime
    except ImportError as error:
        text = f"onnxruntime cannot be imported ({_reason(error)}): install it with 'pip install onnxruntime'"
        raise RuntimeMissing(text) from error
    module: ModuleType = onnxruntime
    return module


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


def _choose_provider(ort: ModuleType, options: Any, settings: RunSettings) -> list[Any] | None:
    """The provider list for the session; None where a plugin device was put into ``options``."""
    if settings.device == "cpu":
        return [CPU]
    if settings.device != "gpu":
        raise UsageError(f"'{settings.device}' is not a device: use cpu or gpu")
    if CUDA in ort.get_available_providers():
        _preload_cuda(ort)
        # TF32 keeps 10 bits of float32's 23: nothing could be proved with it.
        return [(CUDA, {"use_tf32": "1" if settings.optimise else "0"}), CPU]
    device_found = _plugin_device(ort)
    if device_found is None:
        raise RuntimeMissing(f"no GPU provider was found in onnxruntime {ort.__version__}: {INSTALL_GPU}")
    options.add_provider_for_devices([device_found], {})
    return None


def _preload_cuda(ort: ModuleType) -> None:
    """Let onnxruntime find the CUDA libraries that came as Python packages."""
    if hasattr(ort, "preload_dlls"):
        with _stdout_to_stderr():
            ort.preload_dlls()


def _plugin_device(ort: ModuleType) -> Any:
    """The first GPU that a plugin provider offers, or None."""
    if not hasattr(ort, "get_ep_devices"):  # onnxruntime before 1.22
        return None
    for package in PLUGINS:
        _register(ort, package)
    gpus = [d for d in ort.get_ep_devices() if d.device.type == ort.OrtHardwareDeviceType.GPU]
    return gpus[0] if gpus else None


def _register(ort: ModuleType, package: str) -> None:
    """Make the plugin of this package known to onnxruntime, where the package is installed."""
    import importlib

    try:
        plugin = importlib.import_module(package)
    except ImportError:
        return
    try:
        ort.register_execution_provider_library(plugin.get_ep_name(), plugin.get_library_path())
    except Exception as error:  # onnxruntime's exceptions share no base class of their own
        if "already registered" not in str(error).lower():
            text = f"the GPU provider {package} cannot be loaded ({_reason(error)}): check its CUDA libraries"
            raise RuntimeMissing(text) from error


def _providers_in_use(session: Any, device: str) -> list[str]:
    """The providers that run at least one node.

    Raises:
        RuntimeMissing: a GPU was asked for, and the session runs without it.
    """
    providers: list[str] = list(session.get_providers())
    if device == "cpu":
        return providers
    accelerators = [name for name in providers if name != CPU]
    if not accelerators:
        raise RuntimeMissing(f"onnxruntime fell back to the CPU although a GPU was asked for: {INSTALL_GPU}")
    if not hasattr(session, "get_provider_graph_assignment_info"):  # onnxruntime before 1.24
        return providers
    busy = {part.ep_name for part in session.get_provider_graph_assignment_info()}
    if not busy.intersection(accelerators):
        raise RuntimeMissing(f"{accelerators[0]} can run no node of this model: use --device cpu")
    return [name for name in providers if name in busy]


def _session(ort: ModuleType, path: Path, options: Any, providers: list[Any] | None) -> Any:
    """A session that does not fall back to another provider by itself."""
    with _stdout_to_stderr():
        return ort.InferenceSession(str(path), options, providers=providers, enable_fallback=0)


def _loads_on_cpu(path: Path, settings: RunSettings) -> bool:
    """Whether the device is to blame, not the model."""
    try:
        with load(path, replace(settings, device="cpu")):
            return True
    except BnfuseError:
        return False


def _spec(arg: Any) -> TensorSpec:
    """onnxruntime's NodeArg as a ``TensorSpec``."""
    kind: str = arg.type
    if not kind.startswith("tensor("):
        return TensorSpec(arg.name, kind, None)  # "seq(…)", "map(…)", "optional(…)"
    element = kind[len("tensor(") : -1]
    return TensorSpec(arg.name, _NUMPY_NAMES.get(element, element), _shape(arg.shape))


def _shape(shape: Sequence[Any]) -> tuple[int | str | None, ...] | None:
    """The declared axes. Symbols that onnxruntime's shape inference made up are not the model's."""
    if not shape:
        return None
    return tuple(None if isinstance(d, str) and d.startswith("unk__") else d for d in shape)


def _as_array(value: Any) -> np.ndarray:
    """One output as an array; what is no tensor as a 1-D object array of its elements."""
    if isinstance(value, np.ndarray):
        return value
    elements = value if isinstance(value, list) else [value]
    array = np.empty(len(elements), dtype=object)
    for index, element in enumerate(elements):
        array[index] = element
    return array


def _on_cuda(array: np.ndarray) -> Any:
    import onnxruntime as ort

    return ort.OrtValue.ortvalue_from_numpy(array, "cuda", 0)


def _to_value(array: np.ndarray, dtype: str) -> Any:
    import onnxruntime as ort

    if dtype != "bfloat16":
        return ort.OrtValue.ortvalue_from_numpy(np.ascontiguousarray(array))
    import ml_dtypes
    from onnx import TensorProto

    bits = np.ascontiguousarray(array.astype(ml_dtypes.bfloat16)).view(np.uint16)
    return ort.OrtValue.ortvalue_from_numpy_with_onnx_type(bits, TensorProto.BFLOAT16)


def _from_value(value: Any) -> Any:
    """An OrtValue as an array; bfloat16 is copied out bit by bit, since numpy cannot name it."""
    if not value.is_tensor() or "bfloat16" not in value.data_type():
        return value.numpy()
    import ml_dtypes

    if value.device_name() != "cpu":
        raise BnfuseError("bfloat16 outputs on a GPU cannot be read back by onnxruntime: use --device cpu")
    raw = ctypes.string_at(value.data_ptr(), value.tensor_size_in_bytes())
    return np.frombuffer(raw, dtype=ml_dtypes.bfloat16).reshape(value.shape())


def _reason(error: Exception) -> str:
    """The first line of what onnxruntime says, without its codes."""
    lines = str(error).strip().splitlines()
    text = lines[0] if lines else type(error).__name__
    if text.startswith("[ONNXRuntimeError]"):
        text = text.split(" : ", 3)[-1]
    if text.startswith("Load model from "):  # the path is named by our own sentence
        text = text.partition(" failed:")[2] or text
    return text.strip().rstrip(".")


@contextlib.contextmanager
def _stdout_to_stderr() -> Iterator[None]:
    """onnxruntime's Python layer prints advice to stdout, where only results belong."""
    with contextlib.redirect_stdout(sys.stderr):
        yield
