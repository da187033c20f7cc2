"""The use cases ``verify`` and ``bench`` as a whole: two files (or one), what was found, and what took part.

Around ``use_cases.verify`` and ``use_cases.bench``, which compare models, this is what a caller asks for: the
files are told by size and hash, must not change meanwhile, and the versions of the runtimes are kept.
"""

from __future__ import annotations

from collections.abc import Sequence
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING

from msgspec.structs import replace

from bnfuse.files.stamps import watched
from bnfuse.formats import keeping_models, load
from bnfuse.results import Latency
from bnfuse.results.doing import Progress
from bnfuse.results.outcomes import Comparison
from bnfuse.use_cases.notes import unsafe_note
from bnfuse.use_cases.provenance import Witnessed, file_info, versions
from bnfuse.use_cases.unpacking import Opened, unpacked_together

if TYPE_CHECKING:
    from bnfuse.use_cases.bench import BenchRequest
    from bnfuse.use_cases.verify import VerifyRequest

AnyPath = str | PathLike[str]


def verified(
    a: Path,
    b: Path,
    request: VerifyRequest,
    *,
    weights: Sequence[AnyPath] = (),
    hashes: bool = True,
    progress: Progress = lambda _: None,
) -> Comparison:
    """Are these two models equal, and on what evidence? ``weights`` are as in ``unpacked_together``.

    Raises:
        BnfuseError: as ``verify``; UnreadableModel too where a file changed meanwhile.
    """
    from bnfuse.use_cases.verify import verify

    with (
        unpacked_together((a, b), weights) as (one, other),
        watched(one.path, other.path) as unchanged,
        keeping_models(),
    ):
        before, after = (file_info(source.path, hashes=hashes) for source in (one, other))
        progress("verifying")
        ran = Witnessed(load)
        wanted = replace(request, model_bytes=max(before.total_bytes, after.total_bytes))
        agreement = verify(one.path, other.path, request=wanted, load=ran.load, progress=progress)
        unchanged.check()
    agreement = replace(agreement, notes=(*agreement.notes, *unsafe_note(request.allow_unsafe)))
    took_part, unsafe = versions(ran.versions), request.allow_unsafe
    found = Comparison("verify", before, after, agreement, versions=took_part, unsafe=unsafe)
    return _told(found, one, other)


def benched(
    a: Path,
    b: Path | None,
    request: BenchRequest,
    *,
    weights: Sequence[AnyPath] = (),
    hashes: bool = True,
    progress: Progress = lambda _: None,
) -> Comparison:
    """How long does a model take, or which of two is faster? ``weights`` are as in ``unpacked_together``.

    Raises:
        BnfuseError: as ``bench``; UnreadableModel too where a file changed meanwhile.
    """
    from bnfuse.use_cases.bench import bench
    from bnfuse.use_cases.shares import compared

    def measured(first: Path, second: Path, how: BenchRequest) -> Latency:
        return bench(first, second, request=how, load=load, progress=progress)

    with (
        unpacked_together([path for path in (a, b) if path is not None], weights) as sources,
        watched(*(source.path for source in sources)) as unchanged,
        keeping_models(),
    ):
        one, other = sources[0], sources[1] if b is not None else None
        before = file_info(one.path, hashes=hashes)
        after = None if other is None else file_info(other.path, hashes=hashes)
        largest = max(before.total_bytes, after.total_bytes if after else 0)
        wanted = replace(request, model_bytes=largest)
        progress("measuring")
        if other is None:
            latency = bench(one.path, request=wanted, load=load, progress=progress)
        else:
            latency = compared(one.path, other.path, wanted, measured)
        unchanged.check()
    latency = replace(latency, notes=(*latency.notes, *unsafe_note(request.allow_unsafe)))
    ran, unsafe = versions(latency.versions), request.allow_unsafe
    found = Comparison("bench", before, after, latency=latency, versions=ran, unsafe=unsafe)
    return _told(found, one, other)


def _told(found: Comparison, one: Opened, other: Opened | None) -> Comparison:
    """What was found, of the files that the user gave."""
    before, after = one.info(found.before), found.after
    if other is not None and after is not None:
        found, after = other.told(found), other.info(after)
    return replace(one.told(found), before=before, after=after)
