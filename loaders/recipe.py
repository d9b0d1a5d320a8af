"""The numbers of an augmentation, no code: what a crop may look like, and which crops one image gives."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal, get_args

from loaders.errors import UserError
from loaders.growth import Growth, Stage, sides_at, stages_of

Interpolation = Literal["bicubic", "bilinear"]  # both antialiased, as Pillow's

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
LARGEST_SIDE = 1 << 14  # of a view, in pixels
LEAST_AREA = 0.08  # torchvision's RandomResizedCrop


@dataclass(frozen=True)
class CropSpec:
    """One random view of an image.

    The operations run in this order: resized crop, colour jitter, grayscale, blur, solarise, flip
    (INTL, arXiv 2305.16789, appendix; the flip commutes with everything before it).

    Attributes:
        size: side of the square crop in pixels.
        scale: smallest and largest share of the image's area that the crop covers.
        ratio: smallest and largest width/height of the crop.
        flip: probability of a horizontal flip.
        jitter: probability of the colour jitter.
        brightness, contrast, saturation: the factor is uniform in ``[max(0, 1 - x), 1 + x]``.
        hue: the shift is uniform in ``[-hue, hue]``, in turns of the colour circle.
        grayscale: probability of turning grey.
        blur: probability of the Gaussian blur.
        blur_sigma: range of the blur's standard deviation, in pixels of the crop.
        solarize: probability of inverting every value at or above half.
    """

    size: int
    scale: tuple[float, float] = (0.2, 1.0)
    ratio: tuple[float, float] = (3 / 4, 4 / 3)
    flip: float = 0.5
    jitter: float = 0.8
    brightness: float = 0.4
    contrast: float = 0.4
    saturation: float = 0.2
    hue: float = 0.1
    grayscale: float = 0.2
    blur: float = 0.5
    blur_sigma: tuple[float, float] = (0.1, 2.0)
    solarize: float = 0.1

    def __post_init__(self) -> None:
        if self.size < 1:
            raise UserError(f"a crop's size must be at least 1 pixel, not {self.size}")
        _check_side(self.size)
        for name in ("flip", "jitter", "grayscale", "blur", "solarize"):
            if not 0 <= getattr(self, name) <= 1:
                raise UserError(f"{name} is a probability between 0 and 1, not {getattr(self, name)}")
        for name in ("scale", "ratio", "blur_sigma"):
            low, high = getattr(self, name)
            if not 0 < low <= high:
                raise UserError(f"{name} must be two positive numbers, smaller first, not {[low, high]}")
        if not 0 <= self.hue <= 0.5:
            raise UserError(f"hue must lie between 0 and 0.5 turns, not {self.hue}")


@dataclass(frozen=True)
class MultiCrop:
    """Several random crops of every image, normalised to ``(x - mean) / std`` with ``x`` in [0, 1].

    Attributes:
        interpolation: how a box of the image becomes a view of its size.
        growth: how the views' sides rise from epoch to epoch up to ``size``; None: they are ``size`` in all.
    """

    views: tuple[CropSpec, ...]
    mean: tuple[float, float, float] = IMAGENET_MEAN
    std: tuple[float, float, float] = IMAGENET_STD
    interpolation: Interpolation = "bicubic"
    growth: Growth | None = None

    def __post_init__(self) -> None:
        _check_interpolation(self.interpolation)

    @property
    def stages(self) -> tuple[Stage, ...]:
        """The sides of the views, and from which epoch on."""
        return stages_of([spec.size for spec in self.views], self.growth)

    def at(self, epoch: int) -> MultiCrop:
        """What an epoch cuts, as a recipe that does not grow.

        A smaller crop shows what the crop of full size would: boxes, flips, colours are the same, and the deviation of
        the blur, which is in pixels of the crop, shrinks with the side.
        """
        if self.growth is None:
            return self
        sides = sides_at(self.stages, epoch)
        views = tuple(_resized(spec, side) for spec, side in zip(self.views, sides, strict=True))
        return replace(self, views=views, growth=None)


@dataclass(frozen=True)
class CenterCrop:
    """The view that evaluation takes: shorter side to ``resize`` by ``interpolation``, central ``size`` square."""

    resize: int = 256
    size: int = 224
    mean: tuple[float, float, float] = IMAGENET_MEAN
    std: tuple[float, float, float] = IMAGENET_STD
    interpolation: Interpolation = "bilinear"

    def __post_init__(self) -> None:
        _check_interpolation(self.interpolation)
        if not 0 < self.size <= self.resize:
            raise UserError(f"the centre crop of {self.size} px does not fit a shorter side of {self.resize} px")
        _check_side(self.resize)


def random_crop_and_flip(
    size: int = 224,
    mean: tuple[float, float, float] = IMAGENET_MEAN,
    std: tuple[float, float, float] = IMAGENET_STD,
    least_area: float = LEAST_AREA,
    interpolation: Interpolation = "bicubic",
) -> MultiCrop:
    """What a linear probe trains on: torchvision's RandomResizedCrop, whose own interpolation is bilinear, and a flip.

    Args:
        least_area: share of the image that a crop takes at least.
    """
    spec = CropSpec(size, scale=(least_area, 1.0), jitter=0, grayscale=0, blur=0, solarize=0)
    return MultiCrop((spec,), mean, std, interpolation)


def _resized(spec: CropSpec, side: int) -> CropSpec:
    low, high = (sigma * side / spec.size for sigma in spec.blur_sigma)
    return replace(spec, size=side, blur_sigma=(low, high))


def _check_side(side: int) -> None:
    if side > LARGEST_SIDE:  # a byte too much, and a library fails in words of its own
        raise UserError(f"a view of {side} px is too large: at most {LARGEST_SIDE:,} px can be made of an image")


def _check_interpolation(name: str) -> None:
    if name not in get_args(Interpolation):
        raise UserError(f"no interpolation is named {name!r}; there are {' and '.join(get_args(Interpolation))}")
