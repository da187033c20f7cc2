"""ONNX: one folder of the format boundary (``formats.base``)."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from bnfuse.core.apply import Patch
from bnfuse.core.graph import Node
from bnfuse.core.reasons import Reason
from bnfuse.formats.base import ReadOptions, Runner, RunSettings, Written
from bnfuse.formats.onnx.edit.apply_patch import ModelEditor
from bnfuse.formats.onnx.edit.assemble import EditedModel
from bnfuse.formats.onnx.edit.write import copy_model, write_model
from bnfuse.formats.onnx.graph.read import ModelFile, parse, read_graph
from bnfuse.formats.onnx.rows.view import handle_of

if TYPE_CHECKING:
    from onnx import NodeProto

    from bnfuse.formats.contents import Contents
    from bnfuse.formats.hints import Hints


class OnnxModel:
    """An opened ONNX file."""

    def __init__(self, source: ModelFile, options: ReadOptions) -> None:
        self._source = source
        self._loaded = read_graph(source, options)
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
        self._edit(patch)
        return self._operators_after

    def constants_of(self, nodes: Iterable[Node], patch: Patch | None = None) -> tuple[str, ...]:
        """The inputs of these nodes, as far as they are of the main graph; see ``Model.constants_of``."""
        if patch is not None:
            self._edit(patch)
        handles = [h for h in map(handle_of, nodes) if not h.scope.prefix and h.operand is None]
        protos = [h.proto for h in handles]
        body = self._source.proto.graph.node
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
        return self._source.files.total_bytes(self._source.proto)

    def write(self, patch: Patch, path: Path) -> Written:
        """Write the patched model; see ``Model.write``."""
        if not patch.changes and not self._source.external:
            return copy_model(self._source.files, path)  # nothing changes, so not one byte does
        self._edit(patch)
        edited, self._edited = self._edited, None  # writing gives its tensors their final places
        if edited is None:
            raise ValueError(f"{self.path} was written before: read it again to write it once more")
        return write_model(self._source.files, edited, self._source.external, path)

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
        editor = ModelEditor(self._source, self.graph, self._loaded.constants, self._loaded.shapes.rank)
        self._edited = editor.run(patch)
        self._operators_after = dict(self._edited.operators())
        self._name_of, self._made = self._edited.name_of, self._edited.made


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

    def contents(self, path: Path) -> Contents:
        """What is in a file; see ``Format.contents``."""
        from bnfuse.formats.onnx.graph.contents import read_contents

        return read_contents(path)

    def hints(self, path: Path) -> Hints:
        """What the file tells of its inputs; see ``Format.hints``."""
        from bnfuse.formats.onnx.graph.hints import read_hints

        return read_hints(path)

    def suffix(self, path: Path) -> str:
        """ONNX files keep ``.onnx``."""
        return path.suffix or ".onnx"

    def load(self, path: Path, settings: RunSettings) -> Runner:
        """Load into onnxruntime, in a child process."""
        from bnfuse.formats.onnx.runtime.run import load

        return load(path, settings)

    def here(self, settings: RunSettings) -> Callable[[Path], Runner]:
        """Import onnxruntime into this process."""
        from bnfuse.formats.onnx.runtime.module import import_runtime
        from bnfuse.formats.onnx.runtime.session import load_session

        import_runtime()
        return lambda path: load_session(path, settings)


FORMAT = OnnxFormat()
