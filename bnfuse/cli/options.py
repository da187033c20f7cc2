"""Options that several commands share, and how their values are parsed.

Paths are not checked here: a model that is missing is an unreadable model (exit 3), not wrong usage.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import reduce
from pathlib import Path
from typing import Any, TypeVar

import click

from bnfuse.cli.screen import Screen

Command = TypeVar("Command", bound=Callable[..., Any])

# readable=False: click would exit 2 for a file that exists and cannot be read.
PATH = click.Path(path_type=Path, readable=False)
SECONDS = click.FloatRange(min=0.1)


def together(*options: Callable[[Command], Command]) -> Callable[[Command], Command]:
    """Several options as one decorator, in the order they stand in ``--help``."""
    return lambda command: reduce(lambda done, option: option(done), reversed(options), command)


def _quiet(ctx: click.Context, _param: click.Parameter, value: bool) -> None:
    ctx.ensure_object(Screen).quiet |= value


def _verbose(ctx: click.Context, _param: click.Parameter, value: bool) -> None:
    ctx.ensure_object(Screen).verbose |= value


def _shapes(
    _ctx: click.Context, _param: click.Parameter, values: tuple[str, ...]
) -> dict[str, tuple[int, ...]]:
    """``("x=1,3,8,8",)`` → ``{"x": (1, 3, 8, 8)}``; a name may hold ``=`` itself, ``x=`` is a scalar."""
    shapes = {}
    for value in values:
        name, equals, sizes = value.rpartition("=")
        if not equals or not name:
            raise click.BadParameter(f"'{value}' is not of the form NAME=1,3,224,224")
        shapes[name] = _sizes(sizes, f"'{value}' is not of the form NAME=1,3,224,224", least=0)
    return shapes


def _batches(_ctx: click.Context, _param: click.Parameter, values: tuple[str, ...]) -> tuple[int, ...]:
    """``("1,8", "32")`` → ``(1, 8, 32)``."""
    every = (_sizes(value, f"'{value}' is not a list of numbers above 0", least=1) for value in values)
    return tuple(size for sizes in every for size in sizes)


def _sizes(text: str, complaint: str, *, least: int) -> tuple[int, ...]:
    try:
        sizes = tuple(int(part) for part in text.split(",")) if text.strip() else ()
    except ValueError:
        raise click.BadParameter(complaint) from None
    if any(size < least for size in sizes) or (least and not sizes):
        raise click.BadParameter(complaint)
    return sizes


def _percent(_ctx: click.Context, _param: click.Parameter, value: str | None) -> float | None:
    """``3`` and ``3%`` → 3.0."""
    if value is None:
        return None
    try:
        percent = float(value.strip().removesuffix("%"))
    except ValueError:
        percent = -1.0
    if not 0 <= percent < float("inf"):
        raise click.BadParameter(f"'{value}' is not a percentage, such as 3 or 3%")
    return percent


MODEL = click.argument("model", type=PATH)

VERBOSITY = together(
    click.option(
        "-q", "--quiet", is_flag=True, expose_value=False, callback=_quiet, help="Print errors only."
    ),
    click.option(
        "-v",
        "--verbose",
        is_flag=True,
        expose_value=False,
        callback=_verbose,
        help="Say more; show tracebacks.",
    ),
)
JSON = click.option(
    "--json", "as_json", is_flag=True, help="Print one JSON document and nothing else on stdout."
)
REPORTS = click.option(
    "--report",
    "reports",
    type=PATH,
    multiple=True,
    metavar="FILE",
    help="Also write the report to FILE: .json, .md, .html or .xml (JUnit) choose the form. Repeatable.",
)
READING = together(
    click.option(
        "--strict-inputs", is_flag=True, help="Refuse a model that lists every initializer as an input."
    ),
    click.option(
        "--freeze-inputs", is_flag=True, help="Treat initializers that are also inputs as constants."
    ),
)
INPUTS = together(
    click.option("--inputs", type=PATH, metavar="FILE", help="Your own inputs: .npz by input name, or .npy."),
    click.option(
        "--shape",
        "shapes",
        multiple=True,
        callback=_shapes,
        metavar="NAME=1,3,224,224",
        help="The shape of an input whose axes are free. Repeatable.",
    ),
)
BATCH = click.option("--batch", type=click.IntRange(min=1), metavar="N", help="Size of a free first axis.")
BATCHES = click.option(
    "--batch",
    "batches",
    multiple=True,
    callback=_batches,
    metavar="N[,N...]",
    help="Sizes of a free first axis to measure. Repeatable.",
)
DEVICE = click.option(
    "--device", type=click.Choice(["cpu", "gpu"]), default="cpu", show_default=True, help="Where models run."
)
THREADS = click.option("--threads", type=click.IntRange(min=1), metavar="N", help="Threads of the runtime.")
ALLOW_UNSAFE = click.option(
    "--allow-unsafe",
    is_flag=True,
    help="Let a model run code that it carries (Keras Lambda layers). Folding never needs it.",
)
VERIFY_TIME = click.option(
    "--verify-time",
    type=SECONDS,
    default=10.0,
    show_default=True,
    metavar="SECONDS",
    help="About how long the proof may take.",
)
BENCH_TIME = click.option(
    "--bench-time",
    type=SECONDS,
    default=10.0,
    show_default=True,
    metavar="SECONDS",
    help="About how long the measurement may take.",
)
FAIL_IF_SLOWER = click.option(
    "--fail-if-slower",
    "most_percent",
    callback=_percent,
    metavar="PERCENT",
    help="Exit 1 if B is slower than A by more, with 95 % confidence: noise does not trip it.",
)
