"""Which execution provider runs a model: the one that was asked for, or none.

Two ways to a GPU, because ``onnxruntime`` and ``onnxruntime-gpu`` install the same Python package
and so cannot live side by side:

1. swap: ``pip uninstall onnxruntime && pip install onnxruntime-gpu`` gives ``CUDAExecutionProvider``;
2. add: ``pip install bnfuse[gpu]`` puts a plugin provider beside the plain ``onnxruntime``.
"""

from __future__ import annotations

from types import ModuleType
from typing import Any

from bnfuse.errors import RuntimeMissing, UsageError
from bnfuse.formats.base import RunSettings
from bnfuse.formats.onnx.runtime.module import reason, stdout_to_stderr

INSTALL_GPU = (
    "install a GPU provider beside onnxruntime with 'pip install bnfuse[gpu]', "
    "or swap onnxruntime for onnxruntime-gpu"
)
CUDA = "CUDAExecutionProvider"
CPU = "CPUExecutionProvider"
# Packages that bring a GPU as a plugin of the plain onnxruntime, and so can be installed beside it.
PLUGINS = ("onnxruntime_ep_nv_tensorrt_rtx",)


def choose_provider(ort: ModuleType, options: Any, settings: RunSettings) -> list[Any] | None:
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
        with stdout_to_stderr():
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
            text = f"the GPU provider {package} cannot be loaded ({reason(error)}): check its CUDA libraries"
            raise RuntimeMissing(text) from error


def providers_in_use(session: Any, device: str) -> list[str]:
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
