"""Many models as SARIF 2.1.0: one run, with the results of all of them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from bnfuse.report.many.content import summary
from bnfuse.report.sarif import SCHEMA, notification_of, results_of, tool

if TYPE_CHECKING:
    from bnfuse.results.many import Collected


def parts(collected: Collected) -> Iterator[str]:
    """The log: an invocation that tells of the errors, then result by result."""
    failures = [one.failure for one in collected.outcomes if one.failure is not None]
    invocation: dict[str, Any] = {
        "executionSuccessful": not failures,
        "exitCode": int(summary(collected).exit_code),
    }
    if failures:
        invocation["toolExecutionNotifications"] = [notification_of(failure) for failure in failures]
    yield (
        f'{{\n  "$schema": {json.dumps(SCHEMA)},\n  "version": "2.1.0",\n  "runs": [{{\n'
        f'    "tool": {json.dumps(tool())},\n    "invocations": [{json.dumps(invocation)}],\n    "results": ['
    )
    first = True
    for outcome in collected.outcomes:
        for result in results_of(outcome.report) if outcome.report is not None else ():
            yield f"{'' if first else ','}\n      {json.dumps(result)}"
            first = False
    yield "\n    ]\n  }]\n}\n"
