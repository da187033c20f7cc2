"""Reports that hold all that the HTML page shows, and the page as a browser takes it apart."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from html.parser import HTMLParser
from typing import Any

from msgspec.structs import replace

from bnfuse.core.decisions import Equalized, Fold, Keep, Plan, Rescaled, Split, Spread
from bnfuse.core.reasons import Reason, Refusal
from bnfuse.results import (
    Accuracy,
    Agreement,
    Baseline,
    BaselineRun,
    BenchRun,
    ColdStart,
    Culprit,
    Details,
    DrawnNode,
    Latency,
    LayerChange,
    Machine,
    Neighbourhood,
    OperatorTime,
    OutputAgreement,
    Percentiles,
    Profile,
    Report,
    Share,
    Status,
    Typical,
)
from bnfuse.results.outcomes import Gate
from tests.report_samples import report

# Elements that HTML knows without an end.
_VOID = {"meta", "input", "br", "img", "link", "hr"}


def _equalized(name: str) -> Equalized:
    values = (Rescaled(name, name, 7, (name, name), (name,), 0.5, 8.0),)
    return Equalized(values, (Spread(name, 70.7, 1.8), Spread(name, 1.0, 1.0), Spread(name, 3.0, 31.0)), 5.8)


def whole_report(name: str = "bn", path: str = "CPUExecutionProvider") -> Report:
    """A report in which every part of the page has something to show; the model's strings are ``name``."""
    fold = Fold(name, name, True, 8, Split.UP, (name,), (name, name))
    keep = Keep(
        name, name, True, None, (Refusal(Reason.NONLINEAR, f"{name} '{name}'", name, name, split="up"),)
    )
    run = BenchRun(
        "optimisation on",
        1,
        Percentiles(1.5, 1.75, 2.125),
        Percentiles(1.25, 1.5, 2.0),
        1.2,
        (1.15, 1.25),
        (0.99, 1.01),
        100,
        "faster",
        before_quantiles_ms=tuple(1.0 + i / 40 for i in range(41)),
        after_quantiles_ms=tuple(0.8 + i / 50 for i in range(41)),
        before_typical=Typical(1.44, (1.42, 1.46)),
        after_typical=Typical(1.2, (1.19, 1.21)),
        shares=(
            Share(f"what {name} did", 1.1, (1.05, 1.15), "faster"),
            Share("folding", 1.09, (1.0, 1.2), "same"),
        ),
    )
    cold = replace(
        run,
        setting="cold start",
        before_cold=ColdStart(1, 2, 3, 4, 10**7),
        after_cold=ColdStart(1, 2, 3, 3, None),
    )
    latency = Latency(
        "cpu",
        2,
        (path,),
        (run, cold),
        (f"about {name}",),
        f"runtime {name}",
        Machine(f"cpu {name}", 2, 8 * 10**9, "Linux", ""),
        Profile(
            "optimisation on", 1, 40, (OperatorTime(name, 0.5, 3, 0.25, 2),), 1.5, {path: 3}, 1.0, {path: 2}
        ),
        Baseline(name, (BaselineRun("optimisation on", 1, 2, 1.0, 1.2, 1.1, "time"),), "", (name,)),
    )
    agreement = Agreement(
        Status.DIFFERENT,
        (OutputAgreement(name, 1e-3, 1e-2, 40.0, 1e-5, 0.9, 1e-4, f"basis {name}"),),
        3,
        1e-5,
        name,
        f"output '{name}'",
        accuracy=(Accuracy(name, 100, 0.9, 0.89, 2, "arg-max"),),
        notes=(name,),
        culprit=Culprit(name, name, "up", (name,)),
        suspects=(name,),
    )
    return report(
        plan=Plan((fold, keep), equalized=_equalized(name)),
        operators_before={name: 3, "Conv": 1},
        operators_after={"Conv": 1},
        verification=agreement,
        benchmark=latency,
        notes=(f"about {name}",),
        gates=(Gate("--check", False, f"about {name}"), Gate("--fail-if-slower 3%", True, name)),
        details=Details((neighbourhood(name), neighbourhood(name)), tuple(layer(name) for _ in range(4))),
    )


def neighbourhood(name: str) -> Neighbourhood:
    """input → Conv (into) → BN (self, removed) → Relu → output."""
    nodes = (
        DrawnNode(name, "input", "input"),
        DrawnNode(name, name, role="into"),
        DrawnNode(name, name, role="self", removed=True),
        DrawnNode(name, name),
        DrawnNode(name, "output", "output"),
    )
    return Neighbourhood(nodes, ((0, 1), (1, 2), (2, 3), (3, 4)), 7)


def layer(name: str, **changes: Any) -> LayerChange:
    """A rewritten convolution."""
    values: dict[str, Any] = {
        "node": name,
        "op": name,
        "kind": "weight",
        "shape": (8, 4, 3, 3),
        "dtype": "float32",
        "factor_min": 0.25,
        "factor_max": 4.0,
        "largest_change": 3.0,
        "bias": "made",
        "folded": (name,),
        "ranges_before": (0.5, 0.75, 1.0),
        "ranges_after": (0.125, 0.5, 4.0),
        "spread_before": 1.25,
        "spread_after": 8.0,
    }
    return LayerChange(**(values | changes))


@dataclass
class Page(HTMLParser):
    """Elements, attributes, visible text and data blocks, the way a browser would see them."""

    source: str
    tags: list[str] = field(default_factory=list)
    attributes: list[tuple[str, str | None]] = field(default_factory=list)
    words: list[str] = field(default_factory=list)
    open_tags: list[str] = field(default_factory=list)
    unclosed: list[str] = field(default_factory=list)
    inside: dict[str, list[str]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        super().__init__()
        self.feed(self.source)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += attrs
        if tag not in _VOID:
            self.open_tags.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += attrs

    def handle_endtag(self, tag: str) -> None:
        if not self.open_tags or self.open_tags.pop() != tag:
            self.unclosed.append(tag)

    def handle_data(self, data: str) -> None:
        where = self.open_tags[-1] if self.open_tags else ""
        self.inside.setdefault(where, []).append(data)
        if where not in ("script", "style"):
            self.words.append(data)

    @property
    def text(self) -> str:
        """All that can be read, without script and style."""
        return "".join(self.words)

    @property
    def graphs(self) -> dict[str, Any]:
        """The data block that the script draws from."""
        block = next(data for data in self.inside["script"] if data.startswith('{"names"'))
        document: dict[str, Any] = json.loads(block)
        return document
