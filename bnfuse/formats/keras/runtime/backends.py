"""What differs between TensorFlow, JAX and PyTorch: tensors, compiled calls, waiting for a device.

Imported by the child process only; each backend imports its library when it is made.

- *exact* calls (for proof) run operation by operation, with nothing rewritten or fused, and without
  the reduced precision (TF32) that GPUs use for float32 otherwise;
- *compiled* calls (for latency) are what a program that cares about speed would use:

  - TensorFlow: ``tf.function``, with XLA where ``model.jit_compile`` says so ("auto": on accelerators, where
    all layers support it; never on a CPU), and with graph optimisation (grappler) on;
  - JAX: ``jax.jit``;
  - PyTorch: the plain call without gradients, since Keras compiles nothing there by default.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Protocol

import numpy as np

Call = Callable[..., Any]


class Backend(Protocol):
    """One library that computes."""

    @property
    def version(self) -> str:
        """Such as "tensorflow 2.21.0"."""

    @property
    def devices(self) -> Sequence[str]:
        """What it computes on, the fastest first."""

    def tensor(self, array: np.ndarray) -> Any:
        """The array on the device."""

    def array(self, tensor: Any) -> np.ndarray:
        """A tensor's values; strings as bytes."""

    def exact(self, model: Any) -> Call:
        """The model as a function of its inputs, run as it is written."""

    def compiled(self, model: Any) -> Call:
        """The model as a function of its inputs, run as fast as this library can."""

    def mode(self, optimise: bool) -> contextlib.AbstractContextManager[None]:
        """What must hold while calls of this kind run."""

    def wait(self, result: Any) -> None:
        """Until the device has finished computing ``result``, a list of tensors."""


class NoGpu(Exception):
    """A GPU was asked for, and the library sees none."""


class TensorFlow:
    """TensorFlow, for Keras 3 and for tf_keras."""

    def __init__(self, device: str, threads: int) -> None:
        import tensorflow as tf

        self._tf = tf
        self.version = f"tensorflow {tf.__version__}"
        if threads:
            tf.config.threading.set_intra_op_parallelism_threads(threads)
            tf.config.threading.set_inter_op_parallelism_threads(1)
        gpus = tf.config.list_physical_devices("GPU")
        if device == "gpu" and not gpus:
            raise NoGpu(self.version)
        for gpu in gpus:
            tf.config.experimental.set_memory_growth(gpu, True)
        names = [tf.config.experimental.get_device_details(gpu).get("device_name", "?") for gpu in gpus]
        self.devices = (*(f"GPU ({name})" for name in names), "CPU")
        self._optimise: bool | None = None

    def tensor(self, array: np.ndarray) -> Any:
        """Constants are placed on the GPU where there is one."""
        return self._tf.constant(array)

    def array(self, tensor: Any) -> np.ndarray:
        """Ragged and sparse tensors are filled up with zeros."""
        if isinstance(tensor, self._tf.RaggedTensor):
            tensor = tensor.to_tensor()
        if isinstance(tensor, self._tf.SparseTensor):
            tensor = self._tf.sparse.to_dense(tensor)
        return np.asarray(tensor.numpy() if hasattr(tensor, "numpy") else tensor)

    def exact(self, model: Any) -> Call:
        """Eager: operation by operation."""
        return lambda inputs: model(inputs, training=False)

    def compiled(self, model: Any) -> Call:
        """One ``tf.function``; it is traced once per shape."""
        return self._tf.function(  # type: ignore[no-any-return]
            lambda inputs: model(inputs, training=False), jit_compile=bool(model.jit_compile)
        )

    @contextlib.contextmanager
    def mode(self, optimise: bool) -> Iterator[None]:
        """Grappler and TF32 on or off. Layers may hold functions of their own, so exact calls need it too."""
        if self._optimise is not optimise:
            config = self._tf.config
            config.optimizer.set_experimental_options({"disable_meta_optimizer": not optimise})
            config.experimental.enable_tensor_float_32_execution(optimise)
            self._optimise = optimise
        yield

    def wait(self, result: Any) -> None:
        """On the CPU a call returns when it has finished."""
        if len(self.devices) > 1:
            self._tf.test.experimental.sync_devices()


class Jax:
    """JAX, for Keras 3."""

    def __init__(self, device: str, threads: int) -> None:
        import jax

        self._jax = jax
        self.version = f"jax {jax.__version__}"
        gpus = [d for d in jax.devices() if d.platform in ("gpu", "cuda", "rocm")]
        if device == "gpu" and not gpus:
            raise NoGpu(self.version)
        self.devices = tuple(f"GPU ({d.device_kind})" for d in gpus) or ("CPU",)

    def tensor(self, array: np.ndarray) -> Any:
        """Wait, too: copies to the device are asynchronous."""
        return self._jax.block_until_ready(self._jax.device_put(array))

    def array(self, tensor: Any) -> np.ndarray:
        """A copy on the host."""
        return np.asarray(tensor)

    def exact(self, model: Any) -> Call:
        """Operation by operation; XLA compiles each by itself."""
        return lambda inputs: model(inputs, training=False)

    def compiled(self, model: Any) -> Call:
        """One jitted function of inputs and variables: as constants, weights would end up in its code."""
        trained = [v.value for v in model.trainable_variables]
        others = [v.value for v in model.non_trainable_variables]

        def pure(trained: Any, others: Any, inputs: Any) -> Any:
            return model.stateless_call(trained, others, inputs, training=False)[0]

        jitted = self._jax.jit(pure)
        return lambda inputs: jitted(trained, others, inputs)

    @contextlib.contextmanager
    def mode(self, optimise: bool) -> Iterator[None]:
        """Exact calls need full float32 products."""
        with self._jax.default_matmul_precision("default" if optimise else "highest"):
            yield

    def wait(self, result: Any) -> None:
        """JAX returns before it has computed."""
        self._jax.block_until_ready(result)


class Torch:
    """PyTorch, for Keras 3."""

    def __init__(self, device: str, threads: int) -> None:
        import torch

        self._torch = torch
        self.version = f"torch {torch.__version__}"
        self._on_gpu = device == "gpu"
        if self._on_gpu and not torch.cuda.is_available():
            raise NoGpu(self.version)
        if threads:
            torch.set_num_threads(threads)
        self.devices = (f"GPU ({torch.cuda.get_device_name()})",) if self._on_gpu else ("CPU",)

    def tensor(self, array: np.ndarray) -> Any:
        """Through numpy's own types; bfloat16 bit by bit."""
        torch = self._torch
        if array.dtype.name == "bfloat16":
            made = torch.from_numpy(array.view(np.int16).copy()).view(torch.bfloat16)
        else:
            made = torch.from_numpy(np.array(array))
        return made.to("cuda" if self._on_gpu else "cpu")

    def array(self, tensor: Any) -> np.ndarray:
        """A copy on the host."""
        tensor = tensor.detach().cpu()
        if tensor.dtype == self._torch.bfloat16:
            import ml_dtypes

            bits = tensor.contiguous().view(self._torch.int16).numpy()
            return np.asarray(bits.view(ml_dtypes.bfloat16))
        return np.asarray(tensor.numpy())

    def exact(self, model: Any) -> Call:
        """The plain call."""
        return lambda inputs: model(inputs, training=False)

    def compiled(self, model: Any) -> Call:
        """The plain call too: ``torch.compile`` is not what Keras does by default."""
        return self.exact(model)

    @contextlib.contextmanager
    def mode(self, optimise: bool) -> Iterator[None]:
        """TF32 on or off; never gradients."""
        self._torch.backends.cuda.matmul.allow_tf32 = optimise
        self._torch.backends.cudnn.allow_tf32 = optimise
        with self._torch.no_grad():
            yield

    def wait(self, result: Any) -> None:
        """CUDA returns before it has computed."""
        if self._on_gpu:
            self._torch.cuda.synchronize()


def make_backend(name: str, device: str, threads: int) -> Backend:
    """Import and configure a backend; ``tf_keras`` runs on TensorFlow.

    Raises:
        ImportError: it is not installed, or broken.
        NoGpu: ``device`` is "gpu", and there is none.
    """
    if name == "jax":
        return Jax(device, threads)
    if name == "torch":
        return Torch(device, threads)
    return TensorFlow(device, threads)
