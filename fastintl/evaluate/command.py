"""What the command lines of supervised evaluation share: the backbone, the pictures, and where results go."""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from loaders.recipe import IMAGENET_MEAN, IMAGENET_STD, CenterCrop, MultiCrop, random_crop_and_flip

if TYPE_CHECKING:  # these import torch, and --help needs none
    import torch
    from torchvision.models.resnet import ResNet

    from fastintl.distributed import World
    from loaders import Loader

_EVALUATION_BATCH = 256


def add_options(parser: argparse.ArgumentParser) -> None:
    """The options that ``open_loader``, ``open_backbone`` and ``report`` read."""
    parser.add_argument("--arch", help="of the backbone (default: what the file says, or resnet50)")
    parser.add_argument("--stem", help="of the backbone (default: what the file says, or imagenet)")
    parser.add_argument("--target", action="store_true", help="take the file's EMA copy of the backbone")
    parser.add_argument("--train", type=Path, required=True, help="training pictures: .beton or folder class/picture")
    parser.add_argument("--val", type=Path, required=True, help="held-out pictures of the same classes")
    parser.add_argument("--size", type=int, default=224, help="side of the crops in pixels (default: 224)")
    parser.add_argument(
        "--resize", type=int, help="shorter side before the centre crop (default: 8/7 of --size, so 256 for 224)"
    )
    for name, default in (("mean", IMAGENET_MEAN), ("std", IMAGENET_STD)):
        text = " ".join(map(str, default))
        parser.add_argument(f"--{name}", type=float, nargs=3, default=default, help=f"of the pixels (default: {text})")
    parser.add_argument("--source", default="auto", help="decoder: auto, ffcv, dali, memory or folder")
    parser.add_argument("--threads", type=int, default=0, help="host threads of a rank; 0 takes its share of the cores")
    parser.add_argument("--device", default="auto", help="auto, cpu or cuda")
    parser.add_argument("--precision", default="auto", choices=("auto", "bf16", "fp16", "fp32"), help="of the backbone")
    parser.add_argument("--seed", type=int, default=0, help="of order, crops and the classifier's start (default: 0)")
    parser.add_argument("--json", type=Path, help="write the result with its settings and versions to this file")
    parser.add_argument("--results", type=Path, help="append the result to this Markdown table")


def random_crops(arguments: argparse.Namespace) -> MultiCrop:
    """A random crop and a flip."""
    return random_crop_and_flip(arguments.size, tuple(arguments.mean), tuple(arguments.std))


def center_crop(arguments: argparse.Namespace) -> CenterCrop:
    """The view that is tested."""
    resize = arguments.resize or round(arguments.size * 256 / 224)
    return CenterCrop(resize, arguments.size, tuple(arguments.mean), tuple(arguments.std))


def open_loader(
    arguments: argparse.Namespace,
    world: World,
    path: Path,
    recipe: MultiCrop | CenterCrop,
    dtype: torch.dtype,
    batch_size: int = _EVALUATION_BATCH,
    samples: Sequence[int] | None = None,
) -> Loader:
    """This rank's loader of ``path``, or of some of its samples."""
    from fastintl.data import host_threads
    from loaders import make_loader

    return make_loader(
        path,
        recipe,
        batch_size,
        source=arguments.source,
        device=world.device,
        dtype=dtype,
        seed=arguments.seed,
        rank=world.rank,
        world_size=world.world_size,
        threads=host_threads(arguments.threads),
        samples=samples,
    )


def open_backbone(arguments: argparse.Namespace) -> ResNet:
    """The backbone of ``arguments.weights``."""
    from fastintl.backbone_files import load_backbone

    return load_backbone(arguments.weights, arguments.arch, stem=arguments.stem, target=arguments.target)


def open_frozen(arguments: argparse.Namespace, world: World) -> tuple[ResNet, Loader, Loader]:
    """The backbone on its device, and centre-crop loaders of the training and the held-out pictures, in float32."""
    import torch

    network = open_backbone(arguments).to(world.device, memory_format=torch.channels_last)
    crop, paths = center_crop(arguments), (arguments.train, arguments.val)
    train, held_out = (open_loader(arguments, world, path, crop, torch.float32) for path in paths)
    return network, train, held_out


def settings_of(arguments: argparse.Namespace, protocol: Mapping[str, Any]) -> dict[str, Any]:
    """Everything that changes the numbers beside the weights and the pictures, as plain values."""
    crops = {"size": arguments.size, "resize": center_crop(arguments).resize}
    crops |= {"mean": list(arguments.mean), "std": list(arguments.std)}
    plain = json.loads(json.dumps(protocol))  # tuples become lists, as a checkpoint gives them back
    return {**plain, **crops, "target": arguments.target, "seed": arguments.seed}


def identity_of(arguments: argparse.Namespace, settings: Mapping[str, Any], train: Loader) -> dict[str, Any]:
    """What a training is resumed by: its settings, its weights and how many steps an epoch has."""
    from fastintl import weight_files

    weights = weight_files.sha256(weight_files.locate(arguments.weights)) if arguments.weights else None
    return {**settings, "weights": weights, "pictures": len(train.pictures), "steps an epoch": len(train)}


def run_folder(task: str, identity: Mapping[str, Any]) -> Path:
    """Where a training keeps its state unless told: the same for the same identity, so that it resumes."""
    digest = hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()
    return Path("runs") / f"{task}-{digest[:10]}"


def say(world: World, text: str) -> None:
    """Prints a line on stderr, once for all ranks."""
    if world.is_main:
        print(text, file=sys.stderr, flush=True)


def report(
    arguments: argparse.Namespace,
    task: str,
    settings: Mapping[str, Any],
    metrics: Mapping[str, float],
    details: Mapping[str, Any] | None = None,
) -> None:
    """Prints the result and writes it where the options say."""
    from fastintl import weight_files
    from fastintl.evaluate import results

    data = {"train": str(arguments.train), "val": str(arguments.val)}
    if arguments.weights:
        result = results.result_of(task, data, weight_files.locate(arguments.weights), settings, metrics, details or {})
    else:
        result = results.Result(task, data, None, None, settings, metrics, details=details or {})
    results.print_table(result)
    results.write(result, arguments.json, arguments.results)
