"""A call of a function that is read as the function's nodes, and a call again where those did not change."""

from __future__ import annotations

from collections.abc import Iterable

import onnx
from msgspec import Struct


def digest(nodes: Iterable[onnx.NodeProto]) -> bytes:
    """Of all that nodes say."""
    from hashlib import sha256  # costs a start-up more than most models are worth

    found = sha256()
    for node in nodes:
        said = node.SerializeToString(deterministic=True)
        found.update(b"%d:" % len(said) + said)
    return found.digest()


class InlinedCall(Struct, eq=False):
    """One call.

    Attributes:
        node: the call as it stood, in the names around it.
        stop: position after the last of the function's nodes in its place.
        said: the digest of those nodes, as they were; empty where they do not read all that is given.
    """

    node: onnx.NodeProto
    stop: int = 0
    said: bytes = b""

    def stands(self, nodes: Iterable[onnx.NodeProto]) -> bool:
        """Whether the nodes in its place are what they were."""
        return self.said == digest(nodes)


# By the position of their first node, outermost first where calls begin together.
InlinedCalls = dict[int, list[InlinedCall]]
