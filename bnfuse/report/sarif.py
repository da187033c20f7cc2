"""Reports as SARIF 2.1.0 (OASIS, 2020), so that code hosts annotate the model file.

A result for each gate that said no, for a proof that failed, and for each node that can be folded where
``--check`` asked. A command that ended in an error is an invocation that did not succeed. A model is no text:
what is said of it stands at its first line, and its node is a logical location.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bnfuse import __version__
from bnfuse.core.decisions import Fold
from bnfuse.errors import ExitCode
from bnfuse.report import text
from bnfuse.results import Agreement, Report, Status
from bnfuse.results.outcomes import Comparison, Failure, Gate

if TYPE_CHECKING:
    from bnfuse.difference.result import Difference

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


def render(report: Report) -> str:
    """What ``optimize`` or ``inspect`` found."""
    unproved = report.verification.status in (Status.DIFFERENT, Status.INCONCLUSIVE)
    code = ExitCode.UNPROVED if unproved else _gated(report.gates)
    return _log(results_of(report), _invocation(code))


def results_of(report: Report) -> list[Result]:
    """The results that a report gives rise to."""
    path = report.input.path
    found = _judged(report.verification, path) + _gates(report.gates, path)
    if any(gate.option == "--check" and not gate.passed for gate in report.gates):
        folds = [decision for decision in report.plan.decisions if isinstance(decision, Fold)]
        found += [
            _result("foldable", f"{fold.op} '{fold.node}' can be folded", path, fold.node) for fold in folds
        ]
    return found


def render_comparison(found: Comparison) -> str:
    """What ``verify`` or ``bench`` found."""
    path = (found.after or found.before).path
    results = [] if found.agreement is None else _judged(found.agreement, path)
    match found.agreement:
        case Agreement(status=Status.DIFFERENT):
            code = ExitCode.GATE
        case Agreement(status=Status.INCONCLUSIVE):
            code = ExitCode.UNPROVED
        case _:
            code = _gated(found.gates)
    return _log(results + _gates(found.gates, path), _invocation(code))


def render_difference(found: Difference) -> str:
    """What ``diff`` found: one result for all that differs, one for its gate."""
    from bnfuse.report.content.difference import headline

    path = found.after.file.path
    results = [_result("differs", headline(found), path)] if found.differs else []
    return _log(results + _gates(found.gates, path), _invocation(_gated(found.gates)))


def render_failure(found: Failure) -> str:
    """A command that ended in an error."""
    invocation = {
        "executionSuccessful": False,
        "exitCode": found.exit_code,
        "toolExecutionNotifications": [notification_of(found)],
    }
    return _log([], invocation)


def notification_of(found: Failure) -> Result:
    """The error as what an invocation tells."""
    told: Result = {
        "level": "error",
        "message": {"text": text.plain(found.message)},
        "descriptor": {"id": found.kind},
    }
    if found.path is not None:
        told["locations"] = [_location(found.path)]
    return told


def _gated(gates: tuple[Gate, ...]) -> ExitCode:
    return ExitCode.DONE if all(gate.passed for gate in gates) else ExitCode.GATE


def _invocation(code: ExitCode) -> dict[str, Any]:
    """A command that did what it was asked for, whatever it found."""
    return {"exitCode": int(code), "executionSuccessful": True}


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


def tool() -> dict[str, Any]:
    """What made the log, and the rules that results refer to."""
    rules = [
        {"id": rule, "name": rule.title().replace("-", ""), "shortDescription": {"text": words}}
        for rule, words in _RULES.items()
    ]
    return {"driver": {"name": "bnfuse", "version": __version__, "rules": rules}}


def _log(results: list[Result], invocation: dict[str, Any]) -> str:
    run = {"tool": tool(), "invocations": [invocation], "results": results}
    return json.dumps({"$schema": SCHEMA, "version": "2.1.0", "runs": [run]}, indent=2) + "\n"
