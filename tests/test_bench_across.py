"""``bench`` across formats: both are fed with the first model's inputs, and timed in their own runtimes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from onnx import TensorProto

from bnfuse.measure import timing
from tests.command import call
from tests.format_twins import keras_twin, onnx_twin, weights
from tests.tiny_models import save

pytestmark = pytest.mark.slow
_NAMES = ("p", "q", "r1", "r2")


@pytest.fixture(scope="module")
def original(keras3: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return keras_twin(keras3, tmp_path_factory.mktemp("across") / "original.keras")


@pytest.fixture(autouse=True)
def few_calls(monkeypatch: pytest.MonkeyPatch) -> None:
    """A visit is three calls: fifty, which are nothing to onnxruntime, are an eighth of a second in Keras."""
    monkeypatch.setattr(timing, "_MAX_CALLS", 3)


@pytest.mark.parametrize("backwards", [False, True], ids=["keras first", "onnx first"])
def test_a_model_and_its_export(original: Path, backwards: bool, tmp_path: Path, patient: None) -> None:
    """Other names, other layout, wider integers, and a batch that only the export fixes.

    The cold start is timed with the export second: its feeds are the first's, renamed and turned, there too.
    """
    twin = save(onnx_twin(weights(), names=_NAMES, channels_first=True, batch=3), tmp_path / "twin.onnx")
    pair = (twin, original) if backwards else (original, twin)
    cold = [] if backwards else ["--cold"]
    done = call("bench", *pair, *cold, "--json", "--max-time", "2" if cold else "0.4")
    assert done.exit_code == 0, done.stderr
    found = json.loads(done.stdout)["benchmark"]
    settings = {run["setting"]: run for run in found["runs"]}
    assert set(settings) == {"optimisation off", "optimisation on", *(["cold start"] if cold else [])}
    assert all(run["batch"] == 3 for run in found["runs"])
    slower = "before_ms" if backwards else "after_ms"
    assert settings["optimisation on"][slower]["p50"] > 0.0
    if cold:  # Keras starts in seconds, onnxruntime in tenths of one: each ran in its own runtime
        keras, onnx = (settings["cold start"][name]["p50"] for name in ("before_ms", "after_ms"))
        assert keras > 2.0 * onnx
        stages = settings["cold start"]["before_cold"]
        assert stages["runtime_ms"] > stages["load_ms"] > 0.0 and stages["first_run_ms"] > 0.0
        assert stages["peak_bytes"] > 200e6  # TensorFlow is in it
    assert any("matched by position" in note for note in found["notes"])
    assert any("axes are moved" in note for note in found["notes"])
    (ran,) = [note for note in found["notes"] if note.startswith("the first model ran in ")]
    first, second = ran.split(", the second in ")
    onnx, keras = (first, second) if backwards else (second, first)
    assert "onnxruntime" in onnx and "tensorflow" in keras
    assert second.endswith(f"({'CPU' if backwards else 'CPUExecutionProvider'})")


def test_models_that_do_not_correspond(original: Path, tmp_path: Path) -> None:
    twin = save(onnx_twin(weights(), ids=TensorProto.FLOAT), tmp_path / "twin.onnx")
    done = call("bench", original, twin, "--max-time", "2")
    assert done.exit_code in (2, 3)
    assert "Traceback" not in done.stderr
    other = tmp_path / "other.onnx"
    other.write_bytes((Path(__file__).parents[1] / "fixtures" / "digits_cnn.onnx").read_bytes())
    done = call("bench", original, other, "--max-time", "2")
    assert done.exit_code == 2
    assert "cannot be fed alike: the models have 2 and 1 inputs" in done.stderr
