"""Which variables a layer holds, by class and config: their names, order and places inside its group.

Facts read off Keras 2.15, 3.3–3.15 and tf_keras. A slot's ``place`` is where a ``.keras`` archive keeps the
variable, below the layer's group; names are the same for all versions and both file kinds (Keras 2
says ``depthwise_kernel`` where Keras 3 says ``kernel``: here it is ``kernel``).

When it does not act: classes that are not Keras's own, quantised layers and layers with LoRA have no known
slots (``None``), so that nobody relies on a position in them.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from bnfuse.formats.keras.graph.network import Layer

Config = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Slot:
    """One variable of a layer class; ``trainable`` says how it was made, not whether it is frozen."""

    name: str
    place: str
    trainable: bool = True


def _own(*names: str, frozen: Iterable[str] = ()) -> tuple[Slot, ...]:
    """Variables that hang on the layer itself: ``vars/0``, ``vars/1`` and so on."""
    still = frozenset(frozen)
    return tuple(Slot(name, f"vars/{i}", name not in still) for i, name in enumerate(names) if name)


def _if(config: Config, key: str, name: str) -> tuple[str, ...]:
    """``name`` unless the config switches it off; all these switches are on by default."""
    return (name,) if config.get(key, True) else ()


def _biased(*kernels: str) -> Callable[[Config], tuple[Slot, ...]]:
    return lambda config: _own(*kernels, *_if(config, "use_bias", "bias"))


def _einsum(config: Config) -> tuple[Slot, ...]:
    return _own("kernel", *(("bias",) if config.get("bias_axes") else ()))


def _scaled(config: Config) -> tuple[Slot, ...]:
    return _own(*_if(config, "scale", "gamma"), *_if(config, "center", "beta"))


def _batch_norm(config: Config) -> tuple[Slot, ...]:
    moving: tuple[str, ...] = ("moving_mean", "moving_variance")
    if config.get("renorm"):
        moving += ("moving_stddev", "renorm_mean", "renorm_stddev")
    return _own(*_if(config, "scale", "gamma"), *_if(config, "center", "beta"), *moving, frozen=moving)


def _normalization(config: Config) -> tuple[Slot, ...]:
    """Statistics given as arguments are in the config, not in variables."""
    if config.get("mean") is not None:
        return ()
    names = ("mean", "variance", "count")
    return _own(*names, frozen=names)


def _attention(config: Config) -> tuple[Slot, ...]:
    names = ("scale",) if config.get("use_scale") else ()
    return _own(*names, *(("concat_score_weight",) if config.get("score_mode") == "concat" else ()))


def _additive_attention(config: Config) -> tuple[Slot, ...]:
    return _own(*_if(config, "use_scale", "scale"))


def _below(prefix: str, slots: Iterable[Slot], name: str = "") -> tuple[Slot, ...]:
    """The slots of a part that is kept below ``prefix``; ``name`` goes before theirs."""
    return tuple(
        replace(s, place=f"{prefix}/{s.place}", name=f"{name}/{s.name}" if name else s.name) for s in slots
    )


def _projections(config: Config) -> tuple[Slot, ...]:
    dense = _own("kernel", *_if(config, "use_bias", "bias"))
    parts = (("query", "query"), ("key", "key"), ("value", "value"), ("output", "attention_output"))
    return tuple(slot for place, name in parts for slot in _below(f"{place}_dense", dense, name))


def _cell(config: Config) -> tuple[Slot, ...]:
    return _below("cell", _own("kernel", "recurrent_kernel", *_if(config, "use_bias", "bias")))


_CELLS = frozenset({"LSTMCell", "GRUCell", "SimpleRNNCell"})


def _rnn(config: Config) -> tuple[Slot, ...] | None:
    """``RNN`` around one cell of Keras's own, or a stack of them."""
    cell = config.get("cell")
    if not isinstance(cell, Mapping) or not isinstance(cell.get("config"), Mapping):
        return None
    if cell.get("class_name") in _CELLS:
        return _cell(cell["config"])
    if cell.get("class_name") != "StackedRNNCells" or not isinstance(cell["config"].get("cells"), list):
        return None
    slots: list[Slot] = []
    counts: dict[str, int] = {}
    for inner in cell["config"]["cells"]:
        if not isinstance(inner, Mapping) or inner.get("class_name") not in _CELLS:
            return None
        group = numbered(snake_case(inner["class_name"]), counts)
        own = _own("kernel", "recurrent_kernel", *_if(inner["config"], "use_bias", "bias"))
        slots += _below(f"cell/cells/{group}", own, group)
    return tuple(slots)


_KERNEL = _biased("kernel")
_CUDNN = _biased("kernel", "recurrent_kernel")
_TABLE: dict[str, Callable[[Config], tuple[Slot, ...] | None]] = {
    **dict.fromkeys(("Dense", "Conv1D", "Conv2D", "Conv3D", "Conv1DTranspose", "Conv2DTranspose"), _KERNEL),
    **dict.fromkeys(("Conv3DTranspose", "DepthwiseConv1D", "DepthwiseConv2D"), _KERNEL),
    **dict.fromkeys(("LocallyConnected1D", "LocallyConnected2D"), _KERNEL),
    **dict.fromkeys(("Convolution1D", "Convolution2D", "Convolution3D"), _KERNEL),
    **dict.fromkeys(("SeparableConv1D", "SeparableConv2D"), _biased("depthwise_kernel", "pointwise_kernel")),
    "EinsumDense": _einsum,
    **dict.fromkeys(
        ("BatchNormalization", "BatchNormalizationV1", "BatchNormalizationV2", "SyncBatchNormalization"),
        _batch_norm,
    ),
    **dict.fromkeys(("LayerNormalization", "GroupNormalization"), _scaled),
    "RMSNormalization": lambda _: _own("scale"),
    "PReLU": lambda _: _own("alpha"),
    "Embedding": lambda _: _own("embeddings"),
    "Normalization": _normalization,
    "Attention": _attention,
    "AdditiveAttention": _additive_attention,
    **dict.fromkeys(("MultiHeadAttention", "GroupQueryAttention", "GroupedQueryAttention"), _projections),
    **dict.fromkeys(("LSTM", "GRU", "SimpleRNN", "ConvLSTM1D", "ConvLSTM2D", "ConvLSTM3D"), _cell),
    **dict.fromkeys(("CuDNNLSTM", "CuDNNGRU"), _CUDNN),
    "RNN": _rnn,
}
# Classes without variables; pooling, merging, padding and noise come in families.
_WEIGHTLESS = re.compile(
    r"InputLayer|Activation|Dropout|SpatialDropout[123]D|Gaussian(Noise|Dropout)|AlphaDropout|Flatten|Reshape"
    r"|Permute|RepeatVector|Lambda|ActivityRegularization|Masking|Identity|Rescaling|Resizing|CenterCrop"
    r"|(Global|Adaptive)?(Max|Average)Pool(ing)?[123]D|ZeroPadding[123]D"
    r"|Cropping[123]D|UpSampling[123]D|Add|Subtract|Multiply|Average|Maximum|Minimum|Concatenate|Dot|Merge"
    r"|ReLU|LeakyReLU|ELU|ThresholdedReLU|Softmax|UnitNormalization|TFOpLambda|SlicingOpLambda"
    r"|TensorFlowOpLayer|CategoryEncoding|Random[A-Z]\w*"
)
_KERAS_MODULES = re.compile(r"(tf_)?keras(\.|$)|tensorflow(\.|$)|$")


def slots(layer: Layer) -> tuple[Slot, ...] | None:
    """The variables that hang on this layer itself, in the order of ``layer.weights``.

    Those of wrapped layers and of a nested network are not counted. None where the class is not known,
    is not Keras's own, or its config changes what is stored (quantised, LoRA).
    """
    if layer.inner is not None or layer.wrapped:
        return ()
    if layer.registered or not _KERAS_MODULES.match(layer.module) or special_storage(layer.config):
        return None
    if layer.class_name in _TABLE and not layer.config.get("rms_scaling"):
        return _TABLE[layer.class_name](layer.config)
    return () if _WEIGHTLESS.fullmatch(layer.class_name) else None


def special_storage(config: Config) -> str | None:
    """Why what is stored is not the layer's plain arrays ("LoRA", "quantised …"); None if it is."""
    if config.get("lora_rank"):
        return "LoRA"
    mode = _quantised_to(config.get("dtype")) or config.get("quantization_mode")
    if mode:
        return f"quantised to {mode}"
    return "quantised" if config.get("quantization_config") else None


def _quantised_to(policy: object) -> str | None:
    """The mode in a dtype policy: ``"int8_from_float32"``, or an object that has one."""
    if isinstance(policy, str):
        return policy.split("_from_")[0] if "_from_" in policy else None
    inner = policy.get("config") if isinstance(policy, Mapping) else None
    mode = inner.get("mode") if isinstance(inner, Mapping) else None
    return str(mode) if mode else None


# The one class whose public name, which the config has, is not its own, which the groups have.
_CLASS_OF = {"GroupQueryAttention": "GroupedQueryAttention"}


def snake_case(class_name: str) -> str:
    """A class name as Keras spells it in group names: ``Conv2DTranspose`` → ``conv2d_transpose``."""
    plain = class_name.rsplit(">", 1)[-1]
    name = re.sub(r"\W+", "", _CLASS_OF.get(plain, plain))
    name = re.sub("(.)([A-Z][a-z]+)", r"\1_\2", name)
    return re.sub("([a-z])([A-Z])", r"\1_\2", name).lower()


def numbered(name: str, counts: dict[str, int]) -> str:
    """``dense``, ``dense_1``, ``dense_2``, … as they come; ``counts`` is kept up to date."""
    counts[name] = counts.get(name, -1) + 1
    return f"{name}_{counts[name]}" if counts[name] else name
