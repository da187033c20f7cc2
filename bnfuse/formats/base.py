"""The boundary between use cases and file formats.

A format reads a saved model as data into ``core``'s graph, writes a ``Patch`` back, and knows a
runtime that can run the file for ``verify`` and ``bench``. Nothing above this line knows ONNX or Keras.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Protocol, runtime_checkable

import numpy as np
from msgspec import Struct

from bnfuse.formats.read_options import ReadOptions as ReadOptions
from bnfuse.results.rounding import RoundedBias

if TYPE_CHECKING:
    from bnfuse.core.apply import Patch
    from bnfuse.core.graph import Graph, Node
    from bnfuse.formats.contents import Contents
    from bnfuse.formats.hints import Hints


class Written(Struct, frozen=True):
    """What a write did: the file for the model, its side files, flushed subnormals, and rounded biases."""

    path: Path
    side_files: tuple[Path, ...]
    subnormals_flushed: int
    rounded: tuple[RoundedBias, ...] = ()


class Model(Protocol):
    """An opened model: its graph, and what the user should know about how it was read."""

    path: Path
    graph: Graph
    notes: tuple[str, ...]
    side_files: tuple[Path, ...]  # files beside the model that hold its weights
    exact_seams: bool  # what its runtime shows at a seam is, to the last digit, what goes on from there

    def operators(self) -> dict[str, int]:
        """Nodes by operator type, over all scopes."""

    def total_bytes(self) -> int:
        """Size of the model file and all its external data, in bytes."""

    def write(self, patch: Patch, path: Path) -> Written:
        """Write the patched model to ``path`` (and side files beside it, named after it).

        Once: the opened model is edited in place, so another patch needs it read anew.
        The caller hands a path in a fresh folder; renaming into place is the caller's work.

        Raises:
            OutputError: no space, no permission.
            UnreadableModel: a file of the input changed since it was opened.
        """

    def operators_after(self, patch: Patch) -> dict[str, int]:
        """Nodes by operator type as ``write`` would leave them."""

    def check_fit(self, patch: Patch) -> None:
        """Whether ``write`` would find that every new weight fits its type, without making them all.

        Raises:
            OverflowingFold: one does not.
        """

    def constants_of(self, nodes: Iterable[Node], patch: Patch | None = None) -> tuple[str, ...]:
        """What these nodes compute with, for ``Probe.shaken``: here, or in what ``write`` makes of a patch.

        Names may be among them that are no stored array of floats; those are not shaken. What this file
        calls them is to be asked before the patch is looked at or written.
        """

    def probe_points(self, values: Iterable[str], patch: Patch) -> dict[str, tuple[str, str]]:
        """How values of the graph are called in ``Probe.seams``: here, and in what ``write`` makes.

        Values that a runtime cannot be asked for (inside bodies, or held by no tensor of either file), and
        inputs and outputs of the model, are left out.
        """

    def close(self) -> None:
        """Close its files; nothing may be asked of it afterwards."""


@runtime_checkable
class Unfolding(Protocol):
    """A model that ``write`` may change in more than its folds, in a way that a runtime can make use of."""

    def write_unfolded(self, path: Path) -> str:
        """Write the model to ``path`` (in a fresh folder) with all of such changes, and no fold.

        Returns:
            What was changed, as a noun phrase; "" where nothing is, and nothing was written.

        Raises:
            OutputError: no space, no permission.
        """


class TensorSpec(Struct, frozen=True):
    """One input or output of a model: ``shape`` has an int, a symbol, or None per axis.

    ``dtype`` is a numpy dtype name, "bfloat16", "float8…", or "string"; ``shape`` is None where the
    rank is unknown.
    """

    name: str
    dtype: str
    shape: tuple[int | str | None, ...] | None


Tensors = Mapping[str, np.ndarray]


class Runner(Protocol):
    """A loaded model that can be called. Use as a context manager: closing frees its memory.

    ``run`` is synchronous: when it returns, the device has finished.
    """

    inputs: Sequence[TensorSpec]
    outputs: Sequence[TensorSpec]
    providers: Sequence[str]
    runtime: str  # "onnxruntime 1.32.0"
    versions: Mapping[str, str]  # of the packages that run it: {"onnxruntime": "1.32.0"}
    optimises: (
        str  # what its own optimisation does to BatchNormalizations, as the end of a sentence; "" if nothing
    )
    load_s: float  # what loading it took, whenever that was

    def run(self, feeds: Tensors) -> dict[str, np.ndarray]:
        """All outputs by name for inputs by name."""

    def time(self, feeds: Tensors, calls: int) -> list[int]:
        """Nanoseconds of each of ``calls`` calls in a row; synchronous.

        Measured where the model runs, so that the way there (a pipe to a process) is no part of it. Arrays
        that were given last time, too, may be there already: they must not have been changed in place.
        """

    def __enter__(self) -> Runner: ...

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None: ...


class NodeTime(Struct, frozen=True):
    """What one node of the running graph cost in one call of the model: ``ns``, without nodes inside it.

    ``name`` is the runtime's own, unique in the graph; ``op`` and ``provider`` say what ran, and where.
    """

    name: str
    op: str
    provider: str
    ns: int


class CallTimes(Struct, frozen=True):
    """One call of the model: its wall time, and its nodes in the order they ran."""

    ns: int
    nodes: tuple[NodeTime, ...]


@runtime_checkable
class Profiling(Protocol):
    """A runner whose runtime tells what each node costs; loaded with ``RunSettings(profile=True)``."""

    def profile(self, feeds: Tensors, calls: int) -> Sequence[CallTimes]:
        """Some calls in a row, node by node. Once: nothing may be asked of the runner afterwards.

        Raises:
            BnfuseError: the runtime wrote no profile, or one that makes no sense.
        """


class Probe(Struct, frozen=True):
    """What to see, to set and to shake inside a model while it runs, beside its inputs and outputs.

    Attributes:
        seams: values inside, by names that ``Model.probe_points`` gives: ``run`` answers with them too.
        forced: ``run`` is also given every seam: what reads one reads what was given instead, and the
            answer is what was computed for it.
        dtypes: the type of each seam, where they are forced: as they were seen before.
        shaken: stored arrays of floats, by names of ``Model.constants_of``: each element is moved by one
            unit in the last place of its own type, up or down at random.
        shakes_all: whether all stored arrays of floats are.
        seed: of that randomness.
        wanted: the seams and outputs that are asked for, () for all; what serves no other may be left out.
        most_bytes: how much of the seams one ``run`` answers with, 0 for all; those beyond it are left out.
    """

    seams: tuple[str, ...] = ()
    forced: bool = False
    dtypes: tuple[str, ...] = ()
    shaken: tuple[str, ...] = ()
    shakes_all: bool = False
    seed: int = 0
    wanted: tuple[str, ...] = ()
    most_bytes: int = 0


class RunSettings(Struct, frozen=True):
    """How to load a model into its runtime.

    ``optimise`` is the runtime's own graph optimisation: off for proof, off and on for bench.
    ``threads`` is the number of intra-op threads, 0 for the runtime's default. ``profile`` asks for a
    runner that is ``Profiling``, where the runtime has such a thing; it runs a little slower. ``probe``
    opens the model up; its seams are then among what ``run`` takes and answers, not among ``inputs`` and
    ``outputs``. ``runtime`` is what the runner of another model calls its own: this one is to be loaded
    into the same; without it, a format that has several takes the first that loads the model.
    """

    optimise: bool = False
    device: str = "cpu"
    threads: int = 0
    allow_unsafe: bool = False
    profile: bool = False
    probe: Probe | None = None
    runtime: str = ""


Loader = Callable[[Path, RunSettings], Runner]


class Format(Protocol):
    """One file format."""

    name: str

    def accepts(self, head: bytes, path: Path) -> bool:
        """Whether a file that starts with ``head`` (up to 64 bytes) is of this format."""

    def read(self, path: Path, options: ReadOptions) -> Model:
        """Open a model without running anything in it.

        Raises:
            UnreadableModel: not a whole, valid model of this format.
            UnsafeModel: it reaches outside its own folder.
        """

    def contents(self, path: Path) -> Contents:
        """What is in a file, as data: cheaper than ``read``, and without rules of what its nodes compute.

        Raises:
            UnreadableModel, UnsafeModel: as ``read``.
        """

    def hints(self, path: Path) -> Hints:
        """What the file tells of its inputs beyond what it declares; nothing where it makes no sense."""

    def suffix(self, path: Path) -> str:
        """The suffix the optimised file keeps, such as ``.onnx``."""

    def prepare(self, settings: RunSettings) -> None:
        """Have the runtime that ``load`` will use start beside what comes first; ``load`` tells errors."""

    def load(self, path: Path, settings: RunSettings) -> Runner:
        """Load the model into its runtime.

        Raises:
            RuntimeMissing: the runtime or the device is not there.
            UnreadableModel: the runtime refuses the model.
        """

    def here(self, settings: RunSettings) -> Callable[[Path], Runner]:
        """Import the runtime into this process, and answer with a function that loads models there.

        For a process that exists for nothing else, which is what a cold start is measured in
        (``bnfuse.measure.cold``). Errors are those of ``load``.
        """
