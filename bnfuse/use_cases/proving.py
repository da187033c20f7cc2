"""Is a written result equal to its original? The report of a fold with its proof, or why it is not proved."""

from __future__ import annotations

import filecmp
from typing import TYPE_CHECKING

from msgspec.structs import replace

from bnfuse.formats import load
from bnfuse.formats.base import Loader, Written
from bnfuse.results import Agreement, Report, Status
from bnfuse.use_cases.provenance import Witnessed, versions
from bnfuse.use_cases.requests import OptimizeRequest
from bnfuse.use_cases.unwritten import Unproved, why_unproved

if TYPE_CHECKING:
    from bnfuse.results.doing import Progress
    from bnfuse.use_cases.folding import Phases
    from bnfuse.use_cases.verify import VerifyRequest


def proved(report: Report, written: Written, asked: OptimizeRequest, phases: Phases) -> Report:
    """The report with its proof; raises ``Unproved`` where there is none but one was asked for."""
    if asked.verify is None:
        return replace(report, verification=Agreement(Status.SKIPPED, detail="as asked for"))
    ran = Witnessed(load)
    with phases("verify", "verifying"):
        agreement = _prove(report, written, asked.verify, ran.load, phases.progress)
    if agreement.status is Status.DIFFERENT:
        with phases("bisect", "looking for the fold that breaks equality"):
            agreement = _blamed(agreement, report, written, asked, asked.verify)
    report = replace(report, verification=agreement, versions=versions(ran.versions))
    if agreement.status is Status.EQUAL:
        return report
    raise Unproved(why_unproved(agreement), replace(report, seconds=dict(phases.seconds)))


def _prove(
    report: Report, written: Written, request: VerifyRequest, load: Loader, progress: Progress
) -> Agreement:
    original = report.input.path
    same = not written.side_files and filecmp.cmp(original, written.path, shallow=False)
    if same and not request.labels:  # an accuracy takes a run
        return Agreement(Status.EQUAL, evidence="identical bytes")
    from bnfuse.use_cases.verify import verify

    return verify(original, written.path, request=_request(report, request), load=load, progress=progress)


def _request(report: Report, request: VerifyRequest) -> VerifyRequest:
    """The request with what is known about the model."""
    plan = report.plan
    depth = max(1, plan.rewrites + len(plan.arithmetic) + len(plan.rescaled))  # merging alone rounds, too
    return replace(request, model_bytes=report.input.total_bytes, depth=depth, successor=True)


def _blamed(
    failed: Agreement, report: Report, written: Written, asked: OptimizeRequest, request: VerifyRequest
) -> Agreement:
    """The failed agreement with the fold that breaks equality, where that can be found out."""
    from bnfuse.use_cases.bisection import Failed, name_culprit

    folder = written.path.parent
    made = Failed(report.input.path, asked.read, report.plan, asked.merge_affines, written.path, folder)
    return name_culprit(failed, made, _request(report, request), load)
