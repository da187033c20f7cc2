"""The table of Keras's layers, without Keras: who reads in a wider type, who holds which variables."""

from __future__ import annotations

from typing import Any

import pytest

from bnfuse.formats.keras.rows.image_layers import OTHER_SIZES
from bnfuse.formats.keras.rows.kind import Trait
from bnfuse.formats.keras.rows.ops import ROWS
from bnfuse.formats.keras.rows.variables import Slots
from tests.keras_kernels import KERNELS

# Beside those of tests/keras_kernels.py: whatever holds a kernel, or a table.
_LINEAR = {
    "EinsumDense", "Embedding", "SimpleRNN", "GRU", "LSTM", "RNN",
    *(f"ConvLSTM{n}D" for n in (1, 2, 3)), *(f"LocallyConnected{n}D" for n in (1, 2)),
    *(f"Convolution{n}D" for n in (1, 2, 3)), "SpectralNormalization",
    "MultiHeadAttention", "GroupQueryAttention", "GroupedQueryAttention",
}  # fmt: skip


def test_whoever_holds_a_kernel_reads_in_a_wider_type() -> None:
    found = {name for name, kind in ROWS.items() if kind.linear}
    assert found == {kernel.layer for kernel in KERNELS.values()} | _LINEAR


_AUGMENTS = {
    "AugMix", "CutMix", "MixUp", "RandAugment", "RandomBrightness", "RandomColorDegeneration",
    "RandomColorJitter", "RandomContrast", "RandomElasticTransform", "RandomErasing", "RandomFlip",
    "RandomGaussianBlur", "RandomGrayscale", "RandomHue", "RandomInvert", "RandomPerspective",
    "RandomPosterization", "RandomRotation", "RandomSaturation", "RandomSharpness", "RandomShear",
    "RandomTranslation", "RandomZoom", "Solarization",
}  # fmt: skip
_NOISE = {"Dropout", "GaussianNoise", "GaussianDropout", "AlphaDropout"}
_NOISE |= {f"SpatialDropout{n}D" for n in (1, 2, 3)}
TRAITS: dict[Trait, set[str]] = {
    Trait.HANDS_ON: _NOISE
    | {"Identity", "Flatten", "Reshape", "Permute", "RepeatVector", "Activation"}
    | {"Masking"},
    Trait.DRAWS: _NOISE | _AUGMENTS | {"RandomCrop", "RandomHeight", "RandomWidth"},
    Trait.SIZES: {"Resizing", "CenterCrop", "RandomCrop"},
    Trait.MERGES: {"Add", "Subtract", "Average", "Multiply", "Maximum", "Minimum"},
    Trait.JOINS: {"Concatenate"},
    Trait.JOINT: {"Add", "Subtract", "Concatenate"},
}


@pytest.mark.parametrize("trait", TRAITS)
def test_what_else_is_known_of_layers(trait: Trait) -> None:
    """Who hands numbers on, draws some, is of the size that it says, and reads tensors that fit together."""
    assert {name for name, kind in ROWS.items() if trait in kind.traits} == TRAITS[trait]


_LSTM, _GRU = (
    {"class_name": f"{kind}Cell", "config": {"use_bias": kind == "GRU"}} for kind in ("LSTM", "GRU")
)
_FOREIGN = _GRU | {"registered_name": "Mine>GRUCell"}


def _stack(*cells: Any) -> dict[str, Any]:
    return {"cell": {"class_name": "StackedRNNCells", "config": {"cells": list(cells)}}}


_GATES = "kernel:{0}vars/0 recurrent_kernel:{0}vars/1"
HELD: list[tuple[str, dict[str, Any], str | None]] = [
    # class, settings, names and places of what it holds; a * for what is not trained
    ("Dense", {}, "kernel:vars/0 bias:vars/1"),
    ("Dense", {"use_bias": False}, "kernel:vars/0"),
    ("EinsumDense", {}, "kernel:vars/0"),
    ("EinsumDense", {"bias_axes": "c"}, "kernel:vars/0 bias:vars/1"),
    ("Embedding", {}, "embeddings:vars/0"),
    ("SeparableConv2D", {}, "depthwise_kernel:vars/0 pointwise_kernel:vars/1 bias:vars/2"),
    ("BatchNormalization", {}, "gamma:vars/0 beta:vars/1 moving_mean:vars/2* moving_variance:vars/3*"),
    ("BatchNormalization", {"scale": False}, "beta:vars/0 moving_mean:vars/1* moving_variance:vars/2*"),
    ("BatchNormalization", {"scale": False, "center": False, "renorm": True},
     ("moving_mean:vars/0* moving_variance:vars/1* moving_stddev:vars/2* renorm_mean:vars/3* "
      "renorm_stddev:vars/4*")),
    ("LayerNormalization", {}, "gamma:vars/0 beta:vars/1"),
    ("GroupNormalization", {"center": False}, "gamma:vars/0"),
    ("LayerNormalization", {"rms_scaling": True}, None),
    ("RMSNormalization", {}, "scale:vars/0"),
    ("Normalization", {}, "mean:vars/0* variance:vars/1* count:vars/2*"),
    ("Normalization", {"mean": [1.0], "variance": [1.0]}, ""),
    ("Rescaling", {}, ""),
    ("LSTM", {}, f"{_GATES} bias:{{0}}vars/2".format("cell/")),
    ("GRU", {"use_bias": False}, _GATES.format("cell/")),
    ("CuDNNGRU", {}, f"{_GATES} bias:{{0}}vars/2".format("")),
    ("CuDNNLSTM", {}, f"{_GATES} bias:{{0}}vars/2".format("")),
    ("ConvLSTM2D", {}, f"{_GATES} bias:{{0}}vars/2".format("cell/")),
    ("RNN", {"cell": _LSTM}, _GATES.format("cell/")),
    ("RNN", {"cell": _GRU}, f"{_GATES} bias:{{0}}vars/2".format("cell/")),
    ("RNN", {"cell": {"class_name": "SimpleRNNCell", "config": {"use_bias": False}}}, _GATES.format("cell/")),
    ("RNN", _stack(_LSTM, _GRU, _LSTM),
     ("lstm_cell/kernel:cell/cells/lstm_cell/vars/0 lstm_cell/recurrent_kernel:cell/cells/lstm_cell/vars/1 "
      "gru_cell/kernel:cell/cells/gru_cell/vars/0 gru_cell/recurrent_kernel:cell/cells/gru_cell/vars/1 "
      "gru_cell/bias:cell/cells/gru_cell/vars/2 lstm_cell_1/kernel:cell/cells/lstm_cell_1/vars/0 "
      "lstm_cell_1/recurrent_kernel:cell/cells/lstm_cell_1/vars/1")),
    ("RNN", _stack(_LSTM),
     ("lstm_cell/kernel:cell/cells/lstm_cell/vars/0 "
      "lstm_cell/recurrent_kernel:cell/cells/lstm_cell/vars/1")),
    ("RNN", _stack(_LSTM, _FOREIGN), None),
    ("RNN", {"cell": {"class_name": "Other", "config": {"cells": [_LSTM]}}}, None),
    ("RNN", {"cell": {"class_name": "StackedRNNCells", "config": {"cells": {"a": _LSTM}}}}, None),
    ("RNN", {"cell": _FOREIGN}, None),
    ("RNN", {}, None),
    ("Lambda", {}, ""),
]  # fmt: skip


@pytest.mark.parametrize(("kind", "config", "held"), HELD)
def test_what_a_layer_holds(kind: str, config: dict[str, Any], held: str | None) -> None:
    assert _names(ROWS[kind].variables(config)) == held


INT8, BLOCKS = {"dtype": "int8_from_float32"}, {"dtype": "int4/2_from_float32"}
QUANTISED: list[tuple[str, dict[str, Any], str | None]] = [
    ("Dense", INT8, "kernel:vars/0* bias:vars/1 kernel_scale:vars/2*"),
    ("Dense", INT8 | {"use_bias": False}, "kernel:vars/0* kernel_scale:vars/1*"),
    ("Dense", BLOCKS, "kernel:vars/0* bias:vars/1 kernel_scale:vars/2* kernel_zero:vars/3* g_idx:vars/4*"),
    ("EinsumDense", INT8, "kernel:vars/0* kernel_scale:vars/1*"),
    ("EinsumDense", INT8 | {"bias_axes": "d"}, "kernel:vars/0* bias:vars/1 kernel_scale:vars/2*"),
    ("Dense", INT8 | {"lora_rank": 2}, None),
    ("Dense", {"dtype": "float8_from_float32"}, None),
    ("Dense", {"dtype": "int4/-1_from_float32"}, "kernel:vars/0* bias:vars/1 kernel_scale:vars/2*"),
    ("Dense", {"dtype": "int8/2_from_float32"}, "kernel:vars/0* bias:vars/1 kernel_scale:vars/2*"),
    ("Dense", {}, None),
    ("Dense", {"quantization_mode": "int4"}, "kernel:vars/0* bias:vars/1 kernel_scale:vars/2*"),
    ("Conv2D", INT8, None),
]


@pytest.mark.parametrize(("kind", "config", "held"), QUANTISED)
def test_what_a_layer_of_integers_holds(kind: str, config: dict[str, Any], held: str | None) -> None:
    assert _names(ROWS[kind].quantised(config)) == held


def test_whose_sizes_at_inference_are_others_than_the_file_tells() -> None:
    assert {name for name in ROWS if name in ("RandomCrop", "RandomHeight", "RandomWidth")} == OTHER_SIZES
    assert len(OTHER_SIZES) == 3


def test_who_knows_how_many_numbers_it_can_be_given() -> None:
    known = {name: kind.knows for name, kind in ROWS.items() if kind.knows}
    assert known == {"Embedding": "input_dim", "CategoryEncoding": "num_tokens"}


def _names(slots: Slots | None) -> str | None:
    names = [f"{s.name}:{s.place}{'' if s.trainable else '*'}" for s in slots or ()]
    return None if slots is None else " ".join(names)
