"""One update of a detector."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torchvision.models.resnet import ResNet

from fastintl import distributed
from fastintl.detection.augment import Target
from fastintl.detection.config import DetectionConfig
from fastintl.detection.model import autocast, build_detector
from fastintl.detection.schedule import learning_rate, parameter_groups
from fastintl.distributed import World
from fastintl.network.batchnorm import convert_batchnorm
from fastintl.network.precision import autocast_dtype, resume_scaler
from fastintl.training.optim import set_learning_rate
from loaders.philox import Domain, philox


class DetectionStep:
    """The detector and its optimiser; calling it trains on one batch.

    Args:
        backbone: taken over and changed.
        classes: without the background.

    Attributes:
        network: the detector. Its BatchNorm is over all ranks, each of which counts alike, as in MoCo's
            ``naiveSyncBN``: the ranks' images and regions are not equally many.
        lr: learning rate of the last step.
        loss_names: of the losses that a call returns.
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
        """The losses by name. Which anchors and regions they are of is drawn from the step: a restart changes none."""
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
        """Takes up a ``state_dict``; other entries of ``state`` are left alone."""
        self.network.load_state_dict(state["network"])
        self.optimizer.load_state_dict(state["optimizer"])
        resume_scaler(self.scaler, state["scaler"])
