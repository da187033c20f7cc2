"""What the reference holds at the seams, noted while it runs for its outputs."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import pytest

from bnfuse.errors import BnfuseError, NotEqual, RuntimeLost
from bnfuse.formats.base import ReadOptions, Runner, Tensors, TensorSpec
from bnfuse.formats.keras import FORMAT
from bnfuse.proof.noting import Look, NotingRunner
from tests.calls import optimize
from tests.keras_nets import stir


class Model:
    """Doubles its input; opened up, it tells half of what it puts out as the seam "s", too."""

    inputs: Sequence[TensorSpec] = ()
    outputs: Sequence[TensorSpec] = ()
    providers: Sequence[str] = ()
    versions: Mapping[str, str] = {}
    runtime = optimises = ""
    load_s = 0.0

    def __init__(
        self, log: list[str], name: str, error: Exception | None = None, *, seams: bool = True
    ) -> None:
        self.log, self.name, self.error, self.seams = log, name, error, seams
        log.append(f"+{name}")

    def run(self, feeds: Tensors) -> dict[str, np.ndarray]:
        self.log.append(self.name)
        if self.error is not None:
            raise self.error
        made = {"y": 2.0 * feeds["x"]}
        return made | {"s": feeds["x"]} if self.name == "open" and self.seams else made

    def time(self, feeds: Tensors, calls: int) -> list[int]:
        self.log.append("timed " + self.name)
        return [0] * calls

    def __enter__(self) -> Runner:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.log.append(f"-{self.name}")


def feed(number: float) -> dict[str, np.ndarray]:
    return {"x": np.full(3, number, np.float32)}


def noting(log: list[str], *, runs: int = 2, most: int = 1000, **opened: Any) -> NotingRunner:
    look = Look(lambda: Model(log, "open", **opened), frozenset("s"), runs, most)
    return NotingRunner(lambda: Model(log, "plain"), look)


def test_the_first_runs_are_noted_and_one_model_is_loaded_at_a_time() -> None:
    log: list[str] = []
    with noting(log) as runner:
        runner.run(feed(0))
        runner.note(1)
        made = [runner.run(feed(number)) for number in (1, 2)]  # the second is none of those to note
        runner.note()
        made += [runner.run(feed(number)) for number in (3, 4)]
        assert runner.time(feed(4), 2) == [0, 0]
    assert [list(each) for each in made] == [["y"]] * 4
    assert [float(each["y"][0]) for each in made] == [2.0, 4.0, 6.0, 8.0]
    assert log == [
        *("+plain", "plain", "-plain", "+open", "open", "-open", "+plain", "plain"),
        *("-plain", "+open", "open", "-open", "+plain", "plain", "timed plain", "-plain"),
    ]
    for number in (1, 3):
        found = runner.noted.of(feed(number))
        assert found is not None and found.keys() == {"y", "s"} and found["s"][0] == number
    assert all(runner.noted.of(feed(number)) is None for number in (0, 2, 4))


def test_inputs_are_told_apart_bit_by_bit() -> None:
    with noting([]) as runner:
        runner.note()
        runner.run(feed(0.0))
    assert runner.noted.of(feed(0.0)) is not None
    for other in (feed(-0.0), {"x": np.zeros(4, np.float32)}, {"x": np.zeros(3)}, {"z": feed(0)["x"]}):
        assert runner.noted.of(other) is None


@pytest.mark.parametrize(
    "how",
    [{"error": BnfuseError("no way in")}, {"error": RuntimeLost("killed")}, {"seams": False}, {"most": 20}],
    ids=["error", "lost", "left out", "large"],
)
def test_what_cannot_be_noted_runs_as_it_is(how: dict[str, Any]) -> None:
    log: list[str] = []
    with noting(log, **how) as runner:
        runner.note(1)
        made = [runner.run(feed(1))]
        runner.note()
        made += [runner.run(feed(2)), runner.run(feed(3))]
    assert [float(each["y"][0]) for each in made] == [2.0, 4.0, 6.0]
    assert not runner.noted.runs
    assert log.count("+open") == log.count("-open") == 1


def test_a_runtime_that_is_lost_is_told() -> None:
    log: list[str] = []
    runner = NotingRunner(lambda: Model(log, "plain", RuntimeLost("it crashed")), None)
    with runner, pytest.raises(RuntimeLost):
        runner.run(feed(1))


def test_loading_again_is_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    ticks = iter(float(tick) for tick in range(100))
    monkeypatch.setattr("time.perf_counter", lambda: next(ticks))
    with noting([], runs=1) as runner:
        assert runner.loading_s == 0.0
        runner.note()
        runner.run(feed(1))
        runner.run(feed(2))
    assert runner.loading_s == 2.0


# --- layers that keep a state: a model of theirs is loaded anew to be opened up, and begins anew then

RECURRENT: dict[str, Callable[[Any, bool], Any]] = {
    "layer": lambda k, keeps: k.layers.LSTM(4, return_sequences=True, stateful=keeps),
    "of a cell": lambda k, keeps: k.layers.RNN(k.layers.GRUCell(4), return_sequences=True, stateful=keeps),
    "wrapped": lambda k, keeps: k.layers.Bidirectional(
        k.layers.GRU(4, return_sequences=True, stateful=keeps)
    ),
    "nested": lambda k, keeps: k.Sequential(
        [k.layers.Input(batch_shape=(2, 5, 3)), k.layers.GRU(4, return_sequences=True, stateful=keeps)]
    ),
}


def recurrent(keras: Any, folder: Path, layer: Any) -> Path:
    """A recurrent layer, and a BatchNormalization that goes into a layer between the two."""
    path, k = folder / "m.keras", keras.layers
    x = k.Input(batch_shape=(2, 5, 3), name="x")
    y = k.Dense(3)(k.BatchNormalization()(k.Dense(6)(layer(x))))
    stir(keras.Model(x, y), gamma="positive").save(path)
    return path


@pytest.mark.parametrize("kind", RECURRENT)
def test_what_layers_with_a_state_show_is_not_what_they_show_next(
    keras3: Any, tmp_path: Path, kind: str
) -> None:
    for keeps in (True, False):
        path = recurrent(keras3, tmp_path, RECURRENT[kind](keras3, keeps))
        with closing(FORMAT.read(path, ReadOptions())) as model:
            assert model.exact_seams is not keeps


@pytest.mark.slow
def test_a_model_that_keeps_a_state_is_not_proved(keras3: Any, tmp_path: Path) -> None:
    """Each run begins where the last one ended: what comes out differs, and no rounding explains that."""
    path = recurrent(keras3, tmp_path, RECURRENT["layer"](keras3, True))
    with pytest.raises(NotEqual, match="another one at every run"):
        optimize(path, bench=False)
    assert [each.name for each in tmp_path.iterdir()] == ["m.keras"]
