"""The errors bnfuse raises on purpose, each with the exit code that pipelines rely on.

Every message is one sentence for the user: what went wrong, where, and what to do.
Only ``bnfuse.cli`` turns them into text and exit codes.
"""

from __future__ import annotations

from enum import IntEnum


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
    """Base of everything bnfuse raises on purpose."""

    exit_code = ExitCode.UNREADABLE


class UsageError(BnfuseError):
    """The request itself is wrong: bad option value, inputs that do not fit the model."""

    exit_code = ExitCode.USAGE


class OutputError(BnfuseError):
    """The result cannot be put where it was asked for: it exists, no permission, disk full."""

    exit_code = ExitCode.USAGE


class UnreadableModel(BnfuseError):
    """The file is missing, truncated, not a model, or lacks its weights."""

    exit_code = ExitCode.UNREADABLE


class UnsafeModel(BnfuseError):
    """The file asks for something bnfuse refuses to do, such as reading outside its folder."""

    exit_code = ExitCode.UNREADABLE


class RuntimeLost(BnfuseError):
    """The process of a runtime crashed, hung or took too much memory: what it was asked is not known."""


class NotEqual(BnfuseError):
    """The folded model could not be proved equal to the original; nothing was written."""

    exit_code = ExitCode.UNPROVED


class TargetMissed(BnfuseError):
    """What the target does not have cannot all be taken out; nothing was written."""

    exit_code = ExitCode.GATE


class RuntimeMissing(BnfuseError):
    """A runtime or device that was asked for is not there."""

    exit_code = ExitCode.RUNTIME_MISSING
