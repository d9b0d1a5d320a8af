"""What the authors' programs expect of a GPU machine, so that they run on a CPU as they are, in one process.

To be installed before anything of theirs is imported, for their modules take names out of torch when they begin.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
import torch.distributed as dist
import torchvision.datasets
from PIL import Image
from torch import nn


class Parallel(nn.Module):
    """DistributedDataParallel of one process: the gradients are those of the module.

    Attributes:
        begin: is shown every module that is wrapped, when its weights are those that the training begins with.
    """

    begin: Callable[[nn.Module], None] = staticmethod(lambda module: None)

    def __init__(self, module: nn.Module, **options: Any) -> None:
        super().__init__()
        self.module = module
        self.begin(module)

    def forward(self, *inputs: Any) -> Any:
        return self.module(*inputs)


class Images(torch.utils.data.Dataset):
    """Stands for every dataset of torchvision's: images given from outside, through the transform of the program."""

    train: tuple = ((), ())  # pixels, each (H, W, 3) uint8, and labels
    held_out: tuple = ((), ())

    def __init__(self, root: str, transform: Callable | None = None, train: bool = True, **options: Any) -> None:
        self.pixels, self.labels = Images.train if train else Images.held_out
        self.transform = transform

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[Any, int]:
        return self.transform(Image.fromarray(self.pixels[index])), int(self.labels[index])


def install(log: Callable[[dict], None] = lambda values: None) -> None:
    """Puts everything in place.

    Args:
        log: takes what the programs hand to ``wandb.log``.
    """
    torch.Tensor.cuda = nn.Module.cuda = lambda self, *arguments, **options: self
    torch.cuda.device_count = lambda: 1
    torch.cuda.set_device = lambda device: None
    torch.multiprocessing.spawn = lambda worker, nprocs, args: worker(0, *args)
    nn.parallel.DistributedDataParallel = Parallel
    nn.SyncBatchNorm.convert_sync_batchnorm = staticmethod(lambda model: model)  # of one process, plain BatchNorm
    own_load, own_group = torch.load, dist.init_process_group
    torch.load = lambda file, map_location=None: own_load(file, map_location="cpu")
    rendezvous = f"file://{Path('rendezvous').absolute()}"
    dist.init_process_group = lambda **options: own_group("gloo", init_method=rendezvous, rank=0, world_size=1)
    for name in ("CIFAR10", "CIFAR100", "STL10", "ImageFolder"):
        setattr(torchvision.datasets, name, Images)
    sys.modules["wandb"] = _module("wandb", init=lambda **options: None, log=lambda values, **options: log(values))
    sys.modules["tqdm"] = _module("tqdm", tqdm=lambda items, **options: items, trange=range)


def give_loaders(*loaders: Iterable) -> None:
    """The next DataLoaders that a program makes are these, in turn."""
    turns = iter(loaders)
    torch.utils.data.DataLoader = lambda dataset, **options: next(turns)


def give_permutations(permutations: Iterable[torch.Tensor]) -> None:
    """The next random permutations that a program draws are these, in turn."""
    turns = iter(permutations)
    torch.randperm = lambda count: next(turns)


def _module(name: str, **contents: Any) -> ModuleType:
    module = ModuleType(name)
    vars(module).update(contents)
    return module
