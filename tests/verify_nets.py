"""Trained-looking networks of two kinds, and two models compared by ``verify``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx

from bnfuse.formats.onnx.run import load
from bnfuse.results import Agreement
from bnfuse.verify import VerifyRequest, verify
from tests.tiny_models import Layer, layer, save


def convnet(seed: int = 0, depth: int = 3) -> list[Layer]:
    rng = np.random.default_rng(seed)
    return [layer(rng, 8, 3 if i == 0 else 8, 3, 3) for i in range(depth)]


def mlp(seed: int = 0, depth: int = 3) -> list[Layer]:
    rng = np.random.default_rng(seed)
    return [layer(rng, 16, 5 if i == 0 else 16) for i in range(depth)]


def compare(tmp_path: Path, a: onnx.ModelProto, b: onnx.ModelProto, **request: Any) -> Agreement:
    paths = save(a, tmp_path / "a.onnx"), save(b, tmp_path / "b.onnx")
    return verify(*paths, request=VerifyRequest(**request), load=load)
