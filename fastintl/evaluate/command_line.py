"""What the command lines of supervised evaluation share: the images, the features, and where results go."""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

from fastintl.evaluate import arguments as options
from loaders.errors import UserError
from loaders.recipe import LEAST_AREA, CenterCrop, Interpolation, MultiCrop, random_crop_and_flip

if TYPE_CHECKING:  # these import torch, and --help needs none
    import torch

    from fastintl.distributed import World
    from fastintl.evaluate.backbone import Subject
    from loaders import Loader

_EVALUATION_BATCH = 256


def add_options(parser: argparse.ArgumentParser) -> None:
    """The options that the functions here read, beside ``weights``."""
    parser.add_argument("--train", type=Path, required=True, help="training images: .beton or folder class/image")
    parser.add_argument("--val", type=Path, required=True, help="held-out images of the same classes")
    options.add_network(parser)
    options.add_images(parser)
    parser.add_argument("--precision", default="auto", choices=("auto", "bf16", "fp16", "fp32"), help="of the backbone")
    parser.add_argument("--seed", type=int, default=0, help="of order, crops and the classifier's start (default: 0)")
    options.add_results(parser)


def open_subject(arguments: argparse.Namespace) -> Subject:
    """The backbone that the options describe."""
    from fastintl.evaluate import backbone as subject

    names = ("weights", "arch", "stem", "target", "resize", "size")
    return subject.open_subject(*(getattr(arguments, name) for name in names))


def add_random_crops(group: argparse._ArgumentGroup) -> None:
    """The options of ``random_crops``."""
    text = f"least share of an image that a training crop takes (default: {LEAST_AREA})"
    group.add_argument("--crop-area", type=float, default=LEAST_AREA, metavar="SHARE", help=text)
    text = "how it is resized (default: bilinear, as published)"
    group.add_argument("--crop-interpolation", default="bilinear", choices=get_args(Interpolation), help=text)


def random_crops(arguments: argparse.Namespace, crop: CenterCrop) -> MultiCrop:
    """A random crop and a flip, of the size and the statistics of the view that is tested.

    Raises:
        UserError: the share is none.
    """
    if not 0 < arguments.crop_area <= 1:
        raise UserError(f"--crop-area must be above 0 and at most 1, not {arguments.crop_area}")
    return random_crop_and_flip(
        crop.size, crop.mean, crop.std, arguments.crop_area, interpolation=arguments.crop_interpolation
    )


def describe_crops(arguments: argparse.Namespace) -> dict[str, Any]:
    """The options of ``random_crops``; bicubic goes without saying, as when there was nothing else."""
    said = {"crop_area": arguments.crop_area, "crop_interpolation": arguments.crop_interpolation}
    return {name: value for name, value in said.items() if value != "bicubic"}


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


def settings_of(arguments: argparse.Namespace, subject: Subject | None, protocol: Mapping[str, Any]) -> dict[str, Any]:
    """Everything that changes the numbers beside the images, as plain values."""
    plain = json.loads(json.dumps(protocol))  # tuples become lists, as a checkpoint gives them back
    return {**plain, **(subject.describe() if subject else {}), "seed": arguments.seed}


def identity_of(settings: Mapping[str, Any], train: Loader, samples: Sequence[int] = ()) -> dict[str, Any]:
    """What a training is resumed by: its settings, which images it has (or which of them), and an epoch's steps."""
    from fastintl.runs.fingerprint import fingerprint

    return {**settings, "pictures": fingerprint(train.images, samples), "steps an epoch": len(train)}


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
    from fastintl.evaluate import results

    data = {"train": str(arguments.train), "val": str(arguments.val)}
    shown = {name: value for name, value in settings.items() if name != "sha256"}
    result = results.Result(
        task, data, arguments.weights, settings.get("sha256"), shown, metrics, details=details or {}
    )
    results.print_table(result)
    results.write(result, arguments.json, arguments.results)
