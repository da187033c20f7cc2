"""What somebody who waits is told on stderr: what is done now, and how long it takes at most."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

import click

from bnfuse.results.doing import Progress, left

EVERY_S = 10.0
PATIENCE_S = 0.4
_LOOK_EVERY_S = 0.1


@contextmanager
def lines(*, every: bool, tell: Callable[[str], None] | None = None) -> Iterator[Progress]:
    """For a log: a line every 10 s, so that what takes long is never mute; ``every`` phase has one, too."""
    say = tell or (lambda line: click.echo(line, err=True))
    begin, over = time.monotonic(), threading.Event()
    doing = ["starting"]

    def show(words: str) -> None:
        doing[0] = words
        if every:
            say(f"{words} …")

    def beat() -> None:
        while not over.wait(EVERY_S):
            say(f"{doing[0]}{left(doing[0])} ({time.monotonic() - begin:.0f} s so far)")

    with _beside(beat, over):
        yield show


@contextmanager
def spinner() -> Iterator[Progress]:
    """For a terminal: one line that moves, and goes in the end; nothing where the work is done at once.

    What draws it takes longer to import than a small model takes to be planned.
    """
    over, doing = threading.Event(), ["starting"]

    def show(words: str) -> None:
        doing[0] = words

    def draw() -> None:
        if over.wait(PATIENCE_S):
            return
        with suppress(OSError), _line() as change:  # a terminal that went away is the command's to notice
            change(shown := doing[0])
            while not over.wait(_LOOK_EVERY_S):
                if doing[0] is not shown:
                    change(shown := doing[0])

    with _beside(draw, over):
        yield show


@contextmanager
def _beside(work: Callable[[], None], over: threading.Event) -> Iterator[None]:
    """A thread for as long as the context lasts; it ends once ``over`` is set."""
    clock = threading.Thread(target=work, name="bnfuse-progress", daemon=True)
    clock.start()
    try:
        yield
    finally:
        over.set()
        clock.join()


@contextmanager
def _line() -> Iterator[Progress]:
    """The line itself, and what changes its words."""
    from rich.progress import Progress as Bar
    from rich.progress import ProgressColumn, SpinnerColumn, Task, TextColumn
    from rich.table import Column
    from rich.text import Text

    from bnfuse.report.rich_console import GuardedConsole

    class Left(ProgressColumn):
        """How long at most is left, as it is now; where nobody knows, how long it has taken."""

        def render(self, task: Task) -> Text:
            told = left(task.fields.get("doing", "")).removeprefix(", ")
            return Text(told or f"{task.elapsed or 0:.0f} s", "dim")

    words = TextColumn("{task.description}", markup=False, table_column=Column(no_wrap=True))
    columns = (SpinnerColumn(), words, Left(table_column=Column(no_wrap=True)))
    with Bar(
        *columns,
        console=GuardedConsole(stderr=True, markup=False, highlight=False, emoji=False),
        transient=True,
    ) as bar:
        task = bar.add_task("starting", doing="")
        yield lambda words: bar.reset(task, description=str(words), doing=words)
