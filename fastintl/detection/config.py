"""The configuration of a detector's training: every key with its type, default, range and meaning.

The defaults are MoCo's protocol on PASCAL VOC 07+12 (its released ``detection/configs``, and detectron2's defaults for
Faster R-CNN R50-C4 where they state nothing).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from fastintl.config import options
from fastintl.config.options import Options, group, option, side_option
from fastintl.config.values import check_folder_name
from loaders.errors import UserError
from loaders.recipe import LARGEST_SIDE


@dataclass(frozen=True)
class Data(Options, key="data"):
    """the images and their annotations."""

    layout: Literal["voc", "coco"] = option("voc", "Layout of the folder: PASCAL VOC's devkit or COCO's.")
    root: str | None = side_option(
        None, "Folder of VOC2007/ and VOC2012/, or of annotations/, train2017/ and val2017/."
    )
    train: tuple[str, ...] = option(
        ("VOC2007/trainval", "VOC2012/trainval"), "Splits to learn from: year/list of VOC, folders of COCO."
    )
    test: str = side_option("VOC2007/test", "Split to test on, likewise.")
    classes: tuple[str, ...] | None = option(
        None, "VOC: names of the classes, null for its 20. COCO's files name theirs."
    )
    threads: int = side_option(0, "Threads a rank that read images; 0 divides a machine's cores by its ranks.", least=0)


@dataclass(frozen=True)
class Views(Options, key="views"):
    """how images are shown to the detector."""

    train_sizes: tuple[int, ...] = option(
        tuple(range(480, 801, 32)),
        "Shorter side in training in pixels, drawn anew for each image.",
        least=1,
        most=LARGEST_SIDE,
    )
    test_size: int = side_option(800, "Shorter side in the test.", least=1, most=LARGEST_SIDE)
    max_size: int = option(1333, "Longer side at most; the shorter one gives way.", least=1, most=LARGEST_SIDE)
    flip: float = option(0.5, "Probability of a horizontal flip in training.", least=0, most=1)
    mean: tuple[float, float, float] = option(
        (0.485, 0.456, 0.406), "Subtracted from the red, green and blue of an image in 0..1.", least=0, most=1
    )
    std: tuple[float, float, float] = option((0.229, 0.224, 0.225), "Then divided by this.", above=0)

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.train_sizes:
            raise UserError("views.train_sizes: [] holds no size; give one or more")


@dataclass(frozen=True)
class Model(Options, key="model"):
    """the detector around the backbone."""

    masks: bool = option(False, "Segment the objects, too (Mask R-CNN); needs COCO's annotations.")
    anchor_sizes: tuple[int, ...] = option(
        (32, 64, 128, 256, 512), "Sides of the anchors in pixels; each in the ratios 1:2, 1:1 and 2:1.", least=1
    )
    proposals_train: tuple[int, int] = option(
        (12000, 2000), "Proposals of an image before and after non-maximum suppression, in training.", least=1
    )
    proposals_test: tuple[int, int] = side_option((6000, 1000), "The same in the test.", least=1)
    rois: int = option(512, "Regions of an image that the head learns from.", least=1)
    roi_size: int = option(14, "Side of a region's feature map.", least=2)


@dataclass(frozen=True)
class Optim(Options, key="optim"):
    """SGD and its schedule, in steps."""

    lr: float = option(0.02, "Learning rate, of a whole batch.", above=0)
    momentum: float = option(0.9, "Momentum.", least=0)
    weight_decay: float = option(1e-4, "Weight decay; BatchNorm's parameters have none.", least=0)
    steps: int = option(24_000, "Steps of the training.", least=1)
    drops: tuple[int, ...] = option((18_000, 22_000), "After so many steps the rate falls to a tenth.", least=1)
    warmup_steps: int = option(100, "Steps over which the rate rises linearly from a thousandth.", least=0)


@dataclass(frozen=True)
class Train(Options, key="train"):
    """how the training is run."""

    batch_size: int = option(16, "Images a step, of all ranks together.", least=1)
    precision: Literal["auto", "bf16", "fp16", "fp32"] = option("auto", "Number format of the convolutions.")
    device: Literal["auto", "cpu", "cuda"] = side_option("auto", "Where to train.")
    save_minutes: float = side_option(15, "Save the state this often; 0 only at the end.", least=0)


@dataclass(frozen=True)
class Eval(Options, key="eval", result=False):
    """the test."""

    every: int = option(0, "Test every so many steps, and at the end; 0 is at the end only.", least=0)
    precise_bn: int = option(
        200, "Training batches that BatchNorm's statistics are averaged over before a test; 0 keeps them.", least=0
    )


@dataclass(frozen=True)
class Log(Options, key="log", result=False):
    """what is written during the training."""

    every: int = option(20, "A line of metrics every so many steps.", least=1)


@dataclass(frozen=True)
class DetectionConfig(Options):
    """A complete configuration; raises ``UserError`` on any value out of place."""

    name: str | None = side_option(None, "Name of the run and of its folder; null is the recipe's file name.")
    out: str = side_option("runs", "Folder in which the run's folder lies.")
    seed: int = option(0, "Seed of the new layers, the order of the images and every random choice.", least=0)
    data: Data = group(Data)
    views: Views = group(Views)
    model: Model = group(Model)
    optim: Optim = group(Optim)
    train: Train = group(Train)
    eval: Eval = group(Eval)
    log: Log = group(Log)

    def __post_init__(self) -> None:
        super().__post_init__()
        check_folder_name(self.name)
        if self.data.classes is not None and self.data.layout == "coco":
            raise UserError("data.classes: COCO's files name their classes; leave it null")
        if self.model.masks and self.data.layout == "voc":
            raise UserError("model.masks: VOC's boxes have no masks; set data.layout=coco, or model.masks=false")

    @property
    def folder(self) -> Path:
        """The folder of the run."""
        return Path(self.out) / str(self.name)


def load(rcfg: Path | str, overrides: Sequence[str] = ()) -> DetectionConfig:
    """The configuration of a recipe file with ``key=value`` words, which override it; its name is the file's."""
    return options.load(DetectionConfig, rcfg, overrides, Path(rcfg).stem)


def from_yaml(text: str) -> DetectionConfig:
    """The inverse of ``options.dump``."""
    return options.from_yaml(DetectionConfig, text)
