"""Does a model give the same outputs when it is run again? One that draws random numbers cannot be compared.

Decided by running it twice on the same inputs. Where its file names nodes that draw random numbers, any
difference is theirs; where it names none, only one far beyond what sums in another order leave.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from bnfuse.errors import BnfuseError, listed
from bnfuse.inputs.hinted import FileHints
from bnfuse.inputs.user_arrays import Feeds

if TYPE_CHECKING:
    from bnfuse.formats.base import Runner

# Of an output's range: far more than threads that add in another order make of float16.
_FAR = 0.05
_NAMED = 3


class RandomOutputs(BnfuseError):
    """The model's outputs are random; the message is a sentence."""


def check_repeatable(runner: Runner, feeds: Feeds, first: Feeds, model: Path | None) -> None:
    """Run a model once more on ``feeds``, which gave ``first``.

    Raises:
        RandomOutputs: it gives other outputs.
        BnfuseError: it does not run.
    """
    again = runner.run(feeds)
    changed = [name for name, array in first.items() if not _same(array, again[name])]
    if not changed:
        return
    random = FileHints(model, ()).all.random
    if not random:
        changed = [name for name in changed if _far(first[name], again[name])]
    if changed:
        outputs = listed([f"'{name}'" for name in changed], _NAMED)
        raise RandomOutputs(
            f"the original's output {outputs} is another one at every run on the same inputs, because "
            f"{_who(random)}: what is random cannot be compared"
        )


def _who(random: Sequence[str]) -> str:
    if not random:
        return "something in it, which its file does not tell, is random"
    return f"{listed(random, _NAMED)} {'draws' if len(random) == 1 else 'draw'} random numbers"


def _same(a: np.ndarray, b: np.ndarray) -> bool:
    if a.shape != b.shape:
        return False
    if a.dtype == object:  # texts, or the elements of sequences and maps
        return all(repr(x) == repr(y) for x, y in zip(a.reshape(-1), b.reshape(-1), strict=True))
    return a.tobytes() == b.tobytes() or bool(np.array_equal(a, b, equal_nan=a.dtype.kind in "fc"))


def _far(a: np.ndarray, b: np.ndarray) -> bool:
    if a.shape != b.shape or a.dtype.kind != "f":
        return True
    wide, again = a.astype(np.float64), b.astype(np.float64)
    with np.errstate(invalid="ignore"):
        return bool(
            np.nanmax(np.abs(wide - again), initial=0.0) > _FAR * np.nanmax(np.abs(wide), initial=0.0)
        )
