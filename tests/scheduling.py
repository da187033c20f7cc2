"""Which worker runs which tests, where several run them at once.

A file's quick tests are one unit of work and its slow ones another, so that what a module's fixtures make is
made once, and all quick tests still come before the slow ones. Files that share what is costly are one unit.
What runs Keras is done by the first worker while the others have anything else: TensorFlow takes seconds to
import, and so does each process that holds it.
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
# Files that run Keras, in this process or another, beside those that say so by their name.
_RUNNING_KERAS = {
    f"tests/test_{name}.py"
    for name in (
        "bench_across", "documented_commands", "guessed_sizes", "noting", "provenance", "python_page",
        "spare_models", "verify_across", "weights_of_two", "whole_numbers",
    )
}  # fmt: skip


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


def runs_keras(unit: str) -> bool:
    """Whether tests of a unit run Keras.

    >>> runs_keras("tests/test_keras_run.py, turn 1"), runs_keras("tests/test_wire.py, turn 1")
    (True, False)
    """
    file = unit.partition(",")[0]
    return "keras" in file or file in _RUNNING_KERAS


class QuickThenSlow(LoadScopeScheduling):
    """Units in the order of the collection, those that run Keras by the first of several workers."""

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

    def _assign_work_unit(self, node: Any) -> None:
        """The next unit in the order, of those that this worker is for while there are any."""
        first, *others = self.nodes
        wanted = [unit for unit in self.workqueue if runs_keras(unit) == (node is first)]
        if wanted and others:
            self.workqueue.move_to_end(wanted[0], last=False)
        super()._assign_work_unit(node)
