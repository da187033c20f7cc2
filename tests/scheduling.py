"""Which worker runs which tests, where several run them at once, and what it tells of them.

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


def tell_less(config: Any) -> None:
    """Keep to this worker what nobody is shown: that a test begins, that its set-up and its end went well.

    Each message is packed, sent and unpacked in Python: three of the six of each test, of ten thousand, were
    some four seconds. All are sent where anything but the dots and the failures is asked for.
    """
    asked = config.option
    all_is_told = asked.verbose > 0 or asked.durations is not None or {*"pPA"} & {*asked.reportchars}
    if all_is_told or getattr(asked, "xmlpath", None):
        return
    plugins = config.pluginmanager.get_plugins()
    worker = next((p for p in plugins if type(p).__name__ == "WorkerInteractor"), None)
    if worker is None:  # in another xdist
        return
    send = worker.sendevent

    def send_what_is_shown(name: str, **said: Any) -> None:
        report = said["data"] if name == "testreport" else {"when": "call"}
        went_well = report["when"] != "call" and report["outcome"] == "passed"
        if name != "logstart" and not went_well:
            send(name, **said)

    worker.sendevent = send_what_is_shown


class _Numbered(list[str]):
    """Tests whose numbers are known: looking for each of ten thousand in a list is a second."""

    def __init__(self, tests: Sequence[str]) -> None:
        super().__init__(tests)
        self._numbers = {test: number for number, test in enumerate(tests)}

    def index(self, test: str, *within: Any) -> int:
        return self._numbers[test]


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

    def add_node_collection(self, node: Any, collection: Sequence[str]) -> None:
        """What a worker has found."""
        super().add_node_collection(node, collection)
        if node in self.registered_collections:
            self.registered_collections[node] = _Numbered(collection)

    def _split_scope(self, nodeid: str) -> str:
        return self._units[nodeid]

    def _assign_work_unit(self, node: Any) -> None:
        """The next unit in the order, of those that this worker is for while there are any.

        Units that are done are forgotten: all that a worker has is counted at the end of each test.
        """
        begun = self.assigned_work[node]
        for unit in [unit for unit, tests in begun.items() if all(tests.values())]:
            del begun[unit]
        first, *others = self.nodes
        wanted = [unit for unit in self.workqueue if runs_keras(unit) == (node is first)]
        if wanted and others:
            self.workqueue.move_to_end(wanted[0], last=False)
        super()._assign_work_unit(node)
