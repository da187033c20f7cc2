"""Rows of the op table: what resizes or crops images, or augments them while training.

Every interpolation of Keras has weights that sum to 1, at the borders too (measured with Keras 3.15 and
tf_keras 2.21: nearest, bilinear, bicubic, Lanczos, area, Gaussian, Mitchell; antialiased or not).
"""

from __future__ import annotations

from bnfuse.core.reasons import Reason
from bnfuse.core.rules.base import Opaque, Pass, Rule
from bnfuse.formats.keras.graph.calls import is_keras3
from bnfuse.formats.keras.graph.network import Shape
from bnfuse.formats.keras.rows.kind import LayerKind, Trait, spatial_kinds
from bnfuse.formats.keras.rows.site import Site
from bnfuse.formats.keras.rows.sizes import Size, join, one, per_axis, resized, same, split
from bnfuse.formats.keras.rows.variables import Config

_INTERPOLATIONS = frozenset(
    {"nearest", "bilinear", "bicubic", "lanczos3", "lanczos5", "area", "gaussian", "mitchellcubic"}
)


def resizing(site: Site) -> Rule:
    """Resizing, cropped or stretched; zeros that fill up to the aspect ratio refuse a shift."""
    fills = site.config.get("pad_to_aspect_ratio")
    if fills and site.config.get("fill_value", 0.0) != 0.0:
        return Opaque(Reason.UNSUPPORTED_OP, "it pads with a number")
    return interpolated(site, 2, Reason.ZERO_PADDING if fills else None)


def cropping_to_size(site: Site) -> Rule:
    """CenterCrop, RandomCrop: a smaller image is resized bilinearly; Keras 3's RandomCrop is the identity."""
    return Opaque(Reason.TRAINING_MODE) if _trains(site) else interpolated(site, 2)


def interpolated(site: Site, n: int, shift: Reason | None = None) -> Rule:
    """Values repeated, or interpolated (UpSampling)."""
    mode = str(site.config.get("interpolation", "nearest")).lower()
    if mode not in _INTERPOLATIONS:
        return Opaque(Reason.UNSUPPORTED_OP, f"interpolation '{mode}'")
    rank = n + 2 + site.lead
    if site.rank(n + 2) != rank or len(site.inputs) != 1:
        return Opaque(Reason.SHAPE_UNKNOWN)
    return Pass(shift=shift, mixes=site.spatial_axes(rank).__contains__)


def augmentation(site: Site) -> Rule:
    """The identity at inference, of one tensor."""
    return Opaque(Reason.TRAINING_MODE) if _trains(site) else Pass()


def _trains(site: Site) -> bool:
    """Whether it augments at inference, too.

    These layers train by default, and Keras 3 writes that into every call, whoever asked for it; at
    inference it then tells all layers otherwise. Keras 2 writes what was asked for, and obeys.
    """
    return site.training and not (site.call is not None and is_keras3(site.call.raw))


def _repeated(config: Config, spatial: Shape) -> list[Size]:
    factors = per_axis(config["size"], len(spatial))
    return [None if n is None else n * f for n, f in zip(spatial, factors, strict=True)]


def _brought_to_size(config: Config, shape: Shape) -> Shape | None:
    if len(shape) != 4:
        return None
    _, channels = split(config, shape)
    return join(config, shape[0], (config["height"], config["width"]), channels)


# What they put out at inference is not as large as their config, or what Keras stores, says.
OTHER_SIZES = frozenset({"RandomCrop", "RandomHeight", "RandomWidth"})
ROWS = (
    *spatial_kinds(("UpSampling{n}D",), interpolated, resized(_repeated)),
    LayerKind(("Resizing",), resizing, one(_brought_to_size), traits=Trait.SIZES),
    LayerKind(("CenterCrop",), cropping_to_size, one(_brought_to_size), traits=Trait.SIZES),
    LayerKind(("RandomCrop",), cropping_to_size, one(_brought_to_size), traits=Trait.SIZES | Trait.DRAWS),
    LayerKind(
        ("AugMix", "CutMix", "MixUp", "RandAugment", "RandomBrightness",
         "RandomColorDegeneration", "RandomColorJitter", "RandomContrast", "RandomElasticTransform",
         "RandomErasing", "RandomFlip", "RandomGaussianBlur", "RandomGrayscale", "RandomHue", "RandomInvert",
         "RandomPerspective", "RandomPosterization", "RandomRotation", "RandomSaturation", "RandomSharpness",
         "RandomShear", "RandomTranslation", "RandomZoom", "Solarization"),
        augmentation, same, traits=Trait.DRAWS,
    ),
    LayerKind(("RandomHeight", "RandomWidth"), augmentation, traits=Trait.DRAWS),
)  # fmt: skip
