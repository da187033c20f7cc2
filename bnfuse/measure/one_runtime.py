"""Two models are timed in one runtime: that of the original, or else another that loads both.

Which runtime loads a model shows only when it is loaded. What the original was loaded into is asked for
when the second model is loaded; where that is refused, and another runtime loads both, everything is to
be measured anew there: ``Elsewhere`` says so. Models of two formats have runtimes of their own
(``inputs.cross_format``).
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from msgspec.structs import replace

from bnfuse.errors import BnfuseError, UnreadableModel
from bnfuse.formats.base import Loader, Runner, RunSettings


class Elsewhere(Exception):
    """Both models load in ``runtime``, but not in the one that was tried first."""

    def __init__(self, runtime: str) -> None:
        super().__init__(runtime)
        self.runtime = runtime


class OneRuntime:
    """A loader of an original and perhaps another model, the original first."""

    def __init__(self, load: Loader, paths: Sequence[Path], runtime: str = "") -> None:
        self._load, self._paths, self._runtime = load, paths, runtime

    def __call__(self, path: Path, settings: RunSettings) -> Runner:
        """Loader one of the models.

        Raises:
            Elsewhere: measure anew, there.
            BnfuseError: no runtime loads both; or as the format's ``load``.
        """
        if path == self._paths[0]:
            runner = self._load(path, replace(settings, runtime=self._runtime))
            self._runtime = runner.runtime
            return runner
        try:
            return self._load(path, replace(settings, runtime=self._runtime))
        except UnreadableModel:
            if not self._runtime:
                raise
            other = self._choice(path, settings)
            if other == self._runtime:
                raise
            try:
                self._choice(self._paths[0], replace(settings, runtime=other))
            except UnreadableModel:
                text = f"{self._runtime} loads the first model, but only {other} loads the second"
                raise BnfuseError(text) from None
            raise Elsewhere(other) from None

    def _choice(self, path: Path, settings: RunSettings) -> str:
        """The runtime that loads a model."""
        with self._load(path, settings) as runner:
            return runner.runtime
