"""Looks on while a graph of core's own is planned, and tells what was tried and decided."""

from __future__ import annotations

from bnfuse.core.decisions import Fold, Keep
from bnfuse.core.graph import Node
from bnfuse.core.planning.plan import plan
from bnfuse.core.planning.propagate import Worklist
from bnfuse.core.planning.search import Observer, Tried
from bnfuse.core.planning.state import State
from bnfuse.core.reasons import Reason, Refusal
from tests.core_nets import CoreNet


class Log(Observer):
    """Writes down what is tried at one node in the last round."""

    def __init__(self) -> None:
        self.limits: list[tuple[str, int | None]] = []  # split and reach of every attempt
        self.runs: list[tuple[Worklist, Refusal | None]] = []
        self.tries: list[Tried] = []
        self._running = 0

    def begins(self, state: State, node: Node) -> None:
        self.__init__()  # type: ignore[misc]

    def ran(self, run: Worklist, refusal: Refusal | None) -> None:
        self.runs.append((run, refusal))

    def tried(self, tried: Tried) -> None:
        new = self.runs[self._running :]
        self.limits += [(tried.split.value, run.limit) for run, _ in new]
        self.tries.append(tried)
        self._running = len(self.runs)

    def choices(self, split: str) -> list[dict[str, int]]:
        """What was chosen in each attempt of a split."""
        told = zip(self.limits, self.runs, strict=True)
        return [dict(run.taken) for (name, _), (run, _) in told if name == split]


def planned(net: CoreNet, output: str, name: str = "bn") -> tuple[Fold | Keep, Log]:
    log = Log()
    graph = net.graph(output)
    decisions = plan(graph, observers={name: log}).plan.decisions
    at = [node.name for node in graph.candidates].index(name)
    return decisions[at], log


def told(decision: Fold | Keep) -> dict[str, tuple[Reason, str]]:
    assert isinstance(decision, Keep)
    return {r.split: (r.reason, r.node.partition("'")[2].rstrip("'") or r.value) for r in decision.refusals}
