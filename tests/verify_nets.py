"""Trained-looking networks of two kinds, and two models compared by ``verify``."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from bnfuse.core.apply import Patch
from bnfuse.formats.base import Written
from bnfuse.formats.onnx.model import OnnxModel
from bnfuse.results import Agreement
from bnfuse.use_cases.verify import VerifyRequest, verify
from tests.runtime_here import load_here
from tests.tiny_models import Layer, layer, save


def convnet(seed: int = 0, depth: int = 3) -> list[Layer]:
    rng = np.random.default_rng(seed)
    return [layer(rng, 8, 3 if i == 0 else 8, 3, 3) for i in range(depth)]


def mlp(seed: int = 0, depth: int = 3) -> list[Layer]:
    rng = np.random.default_rng(seed)
    return [layer(rng, 16, 5 if i == 0 else 16) for i in range(depth)]


def compare(tmp_path: Path, a: onnx.ModelProto, b: onnx.ModelProto, **request: Any) -> Agreement:
    paths = save(a, tmp_path / "a.onnx"), save(b, tmp_path / "b.onnx")
    return verify(*paths, request=VerifyRequest(**request), load=load_here)


def named(proto: onnx.ModelProto) -> onnx.ModelProto:
    """The same network with its nodes named: ``bn0``, ``bn1``, …, ``linear0``, …"""
    kinds = {"BatchNormalization": "bn", "Conv": "linear", "Gemm": "linear"}
    count = dict.fromkeys(("bn", "linear"), 0)
    for node in proto.graph.node:
        kind = kinds.get(node.op_type)
        if kind is not None:
            node.name = f"{kind}{count[kind]}"
            count[kind] += 1
    return proto


def spoil_writes(monkeypatch: pytest.MonkeyPatch, defects: Mapping[str, str], change: float = 0.1) -> None:
    """A writer that spoils a linear layer's bias (its last input) whenever a BN goes: BN → layer."""
    write = OnnxModel.write

    def spoiling(self: OnnxModel, patch: Patch, path: Path) -> Written:
        gone = {node.name for node in patch.removed}
        written = write(self, patch, path)
        proto = onnx.load(path)
        for bn, layer_name in defects.items():
            if bn not in gone:
                continue
            (node,) = [n for n in proto.graph.node if n.name == layer_name]
            (bias,) = [t for t in proto.graph.initializer if t.name == node.input[2]]
            values = numpy_helper.to_array(bias).copy()
            values += change  # all channels: a Relu may cut off any one of them
            bias.CopyFrom(numpy_helper.from_array(values, bias.name))
        onnx.save(proto, path)
        return written

    monkeypatch.setattr(OnnxModel, "write", spoiling)
