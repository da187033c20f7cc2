"""What runs where, and what is told of it, where several workers run the tests."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from tests.scheduling import runs_keras, tell_less, units

QUIET = {"verbose": 0, "durations": None, "xmlpath": None, "reportchars": "wsxXEf"}
EVENTS: list[tuple[str, dict[str, Any]]] = [
    ("logstart", {"nodeid": "a"}),
    *(
        ("testreport", {"data": {"when": when, "outcome": outcome}})
        for outcome in ("passed", "failed", "skipped")
        for when in ("setup", "call", "teardown")
    ),
    ("logfinish", {"nodeid": "a"}),
    ("runtest_protocol_complete", {"item_index": 0}),
]
UNSAID = [EVENTS[0], EVENTS[1], EVENTS[3]]  # that it begins; that set-up and end went well


class WorkerInteractor:
    """Keeps what it is to send."""

    def __init__(self) -> None:
        self.sent: list[Any] = []

    def sendevent(self, name: str, **said: Any) -> None:
        self.sent.append((name, said))


@pytest.mark.parametrize(
    ("asked", "left_out"),
    [
        ({}, UNSAID),
        ({"verbose": -1}, UNSAID),
        ({"verbose": 1}, []),
        ({"durations": 0}, []),
        ({"xmlpath": "junit.xml"}, []),
        ({"reportchars": "P"}, []),
    ],
)
def test_what_nobody_is_shown_stays_with_the_worker(asked: dict[str, Any], left_out: list[Any]) -> None:
    worker = WorkerInteractor()
    plugins = SimpleNamespace(get_plugins=lambda: [object(), worker])
    tell_less(SimpleNamespace(option=SimpleNamespace(**{**QUIET, **asked}), pluginmanager=plugins))
    for name, said in EVENTS:
        worker.sendevent(name, **said)
    assert worker.sent == [event for event in EVENTS if event not in left_out]


def test_a_files_quick_tests_are_one_unit_and_its_slow_ones_another() -> None:
    found = units(["a::quick", "b::quick", "a::slow", "tests/test_keras_edited.py::x"])
    assert found["a::quick"] != found["a::slow"]
    assert found["tests/test_keras_edited.py::x"] == "tests/test_keras_saved.py, turn 1"
    assert runs_keras(found["tests/test_keras_edited.py::x"]) and not runs_keras(found["a::quick"])
