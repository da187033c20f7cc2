"""Which layer of a folded Keras model puts out what a layer of the original did: run, and compared.

A value that no fold holds otherwise is the same in both models, wherever the result keeps it. A wrong layer
would be off by far: every layer of these networks puts out something else.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bnfuse.core.apply import Patch, apply
from bnfuse.core.planning.plan import plan
from bnfuse.formats.base import Probe, ReadOptions, RunSettings
from bnfuse.formats.keras import FORMAT
from tests.keras_fewer_blocks import fewer_blocks
from tests.keras_nets import chain, stir
from tests.keras_probed import NETS
from tests.keras_subjects import SUBJECTS, every_subject
from tests.test_keras2 import OLD
from tests.test_keras_narrow import NETS as NARROWED
from tests.test_keras_real_models import REAL as FILES

pytestmark = pytest.mark.slow

FIXTURES = sorted((Path(__file__).parents[1] / "fixtures").glob("*.keras")) + sorted(
    (Path(__file__).parents[1] / "fixtures").glob("*.h5")
)
MODELS = Path(__file__).resolve().parents[2] / "shared" / "models" / "keras"
# On a CPU TensorFlow computes channels first only where its build can. Two are MobileNetV2, and take as
# long as all others.
_NOT_RUN = ("channels_first", "flowers_mobilenet_v2", "waste_classifier")
REAL = [p for p in sorted(MODELS.glob("*")) if not any(part in p.name for part in _NOT_RUN)]
SERVED_BY = {model.file: model.library for model in FILES}


@dataclass
class Mapped:
    """A fold, and the names of the values that it leaves as they were, here and in the result."""

    points: dict[str, tuple[str, str]]
    gone: set[str]  # what removed layers put out
    runtime: str = ""
    errors: dict[str, float] = field(default_factory=dict)

    @property
    def elsewhere(self) -> dict[str, tuple[str, str]]:
        return {value: names for value, names in self.points.items() if names[0] != names[1]}


def mapped(path: Path, result: Path) -> Mapped:
    """Fold, run both, and compare each value by its own range."""
    model = FORMAT.read(path, ReadOptions())
    patch = apply(model.graph, plan(model.graph))
    otherwise = {value for step in patch.steps for value in step.held}
    values = [v for node in model.graph.nodes for v in node.outputs if v and v not in otherwise]
    found = Mapped(model.probe_points(values, patch), {node.outputs[0] for node in patch.removed})
    assert not found.points.keys() & model.graph.pinned.keys()
    model.write(patch, result)
    model.close()
    here, there = (tuple(dict.fromkeys(names)) for names in zip(*found.points.values(), strict=True))
    with FORMAT.load(path, RunSettings(probe=Probe(here))) as runner:
        feeds = {spec.name: _drawn(spec) for spec in runner.inputs}
        before, found.runtime = runner.run(feeds), runner.runtime
    with FORMAT.load(result, RunSettings(probe=Probe(there), runtime=found.runtime)) as runner:
        after = runner.run(feeds)
    for value, (a, b) in found.points.items():
        found.errors[value] = _error(before[a], after[b])
    return found


def _drawn(spec: Any) -> np.ndarray:
    rng = np.random.default_rng(1)
    shape = (2, *(int(n or 7) for n in spec.shape[1:]))
    if "int" in spec.dtype:
        return rng.integers(0, 5, shape).astype(spec.dtype)
    return rng.normal(0, 1.5, shape).astype(spec.dtype)


def _error(a: np.ndarray, b: np.ndarray) -> float:
    assert (a.shape, a.dtype) == (b.shape, b.dtype)
    a, b = a.astype("f8"), b.astype("f8")
    return float(np.abs(a - b).max() / (np.abs(a).max() or 1.0))


def assert_alike(found: Mapped, tolerance: float) -> None:
    assert found.points
    assert {value: e for value, e in found.errors.items() if not e <= tolerance} == {}


@pytest.mark.parametrize("path", FIXTURES, ids=[p.name for p in FIXTURES])
def test_fixtures(path: Path, tmp_path: Path) -> None:
    found = mapped(path, tmp_path / path.name)
    assert_alike(found, 1e-5)
    assert len(found.points) >= 3


@pytest.mark.parametrize("name", [name for name in NETS if name not in ("functions", "masked")])
def test_nets(either_keras: Any, tmp_path: Path, name: str) -> None:
    """Nested ones, and layers that are called twice."""
    NETS[name](either_keras).model.save(tmp_path / "m.keras")
    found = mapped(tmp_path / "m.keras", tmp_path / "out.keras")
    assert_alike(found, 1e-5)
    assert found.gone


def test_every_kind_of_layer(keras: Any, tmp_path: Path) -> None:
    """Between two BatchNormalizations that go wherever the layer lets them; in float64, all in one model."""
    every_subject(keras).save(tmp_path / "m.keras")
    found = mapped(tmp_path / "m.keras", tmp_path / "out.keras")
    assert {str(k) for k in range(len(SUBJECTS))} <= {value.partition("_")[0] for value in found.points}
    assert {v: e for v, e in found.errors.items() if not e <= 1e-12} == {}
    assert len(found.elsewhere) > len(SUBJECTS) / 4


@pytest.mark.parametrize("name", OLD)
def test_files_of_keras_2(tf_keras: Any, tmp_path: Path, name: str) -> None:
    stir(OLD[name][0](tf_keras), gamma="signed").save(tmp_path / "m.h5")
    found = mapped(tmp_path / "m.h5", tmp_path / "out.h5")
    assert found.runtime.startswith(("keras", "tf_keras"))
    assert_alike(found, 1e-12)


@pytest.mark.parametrize("name", [name for name, (_, kept) in NARROWED.items() if None not in kept.values()])
def test_a_layer_that_moves_leaves_its_value_to_the_joint(keras: Any, tmp_path: Path, name: str) -> None:
    stir(NARROWED[name][0](keras)).save(tmp_path / "m.keras")
    model = FORMAT.read(tmp_path / "m.keras", ReadOptions())
    patch = apply(model.graph, plan(model.graph))
    assert patch.moved
    for moved in patch.moved:
        written, joined = moved.node.outputs[0], moved.joint.outputs[0]
        points = model.probe_points([written, joined], patch)
        if written not in model.graph.pinned:
            here, there = points[written]
            assert (moved.node.name.split("/")[-1] in here) and (moved.joint.name.split("/")[-1] in there)
        assert joined not in points  # nothing in the result puts it out
    model.close()
    assert_alike(mapped(tmp_path / "m.keras", tmp_path / "out.keras"), 1e-12)


def test_a_removed_layer_that_names_an_output(keras: Any, tmp_path: Path) -> None:
    """Its value is the model's output and no seam; one behind a nested model's end is found outside it."""
    layers = keras.layers
    z = layers.Input((4,), name="z")
    inner = keras.Model(z, layers.BatchNormalization(name="norm")(z), name="inner")
    x = layers.Input((4,), name="x")
    y = layers.Activation("tanh", name="bend")(inner(layers.Dense(4, name="first")(x)))
    last = layers.BatchNormalization(name="out")(layers.Dense(3, name="second")(y))
    stir(keras.Model(x, last)).save(tmp_path / "m.keras")
    found = mapped(tmp_path / "m.keras", tmp_path / "out.keras")
    assert found.gone == {"inner/norm:0:0", "out:0:0"}
    assert found.points.keys() == {"inner/norm:0:0", "bend:0:0"}
    assert found.points["inner/norm:0:0"] == ('[["inner", 0], ["norm", 0], 0]', '[["first", 0], 0]')
    assert_alike(found, 1e-12)


def test_layers_without_a_name_in_the_file_are_left_out(keras2: Any, tmp_path: Path) -> None:
    """Keras makes up a name for them, which nobody knows."""
    import json

    import h5py

    layers = keras2.layers
    model = stir(keras2.Sequential([layers.Input((4,)), layers.Dense(3), layers.ReLU(), layers.Dense(2)]))
    model.save(tmp_path / "m.h5")
    with h5py.File(tmp_path / "m.h5", "r+") as file:
        config = json.loads(file.attrs["model_config"])
        del config["config"]["layers"][2]["config"]["name"]
        file.attrs["model_config"] = json.dumps(config)
    opened = FORMAT.read(tmp_path / "m.h5", ReadOptions())
    values = [v for node in opened.graph.nodes for v in node.outputs]
    points, constants = opened.probe_points(values, Patch()), opened.constants_of(opened.graph.nodes)
    opened.close()
    assert len(values) == 3
    assert [names[0].split('"')[1] for names in points.values()] == [model.layers[0].name]
    assert constants == tuple(f'["{model.layers[k].name}"]' for k in (0, 2))


def test_a_float16_chain(keras3: Any, tmp_path: Path) -> None:
    """Narrow values stay narrow, in both models."""
    k = keras3.layers
    policy = {"dtype": "mixed_float16"}
    model = chain(
        keras3, (9, 8, 3), k.Conv2D(5, 3, **policy), k.BatchNormalization(**policy), k.ReLU(**policy),
        k.GlobalAveragePooling2D(**policy), k.Dense(3, dtype="float32"), gamma="positive",
    )  # fmt: skip
    model.save(tmp_path / "m.keras")
    found = mapped(tmp_path / "m.keras", tmp_path / "out.keras")
    assert len(found.points) == 3
    assert_alike(found, 5e-3)


def test_a_long_chain(keras3: Any, tmp_path: Path) -> None:
    """Folds all along a chain."""
    make, shape = keras3.applications.MobileNet, (32, 32, 3)
    model = make(weights=None, input_shape=shape, alpha=0.25, classes=7, classifier_activation=None)
    stir(model, gamma="positive").save(tmp_path / "m.keras")
    found = mapped(tmp_path / "m.keras", tmp_path / "out.keras")
    assert len(found.points) > 50
    assert_alike(found, 2e-5)


def test_a_pre_activation_network(keras3: Any, tmp_path: Path) -> None:
    """Folds around shortcuts: identities, convolutions and poolings."""
    make, shape = fewer_blocks("ResNetV2"), (64, 64, 3)
    assert make is not None
    model = make(weights=None, input_shape=shape, classes=7, classifier_activation=None)
    stir(model, gamma="positive").save(tmp_path / "m.keras")
    found = mapped(tmp_path / "m.keras", tmp_path / "out.keras")
    assert len(found.points) > 50
    assert_alike(found, 2e-5)


@pytest.mark.skipif(not MODELS.is_dir(), reason=f"no real models at {MODELS}")
@pytest.mark.parametrize("path", REAL, ids=[p.name for p in REAL])
def test_real_models(keras3: Any, keras2: Any, path: Path, tmp_path: Path) -> None:
    found = mapped(path, tmp_path / path.name)
    assert found.runtime.split()[0] == SERVED_BY[path.name]
    assert_alike(found, 5e-5)
    assert len(found.points) >= len(found.gone)
