"""Operators that take nothing on and let nothing through, each group with why: what has no row, on purpose.

Written down from the operators' definitions. ``test_operator_coverage`` holds it against onnx's own list and
onnxruntime's.
"""

from __future__ import annotations

REFUSED: dict[str, tuple[str, ...]] = {
    "nonlinear, and not homogeneous": (
        "Acos", "Acosh", "Asin", "Asinh", "Atan", "Atanh", "Cos", "Cosh", "Sin", "Sinh", "Tan",
        "Reciprocal", "Shrink", "SwiGLU", "CumProd", "ReduceProd", "ReduceLogSum", "ReduceLogSumExp",
        "ReduceSumSquare", "Det", "SoftmaxCrossEntropyLoss", "NegativeLogLikelihoodLoss",
    ),
    "rounds": ("Ceil", "Floor", "Round", "Mod"),
    "compares or counts: what comes out is no number of the model's": (
        "Equal", "Greater", "GreaterOrEqual", "Less", "LessOrEqual", "IsInf", "IsNaN", "NonZero", "Unique",
        "NonMaxSuppression", "OneHot",
    ),
    "works on whole numbers, truth values or bits": (
        "And", "Or", "Xor", "Not", "BitCast", "BitShift", "BitwiseAnd", "BitwiseNot", "BitwiseOr",
        "BitwiseXor", "Range",
    ),
    "works on text or pictures in a file": (
        "ImageDecoder", "RegexFullMatch", "StringConcat", "StringNormalizer", "StringSplit",
        "TfIdfVectorizer",
    ),
    "makes its values out of nothing, or of a shape": (
        "Constant", "ConstantOfShape", "BlackmanWindow", "HammingWindow", "HannWindow", "MelWeightMatrix",
        "AffineGrid",
    ),
    "random": (
        "Bernoulli", "Multinomial", "RandomNormal", "RandomNormalLike", "RandomUniform",
        "RandomUniformLike",
    ),
    "has bodies, whose values are captured": ("If", "Loop", "Scan", "SequenceMap"),
    "sequences and optional values: no shapes of their own": (
        "ConcatFromSequence", "SequenceAt", "SequenceConstruct", "SequenceEmpty", "SequenceErase",
        "SequenceInsert", "SequenceLength", "SplitToSequence", "Optional", "OptionalGetElement",
        "OptionalHasElement",
    ),
    "quantised: the scales are whole steps of something else": (
        "ConvInteger", "MatMulInteger", "QLinearConv", "QLinearMatMul", "QuantizeLinear",
        "DequantizeLinear", "DynamicQuantizeLinear",
    ),
    "normalises without numbers of its own": ("LRN", "MeanVarianceNormalization"),
    "attention: its products and its softmax see a scale": (
        "Attention", "LinearAttention", "ai.onnx.preview.FlexAttention",
    ),
    "convolves with a state, whose past values are inputs and outputs": ("CausalConvWithState",),
    "writes into a tensor: both would have to be held alike, along other axes than those written to": (
        "Scatter", "ScatterElements", "ScatterND", "TensorScatter",
    ),
    "adds overlapping blocks, channels and places in one axis": ("Col2Im",),
    "trains": tuple(f"ai.onnx.preview.training.{op}" for op in ("Adagrad", "Adam", "Gradient", "Momentum")),
    "maps, categories and text of ai.onnx.ml": tuple(
        f"ai.onnx.ml.{op}"
        for op in ("CastMap", "CategoryMapper", "DictVectorizer", "LabelEncoder", "OneHotEncoder", "ZipMap")
    ),
    "compares with thresholds of its own": tuple(
        f"ai.onnx.ml.{op}"
        for op in ("Binarizer", "TreeEnsemble", "TreeEnsembleClassifier", "TreeEnsembleRegressor")
    ),
    "kernels and norms of a whole row": tuple(
        f"ai.onnx.ml.{op}" for op in ("Normalizer", "SVMClassifier", "SVMRegressor")
    ),
    "replaces a number that stands for none": ("ai.onnx.ml.Imputer",),
    "joins and picks columns: Concat and Gather do it in exported networks": tuple(
        f"ai.onnx.ml.{op}" for op in ("ArrayFeatureExtractor", "FeatureVectorizer")
    ),
}  # fmt: skip

# com.microsoft, as onnxruntime 1.32 lists it: fused and quantised for a machine when folding is done, so that
# a BN stands before or behind few of them.
OF_ONNXRUNTIME: dict[str, tuple[str, ...]] = {
    "attention and what belongs to it": (
        "Attention", "AttnLSTM", "DecoderAttention", "DecoderMaskedMultiHeadAttention",
        "DecoderMaskedSelfAttention", "DynamicSparseAttention", "GatedRelativePositionBias",
        "GroupQueryAttention", "LinearAttention", "LinearAttentionGate", "LongformerAttention",
        "MultiHeadAttention", "PackedAttention", "PackedMultiHeadAttention", "PackedSparseAttentionIndexer",
        "PackedSparseAttentionIndexerMerge", "PagedAttention", "QAttention", "QOrderedAttention",
        "QOrderedLongformerAttention", "RelativePositionBias", "SparseAttention", "SparseAttentionIndexer",
        "SparsePagedAttention", "GemmaRotaryEmbedding", "MRotaryEmbedding", "RotaryEmbedding",
        "RMSNormRotary", "RemovePadding", "RestorePadding", "SpeculativePrefixCommit",
    ),
    "states of the past are inputs and outputs": (
        "CausalConvWithState", "ConvStateReplay", "GatedDeltaNet", "GatedDeltaNetStateReplay",
        "Mamba2Verify", "VarlenCausalConvWithState",
    ),
    "experts, chosen at run time": (
        "MoE", "MoEGroupRouter", "MoEPacked", "QMoE", "RouterGateUpProj", "EngramGate",
    ),
    "searches for text": ("BeamSearch", "GreedySearch", "Sampling", "WhisperBeamSearch", "NGramRepeatBlock"),
    "quantised, or in blocks": (
        "DequantizeBFP", "DequantizeLinear", "DequantizeWithOrder", "DynamicQuantizeLSTM",
        "DynamicQuantizeMatMul", "GatherBlockQuantized", "GemmFloat8", "MatMulBlockQuantizedFp4Weight",
        "MatMulBlockQuantizedFp8Weight", "MatMulBnb4", "MatMulFpQ4", "MatMulInteger16",
        "MatMulIntegerToFloat", "MatMulNBitsMlp", "MatMulNBitsQLoRA", "MatMulNBitsQkv",
        "MatMulPacked", "MulInteger", "QEmbedLayerNormalization", "QGemm", "QLinearAdd",
        "QLinearAveragePool", "QLinearConcat", "QLinearConv", "QLinearGlobalAveragePool",
        "QLinearLeakyRelu", "QLinearMul", "QLinearReduceMean", "QLinearSigmoid", "QLinearSoftmax",
        "QLinearWhere", "QOrderedGelu", "QOrderedLayerNormalization", "QOrderedMatMul", "QuantizeBFP",
        "QuantizeLinear", "QuantizeWithOrder", "ReduceSumInteger",
    ),
    "nonlinear": (
        "BiasGelu", "BiasSoftmax", "BiasSplitGelu", "FastGelu", "FusedMatMulActivation", "Gelu",
        "GemmFastGelu", "QuickGelu", "ScaledSiLU", "SwiGLU", "CDist", "Inverse", "ComplexMul",
        "ComplexMulConj", "GatedAdd", "DynamicTimeWarping", "UnfoldTensor", "TorchEmbedding",
        "WordConvEmbedding",
    ),
    "norms that are fused with what stands around them": (
        "BranchwiseRMSNorm", "EmbedLayerNormalization", "GatedRMSNorm", "GroupNorm", "SkipGroupNorm",
        "SkipLayerNormalization", "SkipSimplifiedLayerNormalization", "HyperConnectionLowRankMix",
        "HyperConnectionPostMix", "HyperConnectionPreMix",
    ),
    "older names and layouts of standard operators": (
        "BiasAdd", "BiasDropout", "BitmaskBiasDropout", "BitmaskDropout", "ConvTransposeWithDynamicPads",
        "CropAndResize", "ExpandDims", "GatherND", "GatherPacked", "GridSample", "Irfft", "MaxpoolWithMask",
        "NhwcConv", "NhwcFusedConv", "NhwcMaxPool", "Pad", "Range", "Rfft", "SparseToDenseMatMul", "Trilu",
        "Unique",
    ),
    "text, hashes, samples, other engines": (
        "BifurcationDetector", "EPContext", "IsAllFinite", "MurmurHash3", "NGramHashMapping", "SampleOp",
        "Snpe", "Tokenizer", "VarlenNGramHashMapping",
    ),
}  # fmt: skip
