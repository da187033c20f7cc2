"""Reports as SARIF 2.1.0 (OASIS, 2020), so that code hosts annotate the model file.

A result for each gate that said no, for a proof that failed, and for each node that can be folded where
``--check`` asked. A command that ended in an error is an invocation that did not succeed. A model is no text:
what is said of it stands at its first line, and its node is a logical location.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bnfuse import __version__
from bnfuse.core.decisions import Fold
from bnfuse.errors import ExitCode
from bnfuse.report import text
from bnfuse.results import Agreement, Report, Status
from bnfuse.results.outcomes import Comparison, Failure, Gate

if TYPE_CHECKING:
    from bnfuse.results.many import Collected

SCHEMA = "https://json.schemastore.org/sarif-2.1.0.json"
_RULES = {
    "gate": "A gate of bnfuse said no.",
    "foldable": "A BatchNormalization, or a Mul, Add, Sub or Div that is one, can be folded exactly.",
    "not-equal": "The models were compared and are not equal.",
    "not-proved": "Whether the models are equal could not be shown.",
    "differs": "The models differ in what their files hold.",
}
_LEVELS = {"foldable": "warning", "not-proved": "warning", "differs": "note"}

Result = dict[str, Any]


def pieces(found: Any) -> Iterator[str]:
    """What a command found as one log of one run; of many models piece by piece."""
    if type(found).__name__ == "Collected":
        yield from _many(found)
        return
    code, results = _found(found)
    # a command that did what it was asked for succeeded, whatever it found
    invocation: dict[str, Any] = {"exitCode": int(code), "executionSuccessful": True}
    if isinstance(found, Failure):
        invocation = {
            "executionSuccessful": False,
            "exitCode": found.exit_code,
            "toolExecutionNotifications": [_notification(found)],
        }
    run = {"tool": _tool(), "invocations": [invocation], "results": results}
    yield json.dumps({"$schema": SCHEMA, "version": "2.1.0", "runs": [run]}, indent=2) + "\n"


def _many(collected: Collected) -> Iterator[str]:
    """An invocation that tells of the errors, then result by result."""
    from bnfuse.report.content.many import summary

    failures = [one.failure for one in collected.outcomes if one.failure is not None]
    invocation: dict[str, Any] = {
        "executionSuccessful": not failures,
        "exitCode": int(summary(collected).exit_code),
    }
    if failures:
        invocation["toolExecutionNotifications"] = list(map(_notification, failures))
    tool = json.dumps(_tool())
    yield (
        f'{{\n  "$schema": {json.dumps(SCHEMA)},\n  "version": "2.1.0",\n  "runs": [{{\n'
        f'    "tool": {tool},\n    "invocations": [{json.dumps(invocation)}],\n    "results": ['
    )
    first = True
    for outcome in collected.outcomes:
        for result in _of_report(outcome.report) if outcome.report is not None else ():
            yield f"{'' if first else ','}\n      {json.dumps(result)}"
            first = False
    yield "\n    ]\n  }]\n}\n"


def _found(found: Any) -> tuple[int, list[Result]]:
    """The exit code, and the results that a report, a comparison or a difference gives rise to."""
    gated = ExitCode.DONE if all(gate.passed for gate in getattr(found, "gates", ())) else ExitCode.GATE
    match found:
        case Report():
            unproved = found.verification.status in (Status.DIFFERENT, Status.INCONCLUSIVE)
            return ExitCode.UNPROVED if unproved else gated, _of_report(found)
        case Comparison():
            path = (found.after or found.before).path
            results = [] if found.agreement is None else _judged(found.agreement, path)
            ends = {Status.DIFFERENT: ExitCode.GATE, Status.INCONCLUSIVE: ExitCode.UNPROVED}
            code = gated if found.agreement is None else ends.get(found.agreement.status, gated)
            return code, results + _gates(found.gates, path)
        case Failure():
            return found.exit_code, []
    from bnfuse.report.content.difference import headline

    path = found.after.file.path
    results = [_result("differs", headline(found), path)] if found.differs else []
    return gated, results + _gates(found.gates, path)


def _of_report(report: Report) -> list[Result]:
    path = report.input.path
    found = _judged(report.verification, path) + _gates(report.gates, path)
    if any(gate.option == "--check" and not gate.passed for gate in report.gates):
        folds = [decision for decision in report.plan.decisions if isinstance(decision, Fold)]
        found += [
            _result("foldable", f"{fold.op} '{fold.node}' can be folded", path, fold.node) for fold in folds
        ]
    return found


def _notification(found: Failure) -> Result:
    """The error as what an invocation tells."""
    told: Result = {
        "level": "error",
        "message": {"text": text.plain(found.message)},
        "descriptor": {"id": found.kind},
    }
    if found.path is not None:
        told["locations"] = [_location(found.path)]
    return told


def _judged(proof: Agreement, path: Path) -> list[Result]:
    match proof.status:
        case Status.DIFFERENT:
            return [_result("not-equal", text.proof(proof), path)]
        case Status.INCONCLUSIVE:
            return [_result("not-proved", text.proof(proof), path)]
        case _:
            return []


def _gates(gates: tuple[Gate, ...], path: Path) -> list[Result]:
    return [_result("gate", f"{gate.option}: {gate.message}", path) for gate in gates if not gate.passed]


def _result(rule: str, message: str, path: Path, node: str | None = None) -> Result:
    location = _location(path)
    if node is not None:
        location["logicalLocations"] = [{"fullyQualifiedName": text.plain(node), "kind": "element"}]
    return {
        "ruleId": rule,
        "level": _LEVELS.get(rule, "error"),
        "message": {"text": text.plain(message)},
        "locations": [location],
    }


def _location(path: Path) -> dict[str, Any]:
    """Relative to where bnfuse was called, as a code host wants it; else as a whole address."""
    resolved = path.resolve()
    inside = resolved.is_relative_to(Path.cwd())
    uri = resolved.as_uri().removeprefix(f"{Path.cwd().as_uri()}/") if inside else resolved.as_uri()
    return {"physicalLocation": {"artifactLocation": {"uri": uri}, "region": {"startLine": 1}}}


def _tool() -> dict[str, Any]:
    """What made the log, and the rules that results refer to."""
    rules = [
        {"id": rule, "name": rule.title().replace("-", ""), "shortDescription": {"text": words}}
        for rule, words in _RULES.items()
    ]
    return {"driver": {"name": "bnfuse", "version": __version__, "rules": rules}}
