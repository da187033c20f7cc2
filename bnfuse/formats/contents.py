"""What a saved model holds, as plain data: its interface, nodes, weights and facts about the file.

A format fills one ``Contents`` from a file without running it and without making rules of its nodes.
Weights stay where they are until somebody reads them. Names are kept as the file has them: a node's may
be empty or not unique. What stands in another graph than the main one carries that graph's name as a
prefix (``scope``), so values and weights of all graphs have names of their own.

When it does not act: documentation strings of single nodes, and the shapes that a file stores of values
in between, are no part of it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from msgspec import Struct

from bnfuse.core.weights.tensor import Tensor
from bnfuse.formats.base import TensorSpec

Slot = int | str  # an input by its number, or what a layer calls its weight
# A setting's value: what JSON can hold.
Setting = None | bool | int | float | str | list["Setting"]


class NodeItem(Struct, frozen=True, eq=False):
    """One node (ONNX) or layer (Keras).

    Attributes:
        name: as the file has it, without its scope.
        operator: "Conv", "com.microsoft.FusedConv", "Dense".
        scope: "" for the main graph, else the names that lead to its graph, each with a "/" behind it.
        inputs: values that it reads, weights among them; "" for an absent one.
        outputs: values that it writes.
        weights: (slot, name of the weight) of every weight that it reads or holds.
        fingerprint: equal for equal settings.
        handle: the format's own.
    """

    name: str
    operator: str
    scope: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    weights: tuple[tuple[Slot, str], ...]
    fingerprint: bytes
    handle: object

    @property
    def label(self) -> str:
        """How a report names it: its name, or else what it writes."""
        name = self.name or next((value[len(self.scope) :] for value in self.outputs if value), "")
        return f"{self.scope}{name}"


class WeightItem(Struct, frozen=True, eq=False):
    """One stored array.

    Attributes:
        name: unique in the model.
        shape: sizes of the axes as stored.
        dtype: a numpy or ml_dtypes name, or "string".
        size_bytes: of its elements, as stored.
        place: where its bytes lie (file, first byte, number of bytes) where they can be told: two weights
            at one place are equal. None else.
        open: the array, to be read piece by piece.
    """

    name: str
    shape: tuple[int, ...]
    dtype: str
    size_bytes: int
    place: tuple[str, int, int] | None
    open: Callable[[], Tensor]


class Contents(Struct, frozen=True, eq=False):
    """Everything in one file. ``close`` it: its weights are read from open files.

    Attributes:
        form: name of the format, "onnx" or "keras".
        total_bytes: size of the file and of the external data that belongs to it.
        inputs, outputs: what a caller gives and gets, in order. A dtype of "" is not known.
        sources: the values of ``inputs``.
        results: the values of ``outputs``.
        nodes: of all graphs, in the file's order.
        operators: nodes by operator, by scope.
        weights: by name.
        facts: what else the file says of the model (opset, producer, metadata), by its label.
        storage: how it is stored (container, external files): no part of what the model is.
        settings: the settings of one of ``nodes`` by name, defaults filled in where they are known.
        close: closes the files.
        state_bytes: size of an optimiser's state.
    """

    form: str
    total_bytes: int
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    sources: tuple[str, ...]
    results: tuple[str, ...]
    nodes: list[NodeItem]
    operators: Mapping[str, Mapping[str, int]]
    weights: Mapping[str, WeightItem]
    facts: Mapping[str, str]
    storage: Mapping[str, str]
    settings: Callable[[NodeItem], dict[str, Setting]]
    close: Callable[[], None]
    state_bytes: int = 0
