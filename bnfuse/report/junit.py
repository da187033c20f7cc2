"""The report as JUnit XML, so that any CI shows it: one test case per BatchNormalization.

A kept one is *skipped* with its reason, which fails no pipeline. The proof is a test case of its
own: failed when the models differ, an error when it was inconclusive. Gates are test cases, too. Notes are
the suite's output.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING
from xml.etree.ElementTree import Element, SubElement, indent, tostring

from bnfuse.core.decisions import Decision, Fold, Keep
from bnfuse.report import text
from bnfuse.report.proved import accuracies, between_folds
from bnfuse.report.text import plain, proof
from bnfuse.results import Agreement, Report, Status
from bnfuse.results.outcomes import Comparison, Failure, Gate

if TYPE_CHECKING:
    from bnfuse.difference.result import Difference


def render(report: Report) -> str:
    """The whole report as one XML document."""
    return _document(suite_of(report, report.input.path.name))


def suite_of(report: Report, name: str) -> Element:
    """The report as a test suite of this name."""
    suite = _suite(name)
    for decision in report.plan.decisions:
        if decision.is_batchnorm:
            _add_decision(suite, decision)
    _add_proof(suite, report.verification, report.seconds.get("verify", 0.0))
    _add_gates(suite, report.gates)
    return _finished(suite, report.notes, sum(report.seconds.values()))


def render_comparison(found: Comparison) -> str:
    """What ``verify`` or ``bench`` found: the proof is a test case, so is each setting that was timed."""
    suite = _suite((found.after or found.before).path.name)
    if found.agreement is not None:
        _add_proof(suite, found.agreement, 0.0)
    for run in found.latency.runs if found.latency else ():
        case = _case(suite, "latency", f"{run.setting}, batch {run.batch}, {run.threads} threads")
        times = (
            text.typical(run.before_typical),
            text.typical(run.after_typical),
            text.speedup(run),
            run.verdict,
        )
        SubElement(case, "system-out").text = "; ".join(filter(None, times))
    _add_gates(suite, found.gates)
    return _document(_finished(suite, found.latency.notes if found.latency else (), 0.0))


def render_difference(found: Difference) -> str:
    """What ``diff`` found: a test case that says what differs, and one for its gate."""
    from bnfuse.report.content.difference import headline

    suite = _suite(found.after.file.path.name)
    case = _case(suite, "difference", f"{found.before.file.path.name} and {found.after.file.path.name}")
    SubElement(case, "system-out").text = plain(headline(found))
    _add_gates(suite, found.gates)
    return _document(_finished(suite, found.notes, sum(found.seconds.values())))


def render_failure(found: Failure) -> str:
    """A command that ended in an error is a test case that did."""
    return _document(suite_of_failure(found, found.path.name if found.path is not None else found.command))


def suite_of_failure(found: Failure, name: str) -> Element:
    """The error as a test suite of this name."""
    suite = _suite(name)
    case = _case(suite, "command", f"bnfuse {found.command}")
    SubElement(case, "error", message=plain(found.message), type=found.kind)
    return _finished(suite, (), 0.0)


def _suite(name: str) -> Element:
    return Element("testsuite", name=plain(name) or "(no name)")


def _finished(suite: Element, notes: Sequence[str], seconds: float) -> Element:
    if notes:
        SubElement(suite, "system-out").text = "\n".join(map(plain, notes))
    _count(suite, seconds)
    return suite


def _document(suite: Element) -> str:
    root = Element("testsuites", name="bnfuse")
    root.append(suite)
    indent(root)
    return f'<?xml version="1.0" encoding="UTF-8"?>\n{tostring(root, encoding="unicode")}\n'


def _add_gates(suite: Element, gates: Sequence[Gate]) -> None:
    for gate in gates:
        case = _case(suite, "gate", gate.option)
        if gate.passed:
            SubElement(case, "system-out").text = plain(gate.message)
        else:
            SubElement(case, "failure", message=plain(gate.message), type="gate")


def _add_decision(suite: Element, decision: Decision) -> None:
    case = _case(suite, "BatchNormalization", decision.node)
    match decision:
        case Fold():
            SubElement(case, "system-out").text = plain(decision.message)
        case Keep():
            message = plain(f"{decision.primary.reason.name}: {decision.message}")
            SubElement(case, "skipped", message=message)


def _add_proof(suite: Element, agreement: Agreement, seconds: float) -> None:
    case = _case(suite, "verification", "the result equals the original", seconds)
    sentence = plain(proof(agreement))
    match agreement.status:
        case Status.EQUAL:
            SubElement(case, "system-out").text = "\n".join(
                [sentence, *map(plain, between_folds(agreement)), *map(plain, accuracies(agreement))]
            )
        case Status.DIFFERENT:
            SubElement(case, "failure", message=sentence, type="different")
        case Status.INCONCLUSIVE:
            SubElement(case, "error", message=sentence, type="inconclusive")
        case Status.SKIPPED:
            SubElement(case, "skipped", message=sentence)


def _case(suite: Element, group: str, name: str, seconds: float = 0.0) -> Element:
    return SubElement(
        suite, "testcase", classname=f"bnfuse.{group}", name=plain(name) or "(no name)", time=f"{seconds:.3f}"
    )


def _count(suite: Element, seconds: float) -> None:
    suite.set("tests", str(len(suite.findall("testcase"))))
    for plural, tag in (("failures", "failure"), ("errors", "error"), ("skipped", "skipped")):
        suite.set(plural, str(len(suite.findall(f"testcase/{tag}"))))
    suite.set("time", f"{seconds:.3f}")
