"""Arguments and options that say which models are meant, and how several are worked on."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import click

from bnfuse.cli.options import PATH, together

_EMPTY = "a path is empty: check what the shell made of it"
PLACE = click.Path(readable=False)  # a path, or an address such as s3://bucket/model.onnx


class _ModelFile(click.Path):
    """A model that is read where it lies."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """The path; an address is told as one, not as a file that does not exist."""
        from bnfuse.results.places import is_address

        if value == "":
            raise click.BadParameter(_EMPTY)
        if isinstance(value, str) and is_address(value):
            told = f"'{value}' is an address, which only inspect and optimize take: fetch the model first"
            raise click.UsageError(told)
        return super().convert(value, param, ctx)


MODEL_FILE = _ModelFile(path_type=Path, readable=False)


def _named(_ctx: click.Context, _param: click.Parameter, values: tuple[str, ...]) -> tuple[str, ...]:
    """An empty one is a variable of the shell that is not set, and not the folder one is in."""
    if not all(values):
        raise click.BadParameter(_EMPTY)
    return values


def _file(_ctx: click.Context, _param: click.Parameter, value: str | None) -> str | None:
    if value is not None and value.endswith(("/", os.sep)):
        raise click.BadParameter(f"'{value}' is a folder: give a file name, or --output-dir {value}")
    return value


OUTPUT = click.option(
    "-o",
    "--output",
    type=PLACE,
    callback=_file,
    metavar="OUT",
    help="Output file.  [default: MODEL.fused.EXT]",
)
MODELS = click.argument("models", type=PLACE, callback=_named, nargs=-1, required=True, metavar="MODEL...")
WEIGHTS = click.option(
    "--weights",
    type=PATH,
    multiple=True,
    metavar="FILE",
    help="The file of weights, where A or B is only an architecture in JSON; where both are, give it twice, "
    "A's first.  [default: a file of a like name beside it]",
)
MANY = together(
    click.option("-r", "--recursive", is_flag=True, help="Look into folders within folders, too."),
    click.option(
        "-j",
        "--jobs",
        type=click.IntRange(min=1),
        metavar="N",
        help="How many models at once.  [default: all processors]",
    ),
    click.option(
        "--resume",
        is_flag=True,
        help="Skip models that an earlier run did, with the same options and version, and that have not "
        "changed.",
    ),
    click.option(
        "--cluster",
        metavar="ADDRESS",
        help="Run on the Dask cluster whose scheduler has this address (needs bnfuse[cluster]).",
    ),
)
