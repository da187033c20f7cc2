"""The report as JUnit XML, so that any CI shows it: one test case per BatchNormalization.

A kept one is *skipped* with its reason, which fails no pipeline. The proof is a test case of its
own: failed when the models differ, an error when it was inconclusive. Notes are the suite's output.
"""

from __future__ import annotations

from xml.etree.ElementTree import Element, SubElement, indent, tostring

from bnfuse.core.decisions import Decision, Fold, Keep
from bnfuse.report.proved import accuracies, between_folds
from bnfuse.report.text import plain, proof
from bnfuse.results import Agreement, Report, Status


def render(report: Report) -> str:
    """The whole report as one XML document."""
    root = Element("testsuites", name="bnfuse")
    suite = SubElement(root, "testsuite", name=plain(report.input.path.name))
    for decision in report.plan.decisions:
        if decision.is_batchnorm:
            _add_decision(suite, decision)
    _add_proof(suite, report.verification, report.seconds.get("verify", 0.0))
    if report.notes:
        SubElement(suite, "system-out").text = "\n".join(plain(note) for note in report.notes)
    _count(suite, sum(report.seconds.values()))
    indent(root)
    return f'<?xml version="1.0" encoding="UTF-8"?>\n{tostring(root, encoding="unicode")}\n'


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
