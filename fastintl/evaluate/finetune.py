"""Fine-tuning a backbone and a linear classifier on few labels, and training the same network from scratch.

As INTL's code: SGD with momentum 0.9, rates that stay as they are; classifier N(0, 0.01), bias 0. In Barlow Twins' code
the rates fall along a cosine by epoch. Both normalise by the batch of each GPU; here BatchNorm is synchronised, so that
the number of ranks does not matter.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.models.resnet import ResNet

from fastintl import distributed
from fastintl.distributed import World
from fastintl.evaluate.accuracy import Accuracy
from fastintl.evaluate.features import represent
from fastintl.evaluate.linear.heads import LinearHeads
from fastintl.evaluate.linear.protocols import SCHEDULES, ScheduleName
from fastintl.network.batchnorm import convert_batchnorm
from fastintl.network.precision import resume_scaler
from loaders import Batch, Loader


@dataclass(frozen=True)
class FineTuneProtocol:
    """How a network is fine-tuned; INTL's, for models of two crops with a backbone rate of 0.006.

    Attributes:
        batch_size: over all ranks.
        lr_backbone, lr_classifier: for 256 images a step; they scale with the batch size.
        schedule: of both by epoch, one of ``SCHEDULES``.
        frozen: only the classifier learns; the backbone stays as it is, in evaluation mode.
    """

    epochs: int = 20
    batch_size: int = 256
    lr_backbone: float = 0.004
    lr_classifier: float = 0.2
    weight_decay: float = 0.0
    momentum: float = 0.9
    schedule: ScheduleName = "constant"
    frozen: bool = False


class FineTuning:
    """A backbone with a classifier as its ``fc``, and their optimiser.

    Args:
        backbone: taken over and changed; its ``fc`` becomes the classifier, so its names stay torchvision's.
        classes: outputs of the classifier.
        seed: of the classifier's start.
        dtype: of the forward pass.
    """

    def __init__(
        self,
        backbone: ResNet,
        classes: int,
        protocol: FineTuneProtocol,
        world: World,
        seed: int = 0,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        self.protocol, self.world, self.dtype = protocol, world, dtype
        backbone.fc = _classifier(backbone.feature_dim, classes, seed)
        network = backbone.to(world.device, memory_format=torch.channels_last)
        if protocol.frozen:
            network.requires_grad_(False).fc.requires_grad_(True)
        else:
            network = convert_batchnorm(network)
        self.network = network
        self.parallel = distributed.data_parallel(network, world)
        self.optimizer = torch.optim.SGD(self._groups(), lr=0.0, momentum=protocol.momentum)
        self.scaler = torch.amp.GradScaler(world.device.type, enabled=dtype == torch.float16)

    def train_step(self, batch: Batch, epoch: int) -> Tensor:
        """One update; the mean loss () of this rank's share."""
        factor = SCHEDULES[self.protocol.schedule](epoch, self.protocol.epochs) * self.protocol.batch_size / 256
        for group in self.optimizer.param_groups:
            group["lr"] = group["base_lr"] * factor
        self.parallel.train(not self.protocol.frozen)
        loss = F.cross_entropy(self._logits(self.parallel, batch), self._labels(batch))
        self.optimizer.zero_grad(set_to_none=True)
        self.scaler.scale(loss).backward()
        self.scaler.step(self.optimizer)
        self.scaler.update()
        return loss.detach()

    @torch.no_grad()
    def accuracy(self, held_out: Loader) -> dict[str, float]:
        """``{"top1": …, "top5": …}`` on a centre-crop loader; the same on every rank."""
        self.network.eval()
        counted = Accuracy(1, self.world.device, across_ranks=self.world.world_size > 1)
        held_out.set_position(0, 0)
        for batch in held_out:
            logits = self._logits(partial(represent, self.network), batch)
            counted.add(logits.T[None], self._labels(batch))
        return {name: value for name, (value,) in counted.top().items()}

    def state_dict(self) -> dict[str, Any]:
        parts = {"network": self.network, "optimizer": self.optimizer, "scaler": self.scaler}
        return {name: part.state_dict() for name, part in parts.items()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.network.load_state_dict(state["network"])
        self.optimizer.load_state_dict(state["optimizer"])
        resume_scaler(self.scaler, state["scaler"])

    def _groups(self) -> list[dict]:
        classifier = list(self.network.fc.parameters())
        backbone = [p for name, p in self.network.named_parameters() if not name.startswith("fc.")]
        decay = self.protocol.weight_decay
        groups = [{"params": classifier, "base_lr": self.protocol.lr_classifier, "weight_decay": decay}]
        if not self.protocol.frozen:
            groups.append({"params": backbone, "base_lr": self.protocol.lr_backbone, "weight_decay": decay})
        return groups

    def _logits(self, network: Callable[[Tensor], Tensor], batch: Batch) -> Tensor:
        views = batch.views[0].to(self.world.device, non_blocking=True)
        with torch.autocast(self.world.device.type, self.dtype, enabled=self.dtype != torch.float32):
            return network(views).float()

    def _labels(self, batch: Batch) -> Tensor:
        return batch.labels.to(self.world.device, non_blocking=True)


def _classifier(dim: int, classes: int, seed: int) -> nn.Linear:
    layer = nn.utils.skip_init(nn.Linear, dim, classes)  # draws nothing from the global generator
    start = LinearHeads.start(1, classes, dim, "normal", seed)
    layer.load_state_dict({"weight": start.weight[0], "bias": start.bias[0]})
    return layer
