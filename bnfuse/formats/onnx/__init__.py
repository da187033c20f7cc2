"""ONNX: one folder of the format boundary (``formats.base``)."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import onnx

from bnfuse.core.apply import Patch
from bnfuse.formats.base import ReadOptions, Runner, RunSettings, Written
from bnfuse.formats.onnx.assemble import Edited
from bnfuse.formats.onnx.edit import Editor
from bnfuse.formats.onnx.read import Source, parse, read_graph
from bnfuse.formats.onnx.scope import bodies
from bnfuse.formats.onnx.write import copy_model, write_model


class OnnxModel:
    """An opened ONNX file."""

    def __init__(self, source: Source, options: ReadOptions) -> None:
        self._source = source
        self._loaded = read_graph(source, options)
        self.path = source.path
        self.graph = self._loaded.graph
        self.notes = tuple(source.notes)
        self.side_files = source.files.side_files()
        self._edited: tuple[Patch, Edited] | None = None
        self._counted: tuple[Patch, dict[str, int]] | None = None

    def operators(self) -> dict[str, int]:
        """Nodes by operator type, over all scopes."""
        return _operators(self._source.proto)

    def operators_after(self, patch: Patch) -> dict[str, int]:
        """Nodes by operator type as ``write`` would leave them."""
        if self._counted is None or self._counted[0] is not patch:
            self._edit(patch)
        assert self._counted is not None
        return self._counted[1]

    def total_bytes(self) -> int:
        """Size of the model file and the external data its tensors point to."""
        return self._source.files.total_bytes(self._source.proto)

    def write(self, patch: Patch, path: Path) -> Written:
        """Write the patched model; see ``Model.write``."""
        if not patch.removed and not self._source.external:
            return copy_model(self._source.files, path)  # nothing changes, so not one byte does
        edited = self._edit(patch)
        self._edited = None  # writing gives its tensors their final places
        return write_model(self._source.files, edited, self._source.external, path)

    def _edit(self, patch: Patch) -> Edited:
        if self._edited is None or self._edited[0] is not patch:
            editor = Editor(self._source, self.graph, self._loaded.constants, self._loaded.shapes.rank)
            self._edited = patch, editor.run(patch)
            self._counted = patch, dict(Counter(self._edited[1].operators()))
        return self._edited[1]


def _operators(proto: onnx.ModelProto) -> dict[str, int]:
    count: Counter[str] = Counter()
    pending: list[onnx.GraphProto | onnx.FunctionProto] = [proto.graph, *proto.functions]
    while pending:
        body = pending.pop()
        for node in body.node:
            count[node.op_type] += 1
            if node.op_type in ("If", "Loop", "Scan", "SequenceMap"):
                pending += [graph for _, _, graph in bodies(node)]
    return dict(count)


# Tags of ModelProto's fields: ir_version, producer_name, …, graph, opset_import, metadata_props.
_FIRST_BYTES = frozenset((0x08, 0x12, 0x1A, 0x22, 0x28, 0x32, 0x3A, 0x42, 0x72, 0xA2, 0xCA))


class OnnxFormat:
    """Reads, writes and runs ``.onnx`` files."""

    name = "onnx"

    def accepts(self, head: bytes, path: Path) -> bool:
        """ModelProto has no magic number: field 1 (ir_version, varint) or another early field comes first."""
        return bool(head) and head[0] in _FIRST_BYTES

    def read(self, path: Path, options: ReadOptions) -> OnnxModel:
        """Open a model; see ``Format.read``."""
        return OnnxModel(parse(path), options)

    def suffix(self, path: Path) -> str:
        """ONNX files keep ``.onnx``."""
        return path.suffix or ".onnx"

    def load(self, path: Path, settings: RunSettings) -> Runner:
        """Load into onnxruntime."""
        from bnfuse.formats.onnx.run import load

        return load(path, settings)


FORMAT = OnnxFormat()
