"""``--runtime-timeout`` and ``--runtime-memory``: what a runtime may take, for one command."""

from __future__ import annotations

import os

import click

from bnfuse.cli.options import SECONDS, together
from bnfuse.errors import UsageError


def _runtime_limit(ctx: click.Context, param: click.Parameter, value: float | None) -> None:
    """The same as the variable, for this command: processes of its own look it up there."""
    if value is None:
        return
    name = _LIMITS[param.name or ""]
    before = os.environ.get(name)
    os.environ[name] = f"{value:.17g}"
    ctx.call_on_close(lambda: os.environ.pop(name) if before is None else os.environ.update({name: before}))


def _memory(ctx: click.Context, param: click.Parameter, value: str | None) -> None:
    """A size of memory, in GB."""
    if value is None:
        return
    from bnfuse.formats.child.limits import gigabytes

    try:
        _runtime_limit(ctx, param, gigabytes(value))
    except UsageError as error:
        raise click.BadParameter(str(error)) from None


_LIMITS = {"runtime_timeout": "BNFUSE_RUNTIME_TIMEOUT", "runtime_memory": "BNFUSE_RUNTIME_MEMORY"}
LIMITS = together(
    click.option(
        "--runtime-timeout",
        type=SECONDS,
        metavar="SECONDS",
        expose_value=False,
        callback=_runtime_limit,
        help="The longest that the runtime may take to load a model, or to answer a call.  [default: 300]",
    ),
    click.option(
        "--runtime-memory",
        metavar="SIZE",
        expose_value=False,
        callback=_memory,
        help="The most memory that the runtime may hold: 2GB, 500MB.  [default: 95 % of what is free]",
    ),
)
