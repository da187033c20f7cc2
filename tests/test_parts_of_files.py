"""What a file is made of: weights are a model's size; an optimiser's state and a container are not."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import h5py
import numpy as np
import onnx
import pytest
from msgspec.structs import replace

from bnfuse.report import render, text
from bnfuse.results import FileInfo
from tests.command import call
from tests.report_samples import in_terminal, report
from tests.report_schema import assert_fits

FIXTURE = Path(__file__).parents[1] / "fixtures" / "digits_b.h5"
QUICK = ("--no-verify", "--no-bench", "--json")


def stored_bytes(path: Path, group: str) -> int:
    """By h5py, dataset by dataset."""
    sizes: list[int] = []
    with h5py.File(path) as file:
        if group in file:
            file[group].visititems(
                lambda _, one: sizes.append(one.nbytes) if hasattr(one, "nbytes") else None
            )
    return sum(sizes)


@pytest.fixture
def trained(tmp_path: Path) -> Path:
    """A Keras file with the state of an optimiser."""
    path = tmp_path / "model.h5"
    shutil.copy(FIXTURE, path)
    with h5py.File(path, "a") as file:
        state = file.require_group("optimizer_weights")
        for name, array in (("m", np.zeros((300, 100), "float32")), ("iterations", np.int64(7))):
            state.create_dataset(f"adam/{name}", data=array)
    return path


def test_a_keras_file_is_told_by_its_parts(trained: Path) -> None:
    document = json.loads(call("optimize", trained, *QUICK).stdout)
    assert_fits(document)
    before, after = document["input"], document["output"]
    assert before["weight_bytes"] == stored_bytes(trained, "model_weights")
    assert before["state_bytes"] == stored_bytes(trained, "optimizer_weights") >= 120_008
    assert before["container_bytes"] is None  # the fixture's weights are compressed
    assert after["weight_bytes"] == stored_bytes(trained.with_name("model.fused.h5"), "model_weights")
    assert (after["state_bytes"], after["weight_bytes"] < before["weight_bytes"]) == (0, True)


def test_state_that_leads_out_of_the_file_is_no_part_of_anything(trained: Path) -> None:
    """It is left out of the result unread, so it is no reason to refuse the model."""
    with h5py.File(trained, "a") as file:
        file["optimizer_weights/elsewhere"] = h5py.SoftLink("/model_weights")
    done = call("optimize", trained, *QUICK)
    assert (done.exit_code, json.loads(done.stdout)["input"]["state_bytes"]) == (0, 0)


def test_an_onnx_file_is_told_by_its_parts(model: Path) -> None:
    found = json.loads(call("optimize", model, *QUICK).stdout)["input"]
    stored = sum(onnx.numpy_helper.to_array(one).nbytes for one in onnx.load(model).graph.initializer)
    assert (found["weight_bytes"], found["state_bytes"]) == (stored, 0)
    assert found["container_bytes"] == model.stat().st_size - stored > 0


def test_a_plan_alone_looks_at_no_weights(model: Path) -> None:
    assert json.loads(call("inspect", model, "--json").stdout)["input"]["weight_bytes"] is None


def told(total: int, weights: int | None, state: int | None = 0) -> FileInfo:
    return FileInfo(Path("m.h5"), "keras", "", total, weights, state)


CHANGES = [
    (told(234_584, None), told(74_984, None), "234.6 kB → 74.98 kB (−68 %)"),
    (
        told(234_584, 41_488, 80_424),
        told(74_984, 38_928),
        (
            "weights 41.49 kB → 38.93 kB (−6.2 %); file 234.6 kB → 74.98 kB (−68 %), of which "
            "optimiser's state 80.42 kB → 0 B, structure and names 112.7 kB → 36.06 kB"
        ),
    ),
    (
        told(50, 40),
        told(45, 40),
        "weights 40 B, unchanged; file 50 B → 45 B (−10 %), of which structure and names 10 B → 5 B",
    ),
    (told(30, 40), told(25, 40), "weights 40 B, unchanged; file 30 B → 25 B (−17 %)"),  # stored compressed
    (told(50, 40), None, "50 B"),
]


@pytest.mark.parametrize(("before", "after", "sentence"), CHANGES)
def test_the_size_in_words(before: FileInfo, after: FileInfo | None, sentence: str) -> None:
    assert text.size_change(before, after) == sentence


def test_weights_are_the_headline_in_every_form() -> None:
    found = replace(report(), input=told(234_584, 41_488, 80_424), output=told(74_984, 38_928))
    page = render(found, ".html")
    tile = page[page.index("Size of the weights") : page.index("</header>")]
    assert '<p class="value">38.93 kB</p>' in tile and "41.49 kB → 38.93 kB (−6.2 %)" in tile
    for shown in (in_terminal(found), render(found, ".md").replace("&#46;", ".")):
        assert "weights 41.49 kB → 38.93 kB" in shown
