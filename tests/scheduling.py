"""Which worker runs which tests, where several run them at once.

A file's quick tests are one unit of work and its slow ones another, so that what a module's fixtures make is
made once, and all quick tests still come before the slow ones. Files that share what is costly are one unit.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

from xdist.scheduler import LoadScopeScheduling

# What a file takes from the models that another has had Keras save.
_WITH = {
    "tests/test_keras_edited.py": "tests/test_keras_saved.py",
    "tests/test_keras_malformed.py": "tests/test_keras_settings.py",
}


def units(tests: Sequence[str]) -> dict[str, str]:
    """The unit of each test, from all of them in the order in which they were collected.

    >>> units(["a::quick", "b::quick", "a::slow"])
    {'a::quick': 'a, turn 1', 'b::quick': 'b, turn 1', 'a::slow': 'a, turn 2'}
    """
    turns: Counter[str] = Counter()
    found: dict[str, str] = {}
    before = ""
    for test in tests:
        file = test.partition("::")[0]
        if file != before:
            turns[file] += 1
            before = file
        found[test] = f"{_WITH.get(file, file)}, turn {turns[file]}"
    return found


class QuickThenSlow(LoadScopeScheduling):
    """Units in the order of the collection."""

    def __init__(self, config: Any, log: Any = None) -> None:
        super().__init__(config, log)
        config.option.loadscopereorder = False
        self._units: dict[str, str] = {}

    def schedule(self) -> None:
        """Hand out the units, whose tests are known now."""
        if self.collection is None:
            self._units = units(next(iter(self.registered_collections.values())))
        super().schedule()

    def _split_scope(self, nodeid: str) -> str:
        return self._units[nodeid]
