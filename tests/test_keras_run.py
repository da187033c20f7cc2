"""The Keras runner: which runtime it picks, and that it computes what Keras computes in this process."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bnfuse.errors import BnfuseError, RuntimeMissing, UnreadableModel, UsageError
from bnfuse.formats.base import RunSettings
from bnfuse.formats.child import limits
from bnfuse.formats.keras.runtime import run
from bnfuse.formats.keras.runtime.process import KerasSetup
from tests.keras_models import FIXTURE, MAKERS, as_array, import_keras, import_tf_keras, stirred

MODELS = Path(__file__).resolve().parents[2] / "shared" / "models" / "keras"


@pytest.mark.parametrize(
    ("installed", "wanted", "expected"),
    [
        ({"tensorflow", "keras", "jax", "torch", "tf_keras"}, "", "tensorflow"),
        ({"keras", "jax", "torch"}, "", "jax"),
        ({"keras", "torch"}, "", "torch"),
        ({"tensorflow", "tf_keras"}, "", "tf_keras"),
        ({"tensorflow", "keras", "jax"}, "jax", "jax"),
        ({"tensorflow", "keras", "tf_keras"}, "tf_keras", "tf_keras"),
        ({"keras"}, "", RuntimeMissing),
        ({"jax", "torch", "tensorflow"}, "", RuntimeMissing),
        (set(), "", RuntimeMissing),
        ({"tensorflow", "keras"}, "torch", RuntimeMissing),
        ({"tensorflow", "keras"}, "theano", UsageError),
    ],
)
def test_the_backend(
    monkeypatch: pytest.MonkeyPatch, installed: set[str], wanted: str, expected: Any
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: name if name in installed else None)
    monkeypatch.setenv(run.BACKEND_VARIABLE, wanted)
    if isinstance(expected, str):
        assert run.choose_backend() == expected
        return
    with pytest.raises(expected) as caught:
        run.choose_backend()
    text = str(caught.value)
    if expected is RuntimeMissing:
        assert "pip install 'bnfuse[tensorflow]'" in text
        assert "--no-verify --no-bench" in text


def test_bad_requests_are_usage_errors(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UsageError, match="tpu"):
        run.load(FIXTURE, RunSettings(device="tpu"))
    with pytest.raises(UnreadableModel, match="does not exist"):
        run.load(tmp_path / "none.keras", RunSettings())
    (tmp_path / "text.keras").write_text("no model")
    with pytest.raises(UnreadableModel):
        run.load(tmp_path / "text.keras", RunSettings())
    for text in ("soon", "-1", "0", "nan"):
        monkeypatch.setenv(limits.TIME_VARIABLE, text)
        with pytest.raises(UsageError, match="number of seconds"):
            limits.answer_limit_s()


def test_the_environment_is_fixed_before_anything_is_imported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TF_USE_LEGACY_KERAS", "1")
    on_cpu = KerasSetup("tf_keras", "cpu", 3).environment()
    assert (on_cpu["KERAS_BACKEND"], on_cpu["CUDA_VISIBLE_DEVICES"]) == ("tensorflow", "-1")
    assert (on_cpu["OMP_NUM_THREADS"], on_cpu["TF_NUM_INTRAOP_THREADS"]) == ("3", "3")
    assert "TF_USE_LEGACY_KERAS" not in on_cpu
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1")
    on_gpu = KerasSetup("jax", "gpu", 0).environment()
    assert (on_gpu["KERAS_BACKEND"], on_gpu["CUDA_VISIBLE_DEVICES"]) == ("jax", "1")


# --- with Keras ---


@pytest.fixture(scope="module")
def keras() -> Any:
    return import_keras()


TOLERANCE = {"float32": 2e-6, "float16": 2e-3, "bfloat16": 1.6e-2}


@pytest.mark.slow
@pytest.mark.parametrize("optimise", [False, True])
@pytest.mark.parametrize("suffix", [".keras", ".h5"])
@pytest.mark.parametrize("name", MAKERS)
def test_computes_what_keras_computes(
    keras: Any, tmp_path: Path, name: str, suffix: str, optimise: bool
) -> None:
    model, feeds, call = MAKERS[name](keras)
    path = tmp_path / f"model{suffix}"
    model.save(path)
    if (name, suffix) == ("bfloat16", ".h5"):
        with pytest.raises(
            (TypeError, ValueError)
        ):  # Keras does not read what it wrote; when it does, so should we
            keras.models.load_model(path)
        with pytest.raises(UnreadableModel):
            run.load(path, RunSettings())
        return
    expected = call(model, feeds)
    with run.load(path, RunSettings(optimise=optimise)) as runner:
        assert runner.runtime.startswith(f"keras {keras.__version__} (tensorflow ")
        assert list(runner.providers) == ["CPU"]
        assert {spec.name for spec in runner.inputs} == set(feeds)
        assert {spec.name for spec in runner.outputs} == set(expected)
        for spec in runner.inputs:
            assert spec.dtype == (
                "string" if feeds[spec.name].dtype == object else feeds[spec.name].dtype.name
            )
            assert spec.shape is not None
            assert spec.shape[0] is None
            assert len(spec.shape) == feeds[spec.name].ndim
        got = runner.run(feeds)
        assert list(got) == [spec.name for spec in runner.outputs]
        times = runner.time(feeds, 3)
    assert len(times) == 3
    assert all(0 < ns < 60e9 for ns in times)
    for key, value in expected.items():
        want = as_array(value)
        if want.dtype.kind in "OUSi":
            assert got[key].tolist() == want.tolist()
            continue
        assert got[key].dtype == want.dtype
        assert want.astype(np.float64).std() > 0.01
        error = np.abs(got[key].astype(np.float64) - want.astype(np.float64)).max()
        # Optimised, TensorFlow leaves out roundings to float16 in between on some processors.
        kind = "float16" if name == "half" and optimise else want.dtype.name
        assert error <= TOLERANCE[kind] * np.abs(want.astype(np.float64)).max()


@pytest.mark.slow
def test_a_dense_layer_by_numpy(keras: Any, tmp_path: Path) -> None:
    """BN and Dense by their equations in float64, not by Keras."""
    layers = keras.layers
    model = stirred(keras.Sequential([layers.Input((6,)), layers.BatchNormalization(), layers.Dense(4)]))
    model.save(tmp_path / "m.keras")
    gamma, beta, mean, variance, kernel, bias = (w.astype(np.float64) for w in model.get_weights())
    x = np.random.default_rng(0).normal(size=(5, 6)).astype(np.float32)
    want = (gamma * (x - mean) / np.sqrt(variance + 1e-3) + beta) @ kernel + bias
    with run.load(tmp_path / "m.keras", RunSettings()) as runner:
        (name,) = [spec.name for spec in runner.inputs]
        (got,) = runner.run({name: x}).values()
    assert np.abs(got - want).max() < 1e-6 * np.abs(want).max()


@pytest.mark.slow
def test_names_do_not_depend_on_what_was_loaded_before(keras: Any, tmp_path: Path) -> None:
    """A Sequential without InputLayer, as Keras 2 wrote it, has the input "input", every time.

    Keras 3 loads this file, but takes its input to have three axes: so it goes to tf_keras.
    """
    tf_keras = import_tf_keras()
    dense = tf_keras.layers.Dense(2, input_shape=(3,), name="y")
    model = tf_keras.Sequential([dense])
    path = tmp_path / "m.h5"
    model.save(path)
    strip_input_layer(path)
    x = np.ones((1, 3), np.float32)
    want = x @ model.get_weights()[0] + model.get_weights()[1]
    with run.load(path, RunSettings()) as first, run.load(path, RunSettings()) as second:
        for runner in (first, second):
            assert runner.runtime.startswith("tf_keras ")
            assert [(spec.name, spec.shape) for spec in runner.inputs] == [("input", (None, 3))]
            assert [spec.name for spec in runner.outputs] == ["y"]
            np.testing.assert_allclose(runner.run({"input": x})["y"], want, rtol=1e-6)


def strip_input_layer(path: Path) -> None:
    """Make the config of a one-layer Sequential that of Keras before 2.4."""
    import json

    import h5py

    with h5py.File(path, "r+") as file:
        config = json.loads(file.attrs["model_config"])
        layers = config["config"]["layers"]
        config["config"]["layers"] = [entry for entry in layers if entry["class_name"] != "InputLayer"]
        config["config"]["layers"][0]["config"]["batch_input_shape"] = [None, 3]
        file.attrs["model_config"] = json.dumps(config)


@pytest.mark.slow
def test_what_keras_3_refuses_goes_to_tf_keras(keras: Any, tmp_path: Path) -> None:
    """`groups` in a DepthwiseConv2D: Keras 2 wrote it, Keras 3 does not take it."""
    tf_keras = import_tf_keras()
    layers = tf_keras.layers
    x = layers.Input((6, 5, 3), name="x")
    model = stirred(tf_keras.Model(x, layers.BatchNormalization(name="y")(layers.DepthwiseConv2D(3)(x))))
    model.save(tmp_path / "m.h5")
    feeds = {"x": np.random.default_rng(0).normal(size=(2, 6, 5, 3)).astype(np.float32)}
    with run.load(tmp_path / "m.h5", RunSettings()) as runner:
        assert runner.runtime.startswith("tf_keras ")
        got = runner.run(feeds)["y"]
    want = model(feeds["x"], training=False).numpy()
    assert np.abs(got - want).max() <= 1e-6 * np.abs(want).max()


@pytest.mark.slow
@pytest.mark.parametrize(("suffix", "named"), [(".h5", "m.keras"), (".h5", "m.bin"), (".keras", "m.h5")])
def test_formats_are_told_apart_by_content(keras: Any, tmp_path: Path, suffix: str, named: str) -> None:
    model, feeds, call = MAKERS["nested"](keras)
    model.save(tmp_path / f"model{suffix}")
    (tmp_path / f"model{suffix}").rename(tmp_path / "renamed")
    (tmp_path / "renamed").rename(tmp_path / named)
    with run.load(tmp_path / named, RunSettings()) as runner:
        got = runner.run(feeds)["y"]
    np.testing.assert_allclose(got, call(model, feeds)["y"], rtol=1e-5, atol=1e-6)
    assert [p.name for p in tmp_path.iterdir()] == [named]


# --- real files -----------------------------------------------------------------------------------

# The others run in tests/test_keras_probe_points.py; on a CPU few can compute this one.
SERVED_BY = {"cifar10_channels_first_theano.h5": "tf_keras"}
# Compiled, and once more as a copy: one by each flavour.
TWICE = {"mlperf_tiny_resnet8.h5": "keras", "mlperf_tiny_wakeword_ds_conv.h5": "tf_keras"}


@pytest.mark.slow
@pytest.mark.skipif(not MODELS.is_dir(), reason=f"no real models at {MODELS}")
@pytest.mark.parametrize(("name", "flavour"), [*SERVED_BY.items(), *TWICE.items()])
def test_real_models_run(keras: Any, name: str, flavour: str, tmp_path: Path) -> None:
    """By the flavour that can load them; two with the same answer exactly and compiled, and as a copy."""
    pytest.importorskip("tf_keras")
    path = MODELS / name
    copy = Path(shutil.copy(path, tmp_path / "a copy.bin"))
    answers = []
    more = ((path, True), (copy, False)) if name in TWICE else ()
    for file, optimise in ((path, False), *more):
        with run.load(file, RunSettings(optimise=optimise)) as runner:
            assert runner.runtime.split()[0] == flavour
            (spec,) = runner.inputs
            assert spec.shape is not None
            shape = (2, *(int(n) for n in spec.shape[1:] if n is not None))
            x = np.random.default_rng(0).uniform(0, 1, shape).astype(spec.dtype)
            try:
                answers.append(next(iter(runner.run({spec.name: x}).values())))
            except (
                BnfuseError
            ) as error:  # so it is where TensorFlow's oneDNN kernels do not serve the processor
                if "only supports the NHWC tensor format on the CPU" not in str(error):
                    raise
                pytest.skip("TensorFlow has no channels-first Conv2D for this processor")
    assert np.isfinite(answers[0]).all()
    assert np.abs(answers[0]).max() > 0
    if name in TWICE:
        assert np.abs(answers[1] - answers[0]).max() <= 1e-4 * np.abs(answers[0]).max()
        np.testing.assert_array_equal(answers[2], answers[0])
