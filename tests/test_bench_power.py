"""The experiment on ``bench``'s power: what it plants is what it says, and its table counts right."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks.bench_power import EXPERIMENTS, network, one_run, report
from bnfuse.formats.base import RunSettings
from bnfuse.formats.onnx.runtime.run import load


@pytest.mark.parametrize(("kind", "more"), [("A/A", 1.0), ("5 %", 1.05), ("2 %", 1.02)])
def test_the_planted_network_does_exactly_as_much_more(tmp_path: Path, kind: str, more: float) -> None:
    size = (4, 6, 5)
    layers, others, _ = EXPERIMENTS[kind]
    plain, planted = network(layers, size), network(others, size)
    work = [sum(node.op_type == "Conv" for node in model.graph.node) for model in (plain, planted)]
    assert work == [layers, others] and work[1] / work[0] == pytest.approx(more)
    shapes = {tuple(weight.dims) for model in (plain, planted) for weight in model.graph.initializer}
    assert shapes == {(4, 4, 3, 3)}  # every layer costs the same
    (tmp_path / "b.onnx").write_bytes(planted.SerializeToString())
    with load(tmp_path / "b.onnx", RunSettings()) as runner:
        (found,) = runner.run({"x0": np.ones((1, *size), np.float32)}).values()
    assert found.shape == (1, *size)


def run(verdict: str, speedup: float) -> dict[str, Any]:
    ends = [0.99 * speedup, 1.01 * speedup]
    told = {"setting": "optimisation on", "verdict": verdict, "speedup": speedup, "ci95": ends, "p50": 2.0}
    return told | {"rounds": 40}


def test_the_table_counts_right_and_wrong(capsys: pytest.CaptureFixture[str]) -> None:
    same, slower = "no significant change", "slower"
    found = {
        ("A/A", 2): [
            {"runs": [run(verdict, 1.0)], "seconds": 9.0, "load": 3.0} for verdict in [same] * 3 + [slower]
        ],
        ("5 %", 2): [
            {"runs": [run(verdict, 0.95)], "seconds": 9.0, "load": 3.0} for verdict in [slower, slower, same]
        ],
    }
    report(found, "small")
    _, _, equal, planted = capsys.readouterr().out.splitlines()
    assert equal.startswith(
        "| small, 2 ms | A/A | 2 | optimisation on | 3 of 4 | 1 slower | 1.000 (1.000–1.000) |"
    )
    assert equal.endswith("| 1.0% | 40 | 9.0 (9.0) | 3.0 |")
    assert "| 5 % | 2 | optimisation on | 2 of 3 | 1 no significant change | 0.950" in planted


@pytest.mark.slow
def test_one_run_is_a_process_of_its_own(tmp_path: Path) -> None:
    path = tmp_path / "a.onnx"
    path.write_bytes(network(2, (4, 6, 5)).SerializeToString())
    found = one_run(path, path, 1, 0, 1.0, 0.05)
    assert [each["setting"] for each in found["runs"]] == ["optimisation off", "optimisation on"]
    assert all(each["ci95"][0] < each["ci95"][1] for each in found["runs"])
    assert found["load"] >= 0
