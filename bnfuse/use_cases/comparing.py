"""The use cases ``verify`` and ``bench`` as a whole: two files (or one), what was found, and what took part.

Around ``use_cases.verify`` and ``use_cases.bench``, which compare models, this is what a caller asks for: the
files are told by size and hash, must not change meanwhile, and the versions of the runtimes are kept.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from bnfuse.formats import load
from bnfuse.results import Latency
from bnfuse.results.doing import Progress
from bnfuse.results.outcomes import Comparison
from bnfuse.stamps import watched
from bnfuse.use_cases.notes import unsafe_note
from bnfuse.use_cases.provenance import Witnessed, file_info, versions

if TYPE_CHECKING:
    from bnfuse.use_cases.bench import BenchRequest
    from bnfuse.use_cases.verify import VerifyRequest


def verified(
    a: Path, b: Path, request: VerifyRequest, *, hashes: bool = True, progress: Progress = lambda _: None
) -> Comparison:
    """Are these two models equal, and on what evidence?

    Raises:
        BnfuseError: as ``verify``; UnreadableModel too where a file changed meanwhile.
    """
    from bnfuse.use_cases.verify import verify

    with watched(a, b) as unchanged:
        before, after = (file_info(path, hashes=hashes) for path in (a, b))
        progress("verifying")
        ran = Witnessed(load)
        wanted = replace(request, model_bytes=max(before.total_bytes, after.total_bytes))
        agreement = verify(a, b, request=wanted, load=ran.load, progress=progress)
        unchanged.check()
    agreement = replace(agreement, notes=(*agreement.notes, *unsafe_note(request.allow_unsafe)))
    took_part, unsafe = versions(ran.versions), request.allow_unsafe
    return Comparison("verify", before, after, agreement, versions=took_part, unsafe=unsafe)


def benched(
    a: Path,
    b: Path | None,
    request: BenchRequest,
    *,
    hashes: bool = True,
    progress: Progress = lambda _: None,
) -> Comparison:
    """How long does a model take, or which of two is faster?

    Raises:
        BnfuseError: as ``bench``; UnreadableModel too where a file changed meanwhile.
    """
    from bnfuse.use_cases.bench import bench
    from bnfuse.use_cases.shares import compared

    def measured(first: Path, second: Path, how: BenchRequest) -> Latency:
        return bench(first, second, request=how, load=load, progress=progress)

    with watched(a, *([] if b is None else [b])) as unchanged:
        before = file_info(a, hashes=hashes)
        after = None if b is None else file_info(b, hashes=hashes)
        largest = max(before.total_bytes, after.total_bytes if after else 0)
        wanted = replace(request, model_bytes=largest)
        progress("measuring")
        if b is None:
            latency = bench(a, request=wanted, load=load, progress=progress)
        else:
            latency = compared(a, b, wanted, measured)
        unchanged.check()
    latency = replace(latency, notes=(*latency.notes, *unsafe_note(request.allow_unsafe)))
    ran, unsafe = versions(latency.versions), request.allow_unsafe
    return Comparison("bench", before, after, latency=latency, versions=ran, unsafe=unsafe)
