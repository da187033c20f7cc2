"""Makes the models that ``optimizer_cost`` measures: real shapes, random weights, non-trivial statistics.

======== ========= ==================================================================== ===============
name     size      what it is                                                           folding touches
======== ========= ==================================================================== ===============
resnet50 102 MB    ResNet-50, one file: 53 Conv→BN, 16 residual Adds                    92 % of the bytes
hybrid   1.47 GB   one file: ResNet-50 stem, 10 transformer MLP blocks (width 2048),    8 %
                   a Gemm→BN head
external 6.07 GB   the same with 11 blocks of width 4096, all weights in one side file  2 %
touched  1.47 GB   one file: 22 × (Gemm→BN→Relu) of width 4096: the worst case, where   100 %
                   nearly every byte changes
chain-N  N nodes   10-node residual blocks of Conv/BN/Relu/Add with 4 channels          all convolutions
======== ========= ==================================================================== ===============

Files are written as a stream, tensor by tensor in chunks, so that making 6 GB takes tens of megabytes of
memory. ``python -m benchmarks.cost_models NAME FOLDER`` makes one; a model that is already there is kept.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from math import prod, sqrt
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import onnx
from onnx import TensorProto, helper

CHUNK_ITEMS = 1 << 20
ALIGNMENT = 4096
EXTERNAL_FROM_BYTES = 1024
STAGES = (
    (64, 256, 3, 1),
    (128, 512, 4, 2),
    (256, 1024, 6, 2),
    (512, 2048, 3, 2),
)  # inner, outer, blocks, stride


@dataclass(frozen=True, slots=True)
class Tensor:
    """A float32 tensor to come: values are uniform in ±[low, high], or in [low, high] unless ``signed``."""

    name: str
    shape: tuple[int, ...]
    low: float
    high: float
    signed: bool = True

    @property
    def size_bytes(self) -> int:
        """Size of the raw data."""
        return 4 * prod(self.shape)

    def chunks(self, seed: int) -> Iterator[bytes]:
        """The raw data, the same for the same seed."""
        random = np.random.default_rng(seed)
        left = prod(self.shape)
        while left:
            u = random.random(min(left, CHUNK_ITEMS), dtype=np.float32)
            values = self.low + (self.high - self.low) * u
            if self.signed:
                values *= np.where(
                    random.integers(0, 2, len(u), dtype=np.int8), np.float32(1), np.float32(-1)
                )
            yield values.astype("<f4").tobytes()
            left -= len(u)


@dataclass(slots=True)
class Sketch:
    """A model without its data: nodes, tensors to come, and the few literal constants."""

    nodes: list[onnx.NodeProto] = field(default_factory=list)
    tensors: list[Tensor] = field(default_factory=list)
    literals: list[onnx.TensorProto] = field(default_factory=list)
    inputs: list[onnx.ValueInfoProto] = field(default_factory=list)
    outputs: list[onnx.ValueInfoProto] = field(default_factory=list)

    def node(self, op: str, *inputs: str, **attributes: Any) -> str:
        """Append a node with one output and return its name."""
        name = f"{op.lower()}_{len(self.nodes)}"
        self.nodes.append(helper.make_node(op, list(inputs), [f"{name}:0"], name=name, **attributes))
        return f"{name}:0"

    def tensor(
        self, name: str, shape: tuple[int, ...], low: float, high: float, *, signed: bool = True
    ) -> str:
        """Append a tensor to come and return its name."""
        self.tensors.append(Tensor(name, shape, low, high, signed))
        return name

    def weight(self, name: str, shape: tuple[int, ...], fan_in: int) -> str:
        """A weight of the variance that He initialisation gives."""
        return self.tensor(name, shape, 0.0, sqrt(6 / fan_in))

    def batchnorm(self, x: str, channels: int) -> str:
        """A BN with scales of both signs and statistics far from the identity."""
        name = f"batchnormalization_{len(self.nodes)}"
        parameters = (
            self.tensor(f"{name}.scale", (channels,), 0.5, 1.5),
            self.tensor(f"{name}.bias", (channels,), 0.0, 1.0),
            self.tensor(f"{name}.mean", (channels,), 0.0, 1.0),
            self.tensor(f"{name}.var", (channels,), 0.1, 3.0, signed=False),
        )
        return self.node("BatchNormalization", x, *parameters, epsilon=1e-5)

    def conv_bn(self, x: str, cin: int, cout: int, kernel: int, stride: int = 1) -> str:
        """Conv→BN without a bias, padded to keep the size."""
        weight = self.weight(f"conv_{len(self.nodes)}.weight", (cout, cin, kernel, kernel), cin * kernel**2)
        pads, strides, shape = [kernel // 2] * 4, [stride] * 2, [kernel] * 2
        y = self.node("Conv", x, weight, kernel_shape=shape, pads=pads, strides=strides)
        return self.batchnorm(y, cout)

    def gemm(self, x: str, cin: int, cout: int) -> str:
        """A Gemm with a bias, the weight stored (out, in)."""
        name = f"gemm_{len(self.nodes)}"
        bias = self.tensor(f"{name}.bias", (cout,), 0.0, 0.1)
        return self.node("Gemm", x, self.weight(f"{name}.weight", (cout, cin), cin), bias, transB=1)

    def matmul(self, x: str, cin: int, cout: int) -> str:
        """A MatMul, the weight stored (in, out)."""
        return self.node("MatMul", x, self.weight(f"matmul_{len(self.nodes)}.weight", (cin, cout), cin))


def resnet50_body(sketch: Sketch, x: str) -> str:
    """(N, 3, 224, 224) to (N, 2048, 7, 7): 53 Conv→BN as in He et al., 2015, stride in the 3×3."""
    x = sketch.node("Relu", sketch.conv_bn(x, 3, 64, 7, 2))
    x = sketch.node("MaxPool", x, kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1])
    width = 64
    for inner, outer, blocks, first_stride in STAGES:
        for block in range(blocks):
            stride = first_stride if block == 0 else 1
            y = sketch.node("Relu", sketch.conv_bn(x, width, inner, 1))
            y = sketch.node("Relu", sketch.conv_bn(y, inner, inner, 3, stride))
            y = sketch.conv_bn(y, inner, outer, 1)
            shortcut = sketch.conv_bn(x, width, outer, 1, stride) if block == 0 else x
            x = sketch.node("Relu", sketch.node("Add", y, shortcut))
            width = outer
    return x


def image_model(sketch: Sketch, logits: str) -> Sketch:
    """Close a model of (N, 3, 224, 224) images."""
    sketch.inputs = [helper.make_tensor_value_info("image", TensorProto.FLOAT, ["N", 3, 224, 224])]
    return closed(sketch, logits, 1000)


def closed(sketch: Sketch, logits: str, classes: int) -> Sketch:
    """Name the output ``logits`` (N, classes)."""
    assert sketch.nodes[-1].output[0] == logits
    sketch.nodes[-1].output[0] = "logits"
    sketch.outputs = [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["N", classes])]
    return sketch


def resnet50() -> Sketch:
    """ResNet-50."""
    sketch = Sketch()
    x = sketch.node("Flatten", sketch.node("GlobalAveragePool", resnet50_body(sketch, "image")))
    return image_model(sketch, sketch.gemm(x, 2048, 1000))


def mlp_block(sketch: Sketch, x: str, width: int) -> str:
    """One transformer feed-forward block on tokens (N, T, width): LayerNorm, ×4, Relu, back, Add."""
    name = f"layernorm_{len(sketch.nodes)}"
    scale = sketch.tensor(f"{name}.scale", (width,), 0.5, 1.5)
    bias = sketch.tensor(f"{name}.bias", (width,), 0.0, 0.1)
    y = sketch.node("LayerNormalization", x, scale, bias, axis=-1)
    y = sketch.node("Relu", sketch.matmul(y, width, 4 * width))
    return sketch.node("Add", x, sketch.matmul(y, 4 * width, width))


def hybrid(width: int, blocks: int) -> Sketch:
    """A convolutional stem, a transformer-like body on its 49 tokens, and a Gemm→BN→Relu→Gemm head."""
    sketch = Sketch()
    sketch.literals.append(helper.make_tensor("token_shape", TensorProto.INT64, [3], [0, 2048, 49]))
    x = sketch.node("Reshape", resnet50_body(sketch, "image"), "token_shape")
    x = sketch.matmul(sketch.node("Transpose", x, perm=[0, 2, 1]), 2048, width)
    for _ in range(blocks):
        x = mlp_block(sketch, x, width)
    x = sketch.node("ReduceMean", x, axes=[1], keepdims=0)
    x = sketch.node("Relu", sketch.batchnorm(sketch.gemm(x, width, 2048), 2048))
    return image_model(sketch, sketch.gemm(x, 2048, 1000))


def touched() -> Sketch:
    """A perceptron in which every layer but the last is folded into."""
    sketch, width = Sketch(), 4096
    sketch.inputs = [helper.make_tensor_value_info("features", TensorProto.FLOAT, ["N", width])]
    x = "features"
    for _ in range(22):
        x = sketch.node("Relu", sketch.batchnorm(sketch.gemm(x, width, width), width))
    return closed(sketch, sketch.gemm(x, width, 10), 10)


def chain(nodes: int) -> Sketch:
    """``nodes`` nodes in residual blocks of ten: (Conv→BN→Relu)×2, Conv→BN, Add, Relu."""
    sketch, width = Sketch(), 4
    sketch.inputs = [helper.make_tensor_value_info("image", TensorProto.FLOAT, ["N", width, 16, 16])]
    x = "image"
    while len(sketch.nodes) < nodes - 10:
        y = sketch.node("Relu", sketch.conv_bn(x, width, width, 3))
        y = sketch.node("Relu", sketch.conv_bn(y, width, width, 3))
        x = sketch.node("Relu", sketch.node("Add", x, sketch.conv_bn(y, width, width, 3)))
    x = sketch.node("Flatten", sketch.node("GlobalAveragePool", x))
    return closed(sketch, sketch.gemm(x, width, 10), 10)


def sketch_of(name: str) -> Sketch:
    """The model called ``name`` in the module's table; raises ``KeyError`` for any other."""
    if name.startswith("chain-"):
        return chain(int(name.removeprefix("chain-")))
    makers = {
        "resnet50": resnet50,
        "hybrid": lambda: hybrid(2048, 10),
        "external": lambda: hybrid(4096, 11),
        "touched": touched,
    }
    return makers[name]()


def varint(value: int) -> bytes:
    """A protobuf varint."""
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*out, value])


def length_delimited(number: int, size: int) -> bytes:
    """Tag and length of a length-delimited protobuf field; ``size`` bytes of content follow it."""
    return varint(number << 3 | 2) + varint(size)


def raw_header(tensor: Tensor) -> bytes:
    """A TensorProto up to and without the content of its ``raw_data`` (field 9)."""
    head = TensorProto(name=tensor.name, data_type=TensorProto.FLOAT, dims=tensor.shape)
    return bytes(head.SerializeToString()) + length_delimited(9, tensor.size_bytes)


def write_chunks(file: BinaryIO, index: int, tensor: Tensor) -> None:
    """Append the tensor's data."""
    for chunk in tensor.chunks(seed=index):
        file.write(chunk)


def write_single(sketch: Sketch, path: Path) -> None:
    """One file. Fields come in the order that onnx's own serialisation gives them."""
    front = onnx.GraphProto(name="cost", node=sketch.nodes, initializer=sketch.literals).SerializeToString()
    back = onnx.GraphProto(input=sketch.inputs, output=sketch.outputs).SerializeToString()
    heads = [raw_header(tensor) for tensor in sketch.tensors]
    sizes = [len(head) + tensor.size_bytes for head, tensor in zip(heads, sketch.tensors, strict=True)]
    graph = len(front) + len(back) + sum(len(length_delimited(5, size)) + size for size in sizes)
    opsets = [helper.make_opsetid("", 17)]
    with path.open("wb") as file:
        file.write(onnx.ModelProto(ir_version=8, producer_name="optimizer_cost").SerializeToString())
        file.write(length_delimited(7, graph) + front)
        for index, (head, size) in enumerate(zip(heads, sizes, strict=True)):
            file.write(length_delimited(5, size) + head)
            write_chunks(file, index, sketch.tensors[index])
        file.write(back + onnx.ModelProto(opset_import=opsets).SerializeToString())


def external_tensor(tensor: Tensor, location: str, offset: int) -> onnx.TensorProto:
    """A TensorProto whose data lies in the side file."""
    proto = TensorProto(name=tensor.name, data_type=TensorProto.FLOAT, dims=tensor.shape)
    proto.data_location = TensorProto.EXTERNAL
    for key, value in (("location", location), ("offset", offset), ("length", tensor.size_bytes)):
        proto.external_data.add(key=key, value=str(value))
    return proto


def write_external(sketch: Sketch, path: Path) -> None:
    """The graph in ``path``, tensors of 1 KiB and more aligned in ``path.data``."""
    initializers = list(sketch.literals)
    side = path.with_name(path.name + ".data")
    with side.open("wb") as file:
        for index, tensor in enumerate(sketch.tensors):
            if tensor.size_bytes < EXTERNAL_FROM_BYTES:
                data = b"".join(tensor.chunks(seed=index))
                initializers.append(
                    helper.make_tensor(tensor.name, TensorProto.FLOAT, tensor.shape, data, raw=True)
                )
                continue
            file.write(b"\0" * (-file.tell() % ALIGNMENT))
            initializers.append(external_tensor(tensor, side.name, file.tell()))
            write_chunks(file, index, tensor)
    graph = helper.make_graph(sketch.nodes, "cost", sketch.inputs, sketch.outputs, initializers)
    opsets = [helper.make_opsetid("", 17)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=8, producer_name="optimizer_cost")
    path.write_bytes(model.SerializeToString())


def make(name: str, folder: Path) -> Path:
    """Write the model unless it is there; a half-written one never carries the final name."""
    target = folder / name / f"{name}.onnx"
    if target.exists():
        return target
    target.parent.mkdir(parents=True, exist_ok=True)
    if name == "external":
        write_external(sketch_of(name), target)
    else:
        partial = target.with_suffix(".partial")
        write_single(sketch_of(name), partial)
        partial.rename(target)
    return target


if __name__ == "__main__":
    print(make(sys.argv[1], Path(sys.argv[2])))
