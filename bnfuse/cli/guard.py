"""Turns every way a command can end into one sentence on stderr and an exit code.

``docs/exit-codes.md`` is the contract. Tracebacks are shown only with ``-v``.
"""

from __future__ import annotations

import atexit
import gc
import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from io import TextIOWrapper
from types import FrameType
from typing import Any, NoReturn

import click

from bnfuse.cli.screen import Screen
from bnfuse.errors import FULL, BnfuseError, ExitCode, internal

# What shells report for a process that such a signal ended.
_INTERRUPTED, _BROKEN_PIPE, _TERMINATED = 130, 141, 143
_STOPPED = "interrupted: nothing was left half-written"
_NO_MEMORY = "not enough memory for this model: close other programs, or try --no-verify --no-bench"


class GuardedGroup(click.Group):
    """A group whose commands never end in a traceback, or leave temporary files when terminated."""

    def main(self, *args: Any, **extra: Any) -> Any:
        """As click has it; where stdout cannot be written to (``--help``, too), that is one sentence."""
        _never_collect()
        try:
            return super().main(*args, **extra)
        except OSError as error:
            if error.errno not in FULL:
                raise
            why = error.strerror or error
            click.echo(f"bnfuse: standard output cannot be written: {why}", err=True)
            _hush_stdout()
            sys.exit(ExitCode.USAGE)

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Know before anything can go wrong how errors are to be told."""
        screen = ctx.ensure_object(Screen)
        screen.as_json = "--json" in args
        screen.command = next((arg for arg in args if arg in self.commands), "")
        try:
            return super().parse_args(ctx, args)  # which prints the help and the version
        except BrokenPipeError:
            _hush_stdout()
            raise click.exceptions.Exit(_BROKEN_PIPE) from None

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command; errors leave through ``click.exceptions.Exit`` with the code of the contract."""
        try:
            return self._told(ctx)
        except BrokenPipeError as error:  # also while an error was being told
            _hush_stdout()
            _leave(ctx.ensure_object(Screen), error, _BROKEN_PIPE)

    def _told(self, ctx: click.Context) -> Any:
        screen = ctx.ensure_object(Screen)
        _print_anything()
        if not {"-h", "--help"} & {*ctx.args}:
            from bnfuse.packages import defer_onnx, import_numpy

            import_numpy()
            defer_onnx()
        try:
            with _terminable():
                result = super().invoke(ctx)
                sys.stdout.flush()
                return result
        except BnfuseError as error:
            screen.fail(str(error))
            _leave(screen, error, error.exit_code, str(error))
        except KeyboardInterrupt as error:
            screen.fail(_STOPPED)
            _leave(screen, error, _INTERRUPTED, _STOPPED)
        except BrokenPipeError:
            raise
        except MemoryError as error:
            screen.fail(_NO_MEMORY)
            _leave(screen, error, ExitCode.UNREADABLE, _NO_MEMORY)
        except click.ClickException as error:
            screen.failure("UsageError", error.format_message(), error.exit_code)
            raise
        except (click.exceptions.Exit, click.Abort):
            raise
        except Exception as error:
            if isinstance(error, OSError) and error.errno in FULL:
                raise  # of stdout: every other file has a sentence of its own
            told = internal(error)
            screen.fail(told)
            _leave(screen, error, ExitCode.INTERNAL, told)


def _never_collect() -> None:
    """A command has a process of its own: the system takes back what it leaves behind, cycles or not.

    To look for them while it works is a tenth of the time of a quick one. When it ends Python looks once
    more, disabled or not, at all that is not frozen: another eighth.
    """
    gc.disable()
    atexit.register(gc.freeze)


def _print_anything() -> None:
    """A name that the terminal's encoding does not hold is printed as an escape, not an error."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def _leave(screen: Screen, error: BaseException, code: int, told: str = "") -> NoReturn:
    """Exit, after what was ``told`` was told in every form that was asked for."""
    if told:
        screen.failure(type(error).__name__, told, int(code))
    if screen.verbose:
        from traceback import print_exception

        print_exception(error)
    raise click.exceptions.Exit(code) from None


@contextmanager
def _terminable() -> Iterator[None]:
    """Let SIGTERM unwind the stack, so that temporary folders are removed."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, _terminate)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _terminate(_signal: int, _frame: FrameType | None) -> NoReturn:
    sys.exit(_TERMINATED)


def _hush_stdout() -> None:
    """The reader of stdout went away: keep the interpreter from complaining when it flushes."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
