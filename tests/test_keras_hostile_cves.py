"""Published holes of Keras's own loader: a harmless file for each is refused, nothing outside is touched.

Two witnesses: ``tests.witness``, and, as HDF5 opens files without Python, a named pipe outside, at which
whoever opens it waits. The code in these files is none: text where marshalled code would be, modules and
files that are not there.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from tests.keras_damage import in_weights, with_bomb, with_name
from tests.keras_handmade import BIAS, dense, legacy, make_archive, norm
from tests.witness import Witnessed, watched

pytestmark = pytest.mark.slow
Config = dict[str, Any]
COMMANDS = ("inspect", "optimize --no-verify --no-bench", "optimize", "bench")
_TEXT = "bm90IGNvZGU="  # base64 of "not code"


def _layer(class_name: str, module: str = "keras.layers", **config: Any) -> Config:
    full = {"name": "evil", **config}
    return {"module": module, "class_name": class_name, "config": full, "registered_name": None}


def _function(name: str, module: str) -> Config:
    return {"module": module, "class_name": "function", "config": name, "registered_name": name}


_LAMBDA = _layer("Lambda", function={"class_name": "__lambda__", "config": {"value": _TEXT}})
# By what the config of a layer says; {outside} is the pipe.
CONFIGS: dict[str, Config] = {
    "2025-1550, a module of its own is imported": _layer("Any", "bnfuse_canary"),
    "2025-8747, a function of Keras's that downloads": _layer(
        "Lambda",
        function=_function("get_file", "keras.utils"),
        arguments={"fname": "x", "origin": "file://x"},
    ),
    "2025-9906, safe mode is switched off": _layer(
        "Activation", activation=_function("enable_unsafe_deserialization", "keras.config")
    ),
    "2025-9905, code that HDF5 holds": _layer("Lambda", function=[_TEXT, None, None]),
    "2025-49655, a pickled module": _layer("TorchModuleWrapper", module=_TEXT),
    "2026-1462, another saved model": _layer("TFSMLayer", filepath="{outside}"),
    "2026-12481, code in a layer that is cloned": _layer("TimeDistributed", layer=_LAMBDA),
    "2025-12058, a vocabulary that is a file": _layer("StringLookup", vocabulary="{outside}"),
}


def _external_link(h5: h5py.File, outside: str) -> None:
    h5[BIAS] = h5py.ExternalLink(outside, "/x")


def _external_storage(h5: h5py.File, outside: str) -> None:
    h5.create_dataset(BIAS, (3,), "f4", external=[(outside, 0, 12)])


def _virtual(h5: h5py.File, outside: str) -> None:
    layout = h5py.VirtualLayout((3,), "f4")
    layout[:] = h5py.VirtualSource(outside, "x", (3,))
    h5.create_virtual_dataset(BIAS, layout)


def _shape_bomb(h5: h5py.File, _: str) -> None:
    h5.create_dataset(BIAS, (1 << 20, 1 << 20), "f4", chunks=(1024, 1024))


WEIGHTS: dict[str, Callable[[h5py.File, str], None]] = {
    "2026-1669, an external link": _external_link,
    "2026-1669, external storage": _external_storage,
    "2026-1669, a virtual array": _virtual,
    "2026-0897, a shape without data": _shape_bomb,
}
ZIPS: dict[str, Callable[[Path], None]] = {
    "a member that leads outside": with_name("../outside"),
    "an absolute member": with_name("/outside"),
    "a member that grows a thousandfold": with_bomb,
}


@pytest.fixture(scope="module")
def witnessed(tmp_path_factory: pytest.TempPathFactory) -> Witnessed:
    """What became of every file by command, and what was noted."""
    folder = tmp_path_factory.mktemp("cves")
    inside, outside = folder / "inside", folder / "pipe"
    (inside / "out").mkdir(parents=True)
    os.mkfifo(outside)
    files: dict[str, str] = {}
    for name, evil in CONFIGS.items():
        config = json.loads(json.dumps(evil).replace("{outside}", str(outside)))
        for suffix in (".keras", ".h5"):
            files[f"{name} {suffix}"] = str(_model(inside / f"{len(files)}{suffix}", [config]))
    for name, change in WEIGHTS.items():
        path = _model(inside / f"{len(files)}.keras", [])
        in_weights(lambda h5, change=change: _without_bias(h5, change, str(outside)))(path)  # type: ignore[misc]
        files[name] = str(path)
    for name, damage in ZIPS.items():
        path = _model(inside / f"{len(files)}.keras", [])
        damage(path)
        files[name] = str(path)
    return watched(files, inside, COMMANDS)


def _without_bias(h5: h5py.File, change: Callable[[h5py.File, str], None], outside: str) -> None:
    del h5[BIAS]
    change(h5, outside)


def _model(path: Path, more: list[Config]) -> Path:
    rng = np.random.default_rng(0)
    vectors = {
        n: rng.uniform(0.5, 2, 3).astype("f4") for n in ("gamma", "beta", "moving_mean", "moving_variance")
    }
    layers = [dense("d"), norm("n"), *more]
    layers[0]["config"]["batch_input_shape"] = [None, 3]
    kernel = {"kernel": rng.normal(size=(3, 3)).astype("f4"), "bias": np.ones(3, "f4")}
    if path.suffix == ".h5":
        return legacy(path, layers, {"d": kernel, "n": vectors})
    arrays = {f"layers/dense/vars/{k}": a for k, a in enumerate(kernel.values())}
    arrays |= {f"layers/batch_normalization/vars/{k}": a for k, a in enumerate(vectors.values())}
    return make_archive(path, layers, arrays)


@pytest.mark.parametrize("name", [f"{name} {suffix}" for name in CONFIGS for suffix in (".keras", ".h5")])
def test_a_config_that_would_run_something_is_folded_but_never_loaded(
    name: str, witnessed: Witnessed
) -> None:
    """Folding runs nothing of a file; whatever would load it refuses first."""
    codes, noted = witnessed[0][name], [note for note in witnessed[1] if note[0].startswith(name)]
    assert [codes[c][0] for c in ("inspect", "optimize --no-verify --no-bench")] == [0, 0], codes
    for command in ("optimize", "bench"):
        code, left, said = codes[command]
        assert (code, left) == (3, []), codes[command]
        assert "--allow-unsafe runs it" in said
    assert noted == []


@pytest.mark.parametrize("name", [*WEIGHTS, *ZIPS])
def test_a_file_that_reaches_outside_is_refused(name: str, witnessed: Witnessed) -> None:
    codes, noted = witnessed[0][name], [note for note in witnessed[1] if note[0].startswith(name)]
    assert {code for code, _, _ in codes.values()} == {3}, codes
    assert not any(left for _, left, _ in codes.values())
    assert noted == []


def test_the_witness_sees(witnessed: Witnessed) -> None:
    """A file beside the models' folder and a module of a runtime's kind are noted."""
    seen = [event for now, event, _ in witnessed[1] if now == "control"]
    assert seen == ["open", "import"]
