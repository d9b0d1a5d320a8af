"""One update of a detector, its learning rate, and the average of BatchNorm's statistics before a test."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import islice
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torchvision.models.resnet import ResNet

from fastintl import distributed
from fastintl.detection.augment import Target
from fastintl.detection.config import DetectionConfig, Optim
from fastintl.detection.model import build_detector
from fastintl.distributed import World
from fastintl.network.batchnorm import convert_batchnorm
from fastintl.network.precision import autocast, autocast_dtype, resume_scaler
from fastintl.training.optim import set_learning_rate
from loaders.philox import Domain, philox

_WARMUP_START = 0.001


class DetectionStep:
    """The detector and its optimiser; calling it trains on one batch.

    Args:
        backbone: becomes part of the detector and is trained.
        classes: the number of classes without the background.

    Attributes:
        network: the detector. Its BatchNorm is over all ranks, each of which counts alike, as in MoCo's
            ``naiveSyncBN``: the ranks' images and regions are not equally many.
        lr: learning rate of the last step.
        loss_names: names of the losses that a call returns.
    """

    def __init__(self, backbone: ResNet, classes: int, config: DetectionConfig, world: World) -> None:
        self.config, self.world = config, world
        self.dtype = autocast_dtype(config.train.precision, world.device)
        torch.manual_seed(config.seed)
        network = build_detector(backbone, classes, config.model, config.views)
        network = network.to(world.device, memory_format=torch.channels_last)
        self.network = convert_batchnorm(network)
        self.parallel = distributed.data_parallel(self.network, world)
        groups = parameter_groups(self.network, config.optim.weight_decay)
        self.optimizer = torch.optim.SGD(groups, lr=0.0, momentum=config.optim.momentum)
        self.scaler = torch.amp.GradScaler(world.device.type, enabled=self.dtype == torch.float16)
        self.lr = 0.0
        self.loss_names: tuple[str, ...] = ()

    def __call__(self, batch: Sequence[tuple[Tensor, Target]], step: int) -> Tensor:
        """Trains on this rank's share of a batch.

        Returns:
            Its losses, detached, on the device: their sum, then those of ``loss_names``.
        """
        self.lr = learning_rate(step, self.config.optim)
        set_learning_rate(self.optimizer, self.lr)
        self.optimizer.zero_grad(set_to_none=True)
        losses = self.losses(batch, step)
        total = torch.stack(list(losses.values())).sum()
        self.scaler.scale(total).backward()
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.loss_names = tuple(losses)
        return torch.stack([total, *losses.values()]).detach()

    def losses(self, batch: Sequence[tuple[Tensor, Target]], step: int) -> dict[str, Tensor]:
        """The losses by name; their anchors and regions are sampled by the step, so that a restart changes none."""
        device = self.world.device
        words = philox(self.config.seed, step, self.world.rank, 0, Domain.DETECTION_SAMPLING)
        torch.manual_seed(int(words[0]) << 32 | int(words[1]))
        images = [image.to(device, non_blocking=True) for image, _ in batch]
        targets = [{name: value.to(device, non_blocking=True) for name, value in t.items()} for _, t in batch]
        self.parallel.train()
        with autocast(device, self.dtype):
            return self.parallel(images, targets)

    def state_dict(self) -> dict[str, Any]:
        parts = {"network": self.network, "optimizer": self.optimizer, "scaler": self.scaler}
        return {name: part.state_dict() for name, part in parts.items()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Loads a ``state_dict``; other entries of ``state`` are ignored."""
        self.network.load_state_dict(state["network"])
        self.optimizer.load_state_dict(state["optimizer"])
        resume_scaler(self.scaler, state["scaler"])


def learning_rate(step: int, optim: Optim) -> float:
    """The learning rate: a linear rise from a thousandth of ``optim.lr`` over the warm-up, then ``optim.lr``, which
    falls to a tenth after each of ``optim.drops``.

    Args:
        step: 0 .. optim.steps - 1.
    """
    lr = optim.lr * 0.1 ** sum(step >= drop for drop in optim.drops)
    if step < optim.warmup_steps:
        share = step / optim.warmup_steps
        lr *= _WARMUP_START * (1 - share) + share
    return lr


def parameter_groups(network: nn.Module, weight_decay: float) -> list[dict]:
    """All parameters in two groups for a torch optimiser: BatchNorm's do not decay, biases do (detectron2)."""
    norms = {id(p) for module in network.modules() if isinstance(module, _BatchNorm) for p in module.parameters()}
    parameters = list(network.parameters())
    return [
        {"params": [p for p in parameters if id(p) not in norms], "weight_decay": weight_decay},
        {"params": [p for p in parameters if id(p) in norms], "weight_decay": 0.0},
    ]


@torch.no_grad()
def average_statistics(train_step: DetectionStep, batches: Iterable, count: int, first_step: int) -> None:
    """Replaces BatchNorm's running statistics, which follow the last dozen of batches, by an average of ``count``.

    Wu and Johnson, arXiv 2105.07576, section 3.

    Args:
        batches: training batches, at least ``count``.
        first_step: what the random choices in the detector are drawn from, as in a training step.
    """
    norms = [module for module in train_step.network.modules() if isinstance(module, _BatchNorm)]
    momenta = [norm.momentum for norm in norms]
    for seen, batch in enumerate(islice(batches, count)):
        for norm in norms:
            norm.momentum = 1 / (seen + 1)  # a moving average of this weight is the plain one
        train_step.losses(batch, first_step + seen)
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
