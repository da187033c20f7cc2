"""An opened ONNX file: core's graph of it, and what a patch makes of it (the ``Model`` protocol)."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from bnfuse.core.apply import Patch, check_fit
from bnfuse.core.graph import Node
from bnfuse.core.reasons import Reason
from bnfuse.formats.base import ReadOptions, Written
from bnfuse.formats.onnx.edit.apply_patch import ModelEditor
from bnfuse.formats.onnx.edit.assemble import EditedModel
from bnfuse.formats.onnx.graph.read import ModelFile, read_graph
from bnfuse.formats.onnx.rows.view import handle_of

if TYPE_CHECKING:
    from onnx import NodeProto


class OnnxModel:
    """An opened ONNX file."""

    exact_seams = False  # onnxruntime keeps float16 as float32 between nodes

    def __init__(self, source: ModelFile, options: ReadOptions) -> None:
        self._source = source
        self._loaded = read_graph(source, options)
        self._rounds_biases = options.round_bias
        self.path = source.path
        self.graph = self._loaded.graph
        self.notes = tuple(source.notes)
        self.side_files = source.files.side_files()
        self._patch: Patch | None = None  # the one that the parsed file was edited for
        self._edited: EditedModel | None = None
        self._operators_after: dict[str, int] = {}
        self._name_of: Callable[[str], str] = str  # what stands for a value in the edited model
        self._made: Mapping[int, list[NodeProto]] = {}  # its new nodes, by the position they follow

    def operators(self) -> dict[str, int]:
        """Nodes by operator type, over all scopes."""
        return self._loaded.operators

    def operators_after(self, patch: Patch) -> dict[str, int]:
        """Nodes by operator type as ``write`` would leave them."""
        if not patch.changes:
            return self._loaded.operators
        self._edit(patch)
        return self._operators_after

    def check_fit(self, patch: Patch) -> None:
        """The small ones are there once the file is edited; see ``Model.check_fit``."""
        if patch.changes:
            self._edit(patch)
            check_fit(() if self._edited is None else self._edited.payloads.values())

    def constants_of(self, nodes: Iterable[Node], patch: Patch | None = None) -> tuple[str, ...]:
        """The inputs of these nodes, as far as they are of the main graph; see ``Model.constants_of``."""
        if patch is not None:
            self._edit(patch)
        handles = [h for h in map(handle_of, nodes) if not h.scope.prefix and h.operand is None]
        protos = [h.proto for h in handles]
        body = self._source.scopes[0].nodes
        protos += [body[h.bias_index] for h in handles if h.bias_index is not None]
        protos += [made for h in handles for made in self._made.get(h.index, ())]
        return tuple(dict.fromkeys(name for proto in protos for name in proto.input if name))

    def probe_points(self, values: Iterable[str], patch: Patch) -> dict[str, tuple[str, str]]:
        """Values that nodes of the main graph write; see ``Model.probe_points``."""
        self._edit(patch)
        found = {}
        made = () if self._source.inlined is None else self._source.inlined.made
        for value in values:
            writer = self.graph.writer(value)
            if (
                writer is None
                or value in made
                or self.graph.pinned.get(value, Reason.CAPTURED) is not Reason.CAPTURED
            ):
                continue
            if not handle_of(writer).scope.prefix and handle_of(writer).operand is None:
                found[value] = (value, self._name_of(value))
        return found

    def total_bytes(self) -> int:
        """Size of the model file and the external data its tensors point to."""
        return self._source.files.total_bytes()

    def write(self, patch: Patch, path: Path) -> Written:
        """Write the patched model; see ``Model.write``."""
        written = self._write(patch, path)
        self._source.files.check_unchanged()
        return written

    def _write(self, patch: Patch, path: Path) -> Written:
        from bnfuse.formats.onnx.edit.write import copy_model, write_model

        if not patch.changes and not self._source.external:
            return copy_model(self._source.files, path)  # nothing changes, so not one byte does
        self._edit(patch)
        edited, self._edited = self._edited, None  # writing gives its tensors their final places
        if edited is None:
            raise ValueError(f"{self.path} was written before: read it again to write it once more")
        return write_model(self._source.files, edited, self._source.external, path)

    def write_unfolded(self, path: Path) -> str:
        """With its constants off the inputs (IR 4 and later); see ``Unfolding``."""
        proto = self._source.outline
        leaving = {v.name for v in proto.graph.input} & self._source.scopes[0].initializers.keys()
        if proto.ir_version < 4 or not leaving:
            return ""
        self._edit(Patch())
        assert self._edited is not None
        from bnfuse.formats.onnx.edit.write import write_model

        write_model(self._source.files, self._edited, self._source.external, path)
        return f"{len(leaving)} initializer{'s' if len(leaving) > 1 else ''} that left the inputs"

    def close(self) -> None:
        """Close its files."""
        self._source.files.close()

    def _edit(self, patch: Patch) -> None:
        """Edit the parsed file in place, once."""
        if patch is self._patch:
            return
        if self._patch is not None:
            raise ValueError(f"{self.path} was edited before: read it again for another patch")
        self._patch = patch
        loaded, rounds = self._loaded, self._rounds_biases
        self._source.open_for_changes()
        editor = ModelEditor(
            self._source, self.graph, loaded.constants, loaded.shapes.rank, rounds_biases=rounds
        )
        self._edited = editor.run(patch)
        self._operators_after = dict(self._edited.operators())
        self._name_of, self._made = self._edited.name_of, self._edited.made
