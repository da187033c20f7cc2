"""What the functions answer with: results of the use cases that can be written in every form of report.

A result of the use cases holds values and knows no report; these add how it is written, and the new model.
"""

from __future__ import annotations

from os import PathLike
from pathlib import Path
from typing import Any, Generic, TypeVar

from msgspec.structs import asdict

from bnfuse import results
from bnfuse.difference import result as difference
from bnfuse.report import check_reports, render, write
from bnfuse.results import Comparison, Gate

M = TypeVar("M")
R = TypeVar("R")


class Forms:
    """A result as text: what ``--report`` writes for the same command."""

    __slots__ = ()

    def _text(self, suffix: str) -> str:
        """The document in the form of this suffix."""
        return render(self, suffix)

    def to_json(self) -> str:
        """One JSON document, whose schema lies in ``docs/``."""
        return self._text(".json")

    def to_html(self) -> str:
        """One page that needs no network."""
        return self._text(".html")

    def to_markdown(self) -> str:
        """GitHub's Markdown."""
        return self._text(".md")

    def save(self, path: str | PathLike[str]) -> Path:
        """Write it to a file, whose suffix chooses the form; a finished file takes an old one's place.

        Returns:
            Where it lies.

        Raises:
            UsageError: the suffix names no form that this result has.
            OutputError: no space, no permission, or a folder of that name.
        """
        target = Path(path)
        check_reports([target])
        write(self._text(target.suffix), target)
        return target

    def to_junit(self) -> str:
        """JUnit's XML: a test case for each promise."""
        return self._text(".xml")

    def to_sarif(self) -> str:
        """SARIF, with which code hosts annotate."""
        return self._text(".sarif")


class Report(results.Report, Forms, Generic[M], frozen=True):
    """Everything that ``optimize`` or ``inspect`` found out and did.

    ``model`` is the new model, of the kind that was given: a path for a file, bytes for bytes and for a file
    object, a new object for an object. None where nothing was written: by ``inspect``, and where
    ``only_if_faster`` found no gain.
    """

    model: M | None = None


class Agreement(results.Agreement, Forms, frozen=True, kw_only=True):
    """What ``verify`` found out; ``comparison`` tells the two files and the versions that took part."""

    comparison: Comparison

    @property
    def equal(self) -> bool:
        """Whether equality was shown."""
        return self.status is results.Status.EQUAL

    def _text(self, suffix: str) -> str:
        return render(self.comparison, suffix)


class Latency(results.Latency, Forms, frozen=True, kw_only=True):
    """What ``bench`` measured; ``comparison`` tells the files and the versions that took part."""

    comparison: Comparison

    @property
    def gates(self) -> tuple[Gate, ...]:
        """What was asked for that may say no."""
        return self.comparison.gates

    def _text(self, suffix: str) -> str:
        return render(self.comparison, suffix)


class Difference(difference.Difference, Forms, frozen=True):
    """Everything that differs between two models."""


def written_down(kind: type[R], found: Any, **more: Any) -> R:
    """A result of a use case as the ``kind`` that extends its class."""
    return kind(**asdict(found), **more)


def agreement(found: Comparison) -> Agreement:
    """The result of ``verify``."""
    return written_down(Agreement, found.agreement, comparison=found)


def latency(found: Comparison) -> Latency:
    """The result of ``bench``."""
    return written_down(Latency, found.latency, comparison=found)
