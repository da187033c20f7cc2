"""What absorbing biases could be worth at most: shifts that may go exactly, told from true ranges.

    python -m benchmarks.quantise_shifts [--models FOLDER] [--draws 8]

Bias absorption (Nagel et al., arXiv 1906.04721, 4.1.3) moves what is above 0 in all values of a channel into
the next layer's bias. Here each value of an equalised model that may be held as v + t is: with t the middle
of each channel's true range on the calibration images, or, where ReLUs may become clamps with other bounds,
the true least value that is above 0. No file tells these. Then the models are quantised as in
``quantise_power``. Nothing is gained, which is why bnfuse does not do it (docs/quantise-next.md).
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort

from benchmarks.quantise_power import Subject, asked, drawn, made, subjects, told
from benchmarks.quantising import Array
from bnfuse.core.apply import Planned, apply
from bnfuse.core.decisions import Plan, Split
from bnfuse.core.graph import Node
from bnfuse.core.planning.propagate import Worklist
from bnfuse.core.planning.search import next_choices
from bnfuse.core.planning.state import State
from bnfuse.core.reasons import Refusal
from bnfuse.core.reparam import Vector, from_backward
from bnfuse.core.rules.linear_rule import Linear
from bnfuse.formats import detect
from bnfuse.formats.base import ReadOptions

_MOST_ATTEMPTS = 8  # ways past products of two values
Range = tuple[Vector, Vector]


def true_ranges(model: Path, samples: Sequence[Array], values: Sequence[str]) -> Mapping[str, Range]:
    """Least and largest of each channel along axis 1, by value."""
    opened = onnx.load(model)
    opened.graph.output.extend(onnx.ValueInfoProto(name=value) for value in values)
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = ort.InferenceSession(opened.SerializeToString(), options, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    found: dict[str, Range] = {}
    for sample in samples:
        for value, array in zip(values, session.run(list(values), {name: sample}), strict=True):
            flat = np.moveaxis(np.asarray(array, np.float64), 1, 0).reshape(array.shape[1], -1)
            low, high = flat.min(axis=1), flat.max(axis=1)
            known = found.get(value, (low, high))
            found[value] = np.minimum(known[0], low), np.maximum(known[1], high)
    return found


def shifted(model: Path, target: Path, samples: Sequence[Array], *, moves: bool) -> int:
    """The same function, each value whose shift may go held so; how many there are."""
    opened = detect(model).read(model, ReadOptions(activations="move" if moves else "keep"))
    state = State(opened.graph)
    state.moves_bounds = opened.graph.moves_bounds
    rules = {node: opened.graph.rule(node) for node in opened.graph.nodes}
    writers = {node: rule for node, rule in rules.items() if isinstance(rule, Linear) and rule.writes}
    ranges = true_ranges(model, samples, [node.outputs[0] for node in writers])
    count = 0
    for node, rule in writers.items():
        low, high = ranges[node.outputs[0]]
        shift = -np.maximum(low, 0.0) if moves else -(low + high) / 2
        if rule.out_axis == 1 and shift.any():
            count += _held(state, node, shift)
    opened.write(apply(opened.graph, Planned(Plan(()), state)), target)
    opened.close()
    return count


def _held(state: State, node: Node, shift: Vector) -> bool:
    """Hold what a node writes as v + t, if everybody lets that through."""
    fixed: Mapping[str, int] | None = {}
    for _ in range(_MOST_ATTEMPTS):
        if fixed is None:
            break
        run = Worklist(state, None, fixed, None)
        held = from_backward((1,), np.ones_like(shift), shift)
        if not isinstance(run.propagate([(node.outputs[0], held)]), Refusal):
            state.accept_rescaling(run.found(Split.UP, node))
            return True
        fixed = next_choices(run.choices)
    return False


def measured(subject: Subject, draws: int) -> None:
    """The rows of one model."""
    with tempfile.TemporaryDirectory() as name:
        equalised = made(subject.model, Path(name) / "equalised.onnx", equalize=True)
        ways = {"equalised": (equalised, 0)}
        for moves in (False, True):
            target = Path(name) / f"{moves}.onnx"
            count = shifted(equalised, target, subject.calibration, moves=moves)
            ways[f"shifted{', bounds moved' if moves else ''}"] = target, count
        for way, (model, count) in ways.items():
            cells = ["-", "-"]
            if count or model == equalised:
                each = [drawn(subject, model, draws, per_channel=channel) for channel in (False, True)]
                cells = [told([snr for snr, _ in one]) for one in each]
            print(f"| {subject.name} | {way} | {count} | {' | '.join(cells)} |", flush=True)


def main() -> int:
    """Print the table."""
    given = asked(__doc__)
    print("| model | way | values shifted | per tensor, dB | per channel, dB |")
    print("|---|---|---:|---:|---:|")
    for subject in subjects(None if given.models is None else Path(given.models)):
        if given.only in subject.name:
            measured(subject, given.draws)
    return 0


if __name__ == "__main__":
    sys.exit(main())
