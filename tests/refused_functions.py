"""Functions of ``keras.ops`` that take nothing on and let nothing through, each group with why.

``test_keras_function_coverage`` holds it against ``keras.ops`` itself.
"""

from __future__ import annotations

REFUSED: dict[str, tuple[str, ...]] = {
    "nonlinear, and not homogeneous": (
        "arccos", "arccosh", "arcsin", "arcsinh", "arctan", "arctan2", "arctanh", "cbrt", "cosh", "cumprod",
        "deg2rad", "erfc", "erfinv", "exp2", "fmod", "glu", "hypot", "i0", "ldexp", "log10", "log2",
        "logaddexp", "logaddexp2", "logsumexp", "mod", "nextafter", "power", "prod", "rad2deg",
        "segment_prod", "sinc", "sinh", "std", "tan", "var", "dot_product_attention",
        "image.hsv_to_rgb", "image.rgb_to_hsv", "image.ssim", "psnr",
    ),
    "it cannot be run in a model by Keras itself": ("conv_transpose",),
    "multiplies its inputs with each other": (
        "cdist", "correlate", "cross", "inner", "kron", "outer", "trapezoid", "vdot",
    ),
    "divides by what it reads, or leaves out what is no number": (
        "divide_no_nan", "nan_to_num", "nanargmax", "nanargmin", "nancumprod", "nancumsum", "nanmax",
        "nanmean", "nanmedian", "nanmin", "nanpercentile", "nanprod", "nanquantile", "nanstd", "nansum",
        "nanvar", "corrcoef", "moments", "norm", "normalize", "fmax", "fmin",
    ),
    "rounds": ("ceil", "floor", "floor_divide", "round", "trunc"),
    "compares or counts: what comes out is no number of the model's": (
        "all", "allclose", "any", "argmax", "argmin", "argpartition", "argsort", "bincount", "count_nonzero",
        "digitize", "equal", "greater", "greater_equal", "heaviside", "histogram", "in_top_k", "isclose",
        "isfinite", "isin", "isinf", "isnan", "isneginf", "isposinf", "isreal", "less", "less_equal",
        "multi_hot", "nonzero", "not_equal", "one_hot", "searchsorted", "sign", "signbit", "unique",
    ),
    "works on whole numbers, truth values or bits": (
        "bitwise_and", "bitwise_invert", "bitwise_left_shift", "bitwise_not", "bitwise_or",
        "bitwise_right_shift", "bitwise_xor", "gcd", "lcm", "left_shift", "logical_and", "logical_not",
        "logical_or", "logical_xor", "right_shift", "unravel_index", "view",
    ),
    "makes its values out of nothing, or of a shape": (
        "arange", "bartlett", "blackman", "convert_to_numpy", "dtype", "empty", "empty_like", "eye", "full",
        "full_like", "geomspace", "hamming", "hanning", "identity", "is_tensor", "kaiser", "linspace",
        "logspace", "meshgrid", "ndim", "ones", "ones_like", "shape", "size", "tri", "vander", "zeros",
        "zeros_like",
    ),
    "matrices as a whole": (
        "cholesky", "cholesky_inverse", "det", "eig", "eigh", "inv", "logdet", "lstsq", "lu_factor",
        "matrix_rank", "pinv", "qr", "slogdet", "solve", "solve_triangular", "svd",
    ),
    "complex numbers": (
        "angle", "conj", "conjugate", "extract_sequences", "fft", "fft2", "ifft2", "imag", "irfft", "istft",
        "real", "rfft", "stft", "view_as_complex", "view_as_real",
    ),
    "runs code, or one of several branches": (
        "associative_scan", "cond", "custom_gradient", "fori_loop", "jvp", "map", "scan", "switch",
        "vectorize", "vectorized_map", "while_loop",
    ),
    "takes or puts elements where it is told at run time": (
        "scatter", "scatter_update", "segment_max", "segment_min", "segment_sum", "select", "slice",
        "slice_update", "take_along_axis", "image.affine_transform", "image.map_coordinates",
        "image.perspective_transform", "image.scale_and_translate",
    ),
    "takes the middle, or what is left in order": ("median", "percentile", "quantile", "ptp", "top_k"),
    "moves axes in a way that no saved network was seen to need": (
        "append", "array_split", "broadcast_to", "diag", "diagflat", "diagonal", "diff", "dsplit", "hsplit",
        "ravel", "rearrange", "rot90", "trace", "tril", "triu", "vsplit", "fold", "unfold",
        "image.crop_images", "image.extract_patches", "image.extract_patches_3d", "image.pad_images",
    ),
    "it cannot be loaded again by Keras itself": ("adaptive_average_pool", "adaptive_max_pool"),
    "filters or mixes the channels of pictures": (
        "image.elastic_transform", "image.gaussian_blur", "image.rgb_to_grayscale", "image.sobel_edges",
    ),
    "trains": (
        "binary_crossentropy", "categorical_crossentropy", "ctc_decode", "ctc_loss",
        "sparse_categorical_crossentropy",
    ),
    "casts, and cuts what is too large": ("saturate_cast",),
}  # fmt: skip
