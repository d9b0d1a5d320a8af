"""The configuration of a run's images: where they are, and how they are cropped. A part of ``keys.py``."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from fastintl.config.options import Options, option, shown, side_option
from loaders.errors import UserError
from loaders.growth import Growth, Stage, stages_of
from loaders.recipe import LARGEST_SIDE, Interpolation

Pair = tuple[float, float]
Channels = tuple[float, float, float]


@dataclass(frozen=True)
class Data(Options, key="data"):
    """the images."""

    root: str | None = side_option(
        None,
        "Folder of <data.name>_train.beton and <data.name>_val.beton, of train/ and val/ class folders, or of the "
        "public files of cifar10, cifar100, stl10, tiny-imagenet, imagenet or imagenet100.",
    )
    name: str = option("imagenet", "Name of the dataset, the first part of its .beton files' names.")
    train: str | None = side_option(
        None,
        "Training images, if not in data.root: a .beton file, a folder of images, tars or parquet files, a pattern "
        "such as 'name-{000..146}.tar', or a word such as stl10:train@folder.",
    )
    train_labelled: str | None = side_option(
        None, "The labelled ones of them, likewise, where not all have labels: the neighbours of the evaluation."
    )
    val: str | None = side_option(None, "Held-out images, likewise; without any, nothing is evaluated.")
    source: Literal["auto", "ffcv", "dali", "memory", "folder", "nvjpeg"] = side_option(
        "auto",
        "Reader of the images; memory decodes once and keeps the pixels, auto takes the fastest that can run but never "
        "nvjpeg, whose pixels differ.",
    )
    threads: int = side_option(0, "Decoding threads a rank; 0 divides a machine's cores by its ranks.", least=0)
    hardware_share: float = side_option(
        0.65, "DALI on a GPU: share of the images for its JPEG decoder, where it has one.", least=0, most=1
    )
    verify: bool = side_option(
        True, "Compare the public files of cifar10, cifar100 and stl10 with their published checksums, once."
    )
    max_bad: float = side_option(0.05, "Share of unreadable images at which the run stops.", least=0, most=1)


@dataclass(frozen=True)
class Crops(Options, key="crops"):
    """the random crops of an image; sizes, scales, blur and solarize hold one value per view."""

    sizes: tuple[int, ...] = option(
        (224, 224, 192, 160, 128, 96),
        "Side of each view in pixels. With model.ema, view 0 is the target's alone.",
        least=1,
        most=LARGEST_SIDE,
        work=True,
    )
    scales: tuple[Pair, ...] = option(
        ((0.2, 1.0), (0.2, 1.0), (0.171, 0.857), (0.143, 0.714), (0.114, 0.571), (0.086, 0.429)),
        "Share of the image's area that each view covers, from and to.",
        above=0,
        most=1,
    )
    blur: tuple[float, ...] = option((0.5,) * 6, "Probability of a Gaussian blur, per view.", least=0, most=1)
    solarize: tuple[float, ...] = option(
        (0.1,) * 6, "Probability of inverting the pixels from 128 on, per view.", least=0, most=1
    )
    grow: tuple[float, ...] = option(
        (),
        "[share, epoch]: begin with views of this share of their sides, which rise in a few stages to the full ones "
        "from this epoch on, as in [0.625, 70]; [] is full size from the start. See docs/loaders.md.",
        above=0,
        work=True,
    )
    interpolation: Interpolation = option("bicubic", "How a crop is resized to its view, antialiased.")
    ratio: Pair = option((0.75, 1.3333333333333333), "Aspect ratio of a crop before resizing, from and to.", above=0)
    flip: float = option(0.5, "Probability of a horizontal flip.", least=0, most=1)
    jitter: float = option(
        0.8, "Probability of the colour jitter, whose four parts run in random order.", least=0, most=1
    )
    brightness: float = option(0.4, "Jitter: brightness factor from 1 - x to 1 + x.", least=0)
    contrast: float = option(0.4, "Jitter: contrast factor from 1 - x to 1 + x.", least=0)
    saturation: float = option(0.2, "Jitter: saturation factor from 1 - x to 1 + x.", least=0)
    hue: float = option(0.1, "Jitter: hue shift from -x to x, in turns of the colour circle.", least=0, most=0.5)
    grayscale: float = option(0.2, "Probability of a grey image.", least=0, most=1)
    blur_sigma: Pair = option((0.1, 2.0), "Standard deviation of the blur in pixels of the view, from and to.", above=0)
    mean: Channels = option(
        (0.485, 0.456, 0.406),
        "Subtracted from the red, green and blue of an image in 0..1.",
        least=0,
        most=1,
    )
    std: Channels = option((0.229, 0.224, 0.225), "Then divided by this.", above=0)

    def __post_init__(self) -> None:
        views = len(self.sizes) if isinstance(self.sizes, list | tuple) else "as many as crops.sizes has"
        for name in ("scales", "blur", "solarize"):
            value = getattr(self, name)
            if not isinstance(value, list | tuple):
                raise UserError(
                    f"crops.{name}: {shown(value)} is one value; it needs {views} values in [...], one per view"
                )
        super().__post_init__()
        for name in ("scales", "blur", "solarize"):
            given = len(getattr(self, name))
            if given != views:
                raise UserError(f"crops.{name}: {given} values for {views} views; crops.sizes has {views}")
        if views < 2:
            raise UserError(f"crops.sizes: {views} view given; the loss compares views and needs 2 or more")
        ranges = {"ratio": self.ratio, "blur_sigma": self.blur_sigma}
        ranges |= {f"scales[{view}]": scale for view, scale in enumerate(self.scales)}
        for name, (low, high) in ranges.items():
            if low > high:
                raise UserError(f"crops.{name}: [{low}, {high}] must have the smaller value first")
        self._check_growth()

    def _check_growth(self) -> None:
        if not self.grow:
            return
        given = f"crops.grow: {shown(self.grow)}"
        if len(self.grow) != 2:
            raise UserError(f"{given} is not [share, epoch], nor [] for crops that do not grow")
        share, epoch = self.grow
        if share >= 1:
            raise UserError(f"{given} begins with {share:g} of the views' sides; it must be less than 1")
        if epoch != int(epoch) or epoch < 1:
            raise UserError(f"{given} reaches the full size at epoch {epoch:g}; it must be a whole number from 1 on")
        if len(self.stages) == 1:
            raise UserError(f"{given} makes no view smaller, in steps that its side takes: lower the share")

    @property
    def growth(self) -> Growth | None:
        """How the views grow; None where they do not."""
        return Growth(self.grow[0], int(self.grow[1])) if self.grow else None

    @property
    def stages(self) -> tuple[Stage, ...]:
        """The sides of the views, and from which epoch on; one stage where nothing grows."""
        return stages_of(self.sizes, self.growth)

    @property
    def all_sides(self) -> tuple[int, ...]:
        """Every side that a view ever has, those of the last stage first."""
        return tuple(dict.fromkeys(side for stage in reversed(self.stages) for side in stage.sides))
