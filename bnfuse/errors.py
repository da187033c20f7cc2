"""The errors bnfuse raises on purpose, each with the exit code that pipelines rely on.

Every message is one sentence for the user: what went wrong, where, and what to do.
Only ``bnfuse.cli`` turns them into text and exit codes.
"""

from __future__ import annotations

import errno
import re
from collections.abc import Sequence
from enum import IntEnum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from typing_extensions import Self

FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


class ExitCode(IntEnum):
    """The command line's contract (``docs/exit-codes.md``)."""

    DONE = 0
    GATE = 1
    USAGE = 2
    UNREADABLE = 3
    UNPROVED = 4
    RUNTIME_MISSING = 5
    INTERNAL = 70


class BnfuseError(Exception):
    """Base of everything bnfuse raises on purpose.

    What a file calls its parts may be long, or hold ends of lines: in a sentence it is shortened, and written
    with escapes. A path that comes first stays whole.
    """

    exit_code = ExitCode.UNREADABLE
    most_characters = 300  # of a sentence

    def __init__(self, *said: object) -> None:
        most = self.most_characters
        super().__init__(*(sentence(each, most) if isinstance(each, str) else each for each in said))


def internal(error: BaseException) -> str:
    """The sentence for a bug of bnfuse."""
    return f"internal error ({type(error).__name__}: {error}): please report it; -v shows the traceback"


_MOST_OF_A_NAME = 80
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")
_QUOTED, _WORD = re.compile(r"'([^']*)'"), re.compile(r"(\S+)")


def sentence(text: str, most: int) -> str:
    """A sentence of one line, in which no name takes the place of all else."""
    text = _CONTROL.sub(lambda found: found[0].encode("unicode_escape").decode("ascii"), text)
    path, space, rest = text.partition(" ") if "/" in text.split(" ", 1)[0] else ("", "", text)
    for names in (_QUOTED, _WORD):
        if len(rest) > most:
            rest = names.sub(
                lambda found: found[0].replace(found[1], clipped(found[1], _MOST_OF_A_NAME)), rest
            )
    return f"{path}{space}{clipped(rest, most)}"


def clipped(text: str, most: int) -> str:
    """Its beginning and its end, where it has more than so many characters."""
    half = most // 2
    return text if len(text) <= most else f"{text[: half - 1]}…{text[half - most :]}"


def listed(every: Sequence[str], most: int, between: str = ", ") -> str:
    """``a, b, c and 5 more``."""
    return between.join(every[:most]) + (f" and {len(every) - most} more" if len(every) > most else "")


class UsageError(BnfuseError):
    """The request itself is wrong: bad option value, inputs that do not fit the model."""

    exit_code = ExitCode.USAGE


class OutputError(BnfuseError):
    """The result cannot be put where it was asked for: it exists, no permission, disk full."""

    exit_code = ExitCode.USAGE

    @classmethod
    def of(cls, target: object, error: Exception) -> Self:
        """What the operating system, or a library, said while ``target`` was written."""
        if getattr(error, "errno", None) in FULL:
            why = "the disk is full: free some space and try again"
        else:
            why = getattr(error, "strerror", None) or str(error).partition("\n")[0]
        return cls(f"'{target}' cannot be written: {why}")


class UnreadableModel(BnfuseError):
    """The file is missing, truncated, not a model, or lacks its weights."""

    exit_code = ExitCode.UNREADABLE


class UnsafeModel(BnfuseError):
    """The file asks for something bnfuse refuses to do, such as reading outside its folder."""

    exit_code = ExitCode.UNREADABLE


class RuntimeLost(BnfuseError):
    """The process of a runtime crashed, hung or took too much memory: what it was asked is not known."""

    exit_code = ExitCode.UNPROVED


class NotEqual(BnfuseError):
    """The folded model could not be proved equal to the original; nothing was written."""

    exit_code = ExitCode.UNPROVED
    most_characters = 1000  # findings are long


class TargetMissed(BnfuseError):
    """What the target does not have cannot all be taken out; nothing was written."""

    exit_code = ExitCode.GATE


class RuntimeMissing(BnfuseError):
    """A runtime or device that was asked for is not there."""

    exit_code = ExitCode.RUNTIME_MISSING
