"""Sizes of free axes: guessed from what the file tells, confirmed by a run, and told with the result."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from bnfuse.formats import detect
from bnfuse.formats.base import RunSettings
from bnfuse.formats.onnx.runtime.run import load
from bnfuse.inputs.samples import InputRequest, fit
from bnfuse.results import Axis, RanInput, Status
from bnfuse.use_cases.verify import VerifyRequest, verify
from tests.onnx_graphs import session
from tests.runtime_versions import ORT
from tests.sized_nets import SIZED, Made, Net, free, unet
from tests.tiny_models import save

USUAL = (224, 256, 64, 32, 16, 128, 512)
IDS = [case[0] for case in SIZED]


def ran(proto: onnx.ModelProto, folder: Path, **request: Any) -> RanInput:
    """A model against itself: what its one input was."""
    path = save(proto, folder / "m.onnx")
    found = verify(path, path, request=VerifyRequest(samples=1, verify_time=2.0, **request))
    assert found.status is Status.EQUAL, found
    (one,) = found.inputs
    return one


@pytest.mark.parametrize(("name", "made", "shape", "strict"), SIZED, ids=IDS)
def test_sizes_that_the_file_tells(
    name: str, made: Made, shape: tuple[int, ...], strict: bool, tmp_path: Path
) -> None:
    found = ran(made(), tmp_path)
    assert found.shape[1:] == shape
    declared = {at for at, axis in enumerate(found.axes) if axis is Axis.DECLARED}
    assert found.axes[0] is Axis.BATCH
    assert set(found.guessed) == set(range(1, len(found.shape))) - declared


@pytest.mark.parametrize(("name", "made", "shape", "strict"), SIZED, ids=IDS)
def test_no_usual_size_would_have_done(
    name: str, made: Made, shape: tuple[int, ...], strict: bool, tmp_path: Path
) -> None:
    """By onnxruntime itself, so that the table above means something."""
    if not strict or (name == "recurrent" and ORT < (1, 32)):
        return  # an older onnxruntime does not look at the width of what an LSTM reads
    runtime = session(save(made(), tmp_path / "m.onnx"))
    for size in set(USUAL) - set(shape):
        for channels in (3, 1):
            guess = {1: (size,), 2: (size, size) if len(shape) == 2 and shape[0] != 1 else (1, size)}.get(
                len(shape), (channels, size, size)
            )
            with pytest.raises(
                Exception, match=r"(?s)."
            ):  # onnxruntime's exceptions have no base of their own
                runtime.run(None, {"x": np.zeros((1, *guess), np.float32)})


def test_a_hint_that_does_not_run_is_not_taken(tmp_path: Path) -> None:
    """A Resize speaks for 80, and an Einsum, of which the hints know nothing, wants 32."""
    net = Net()
    net.add("Einsum", net.weight(32, 5), equation="bchw,wk->bchk").norm(3).add("ReduceMax", keepdims=0)
    most = net.now
    net.add("Resize", "x", "", "", net.ints(1, 3, 80, 80), first=False).add("Add", most)
    made = net.done(free())
    path = save(made, tmp_path / "m.onnx")
    assert detect(path).hints(path).sizes["x"] == ((None, 3, 80, 80),)
    assert ran(made, tmp_path, batch=1).shape[2:] == (32, 32)


def test_what_the_user_gives_is_not_guessed(tmp_path: Path) -> None:
    net = Net().conv(4, 3).norm(4).done(free())
    given = ran(net, tmp_path, shape={"x": (1, 3, 40, 50)})
    assert given.shape == (1, 3, 40, 50) and not given.guessed
    assert given.axes == (Axis.GIVEN, Axis.DECLARED, Axis.GIVEN, Axis.GIVEN)
    np.save(tmp_path / "x.npy", np.ones((5, 3, 30, 20), np.float32))
    own = ran(net, tmp_path, inputs=tmp_path / "x.npy")
    assert own.shape[1:] == (3, 30, 20) and not own.guessed and own.more == 0


def test_the_users_samples_of_several_sizes_are_told(tmp_path: Path) -> None:
    folder = tmp_path / "samples"
    folder.mkdir()
    for number, size in enumerate((20, 20, 30, 40)):
        np.save(folder / f"{number}.npy", np.ones((1, 3, size, size), np.float32))
    assert ran(Net().conv(4, 3).norm(4).done(free()), tmp_path, inputs=folder).more == 2


def test_the_batch_is_chosen_not_guessed(tmp_path: Path) -> None:
    found = ran(Net().conv(4, 3).norm(4).done(["N", 3, 9, 8]), tmp_path, batch=3)
    assert found.shape == (3, 3, 9, 8)
    assert found.axes == (Axis.BATCH, Axis.DECLARED, Axis.DECLARED, Axis.DECLARED)


def test_a_large_sample_is_taken_alone(tmp_path: Path) -> None:
    net = Net().conv(2, 3, (1, 1), strides=[64, 64]).norm(2).done(free(), ["N", 2, 11, 11])
    assert ran(net, tmp_path).shape == (1, 3, 704, 704)


def test_a_size_that_takes_long_gives_way_and_is_kept_to(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At 224 a run takes 4 s by a clock that is not real; verify and bench then run the same."""
    now = [0.0]
    monkeypatch.setattr("bnfuse.inputs.samples.time.perf_counter", lambda: now[0])
    path = save(unet(2), tmp_path / "m.onnx")
    with load(path, RunSettings()) as runner:
        real = runner.run

        def slow(feeds: Any) -> dict[str, np.ndarray]:
            now[0] += feeds["x"].shape[-1] / 56
            return real(feeds)

        monkeypatch.setattr(runner, "run", slow)
        assert fit(runner, InputRequest(model=path), 2)[0].shapes["x"] == (2, 3, 64, 64)
        monkeypatch.setattr(runner, "run", real)
        assert fit(runner, InputRequest(model=path), 1)[0].shapes["x"] == (1, 3, 64, 64)
        path.touch()  # another file now
        assert fit(runner, InputRequest(model=path), 1)[0].shapes["x"] == (1, 3, 224, 224)


def test_hints_cost_little(tmp_path: Path) -> None:
    """500 convolutions, two free axes: well below what running them takes."""
    net = Net().conv(4, 3)
    for _ in range(500):
        net.conv(4, 4).add("Relu")
    path = save(net.done(free()), tmp_path / "m.onnx")
    begin = time.process_time()
    assert detect(path).hints(path).sizes == {}
    assert time.process_time() - begin < 3.0


@pytest.mark.parametrize(
    ("shape", "sizes"),
    [(["N", 3, 8, 8], {}), (["N", 3, "h", 8], {}), ([2, 3, 8, 8], {})],
    ids=["batch alone", "one free", "none"],
)
def test_files_that_tell_nothing(shape: list[Any], sizes: dict[str, Any], tmp_path: Path) -> None:
    path = save(Net().conv(4, 3).norm(4).done(shape), tmp_path / "m.onnx")
    assert detect(path).hints(path).sizes == sizes


def test_files_that_make_no_sense_tell_nothing(tmp_path: Path) -> None:
    path = save(Net().conv(4, 3).norm(4).done(free()), tmp_path / "m.onnx")
    path.write_bytes(path.read_bytes()[:200])
    assert detect(path).hints(path).sizes == {}
    negative = Net().add("Conv", "w", strides=[0, 0], pads=[1, 1]).add("Reshape", "w").add("Slice", "w")
    negative.held.append(onnx.numpy_helper.from_array(np.ones((2, 3, 0, 1), np.float32), "w"))
    path = save(negative.done(free()), tmp_path / "n.onnx")
    assert detect(path).hints(path).sizes == {}


# ---- Keras ----------------------------------------------------------------------------------------


def keras_unet(keras: Any, levels: int) -> Any:
    """With strides that must divide, in a nested model."""
    layers = keras.layers
    x = image = keras.Input((None, None, 3))
    skips = []
    for _ in range(levels):
        skips.append(x)
        x = layers.Conv2D(4, 3, strides=2, padding="same")(x)
    for skip in reversed(skips):
        x = layers.Concatenate()([layers.UpSampling2D()(x), skip])
    inner = keras.Model(image, layers.BatchNormalization()(x))
    outer = keras.Input((None, None, 3))
    return keras.Model(outer, layers.GlobalAveragePooling2D()(inner(outer)))


def keras_resized(keras: Any) -> Any:
    layers = keras.layers
    x = image = keras.Input((None, None, 3))
    x = layers.Conv2D(2, 3)(layers.Resizing(75, 75)(x))
    return keras.Model(image, layers.Dense(3)(layers.Flatten()(x)))


def keras_recurrent(keras: Any) -> Any:
    layers = keras.layers
    x = steps = keras.Input((None, 5))
    return keras.Model(steps, layers.Dense(2)(layers.GRU(3)(x)))


KERAS = [
    ("U-Net of 3", lambda keras: keras_unet(keras, 3), (224, 224, 3), False),
    ("U-Net of 6", lambda keras: keras_unet(keras, 6), (256, 256, 3), True),
    ("Resizing", keras_resized, (75, 75, 3), True),
    ("recurrent", keras_recurrent, (64, 5), False),
]


@pytest.mark.slow
@pytest.mark.parametrize(("name", "made", "shape", "told"), KERAS, ids=[case[0] for case in KERAS])
def test_sizes_of_keras_models(
    name: str, made: Any, shape: tuple[int, ...], told: bool, either_keras: Any, tmp_path: Path
) -> None:
    path = tmp_path / "m.h5"
    made(either_keras).save(path)
    assert bool(detect(path).hints(path).sizes) is told
    found = verify(path, path, request=VerifyRequest(samples=1))
    assert found.status is Status.EQUAL, found
    (one,) = found.inputs
    assert one.shape[1:] == shape
    assert one.axes[0] is Axis.BATCH and one.axes[-1] is Axis.DECLARED
    assert one.guessed == tuple(range(1, len(shape)))
