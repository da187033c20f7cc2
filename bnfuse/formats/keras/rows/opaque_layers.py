"""Rows of the op table: layers that pass nothing and take nothing on, with why.

Together with the rows of the other files these are all layers that Keras 3 and tf_keras export.
"""

from __future__ import annotations

from bnfuse.formats.keras.rows.kind import LayerKind, Trait
from bnfuse.formats.keras.rows.sizes import same

_WHY = {
    "it is code, not data": (
        "FlaxLayer", "JaxLayer", "Lambda", "Layer", "Pipeline", "PreprocessingLayer", "SlicingOpLambda",
        "TFOpLambda", "TFSMLayer", "TensorFlowOpLayer", "TorchModuleWrapper", "Wrapper",
    ),
    "it reads words, numbers of classes or boxes": (
        "CategoryEncoding", "DenseFeatures", "Discretization", "DynamicLookup", "HashedCrossing", "Hashing",
        "IntegerLookup", "MaxNumBoundingBoxes", "StringLookup", "TextVectorization",
    ),
    "it is part of a layer around it": (
        "AbstractRNNCell", "GRUCell", "LSTMCell", "SimpleRNNCell", "StackedRNNCells", "TimeDistributed",
    ),
    "it stretches or equalises the range of its input": (
        "AutoContrast", "ContrastLimitedAdaptiveHistogramEqualization", "Equalization",
    ),
    "it divides by the norm of its input": ("UnitNormalization",),
    "it multiplies its inputs with each other": ("Dot",),
    "it makes a mask of its input": ("Masking",),
    "it takes absolute values of a spectrum": ("MelSpectrogram", "STFTSpectrogram"),
    "it takes a cosine of its input": ("RandomFourierFeatures",),
    "its table changes, or is read in both directions": ("DynamicEmbedding", "ReversibleEmbedding"),
    "it is made for training on a GPU alone": ("CuDNNGRU", "CuDNNLSTM"),
    "it merges in a way of Keras 1": ("Merge",),
    "it begins the model": ("InputLayer",),
}  # fmt: skip
WHY = {name: why for why, names in _WHY.items() for name in names}
ROWS = (
    LayerKind(("Masking",), shapes=same, traits=Trait.HANDS_ON),
    LayerKind(("UnitNormalization",), shapes=same),
    LayerKind(("CategoryEncoding",), knows="num_tokens"),
    LayerKind(("InputLayer", "Lambda", "TFOpLambda", "SlicingOpLambda", "TensorFlowOpLayer")),
)
