"""One defect at a time, planted into ONNX and Keras models: does the proof say "different"?"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from msgspec.structs import replace
from onnx import helper

from benchmarks.proof_cases import KINDS, Table, Tally, dense, looking_inside
from bnfuse.results import Agreement, Status
from bnfuse.use_cases.verify import VerifyRequest, verify
from tests.planted import DEFECTS, Pair, border, keras_net, overflow, spoiled
from tests.tiny_models import Layer, layer, net, save


def places(depth: int) -> list[int]:
    """The first, a middle and the last layer."""
    return sorted({0, depth // 2, depth - 1})


def plant_all(
    table: Table,
    label: str,
    write: Callable[[list[Layer], bool, str], Path],
    depths: Sequence[int],
    seeds: Sequence[int],
    usual: VerifyRequest,
) -> None:
    """Every defect at every place; ``write(layers, folded, name)`` saves a network."""
    for kind, make in KINDS.items():
        for depth in depths:
            for seed in seeds:
                layers = make(seed, depth)
                rng = np.random.default_rng((seed, depth))
                before, honest = write(layers, False, "before"), write(layers, True, "honest")
                request = looking_inside(before, usual)
                for at in places(depth):
                    for name, plant in DEFECTS.items():
                        channel = int(rng.integers(layers[at].gamma.size))
                        after = write(spoiled(layers, at, plant, channel), True, "after")
                        found = verify(before, after, request=request)
                        outcome = "caught" if found.status is Status.DIFFERENT else "missed"
                        if outcome == "missed":
                            effect = largest(verify(honest, after, request=replace(request, inside=None)))
                            outcome = "too small" if "float16" in label else outcome
                            outcome = outcome if effect else "no effect"
                        tally = table.setdefault(f"{name} | {label}", Tally())
                        tally.add(outcome, found)
                        if outcome == "missed":
                            where = f"{kind}, {depth} layers, seed {seed}, layer {at}"
                            tally.wrong.append(f"{where}: {effect:.1e}")


def largest(found: Agreement) -> float:
    """The largest difference of all outputs, relative to their range."""
    return max(output.max_rel for output in found.outputs)


def once(table: Table, name: str, before: Path, after: Path, request: VerifyRequest) -> None:
    """One defect of the whole model."""
    found = verify(before, after, request=looking_inside(before, request))
    tally = table.setdefault(name, Tally())
    tally.add("caught" if found.status is Status.DIFFERENT else "missed", found)
    if found.status is not Status.DIFFERENT:
        tally.wrong.append(found.detail)


def retyped(proto: onnx.ModelProto, output: str, dtype: int) -> onnx.ModelProto:
    """The same model whose output is cast to another type."""
    copy = onnx.ModelProto()
    copy.CopyFrom(proto)
    copy.graph.node[-1].output[0] = "uncast"
    copy.graph.node.append(helper.make_node("Cast", ["uncast"], [output], to=dtype))
    copy.graph.output[0].type.tensor_type.elem_type = dtype
    return copy


def planted_onnx(folder: Path, seeds: Sequence[int]) -> Table:
    """All defects in ONNX models."""
    table: Table = {}
    request = VerifyRequest()
    for dtype in ("float32", "float16"):

        def write(layers: list[Layer], folded: bool, name: str, dtype: str = dtype) -> Path:
            return save(net(layers, folded=folded, dtype=dtype), folder / f"{name}.onnx")

        plant_all(table, f"ONNX {dtype}", write, (1, 3, 8, 20), seeds, request)
    for seed in range(10):
        pairs = {
            "shift through zero padding (borders)": border(seed=seed),
            "overflow in float16": overflow(seed),
            "output renamed": Pair(
                net(dense(seed, 3), folded=False), net(dense(seed, 3), folded=True, output="z")
            ),
            "output of another type": Pair(
                net(dense(seed, 3), folded=False),
                retyped(net(dense(seed, 3), folded=True), "y", onnx.TensorProto.DOUBLE),
            ),
        }
        for name, pair in pairs.items():
            before, after = save(pair.before, folder / "a.onnx"), save(pair.after, folder / "b.onnx")
            once(table, f"{name} | ONNX", before, after, request)
    return table


def planted_keras(folder: Path, keras: Any, seeds: Sequence[int]) -> Table:
    """All defects in Keras models, but those of ONNX alone."""
    table: Table = {}
    request = VerifyRequest(verify_time=6.0, samples=4)

    def write(layers: list[Layer], folded: bool, name: str, **changes: Any) -> Path:
        path = folder / f"{name}.keras"
        keras_net(keras, layers, folded=folded, **changes).save(path)
        keras.utils.clear_session(free_memory=False)
        return path

    plant_all(table, "Keras", lambda a, b, c: write(a, b, c), (3, 8), seeds, request)
    layers = dense(0, 3)
    before = write(layers, False, "before")
    once(table, "output renamed | Keras", before, write(layers, True, "after", output="other"), request)
    half = write(layers, True, "after", dtype="float16")
    once(table, "output of another type | Keras", before, half, request)
    huge = layer(np.random.default_rng(0), 16, 5)
    before = write([huge], False, "before", dtype="float16")
    huge.gamma[3] = 1e9
    with np.errstate(over="ignore"):
        once(
            table,
            "overflow in float16 | Keras",
            before,
            write([huge], True, "after", dtype="float16"),
            request,
        )
    return table
