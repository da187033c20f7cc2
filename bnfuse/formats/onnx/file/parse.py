"""An ONNX file as a parsed message, without what it does not need.

Files below ``_WHOLE_BYTES`` are parsed as they are; of larger ones only a skeleton is (see ``wire``).
"""

from __future__ import annotations

from pathlib import Path

import onnx
from google.protobuf.message import DecodeError
from msgspec import Struct

from bnfuse.errors import UnreadableModel
from bnfuse.formats.onnx.file.nodes import StoredNodes, parted
from bnfuse.formats.onnx.file.outside import check_outside, named_locations
from bnfuse.formats.onnx.file.positioned import read_at
from bnfuse.formats.onnx.file.storage import Files
from bnfuse.formats.onnx.file.text import is_text
from bnfuse.formats.onnx.file.wire import skim

_WHOLE_BYTES = 1 << 24
_OPSETS = 1 << 31  # what onnx itself can count to


class ParsedFile(Struct, frozen=True, eq=False):
    """The message, where its tensors lie, and whether all its strings are text.

    ``nodes`` are those of the main graph where the message does not hold them.
    """

    proto: onnx.ModelProto
    files: Files
    is_text: bool
    nodes: StoredNodes | None = None


def parse_file(path: Path, *, outline: bool = False) -> ParsedFile:
    """Open a file as far as needed; ``outline``: of a large graph the nodes may be left out of the message.

    Raises:
        UnreadableModel: missing, empty, truncated or not ONNX; or a part of its external data is missing.
        UnsafeModel: its external data lies outside its folder.
    """
    files, data = _opened(path)
    # Large tensors of the file itself have a location each.
    outside = data.count(b"location") > len(files.slices)
    parts = parted(data) if outline and not outside else None
    text = parts is not None or is_text(data)  # first, as it takes the room of another message
    proto = _message(path, data) if parts is None else _message(path, parts[0], has_nodes=True)
    if proto.ir_version < 0:
        raise UnreadableModel(f"{path} is damaged: its IR version is {proto.ir_version}; export it again")
    for listed in (proto.opset_import, *(function.opset_import for function in proto.functions)):
        _check_opsets(path, [(entry.domain, entry.version) for entry in listed])
    if outside:
        check_outside(proto, files)
    return ParsedFile(proto, files, text, None if parts is None else parts[1])


def external_locations(path: Path) -> tuple[str, ...]:
    """The locations of external data that a model names, whether they lead anywhere or not.

    Raises:
        UnreadableModel: missing, empty, truncated or not ONNX.
    """
    files, data = _opened(path)
    files.close()
    proto = _message(path, data)
    return named_locations(proto) if data.count(b"location") > len(files.slices) else ()


def _opened(path: Path) -> tuple[Files, bytes]:
    """The files of a model, and the bytes to parse."""
    try:
        files = Files(path)
        fd = files.fd(path)
        size = files.size_bytes(path)
        if size < _WHOLE_BYTES:
            data = read_at(fd, size, 0)
        else:
            data, files.slices = skim(path, fd, size)
    except OSError as e:
        raise UnreadableModel(f"{path} cannot be read: {e.strerror}") from e
    return files, data


def _message(path: Path, data: bytes, *, has_nodes: bool = False) -> onnx.ModelProto:
    """What they say; ``has_nodes``: whether there are nodes besides."""
    proto = onnx.ModelProto()
    try:
        proto.ParseFromString(data)
    except DecodeError as e:
        raise UnreadableModel(f"{path} is truncated or not an ONNX model; fetch or export it again") from e
    if not proto.HasField("graph") or not (has_nodes or proto.graph.node or proto.graph.output):
        raise UnreadableModel(f"{path} holds no graph: it is empty or not an ONNX model")
    return proto


def _check_opsets(path: Path, listed: list[tuple[str, int]]) -> None:
    """Of two versions for one domain, readers take the first or the last."""
    versions: dict[str, int] = {}
    for domain, version in listed:
        known = versions.setdefault("" if domain == "ai.onnx" else domain, version)
        if not 0 <= version < _OPSETS or known != version:
            raise UnreadableModel(
                f"{path} is damaged: it asks for operator set {version}"
                f"{f' and {known} at once' if known != version else ', which is none'}; export it again"
            )
