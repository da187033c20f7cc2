"""Options that several commands share, and how their values are parsed.

Paths are not checked here: a model that is missing is an unreadable model (exit 3), not wrong usage.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import reduce, wraps
from pathlib import Path
from typing import Any, TypeVar

import click

from bnfuse.cli.screen import Screen

Command = TypeVar("Command", bound=Callable[..., Any])
Asked = TypeVar("Asked")

# readable=False: click would exit 2 for a file that exists and cannot be read.
PATH = click.Path(path_type=Path, readable=False)
SECONDS = click.FloatRange(min=0.1)


def together(*options: Callable[[Command], Command]) -> Callable[[Command], Command]:
    """Several options as one decorator, in the order they stand in ``--help``."""
    return lambda command: reduce(lambda done, option: option(done), reversed(options), command)


def gathered(kind: Callable[..., Asked]) -> Callable[[Callable[[Screen, Asked], None]], Callable[..., None]]:
    """The command gets the values of all its options as one, of this kind."""

    def decorate(command: Callable[[Screen, Asked], None]) -> Callable[..., None]:
        @wraps(command)
        def called(screen: Screen, **values: Any) -> None:
            command(screen, kind(**values))

        return called

    return decorate


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


def _labels(_ctx: click.Context, _param: click.Parameter, values: tuple[str, ...]) -> dict[str, Path]:
    """``("y=labels.npy",)`` → ``{"y": Path("labels.npy")}``; "" where no output is named."""
    labels: dict[str, Path] = {}
    for value in values:
        name, equals, file = ("", "", value) if Path(value).exists() else value.partition("=")
        if not equals:
            name, file = "", value
        if name in labels:
            of = f" for '{name}'" if name else ""
            raise click.BadParameter(f"there are two files of labels{of}: name their outputs, OUTPUT=FILE")
        labels[name] = Path(file)
    return labels


def check_labels(labels: Mapping[str, Path], inputs: Path | None) -> None:
    """Refuse labels of no samples.

    Raises:
        click.UsageError: ``--labels`` without ``--inputs``.
    """
    if labels and inputs is None:
        raise click.UsageError("--labels are for your own samples: give those with --inputs")


def _numbers(_ctx: click.Context, _param: click.Parameter, values: tuple[str, ...]) -> tuple[int, ...]:
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
    percent = -1.0
    with suppress(ValueError):
        percent = float(value.strip().removesuffix("%"))
    if not 0 <= percent < float("inf"):
        raise click.BadParameter(f"'{value}' is not a percentage, such as 3 or 3%")
    return percent


def _precision(ctx: click.Context, param: click.Parameter, value: str | None) -> float | None:
    """``1`` and ``1%`` → 0.01; 0 would never be reached."""
    if (percent := _percent(ctx, param, value)) == 0:
        raise click.BadParameter("no measurement is that precise: give a percentage above 0")
    return None if percent is None else percent / 100


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
    help="Also write the report to FILE: .json, .md, .html, .xml (JUnit) or .sarif choose its "
    "form. Repeatable.",
)
READING = together(
    click.option(
        "--weights",
        type=PATH,
        metavar="FILE",
        help="The file of weights, where MODEL is only an architecture in JSON.  [default: a file of a like "
        "name beside it]",
    ),
    click.option(
        "--strict-inputs", is_flag=True, help="Refuse a model that lists every initializer as an input."
    ),
    click.option(
        "--freeze-inputs", is_flag=True, help="Treat initializers that are also inputs as constants."
    ),
    click.option(
        "--activations",
        type=click.Choice(["keep", "move"]),
        default="keep",
        show_default=True,
        help="move: a Relu or Clip may become a Max or Min with one bound for each channel, where that lets "
        "more BatchNormalizations go (ONNX, .keras). Not always faster: measure.",
    ),
    click.option(
        "--target",
        type=click.Choice(["any", "no-bn"]),
        default="any",
        show_default=True,
        help="no-bn: leave none, for runtimes without any. Activations may move, and what cannot go becomes "
        "Mul and Add (Keras: Rescaling). Where one must stay, optimize writes nothing and exits with 1.",
    ),
    click.option("--equalize", is_flag=True, help="Also rescale channels exactly, so that 8 bits lose less."),
    click.option(
        "--keep",
        multiple=True,
        metavar="NAME|PATTERN",
        help="Leave these BatchNormalizations, and the values they read and write, as they are. Repeatable.",
    ),
    click.option(
        "--round-bias",
        is_flag=True,
        help="Keep a bias of 32-bit integers in integers, rounded by at most half a step; without this it "
        "becomes floats, exactly (ONNX).",
    ),
    click.option(
        "--allow-growth",
        is_flag=True,
        help="Allow weights and results that are many times larger than the file, which computes or "
        "compresses them.",
    ),
)
INPUTS = together(
    click.option(
        "--inputs",
        type=PATH,
        metavar="FILE|FOLDER",
        help="Your own samples: .npz by input name, .npy, or a folder of them. All are used.",
    ),
    click.option(
        "--shape",
        multiple=True,
        callback=_shapes,
        metavar="NAME=1,3,224,224",
        help="The shape of an input with dynamic axes. Repeatable.",
    ),
)
LABELS = click.option(
    "--labels",
    multiple=True,
    callback=_labels,
    metavar="[OUTPUT=]FILE",
    help="The right answer to each sample of --inputs, as integers (.npy, .npz, .csv): tells the accuracy "
    "before and after. Repeatable, once for each output.",
)
BATCH = click.option(
    "--batch",
    type=click.IntRange(min=1),
    metavar="N",
    help="The batch size, where the first axis is dynamic.",
)
BATCHES = click.option(
    "--batch",
    multiple=True,
    callback=_numbers,
    metavar="N[,N...]",
    help="The batch sizes to measure, where the first axis is dynamic. Repeatable.",
)
DEVICE = click.option(
    "--device", type=click.Choice(["cpu", "gpu"]), default="cpu", show_default=True, help="Where models run."
)
THREADS = click.option("--threads", type=click.IntRange(min=1), metavar="N", help="Threads of the runtime.")
THREAD_COUNTS = click.option(
    "--threads",
    multiple=True,
    callback=_numbers,
    metavar="N[,N...]",
    help="Numbers of threads of the runtime to measure.  [default: all processors]",
)
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
    help="About how long the proof may take. Your own samples are all run, however long that takes.",
)
MEASURING = together(
    click.option(
        "--precision",
        callback=_precision,
        default="1%",
        show_default=True,
        metavar="PERCENT",
        help="How precise to be. A setting ends once it is certain which is faster, with a 95 % interval "
        "within ±PERCENT or a third of the gain, or once a change of twice PERCENT is ruled out.",
    ),
    click.option(
        "--bench-time",
        "--max-time",
        "max_time",
        type=SECONDS,
        default=20.0,
        show_default=True,
        metavar="SECONDS",
        help="The longest that all settings together may take, precise or not; loading models comes on top.",
    ),
)
FAIL_IF_SLOWER = click.option(
    "--fail-if-slower",
    "most_percent",
    callback=_percent,
    metavar="PERCENT",
    help="Exit 1 if the second model (the result) is slower than the first by more than this, with 95 % "
    "confidence: noise does not trip it. With --baseline: slower than it was then.",
)
BASELINE = click.option(
    "--baseline",
    type=PATH,
    metavar="FILE.json",
    help="Compare with an earlier report (--json) from this machine: the result of now with the one of then.",
)
COLD = click.option("--cold", is_flag=True, help="Also measure cold start and memory, in fresh processes.")
PROFILE = click.option(
    "--profile", is_flag=True, help="Also tell the time by operator, and what ran where (ONNX)."
)
