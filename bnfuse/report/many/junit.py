"""Many models as JUnit XML: a test suite for each."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING
from xml.etree.ElementTree import indent, tostring

from bnfuse.report.junit import suite_of, suite_of_failure
from bnfuse.results import Status

if TYPE_CHECKING:
    from xml.etree.ElementTree import Element

    from bnfuse.results.many import Collected, Outcome


def parts(collected: Collected) -> Iterator[str]:
    """The document, suite by suite."""
    yield '<?xml version="1.0" encoding="UTF-8"?>\n<testsuites name="bnfuse">'
    for outcome in collected.outcomes:
        for suite in _suites(outcome):
            indent(suite, level=1)
            yield f"\n  {tostring(suite, encoding='unicode').rstrip()}"
    yield "\n</testsuites>\n"


def _suites(outcome: Outcome) -> Iterator[Element]:
    """One; where the error says more than the report does, a second for it."""
    if outcome.report is not None:
        yield suite_of(outcome.report, outcome.model)
        proved = outcome.report.verification.status in (Status.DIFFERENT, Status.INCONCLUSIVE)
        if proved:
            return
    if outcome.failure is not None:
        yield suite_of_failure(outcome.failure, outcome.model)
