"""What ``diff`` costs: time in proportion to the nodes, and memory that does not grow with the weights."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from bnfuse.use_cases.diff import diff
from tests.command import ROOT
from tests.diff_nets import value


def chain(count: int, norm: bool) -> onnx.ModelProto:
    """Conv, BatchNormalization (or none) and Relu in turn, names as an exporter gives them."""
    rng = np.random.default_rng(0)
    nodes, tensors, last = [], [], "x"
    for i in range(count // 3):
        arrays = {"w": rng.standard_normal((4, 4, 1, 1)), "b": rng.standard_normal(4)}
        parameters = {k: rng.uniform(0.5, 2, 4) for k in ("s", "o", "m", "v")} if norm else {}
        for key, values in (arrays | parameters).items():
            tensors.append(numpy_helper.from_array(values.astype(np.float32), f"{i}.{key}"))
        nodes.append(helper.make_node("Conv", [last, f"{i}.w", f"{i}.b"], [f"c{i}"], name=f"conv{i}"))
        last = f"c{i}"
        if norm:
            read = [last, *(f"{i}.{key}" for key in parameters)]
            nodes.append(helper.make_node("BatchNormalization", read, [f"n{i}"], name=f"bn{i}"))
            last = f"n{i}"
        nodes.append(helper.make_node("Relu", [last], [f"r{i}"], name=f"relu{i}"))
        last = f"r{i}"
    nodes.append(helper.make_node("Identity", [last], ["y"], name="end"))
    axes = ("N", 4, 3, 3)
    return helper.make_model(helper.make_graph(nodes, "g", [value("x", axes)], [value("y", axes)], tensors))


@pytest.mark.slow
@pytest.mark.parametrize("named", [True, False])
def test_a_large_graph_takes_seconds(named: bool, tmp_path: Path) -> None:
    """Time in proportion to the number of nodes, whatever they are called."""
    seconds = []
    for count in (750, 6_000):
        before, after = chain(count, norm=True), chain(count, norm=False)
        if not named:
            for i, node in enumerate(after.graph.node):
                node.name = ""
                node.output[:] = ["y" if n == "y" else f"v{i}" for n in node.output]
                node.input[:] = [f"v{i - 1}" if n[0] in "cr" else n for n in node.input]
        paths = tmp_path / "a.onnx", tmp_path / "b.onnx"
        for path, proto in zip(paths, (before, after), strict=True):
            path.write_bytes(proto.SerializeToString())
        started = time.process_time()
        found = diff(*paths)
        seconds.append(time.process_time() - started)
        assert len(found.nodes_removed) == count // 3 and not found.nodes_added
        assert found.nodes_same == 2 * (count // 3) + 1
        assert not found.nodes_changed
    assert seconds[1] < 2 and seconds[1] < 24 * max(seconds[0], 0.025)


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="Linux tells the peak of one process")
def test_memory_does_not_grow_with_the_weights(tmp_path: Path) -> None:
    """Weights of 80 MB in each model, half of them changed throughout."""
    paths = []
    for number in range(2):
        array = np.tile(np.arange(1000, dtype=np.float32), 20_000).reshape(2, -1)
        array[1] += np.float32(number)
        weights = [numpy_helper.from_array(row.reshape(1000, -1), f"w{i}") for i, row in enumerate(array)]
        nodes = [helper.make_node("MatMul", ["x", f"w{i}"], [f"y{i}"]) for i in range(2)]
        outputs = [value("y0", ("N", 10_000)), value("y1", ("N", 10_000))]
        graph = helper.make_graph(nodes, "g", [value("x", ("N", 1000))], outputs, weights)
        paths.append(tmp_path / f"{number}.onnx")
        paths[-1].write_bytes(helper.make_model(graph).SerializeToString())
    script = (
        "import sys\nfrom bnfuse.use_cases.diff import diff\nfound = diff(*sys.argv[1:])\n"
        "print(found.weights_same, len(found.weights_changed), found.weights_changed[0].figures.changed)\n"
        "print(open('/proc/self/status').read().split('VmHWM:')[1].split()[0])"
    )
    line = [sys.executable, "-c", script, *map(str, paths)]
    done = subprocess.run(line, capture_output=True, text=True, check=True, cwd=ROOT)
    figures, peak_kib = done.stdout.splitlines()
    assert figures == "1 1 10000000"
    assert int(peak_kib) < 100 * 1024  # of which half is Python, numpy and onnx
