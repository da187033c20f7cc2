"""The report as JUnit XML, so that any CI shows it: one test case per BatchNormalization.

A kept one is *skipped* with its reason, which fails no pipeline. The proof is a test case of its
own: failed when the models differ, an error when it was inconclusive. Gates are test cases, too. Notes are
the suite's output.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any
from xml.etree.ElementTree import Element, SubElement, indent, tostring

from bnfuse.core.decisions import Decision, Fold, Keep
from bnfuse.report import text
from bnfuse.report.proved import accuracies, between_folds
from bnfuse.report.text import plain, proof
from bnfuse.results import Agreement, Report, Status
from bnfuse.results.outcomes import Comparison, Failure, Gate

if TYPE_CHECKING:
    from bnfuse.difference.result import Difference
    from bnfuse.results.many import Collected


def pieces(found: Any) -> Iterator[str]:
    """What a command found as one XML document: a test suite, and of many models one after the other."""
    yield '<?xml version="1.0" encoding="UTF-8"?>\n<testsuites name="bnfuse">'
    for suite in _of_many(found) if type(found).__name__ == "Collected" else (_suite_of(found),):
        indent(suite, level=1)
        yield f"\n  {tostring(suite, encoding='unicode').rstrip()}"
    yield "\n</testsuites>\n"


def _of_many(collected: Collected) -> Iterator[Element]:
    """One for each; where the error says more than the report does, a second for it."""
    for outcome in collected.outcomes:
        report = outcome.report
        if report is not None:
            yield _suite_of(report, outcome.model)
        told = report is not None and report.verification.status in (Status.DIFFERENT, Status.INCONCLUSIVE)
        if outcome.failure is not None and not told:
            yield _suite_of(outcome.failure, outcome.model)


def _suite_of(found: Any, name: str = "") -> Element:
    """One result as a test suite, of this name or the model's."""
    match found:
        case Report():
            return _of_report(found, name or found.input.path.name)
        case Comparison():
            return _of_comparison(found)
        case Failure():
            return _of_failure(found, name or (found.path.name if found.path is not None else found.command))
    return _of_difference(found)


def _of_report(report: Report, name: str) -> Element:
    suite = _suite(name)
    for decision in report.plan.decisions:
        if decision.is_batchnorm:
            _add_decision(suite, decision, done=report.output is not None)
    _add_proof(suite, report.verification, report.seconds.get("verify", 0.0))
    _add_gates(suite, report.gates)
    return _finished(suite, report.notes, sum(report.seconds.values()))


def _of_comparison(found: Comparison) -> Element:
    """The proof is a test case, so is each setting that was timed."""
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
    return _finished(suite, found.latency.notes if found.latency else (), 0.0)


def _of_difference(found: Difference) -> Element:
    """A test case that says what differs, and one for its gate."""
    from bnfuse.report.content.difference import headline

    suite = _suite(found.after.file.path.name)
    case = _case(suite, "difference", f"{text.called(found.before.file)} and {text.called(found.after.file)}")
    SubElement(case, "system-out").text = plain(headline(found))
    _add_gates(suite, found.gates)
    return _finished(suite, found.notes, sum(found.seconds.values()))


def _of_failure(found: Failure, name: str) -> Element:
    """A command that ended in an error is a test case that did."""
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


def _add_gates(suite: Element, gates: Sequence[Gate]) -> None:
    for gate in gates:
        case = _case(suite, "gate", gate.option)
        if gate.passed:
            SubElement(case, "system-out").text = plain(gate.message)
        else:
            SubElement(case, "failure", message=plain(gate.message), type="gate")


def _add_decision(suite: Element, decision: Decision, *, done: bool) -> None:
    case = _case(suite, "BatchNormalization", decision.node)
    match decision:
        case Fold():
            SubElement(case, "system-out").text = plain(text.went(decision, done=done))
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
