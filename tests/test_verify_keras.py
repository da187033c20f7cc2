"""``verify`` and ``optimize`` on Keras files: honest folds pass, planted defects do not, culprits are named.

The folded models are made by ``planted.keras_net`` from the equation, not by the product; the culprit's
writer is the product's, spoiled.
"""

from __future__ import annotations

import json
from contextlib import closing
from itertools import cycle
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from msgspec.structs import replace

from bnfuse.core.apply import Patch
from bnfuse.formats.base import ReadOptions, Written
from bnfuse.formats.keras import FORMAT
from bnfuse.results import Agreement, Status
from bnfuse.use_cases.unwritten import Unproved
from bnfuse.use_cases.verify import VerifyRequest, verify
from tests.calls import optimize
from tests.planted import DEFECTS, keras_net, spoiled
from tests.tiny_models import layer
from tests.verify_nets import convnet, mlp

pytestmark = pytest.mark.slow
KINDS = {"conv": convnet, "dense": mlp}
CHANNEL = 2
FIXTURES = Path(__file__).parents[1] / "fixtures"


def compare(tmp_path: Path, before: Any, after: Any, **request: Any) -> Agreement:
    for name, model in (("a", before), ("b", after)):
        model.save(tmp_path / f"{name}.keras")
    wanted = VerifyRequest(samples=3, **request)
    return verify(tmp_path / "a.keras", tmp_path / "b.keras", request=wanted)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("dtype", "depth"), [("float32", 8), ("float16", 3), ("float64", 3)])
def test_honest_folds_are_equal(keras3: Any, tmp_path: Path, kind: str, dtype: str, depth: int) -> None:
    layers = [replace(one, epsilon=2.0**-17) for one in KINDS[kind](1, depth)]  # the same in every type
    pair = [keras_net(keras3, layers, folded=folded, dtype=dtype) for folded in (False, True)]
    found = compare(tmp_path, *pair, depth=depth)
    assert (found.status, found.detail) == (Status.EQUAL, "")
    assert 0.0 < found.outputs[0].max_rel <= found.outputs[0].tolerance
    assert 0.0 < found.outputs[0].rms < found.outputs[0].max_abs


@pytest.mark.parametrize(("name", "kind"), list(zip(DEFECTS, cycle(KINDS), strict=False)))
def test_a_defect_in_one_layer_is_different(keras3: Any, tmp_path: Path, name: str, kind: str) -> None:
    layers = KINDS[kind](0, 3)
    bad = spoiled(layers, 1, DEFECTS[name], CHANNEL)
    pair = keras_net(keras3, layers, folded=False), keras_net(keras3, bad, folded=True)
    found = compare(tmp_path, *pair, depth=3)
    assert found.status is Status.DIFFERENT
    assert found.outputs[0].max_rel > 5 * found.outputs[0].tolerance


def unnamed(saved: Path, copy: Path) -> Path:
    """Its last layer without the name in its config: Keras makes it ``dense``, or ``dense_1`` (taken)."""
    copy.write_bytes(saved.read_bytes())
    with h5py.File(copy, "r+") as file:
        config = json.loads(file.attrs["model_config"])
        del config["config"]["layers"][-1]["config"]["name"]
        file.attrs["model_config"] = json.dumps(config)
    return copy


def test_layers_without_a_name_are_called_as_in_a_process_of_the_models_own(
    keras3: Any, tmp_path: Path
) -> None:
    model = unnamed(FIXTURES / "digits_b.h5", tmp_path / "m.h5")
    found = optimize(model, bench=False)
    assert found.plan.rewrites == 3 and found.verification.status is Status.EQUAL
    assert [output.name for output in found.verification.outputs] == ["dense"]


def test_a_changed_interface_is_different(keras3: Any, tmp_path: Path) -> None:
    layers = mlp(0, 2)
    before = keras_net(keras3, layers, folded=False)
    renamed = compare(tmp_path, before, keras_net(keras3, layers, folded=True, output="other"))
    assert renamed.status is Status.DIFFERENT and "output 'out' is missing" in renamed.detail
    half = compare(tmp_path, before, keras_net(keras3, layers, folded=True, dtype="float16"))
    assert half.status is Status.DIFFERENT and "float16, where the original has float32" in half.detail


def test_overflow_is_different(keras3: Any, tmp_path: Path) -> None:
    """A scale that the BatchNormalization of the original holds in float32, folded into float16."""
    one = layer(np.random.default_rng(0), 16, 5)
    before = keras_net(keras3, [one], folded=False, dtype="float16")
    huge = replace(one, gamma=one.gamma * 1e6)
    with np.errstate(over="ignore"):
        found = compare(tmp_path, before, keras_net(keras3, [huge], folded=True, dtype="float16"))
    assert found.status is Status.DIFFERENT
    assert "not finite where the original's are" in found.detail


def test_the_culprit_is_named(keras3: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    keras_net(keras3, mlp(2, 6), folded=False).save(tmp_path / "model.keras")
    with closing(FORMAT.read(tmp_path / "model.keras", ReadOptions())) as opened:
        kind = type(opened)
    write = kind.write

    def spoiling(self: Any, patch: Patch, path: Path) -> Written:
        written: Written = write(self, patch, path)
        if "bn3" in {node.name for node in patch.removed}:
            made = keras3.models.load_model(path, compile=False)
            kernel, bias = made.get_layer("linear3").get_weights()
            made.get_layer("linear3").set_weights([kernel, bias + 0.1])
            path.unlink()
            made.save(path)
        return written

    monkeypatch.setattr(kind, "write", spoiling)
    with pytest.raises(Unproved, match="'bn3'") as caught:
        optimize(tmp_path / "model.keras", verify=VerifyRequest(samples=2), bench=False)
    culprit = caught.value.report.verification.culprit
    assert culprit is not None
    assert (culprit.node, culprit.into) == ("bn3", ("linear3",))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model.keras"]
