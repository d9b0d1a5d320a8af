"""The configuration of a run: every key with its type, default, range and meaning, and no other defaults.

Those of the images are in ``images.py``.

The defaults are INTL's recipe for ImageNet with multi-crop and EMA at 100 epochs (arXiv 2305.16789 and the
authors' released script). A recipe file (``rcfgs/*.yaml``) holds what differs, and ``key=value`` words of the
command line override both.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from fastintl.config import options
from fastintl.config.images import Channels, Crops, Data
from fastintl.config.options import Options, group, option, shown, side_option
from fastintl.config.values import check_folder_name
from fastintl.losses import LOSSES
from fastintl.network.names import ARCHITECTURES, STEMS, named_network
from loaders.errors import UserError
from loaders.recipe import LARGEST_SIDE, Interpolation

LARGEST_SEED = 2**63 - 1


@dataclass(frozen=True)
class Model(Options, key="model", work=True):
    """the network."""

    arch: str = option(
        "resnet50",
        f"Backbone, without its last layer: one of torchvision's ResNets, {', '.join(ARCHITECTURES[1:])}; the demo's "
        "resnet8; timm:NAME, torchvision:NAME, or package.module:function of your own, which returns a module from "
        "images to features. Options of what builds it may follow: timm:NAME,depth=6.",
    )
    weights: str | None = option(
        None,
        "Weights that the backbone starts from: a run, a file, a URL, timm:NAME or torchvision:NAME; null draws new "
        "ones.",
    )
    stem: Literal[STEMS] = option(
        "imagenet",
        "First layers of a ResNet: imagenet is 7x7 stride 2 and a max-pool; cifar is 3x3 stride 1 and none; "
        "cifar_padded pads its input by one pixel more, as INTL's CIFAR code since 2023-06-02; small is 3x3 stride 1 "
        "and a max-pool.",
    )
    zero_init_residual: bool = option(True, "Start every residual block of a ResNet as the identity.")
    projector: tuple[int, ...] = option((8192, 8192, 8192), "Widths of the projector's layers.", least=1)
    projector_bias: bool = option(False, "Biases in the projector's layers before the last, which always has them.")
    projector_views: Literal["apart", "together"] = option(
        "apart",
        "What the projector's BatchNorms take their statistics over: each view, as INTL, or all views of a network "
        "together, as CW-RGP.",
    )
    ema: bool = option(True, "Compare with a slowly moving average of the network (INTL's EMA form).")
    ema_momentum: float = option(
        0.996, "Share of the average kept at the first step; rises to 1 along a cosine.", least=0, most=1
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.projector:
            raise UserError("model.projector: the list is empty; it needs the width of one layer or more")
        if named_network(self.arch) is not None:
            for name in ("stem", "zero_init_residual"):
                if self.is_changed(name):
                    raise UserError(
                        f"model.{name}: {shown(getattr(self, name))} has no effect with model.arch={self.arch}; it "
                        f"belongs to the ResNets: set model.{name}={shown(self.__dataclass_fields__[name].default)}"
                    )


@dataclass(frozen=True)
class Loss(Options, key="loss", work=True):
    """the loss; each reads the keys whose text begins with its name."""

    name: Literal[tuple(LOSSES)] = option("intl", "Which loss.")
    iterations: int = option(4, "intl: Newton iterations of the whitening.", least=1)
    axis: Literal["channel", "batch"] = option(
        "channel", "intl, spectral: what is centred and whitened: each sample, or the batch."
    )
    trade_off: float | None = option(
        None,
        "intl, spectral: weight of the trace loss; null is INTL's 0.01 (log2 n - 3), n the samples (or channels), "
        "and 0 for spectral.",
        least=0,
    )
    groups: int = option(4, "cw_rgp: random groups of channels, each whitened by itself.", least=1)
    w_size: int = option(64, "cw_rgp: samples that are whitened together.", least=2)
    w_iter: int = option(1, "cw_rgp: random cuts of the batch into sub-batches of w_size, averaged.", least=1)
    cov_w: float = option(0.0, "cw_rgp: weight of the covariance term.", least=0)
    cov_stop: int = option(0, "cw_rgp: epoch from which the covariance term is left out.", least=0)
    scope: Literal["rank", "global"] = option(
        "rank", "cw_rgp: what is cut into sub-batches, each rank's share of the batch or all of it."
    )
    lambd: float = option(0.0051, "barlow_twins: weight of the off-diagonal terms.", least=0)
    transform: Literal["whiten", "power"] = option(
        "whiten", "spectral: the function of the eigenvalues, l^-1/2 (hard whitening) or l^-power."
    )
    power: float = option(0.5, "spectral: the power of transform=power; 0.5 whitens, 0 changes nothing.", least=0)

    def __post_init__(self) -> None:
        super().__post_init__()
        read = dict.fromkeys(key for entry in LOSSES.values() for key in entry.keys)
        self.refuse_unread("name", {key: [name for name in LOSSES if key in LOSSES[name].keys] for key in read})


@dataclass(frozen=True)
class Optim(Options, key="optim"):
    """the optimiser and its learning rate."""

    name: Literal["sgd", "adam", "lars"] = option(
        "sgd", "Optimiser; adam's betas are 0.9 and 0.999, lars scales a layer's step by the size of its weights."
    )
    lr: float = option(
        0.5,
        "Peak learning rate: for 256 images a step, scaled by train.batch_size / 256; adam's is taken as it is.",
        above=0,
    )
    lr_one_dimensional: float | None = option(
        None, "The same for biases and the parameters of normalisation layers; null is optim.lr.", above=0
    )
    momentum: float = option(0.9, "Momentum of sgd and lars.", least=0, most=1)
    weight_decay: float = option(1e-5, "Weight decay.", least=0)
    decay_one_dimensional: bool = option(False, "Decay biases and the parameters of normalisation layers too.")
    warmup_epochs: float = option(2, "Epochs over which the learning rate rises to its peak.", least=0)
    warmup_steps: int | None = option(None, "Steps over which it rises, in place of optim.warmup_epochs.", least=0)
    schedule: Literal["cosine", "cosine_epoch", "step"] = option(
        "cosine", "How it falls then: along a cosine at every step or once an epoch, or by factors at some epochs."
    )
    final_fraction: float = option(
        0.001, "Where the cosine of cosine and cosine_epoch ends, as a share of the peak.", least=0, most=1
    )
    drop_epochs: tuple[int, ...] = option((50, 25), "step: so many epochs before the end it drops.", least=1)
    drop_factor: float = option(0.2, "step: what it is multiplied by at each drop.", above=0, most=1)

    def __post_init__(self) -> None:
        super().__post_init__()
        self.refuse_unread("name", {"momentum": ("sgd", "lars")})
        by_step = ("step",)
        read_by = {"final_fraction": ("cosine", "cosine_epoch"), "drop_epochs": by_step, "drop_factor": by_step}
        self.refuse_unread("schedule", read_by)
        if self.warmup_steps is not None and self.is_changed("warmup_epochs"):
            raise UserError("optim.warmup_epochs: optim.warmup_steps takes its place; leave one of the two out")


@dataclass(frozen=True)
class Train(Options, key="train"):
    """the run."""

    epochs: int = option(100, "Passes over the training images.", least=1)
    batch_size: int = option(256, "Images a step, of all ranks together.", least=2)
    max_steps: int | None = side_option(None, "Stop after so many steps, with an unchanged schedule.", least=1)
    precision: Literal["auto", "bf16", "fp16", "fp32"] = option(
        "auto", "auto is bf16 on GPUs that have it, fp16 on older ones, fp32 on the CPU."
    )
    device: Literal["auto", "cpu", "cuda"] = side_option("auto", "auto is the GPU where there is one.")
    compile: Literal["auto", "on", "off"] = side_option(
        "auto", "Compile the network with torch.compile; auto does on GPUs. The code is kept in ~/.cache/fastintl."
    )
    cuda_graphs: Literal["on", "off"] = side_option(
        "off", "Replay the compiled network as CUDA graphs: for one GPU with few images; not yet timed on one."
    )
    recompute: Literal["on", "off"] = side_option(
        "off", "Compute each block again in the backward pass, for half of the memory and a third more to compute."
    )
    deterministic: Literal["on", "off"] = side_option(
        "off", "Take algorithms that give the same bits every time on a GPU too; a CPU always does."
    )
    compress_gradients: Literal["none", "fp16", "bf16"] = option(
        "none", "Format in which the ranks exchange gradients; fp16 and bf16 halve the bytes, and round."
    )
    save_minutes: float = side_option(
        15.0, "Save the state whenever so many minutes have passed; 0 never does.", least=0
    )
    save_every: int = side_option(1, "Save the state every so many epochs, and at the end.", least=1)
    keep_every: int = side_option(
        0, "Also keep the state of every so many epochs for good; 0 keeps the last two.", least=0
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.cuda_graphs == "on" and self.compile == "off":
            raise UserError("train.cuda_graphs=on replays what was compiled: it needs train.compile=on or auto")


@dataclass(frozen=True)
class Eval(Options, key="eval", result=False):
    """classification of the held-out images by the backbone's features, by k nearest neighbours and more."""

    every: int = option(10, "Evaluate every so many epochs, and at the end; 0 is at the end only.", least=0)
    k: int = option(5, "Neighbours that vote.", least=1)
    resize: int = option(256, "Shorter side of an image in pixels before the centre crop.", least=1, most=LARGEST_SIDE)
    size: int = option(224, "Side of the centre crop in pixels.", least=1, most=LARGEST_SIDE)
    interpolation: Interpolation = option("bilinear", "How an image is resized for it, antialiased.")
    mean: Channels | None = option(None, "Subtracted from its pixels; null is crops.mean.", least=0, most=1)
    std: Channels | None = option(None, "What they are divided by; null is crops.std.", above=0)
    batch_size: int = option(256, "Images at a time, of all ranks together.", least=1)
    bank: int | None = option(None, "At most so many training images as neighbours; null is all.", least=1)
    probes: tuple[Literal["linear", "quick"], ...] = option(
        (), "Also train on their features: linear, by the protocol of small datasets; quick, by L-BFGS (scikit-learn)."
    )
    baselines: bool = option(False, "Also measure raw pixels and the untrained network, after the first step.")

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.size > self.resize:
            raise UserError(f"eval.size: {self.size} is more than eval.resize, {self.resize}; a crop fits the image")
        if self.bank is not None and self.bank < self.k:
            raise UserError(f"eval.bank: {self.bank} images are fewer than the {self.k} neighbours of eval.k")


@dataclass(frozen=True)
class Log(Options, key="log", result=False):
    """what is written during the run; metrics.jsonl always is."""

    every: int = option(10, "A line of metrics every so many steps.", least=1)
    spectrum_every: int = option(
        100, "Measure the embedding's spectrum on a log step every so many steps, and at the end; 0 never.", least=0
    )
    wandb: Literal["off", "offline", "online"] = option("off", "Mirror the metrics to Weights & Biases.")
    wandb_project: str = option("fastintl", "Project of the mirror.")
    tensorboard: bool = option(False, "Mirror them to TensorBoard's files, in the run's folder; needs tensorboard.")


@dataclass(frozen=True)
class Config(Options):
    """A complete configuration; raises ``UserError`` on any value out of place."""

    name: str | None = side_option(None, "Name of the run and of its folder; null is the recipe's file name.")
    out: str = side_option("runs", "Folder in which the run's folder lies.")
    seed: int = option(
        0, "Seed of the weights, the order of the images and every random crop.", least=0, most=LARGEST_SEED
    )
    data: Data = group(Data)
    crops: Crops = group(Crops)
    model: Model = group(Model)
    loss: Loss = group(Loss)
    optim: Optim = group(Optim)
    train: Train = group(Train)
    eval: Eval = group(Eval)
    log: Log = group(Log)

    def __post_init__(self) -> None:
        super().__post_init__()
        check_folder_name(self.name)
        if self.model.ema and not LOSSES[self.loss.name].target:
            raise UserError(f"model.ema: loss.name={self.loss.name} has no EMA target; set model.ema=false")
        if self.crops.grow and self.crops.growth.epoch >= self.train.epochs:
            raise UserError(
                f"crops.grow: {shown(self.crops.grow)} reaches the full size at epoch {self.crops.growth.epoch}, and "
                f"train.epochs={self.train.epochs} ends before: name an earlier epoch"
            )
        if self.crops.grow and self.train.cuda_graphs == "on":
            raise UserError(
                "crops.grow changes the shapes that train.cuda_graphs=on replays: set train.cuda_graphs=off"
            )


def load(rcfg: Path | str | None, overrides: Sequence[str] = ()) -> Config:
    """The configuration of a recipe file (None: the defaults) overridden by ``key=value`` words.

    ``name`` is filled in from the file's name where nothing sets it ("run" without a file).
    """
    return options.load(Config, rcfg, overrides, Path(rcfg).stem if rcfg else "run")


def from_dict(tree: Mapping[str, Any]) -> Config:
    """A configuration from nested dicts; keys that are missing keep their defaults."""
    return options.from_dict(Config, tree)


def from_yaml(text: str, where: str = "configuration") -> Config:
    """The inverse of ``to_yaml``. ``where`` names the text's place in the sentences on what is wrong with it."""
    return options.from_yaml(Config, text, where)


def to_yaml(config: Config) -> str:
    """The complete configuration as YAML, in the order of this file."""
    return options.dump(config)


def differences(a: Config, b: Config) -> list[str]:
    """Dotted names of the keys on which two configurations differ."""
    return options.differences(a, b)


def help_text() -> str:
    """Every key with its default, type and meaning, for ``--help``."""
    return options.help_text(Config)
