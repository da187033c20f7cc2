"""The table of functions: each by the layer, or the row, that means the same.

A call of ``keras.ops`` or of TensorFlow says what a layer's config says, in another way. A line names a
function, its parameters (see ``function_calls``), and what they are for the row (``function_meanings``). So
each meaning has one row, which does not know who asked.

When it does not act: a call that is not understood as a whole is not looked into.

Sources: the ``__init__`` and ``call`` of keras/src/ops, and the signatures of TensorFlow's functions.
"""

from __future__ import annotations

from collections.abc import Sequence

from msgspec import Struct

from bnfuse.formats.keras.graph.network import Call, Layer, Shape
from bnfuse.formats.keras.rows import function_meanings as means
from bnfuse.formats.keras.rows import kernel_meanings as kernels
from bnfuse.formats.keras.rows.function_calls import Arguments, Called, Means, bound, ports
from bnfuse.formats.table import Malformed

_TWO = "?x ?y"
_CONV = "@inputs>x $kernel strides padding data_format dilation_rate"
_SEPARABLE = _CONV.replace("$kernel", "$depthwise_kernel $pointwise_kernel")
_REDUCED = "@x axis keepdims"
_POOLED = "@x pool_size strides padding data_format"
_TO_ASPECT = "crop_to_aspect_ratio=False pad_to_aspect_ratio=False fill_mode='constant' fill_value=0.0"
# Besides these, ``tests/refused_functions.py`` says why the others have no line.
_KERAS: dict[str, tuple[str, Means]] = {
    # side by side, in another place
    "Concatenate": ("*xs axis", means.side_by_side),
    "Hstack": ("*xs axis=1", means.side_by_side),
    "Vstack": ("*xs axis=0", means.side_by_side),
    "Dstack": ("*xs axis=2", means.side_by_side),
    "Stack": ("*xs axis", means.stated("Stack")),
    "Split": ("@x indices_or_sections>sections axis", means.split),
    "Unstack": ("@x num axis", means.stated("Unstack", sections=None)),
    "Reshape": ("@x newshape>shape", means.stated("Reshape to")),
    "Transpose": ("@x axes", means.stated("Transpose")),
    "Swapaxes": ("@x axis1 axis2", means.stated("Transpose")),
    "Moveaxis": ("@x source destination", means.stated("Transpose")),
    "ExpandDims": ("@x axis", means.stated("ExpandDims")),
    "Squeeze": ("@x axis", means.stated("Squeeze")),
    "GetItem": ("@x key", means.stated("GetItem")),
    "Take": ("@x indices axis", means.stated("Take")),
    "DepthToSpace": ("@x block_size data_format", means.stated("DepthToSpace")),
    "SpaceToDepth": ("@x block_size data_format", means.stated("SpaceToDepth")),
    "Pad": ("@x constant_values>value=None pad_width>pads mode", means.stated("Pad")),
    "Flip": ("@x axis", means.stated("Flip")),
    "Fliplr": ("@x", means.stated("Flip", axis=1)),
    "Flipud": ("@x", means.stated("Flip", axis=0)),
    "Roll": ("@x shift axis", means.stated("Roll")),
    "Repeat": ("@x repeats axis", means.stated("Repeat")),
    "Tile": ("@x repeats", means.stated("Tile")),
    # over axes
    "Mean": (_REDUCED, means.reduce("Mean")),
    "Average": ("@x weights=None axis", means.average),
    "Sum": (_REDUCED, means.reduce("Sum")),
    "Max": (f"{_REDUCED} initial", means.reduce("Extreme")),
    "Min": (f"{_REDUCED} initial", means.reduce("Extreme")),
    "Amax": (_REDUCED, means.reduce("Extreme")),
    "Amin": (_REDUCED, means.reduce("Extreme")),
    "Sort": ("@x axis", means.stated("Sort")),
    "Cumsum": ("@x axis dtype", means.only("Cumsum", dtype=None)),
    "MaxPool": (_POOLED, means.pool("Max")),
    "AveragePool": (_POOLED, means.pool("Average")),
    "Resize": (f"@x size interpolation antialias {_TO_ASPECT} data_format", means.resize),
    # with kernels, and other numbers, that stand in the call
    "Conv": (_CONV, kernels.convolution("Conv")),
    "DepthwiseConv": (_CONV, kernels.convolution("DepthwiseConv")),
    "SeparableConv": (_SEPARABLE, kernels.convolution("SeparableConv")),
    "Matmul": (_TWO, kernels.matmul),
    "Dot": (_TWO, kernels.dot),
    "Tensordot": ("?x ?y axes", kernels.dot),
    "Einsum": ("?x ?y subscripts", kernels.einsum),
    "BatchNorm": (
        "@x $mean>moving_mean $variance>moving_variance $offset>beta=None $scale>gamma=None axis epsilon",
        means.stated("BatchNormalization"),
    ),
    "LayerNorm": ("@x $gamma=None $beta=None axis epsilon rms_scaling", means.stated("LayerNormalization")),
    "RMSNorm": ("@x $scale=None axis epsilon", means.stated("RMSNormalization")),
    # arithmetic
    "Add": (_TWO, means.arithmetic("Add", as_bias=True)),
    "Subtract": (_TWO, means.arithmetic("Subtract")),
    "Multiply": (_TWO, means.arithmetic("Multiply")),
    "Divide": (_TWO, means.arithmetic("Divide")),
    "TrueDivide": (_TWO, means.arithmetic("Divide")),
    "Negative": ("@x", means.stated("Negative")),
    "Maximum": (_TWO, means.greatest("Maximum")),
    "Minimum": (_TWO, means.greatest("Minimum")),
    "Where": ("@condition @x @y", means.stated("Where")),
    # element by element
    "Cast": ("@x dtype", means.cast),
    "ConvertToTensor": ("@x dtype sparse=None ragged=None", means.cast),
    "Array": ("@x dtype", means.cast),
    "Copy": ("@x", means.stated("Identity")),
    "StopGradient": ("@x", means.stated("Identity")),
    "Relu": ("@x", means.RELU),
    "Relu6": ("@x", means.RELU6),
    "ReLU": ("@x negative_slope max_value threshold", means.stated("ReLU")),  # of keras.activations
    "HardTanh": ("@x", means.stated("Clamp", low=-1.0, high=1.0)),
    "LeakyRelu": ("@x negative_slope", means.stated("Homogeneous")),
    "Abs": ("@x", means.stated("Homogeneous")),
    "Absolute": ("@x", means.stated("Homogeneous")),
    "Fabs": ("@x", means.stated("Homogeneous")),
    "Clip": ("@x x_min x_max", means.clip),
}
_NONLINEAR = {
    **dict.fromkeys(
        ("Exp", "HardSigmoid", "HardSilu", "LogSigmoid", "Selu", "Sigmoid", "Silu",
         "Softplus", "Softsign", "SparsePlus", "SparseSigmoid", "Sqrt", "Square", "Tanh", "TanhShrink",
         "Expm1", "Log", "Log1p", "Reciprocal", "Rsqrt", "Sin", "Cos", "Erf"),
        "@x",
    ),
    **dict.fromkeys(("Celu", "Elu"), "@x alpha"),
    **dict.fromkeys(("Softmax", "LogSoftmax", "Sparsemax"), "@x axis"),
    **dict.fromkeys(("HardShrink", "SoftShrink"), "@x threshold"),
    "Threshold": "@x threshold default_value",
    "Gelu": "@x approximate",
    "Squareplus": "@x b",
}  # fmt: skip
_TF_REDUCED = "@x axis=None keepdims=False"
_TF_POOLED = "@x ksize>pool_size strides padding data_format=None"
_TF_RESIZED = "@x size align_corners=False half_pixel_centers=False"
_TF_CONV = "strides padding data_format=None dilations=None"
_TF_CONV_1 = f"{_TF_CONV} use_cudnn_on_gpu=None"
_TF_PAD = "@x paddings>pads mode='CONSTANT' constant_values>value=0"
_TF_MATMUL = (
    "?a>x ?b>y transpose_a=False transpose_b=False adjoint_a=False adjoint_b=False a_is_sparse=False "
    "b_is_sparse=False output_type=None"
)
_TF_SQUEEZE = "@x axis=None squeeze_dims=None"
_TF_GATHER = "@x indices validate_indices=None axis=None batch_dims=0"
_MASKS = "begin_mask=0 end_mask=0 ellipsis_mask=0 new_axis_mask=0 shrink_axis_mask=0"
_TENSORFLOW: dict[str, tuple[str, Means]] = {
    "concat": ("*xs axis", means.side_by_side),
    "stack": ("*xs axis=0", means.stated("Stack")),
    "split": ("@x num_or_size_splits>sizes axis=0 num=None", means.split_sizes),
    "unstack": ("@x num=None axis=0", means.stated("Unstack", sections=None)),
    "reshape": ("@x shape", means.stated("Reshape to")),
    "transpose": ("@x perm>axes=None conjugate=False", means.stated("Transpose")),
    "expand_dims": ("@x axis", means.stated("ExpandDims")),
    "squeeze": (_TF_SQUEEZE, means.only("Squeeze", squeeze_dims=None)),
    "__operators__.getitem": ("@x slice_spec>key", means.stated("GetItem")),
    "strided_slice": (f"@x begin end strides=None {_MASKS}", means.strided_slice),
    "slice": ("@x begin size", means.slice_),
    "gather": (_TF_GATHER, means.gather),
    "nn.depth_to_space": ("@x block_size data_format='NHWC'", means.stated("DepthToSpace")),
    "nn.space_to_depth": ("@x block_size data_format='NHWC'", means.stated("SpaceToDepth")),
    "pad": (_TF_PAD, means.stated("Pad")),
    "reverse": ("@x axis", means.stated("Flip")),
    "roll": ("@x shift axis", means.stated("Roll")),
    "repeat": ("@x repeats axis=None", means.stated("Repeat")),
    "tile": ("@x multiples>repeats", means.stated("Tile")),
    "math.reduce_mean": (_TF_REDUCED, means.reduce("Mean")),
    "math.reduce_sum": (_TF_REDUCED, means.reduce("Sum")),
    "math.reduce_max": (_TF_REDUCED, means.reduce("Extreme")),
    "math.reduce_min": (_TF_REDUCED, means.reduce("Extreme")),
    "sort": ("@x axis=-1 direction='ASCENDING'", means.stated("Sort")),
    "math.cumsum": ("@x axis=0 exclusive=False reverse=False", means.stated("Cumsum")),
    **{f"nn.max_pool{n}": (_TF_POOLED, means.tf_pool("Max")) for n in ("", "1d", "2d", "3d")},
    **{f"nn.avg_pool{n}": (_TF_POOLED, means.tf_pool("Average")) for n in ("", "1d", "2d", "3d")},
    **dict.fromkeys(
        ("nn.conv2d", "nn.conv3d"), (f"@input>x $filters>kernel {_TF_CONV}", kernels.tf_convolution("Conv"))
    ),
    "nn.conv1d": (f"@input>x $filters>kernel stride>{_TF_CONV}", kernels.tf_convolution("Conv")),
    "nn.convolution": (
        "@input>x $filters>kernel strides=None padding='VALID' data_format=None dilations=None",
        kernels.tf_convolution("Conv"),
    ),
    "nn.depthwise_conv2d": (f"@input>x $filter>kernel {_TF_CONV}", kernels.tf_convolution("DepthwiseConv")),
    "nn.separable_conv2d": (
        f"@input>x $depthwise_filter>depthwise_kernel $pointwise_filter>pointwise_kernel {_TF_CONV}",
        kernels.tf_convolution("SeparableConv"),
    ),
    "linalg.matmul": (_TF_MATMUL, kernels.tf_matmul),
    "tensordot": ("?a>x ?b>y axes", kernels.dot),
    "image.resize": (
        "@x size method>interpolation='bilinear' preserve_aspect_ratio=False antialias=False", means.resize,
    ),
    "image.resize_bilinear": (f"{_TF_RESIZED} interpolation='bilinear'", means.resize),
    "image.resize_nearest_neighbor": (f"{_TF_RESIZED} interpolation='nearest'", means.resize),
    "math.add": (_TWO, means.arithmetic("Add")),
    "__operators__.add": (_TWO, means.arithmetic("Add")),
    "math.add_n": ("*xs", means.stated("Add")),
    "nn.bias_add": ("@value>x $bias>y data_format=None", means.bias),
    "math.subtract": (_TWO, means.arithmetic("Subtract")),
    "math.multiply": (_TWO, means.arithmetic("Multiply")),
    "math.truediv": (_TWO, means.arithmetic("Divide")),
    "math.divide": (_TWO, means.arithmetic("Divide")),
    "math.negative": ("@x", means.stated("Negative")),
    "math.maximum": (_TWO, means.greatest("Maximum")),
    "math.minimum": (_TWO, means.greatest("Minimum")),
    "where": ("@condition @x @y", means.stated("Where")),
    "cast": ("@x dtype", means.cast),
    "convert_to_tensor": ("@x dtype=None dtype_hint=None", means.cast),
    "identity": ("@x", means.stated("Identity")),
    "stop_gradient": ("@x", means.stated("Identity")),
    "nn.relu": ("@x", means.RELU),
    "nn.relu6": ("@x", means.RELU6),
    "nn.leaky_relu": ("@x alpha=0.2", means.stated("Homogeneous")),
    "math.abs": ("@x", means.stated("Homogeneous")),
    "clip_by_value": ("@x clip_value_min>x_min clip_value_max>x_max", means.clip),
    "shape": ("@x out_type=None", means.stated("Shape")),
    **dict.fromkeys(
        ("math.exp", "math.sigmoid", "math.softplus", "math.sqrt", "math.square", "math.tanh",
         "nn.selu", "nn.sigmoid", "nn.tanh", "nn.elu", "nn.swish", "math.cos", "math.log", "math.rsqrt",
         "math.sin"),
        ("@x", means.stated("Nonlinear")),
    ),
    **dict.fromkeys(
        ("math.equal", "math.greater", "math.greater_equal", "math.less", "math.less_equal", "math.not_equal",
         "math.pow"),
        (_TWO, means.pointwise),
    ),
    "nn.softmax": ("@x axis=-1", means.stated("Nonlinear")),
    "nn.gelu": ("@x approximate=False", means.stated("Nonlinear")),
    "nn.silu": ("@x beta=1.0", means.stated("Nonlinear")),
}  # fmt: skip
_RATE = _TF_CONV.replace("dilations", "rate>dilations")
_V1 = {
    "nn.conv1d": f"@value>x $filters>kernel stride>{_TF_CONV_1} input=None",
    "nn.conv2d": f"@input>x $filter>kernel {_TF_CONV_1} filters=None",
    "nn.depthwise_conv2d": f"@input>x $filter>kernel {_RATE} dilations>other=None",
    "nn.separable_conv2d": (
        f"@input>x $depthwise_filter>depthwise_kernel $pointwise_filter>pointwise_kernel {_RATE} "
        "dilations>other=None"
    ),
}  # of TensorFlow 1, where the parameters have other names
FUNCTIONS: dict[str, tuple[str, Means]] = {
    **{f"ops.{name}": line for name, line in _KERAS.items()},
    **{f"ops.{name}": (parameters, means.stated("Nonlinear")) for name, parameters in _NONLINEAR.items()},
    **_TENSORFLOW,
    **{f"compat.v1.{name}": line for name, line in _TENSORFLOW.items() if not name.startswith("__")},
    **{f"compat.v1.{name}": (parameters, _TENSORFLOW[name][1]) for name, parameters in _V1.items()},
}


class Meaning(Struct, frozen=True):
    """What a call is: the name of a row, what its config says, and which inputs it reads, in what order."""

    row: str
    config: Arguments
    ports: tuple[int, ...]


def meaning(layer: Layer, call: Call | None, shapes: Sequence[Shape | None]) -> Meaning | None:
    """What a function's call means; None where that is not known.

    Args:
        layer: of which ``function`` is not "".
        call: the call.
        shapes: of each of its inputs.
    """
    found = FUNCTIONS.get(layer.function)
    if found is None or call is None:
        return None
    parameters, told = found
    try:
        given = bound(parameters, layer, call)
        row, config = told(Called(given, shapes))
    except (Malformed, TypeError, ValueError, KeyError, IndexError, AttributeError):
        return None
    read = tuple(ports(list(given.values())))
    return Meaning(row, config, read) if sorted(read) == list(range(len(call.inputs))) else None
