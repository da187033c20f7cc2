"""An ``onnx.ModelProto`` as a model: written as its bytes, read back whole, its external data too.

When it does not act: protobuf writes nothing beyond 2 GB, so such a model must come as a file with external
data; and a ModelProto whose tensors still point to external data does not say where that lies.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from bnfuse.errors import UnreadableModel

if TYPE_CHECKING:
    from onnx import ModelProto


class _OnnxObjects:
    """``onnx.ModelProto``."""

    def name(self, model: object) -> str:
        """By its class alone; onnx is not imported for other objects."""
        kinds = ((kind.__name__, kind.__module__.partition(".")[0]) for kind in type(model).__mro__)
        return "<onnx.ModelProto>" if ("ModelProto", "onnx") in kinds else ""

    def save(self, model: ModelProto, folder: Path) -> Path:
        """See ``InMemory.save``."""
        path = folder / "model.onnx"
        try:
            path.write_bytes(model.SerializeToString())
        except ValueError as error:  # google.protobuf's EncodeError, and what upb says of 2 GB
            raise UnreadableModel(
                f"the ModelProto cannot be written ({error}): beyond 2 GB, save it with external data and "
                "give the file"
            ) from error
        return path

    def load(self, path: Path, like: ModelProto) -> ModelProto:
        """See ``InMemory.load``."""
        import onnx

        return onnx.load(path, load_external_data=True)


IN_MEMORY = _OnnxObjects()
