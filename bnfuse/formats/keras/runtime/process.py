"""What a child process that runs Keras models starts with.

Starting and sharing it is ``bnfuse.formats.child.pool``, its other end ``runtime.child``.
"""

from __future__ import annotations

import os
from typing import ClassVar

from msgspec import Struct


class KerasSetup(Struct, frozen=True):
    """What is fixed when a process starts; ``threads`` 0 is the runtime's default.

    A model that may run code of its own gets a process in which no other models are.
    """

    module: ClassVar[str] = "bnfuse.formats.keras.runtime.child"
    backend: str  # "tensorflow", "jax", "torch" or "tf_keras"
    device: str
    threads: int
    allow_unsafe: bool = False

    def environment(self) -> dict[str, str]:
        """Backend, device and threads are fixed before the process's imports begin."""
        env = dict(os.environ)
        env.pop("TF_USE_LEGACY_KERAS", None)
        env["KERAS_BACKEND"] = "tensorflow" if self.backend == "tf_keras" else self.backend
        env.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
        env["PYTHONIOENCODING"] = "utf-8"
        env["XLA_PYTHON_CLIENT_PREALLOCATE"] = "false"  # jax would take three quarters of a GPU's memory
        if self.device == "cpu":
            env.update(CUDA_VISIBLE_DEVICES="-1", HIP_VISIBLE_DEVICES="-1", JAX_PLATFORMS="cpu")
        if self.threads:
            count = str(self.threads)
            # NPROC is what XLA's CPU client sizes its thread pool by.
            env.update(
                OMP_NUM_THREADS=count, TF_NUM_INTRAOP_THREADS=count, MKL_NUM_THREADS=count, NPROC=count
            )
        return env
