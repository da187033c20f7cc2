"""``docs/adding-an-op.md``, followed: its blocks stand where it says, and its rows make the difference."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from bnfuse.core.decisions import Fold, Keep
from bnfuse.formats.keras.rows.functions import FUNCTIONS
from bnfuse.formats.keras.rows.ops import ROWS as LAYERS
from bnfuse.formats.onnx.rows.ops import ROWS as OPS
from tests.keras_nets import Keras, chain, fold
from tests.test_table_rows import CASES, decide, model_around

_ROOT = Path(__file__).parents[1]
_PAGE = (_ROOT / "docs/adding-an-op.md").read_text(encoding="utf-8")


def test_every_block_stands_in_the_file_that_is_named_above_it() -> None:
    """Ours are the paths before each block, the nearest one counts."""
    blocks = list(re.finditer(r"```\n(.*?)```", _PAGE, re.DOTALL))
    assert len(blocks) == 9
    for block in blocks:
        path = re.findall(r"`((?:bnfuse|tests)/\S+\.py)`", _PAGE[: block.start()])[-1]
        assert block[1] in (_ROOT / path).read_text(encoding="utf-8"), f"{block[1]} in {path}"


@pytest.mark.parametrize("op", ["CastLike", "RMSNormalization"])
def test_an_operators_row_is_all_that_it_takes(
    op: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (case,) = (case for case in CASES if case.op == op)
    model = model_around(case, "behind", "scale")
    assert isinstance(decide(model, tmp_path), Fold)
    monkeypatch.delitem(OPS, op)
    assert isinstance(decide(model, tmp_path), Keep)


@pytest.mark.slow
def test_a_layers_row_is_all_that_it_takes(
    keras: Keras, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    layers = keras.layers
    steps = (layers.RMSNormalization(), layers.BatchNormalization(), layers.Activation("tanh"))
    model = chain(keras, (4, 6), *steps, gamma="scale")
    assert fold(model, tmp_path / "with").gone
    monkeypatch.delitem(LAYERS, "RMSNormalization")
    assert not fold(model, tmp_path / "without").gone


@pytest.mark.slow
def test_a_functions_line_is_all_that_it_takes(
    keras: Keras, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    layers = keras.layers
    steps = (keras.ops.stop_gradient, layers.BatchNormalization(), layers.Activation("tanh"))
    model = chain(keras, (4, 6), layers.Dense(6), *steps)
    assert fold(model, tmp_path / "with").gone
    monkeypatch.delitem(FUNCTIONS, "ops.StopGradient")
    assert not fold(model, tmp_path / "without").gone
