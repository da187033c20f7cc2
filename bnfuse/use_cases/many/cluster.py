"""Many machines: an executor that hands models to the workers of a Dask cluster.

A model is a task. Where a worker dies, the scheduler gives its tasks to others; a model over which several
die (the scheduler's ``allowed-failures``) is lost, and no other with it. Every worker needs bnfuse in the
same version, and must see the models by the same paths, or by addresses (``s3://``).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from concurrent.futures import Executor
from contextlib import contextmanager
from typing import Any

from bnfuse import __version__
from bnfuse.errors import RuntimeMissing

_INSTALL = "install it with pip install 'bnfuse[cluster]'"
_CONNECT_S = 20.0


@contextmanager
def connected(address: str) -> Iterator[tuple[Executor, int, int]]:
    """An executor over the cluster at this address, how many models it takes at once, and how many of them
    one machine does.

    Raises:
        RuntimeMissing: Dask is not installed; nobody answers there; no worker is there, or one of them has
            another version of bnfuse, or none.
    """
    try:
        from distributed import Client
    except ImportError as error:
        raise RuntimeMissing(f"--cluster needs Dask distributed, which is not here: {_INSTALL}") from error
    try:
        client = Client(address, timeout=_CONNECT_S, set_as_default=False)
    except (OSError, ValueError, TimeoutError) as error:
        raise RuntimeMissing(f"no Dask scheduler answers at '{address}': {error}") from error
    with client:
        workers = client.scheduler_info(n_workers=-1)["workers"]
        if not workers:
            raise RuntimeMissing(
                f"the cluster at '{address}' has no workers: start some (dask worker {address})"
            )
        _check_versions(address, client.run(_version, on_error="return"))
        yield client.get_executor(pure=False), _slots(workers), _most_on_one(workers)


def _version() -> str:
    """What a worker says."""
    return __version__


def _check_versions(address: str, told: dict[str, Any]) -> None:
    for worker, version in told.items():
        if isinstance(version, BaseException):
            raise RuntimeMissing(f"the worker {worker} of '{address}' cannot use bnfuse: {version}")
        if version != __version__:
            raise RuntimeMissing(
                f"the worker {worker} of '{address}' has bnfuse {version}, and this is {__version__}: "
                "install the same on both"
            )


def _slots(workers: dict[str, dict[str, Any]]) -> int:
    return sum(int(worker["nthreads"]) for worker in workers.values())


def _most_on_one(workers: dict[str, dict[str, Any]]) -> int:
    """How many models the busiest machine works on at once."""
    slots: Counter[str] = Counter()
    for worker in workers.values():
        slots[str(worker["host"])] += int(worker["nthreads"])
    return max(slots.values())
