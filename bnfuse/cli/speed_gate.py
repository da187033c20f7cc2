"""``--baseline`` and ``--fail-if-slower``, which ``bench`` and ``optimize`` share."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import click

from bnfuse.cli.screen import Screen
from bnfuse.errors import ExitCode

if TYPE_CHECKING:
    from bnfuse.measure.baseline import Earlier
    from bnfuse.results import FileInfo, Latency


def read_earlier(path: Path | None) -> Earlier | None:
    """The report of ``--baseline``, read before any work is done.

    Raises:
        UsageError: it is none.
    """
    if path is None:
        return None
    from bnfuse.measure.baseline import read_baseline

    return read_baseline(path)


def beside_earlier(latency: Latency, original: FileInfo, earlier: Earlier | None) -> Latency:
    """What was measured, with its comparison where an earlier report was given."""
    if earlier is None:
        return latency
    from bnfuse.measure.baseline import compare

    return replace(latency, baseline=compare(latency, original.sha256, earlier))


def gate_speed(
    screen: Screen, latency: Latency | None, most_percent: float, *, against_earlier: bool
) -> None:
    """Exit 1 where the figures show a slow-down beyond ``most_percent``, or show nothing at all."""
    from bnfuse.measure.gates import slower, slower_than_baseline

    if against_earlier:
        refusal = slower_than_baseline(None if latency is None else latency.baseline, most_percent)
    else:
        refusal = slower(latency, most_percent)
    if refusal:
        screen.fail(refusal)
        raise click.exceptions.Exit(ExitCode.GATE)
