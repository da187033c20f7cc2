"""ONNX: one folder of the format boundary (``formats.base``).

Each member imports what it needs: the process that runs models needs none of what reads and edits them.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from bnfuse.formats.base import ReadOptions, Runner, RunSettings

if TYPE_CHECKING:
    from bnfuse.formats.contents import Contents
    from bnfuse.formats.hints import Hints
    from bnfuse.formats.onnx.model import OnnxModel

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
        from bnfuse.formats.onnx.graph.read import parse
        from bnfuse.formats.onnx.model import OnnxModel

        return OnnxModel(parse(path, outline=True), options)

    def contents(self, path: Path) -> Contents:
        """What is in a file; see ``Format.contents``."""
        from bnfuse.formats.onnx.graph.contents import read_contents

        return read_contents(path)

    def hints(self, path: Path) -> Hints:
        """What the file tells of its inputs; see ``Format.hints``."""
        from bnfuse.formats.onnx.graph.hints import read_hints

        return read_hints(path)

    def asks_for(self, path: Path) -> tuple[str, ...]:
        """Files of external data; see ``formats.spread``."""
        from bnfuse.formats.onnx.file.parse import external_locations

        return external_locations(path)

    def suffix(self, path: Path) -> str:
        """ONNX files keep ``.onnx``."""
        return path.suffix or ".onnx"

    def prepare(self, settings: RunSettings) -> None:
        """Start the child process that onnxruntime runs in."""
        from bnfuse.formats.onnx.runtime.run import prepare

        prepare()

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
