"""ONNX networks that take some sizes of their free axes only, each with a BatchNormalization to fold.

``SIZED`` names what each is fed with when nothing is given: the sizes that its weights, constants, declared
shapes or strides ask for. Every net of ``strict`` stops at all other sizes that bnfuse would try.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from tests.tiny_models import model

Axes = list[int | str | None]
FLOAT, INT64 = TensorProto.FLOAT, TensorProto.INT64


@dataclass
class Net:
    """Nodes one after the other; ``now`` is the value that the last one wrote."""

    now: str = "x"
    nodes: list[onnx.NodeProto] = field(default_factory=list)
    held: list[onnx.TensorProto] = field(default_factory=list)
    rng: np.random.Generator = field(default_factory=lambda: np.random.default_rng(3))

    def hold(self, values: Any, kind: str) -> str:
        """A constant."""
        name = f"k{len(self.held)}"
        self.held.append(numpy_helper.from_array(np.asarray(values, kind), name))
        return name

    def ints(self, *values: int) -> str:
        """A row of integers."""
        return self.hold(values, "int64")

    def weight(self, *shape: int) -> str:
        """Random weights, scaled to keep sizes of values."""
        return self.hold(self.rng.standard_normal(shape) / np.sqrt(np.prod(shape[1:])), "float32")

    def add(self, op: str, *more: str, into: str | None = None, first: bool = True, **settings: Any) -> Net:
        """A node that reads ``now`` and constants."""
        written = into or f"v{len(self.nodes)}"
        inputs = [self.now, *more] if first else list(more)
        self.nodes.append(helper.make_node(op, inputs, [written], name=f"{op}_{written}", **settings))
        self.now = written
        return self

    def conv(self, out: int, into: int, kernel: Sequence[int] = (3, 3), **settings: Any) -> Net:
        """Zero-padded to keep sizes, unless told."""
        settings.setdefault("pads", [k // 2 for k in kernel] * 2)
        return self.add("Conv", self.weight(out, into, *kernel), **settings)

    def norm(self, channels: int) -> Net:
        """A BatchNormalization of mixed signs."""
        signs = self.rng.choice((-1.0, 1.0), channels)
        rows = (
            signs * self.rng.uniform(0.5, 1.5, channels),
            *self.rng.standard_normal((2, channels)),
            self.rng.uniform(0.3, 2.0, channels),
        )
        return self.add("BatchNormalization", *(self.hold(row, "float32") for row in rows))

    def done(
        self,
        shape: Axes | None,
        out: Axes | None = None,
        *,
        kind: int = FLOAT,
        inner: dict[str, Axes] | None = None,
        opset: int = 17,
    ) -> onnx.ModelProto:
        """The model, with the input "x" and the output "y"."""
        self.add("Identity", into="y")
        made = model(
            self.nodes,
            [helper.make_tensor_value_info("x", kind, shape)],
            [helper.make_tensor_value_info("y", FLOAT, out)],
            self.held,
            opset=opset,
        )
        for name, axes in (inner or {}).items():
            made.graph.value_info.append(helper.make_tensor_value_info(name, FLOAT, axes))
        return made


def free(height: str | None = "h", width: str | None = "w", channels: int = 3) -> Axes:
    """A batch of images of open size."""
    return ["N", channels, height, width]


def fully_convolutional() -> onnx.ModelProto:
    return Net().conv(4, 3, strides=[2, 2]).norm(4).add("GlobalAveragePool").done(free())


def flat_gemm(height: int = 10, width: int = 10) -> Net:
    net = Net().conv(4, 3, strides=[2, 2]).norm(4).add("Flatten")
    return net.add("Gemm", net.weight(4 * height * width, 5))


def reshaped(*target: int) -> onnx.ModelProto:
    net = Net().conv(4, 3, strides=[2, 2]).norm(4)
    net.add("Reshape", net.ints(*target))
    return net.add("MatMul", net.weight(4 * 9 * 9, 5)).done(free())


def computed_reshape() -> onnx.ModelProto:
    """``x.view(x.size(0), -1)`` as exporters write it: Shape, Gather, Concat, Reshape."""
    net = Net().conv(4, 3).norm(4)
    image = net.now
    net.add("Shape").add("Gather", net.ints(0)).add("Concat", net.ints(-1), axis=0)
    net.add("Reshape", image, net.now, first=False)
    return net.add("Gemm", net.weight(4 * 33 * 33, 5)).done(free())


def unet(levels: int, *, scales: bool = True) -> onnx.ModelProto:
    """Each level halves; what comes back up is joined to what went down."""
    net, skips = Net().conv(4, 3).norm(4), []
    for _ in range(levels):
        skips.append(net.now)
        net.add("MaxPool", kernel_shape=[2, 2], strides=[2, 2]).conv(4, 4).norm(4).add("Relu")
    for skip in reversed(skips):
        if scales:
            net.add("Resize", "", net.hold([1, 1, 2, 2], "float32"))
        else:
            net.add("ConvTranspose", net.weight(4, 4, 2, 2), strides=[2, 2])
        net.add("Concat", skip, axis=1).conv(4, 8)
    return net.done(free())


def strided_by_thirds() -> onnx.ModelProto:
    """Three poolings by 3 and back up: multiples of 27."""
    net = Net().conv(4, 3).norm(4)
    full = net.now
    for _ in range(3):
        net.add("AveragePool", kernel_shape=[3, 3], strides=[3, 3])
    return net.add("Resize", "", net.hold([1, 1, 27, 27], "float32")).add("Add", full).done(free())


def resized_back(size: int) -> onnx.ModelProto:
    """A head that is resized to the size which the input had at export."""
    net = Net().conv(4, 3, strides=[2, 2]).norm(4).conv(2, 4, strides=[2, 2])
    return net.add("Resize", "", "", net.ints(1, 2, size, size)).done(free())


def declared_inside() -> onnx.ModelProto:
    """The exporter recorded what a value in between had."""
    net = Net().conv(4, 3, strides=[4, 4])
    seen = net.now
    return net.norm(4).done(free(None, None), inner={seen: ["N", 4, 120, 160]})


def declared_output() -> onnx.ModelProto:
    return Net().conv(4, 3, strides=[32, 32]).norm(4).done(free(), ["N", 4, 20, 20])


def space_to_depth() -> onnx.ModelProto:
    return Net().add("SpaceToDepth", blocksize=96).conv(4, 3 * 96 * 96, (1, 1)).norm(4).done(free())


def open_channels() -> onnx.ModelProto:
    return Net().conv(4, 5).norm(4).add("GlobalMaxPool").done(["N", "c", "h", "w"])


def recurrent() -> onnx.ModelProto:
    net = Net()
    return net.add("LSTM", net.weight(1, 32, 12), net.weight(1, 32, 8), hidden_size=8).done(["t", "N", "f"])


def tokens() -> onnx.ModelProto:
    """Positions for 77 tokens, cut to as many as there are."""
    net = Net()
    net.add("Shape").add("Gather", net.ints(1))
    net.add("Slice", net.hold(net.rng.standard_normal((1, 40, 6)), "float32"), net.ints(0), net.now,
            net.ints(1), first=False)  # fmt: skip
    places = net.now
    net.add("Gather", net.weight(50, 6), "x", first=False).add("Add", places)
    return net.add("MatMul", net.weight(6, 4)).done(["N", "s"], kind=INT64)


def spectrogram() -> onnx.ModelProto:
    net = Net().conv(4, 1, strides=[2, 2]).norm(4).add("Transpose", perm=[0, 3, 1, 2])
    net.add("Reshape", net.ints(0, 0, -1))
    return net.add("MatMul", net.weight(4 * 20, 6)).done(["N", 1, 40, "t"])


def waveform() -> onnx.ModelProto:
    """Without padding: as many samples as its windows need, at the least."""
    net = Net().conv(4, 1, (400,), strides=[160], pads=[0, 0]).norm(4).conv(4, 4, (3,), pads=[0, 0])
    return net.done(["N", 1, "t"])


def volume() -> onnx.ModelProto:
    return Net().conv(2, 1, (3, 3, 3)).norm(2).done(["N", 1, "d", "h", "w"])


Made = Callable[[], onnx.ModelProto]
# name, model, shape behind the batch, the same where it stops at every other usual size
SIZED: list[tuple[str, Made, tuple[int, ...], bool]] = [
    ("fully convolutional", fully_convolutional, (3, 224, 224), False),
    ("Flatten → Gemm", lambda: flat_gemm().done(free()), (3, 20, 20), True),
    ("Flatten → Gemm, not square", lambda: flat_gemm(7, 5).done(free()), (3, 10, 13), True),
    ("Flatten → Gemm, one symbol", lambda: flat_gemm().done(free("s", "s")), (3, 20, 20), True),
    ("Flatten → Gemm, no shape", lambda: flat_gemm().done(None), (3, 20, 20), True),
    ("Reshape to rows", lambda: reshaped(0, -1), (3, 18, 18), True),
    ("Reshape by a constant", lambda: reshaped(-1, 4 * 9 * 9), (3, 18, 18), True),
    ("Reshape by a computed shape", computed_reshape, (3, 33, 33), True),
    ("U-Net of 3", lambda: unet(3), (3, 224, 224), False),
    ("U-Net of 6", lambda: unet(6), (3, 256, 256), False),
    ("U-Net of 6, ConvTranspose", lambda: unet(6, scales=False), (3, 256, 256), False),
    ("strides of 3", strided_by_thirds, (3, 216, 216), True),
    ("Resize to a constant", lambda: resized_back(513), (3, 513, 513), False),
    ("declared in between", declared_inside, (3, 480, 640), False),
    ("declared output", declared_output, (3, 640, 640), False),
    ("SpaceToDepth", space_to_depth, (3, 192, 192), True),
    ("open channels", open_channels, (5, 224, 224), True),
    ("recurrent", recurrent, (64, 12), True),
    ("tokens", tokens, (32,), False),
    ("spectrogram", spectrogram, (1, 40, 224), False),
    ("waveform", waveform, (1, 720), True),
    ("volume", volume, (1, 32, 32, 32), False),
]
