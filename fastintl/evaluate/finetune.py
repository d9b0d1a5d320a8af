"""Fine-tuning a backbone and a linear classifier on few labels, and training the same network from scratch.

As INTL's code: SGD with momentum 0.9, constant rates; classifier N(0, 0.01), bias 0. In Barlow Twins' code the rates
follow a cosine by epoch. Both normalise by the batch of each GPU; here BatchNorm is synchronised, so that the number of
ranks does not matter.
"""

from __future__ import annotations

from collections import OrderedDict
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
from fastintl.evaluate.accuracy import accuracy_on_images
from fastintl.evaluate.backbone import EvaluatedBackbone
from fastintl.evaluate.features import represent
from fastintl.evaluate.linear.heads import LinearHeads
from fastintl.evaluate.linear.protocols import SCHEDULES, ScheduleName
from fastintl.evaluate.results import Result
from fastintl.evaluate.subset import labelled_samples
from fastintl.evaluate.supervised import SupervisedTraining
from fastintl.network.batchnorm import convert_batchnorm
from fastintl.network.precision import autocast, resume_scaler
from fastintl.runs.checkpoint import write_atomically
from loaders import Batch, Loader, UserError
from loaders.errors import writing
from loaders.sources import open_images


@dataclass(frozen=True)
class FineTuneProtocol:
    """How a network is fine-tuned; INTL's, for models of two crops with a backbone rate of 0.006.

    Attributes:
        batch_size: images a step, over all ranks.
        lr_backbone, lr_classifier: learning rates for 256 images a step; they scale with the batch size.
        schedule: how both change from epoch to epoch, one of ``SCHEDULES``.
        frozen: only the classifier learns; the backbone stays as it is, in evaluation mode.

    Raises:
        UserError: a number out of range.
    """

    epochs: int = 20
    batch_size: int = 256
    lr_backbone: float = 0.004
    lr_classifier: float = 0.2
    weight_decay: float = 0.0
    momentum: float = 0.9
    schedule: ScheduleName = "constant"
    frozen: bool = False

    def __post_init__(self) -> None:
        if self.epochs < 1 or self.batch_size < 1:
            raise UserError("--epochs and --batch-size must be positive")


class FineTuning:
    """A backbone with a classifier, and their optimiser.

    Args:
        backbone: changed in place. A ResNet's ``fc`` becomes the classifier, so its names stay torchvision's; another
            network and the classifier become ``backbone`` and ``fc`` of one that holds both.
        classes: outputs of the classifier.
        seed: what the classifier's start is drawn from.
        dtype: the number format of the forward pass.
    """

    def __init__(
        self,
        backbone: nn.Module,
        classes: int,
        protocol: FineTuneProtocol,
        world: World,
        seed: int = 0,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        self.protocol, self.world, self.dtype = protocol, world, dtype
        classifier = _classifier(backbone.feature_dim, classes, seed)
        if isinstance(backbone, ResNet) and isinstance(backbone.fc, nn.Identity):
            backbone.fc = classifier
        else:
            backbone = nn.Sequential(OrderedDict(backbone=backbone, fc=classifier))
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
        """One update; the mean loss () of this rank's share.

        Raises:
            UserError: a BatchNorm has a single value of each channel, which has no variance.
        """
        factor = SCHEDULES[self.protocol.schedule](epoch, self.protocol.epochs) * self.protocol.batch_size / 256
        for group in self.optimizer.param_groups:
            group["lr"] = group["base_lr"] * factor
        self.parallel.train(not self.protocol.frozen)
        views, labels = (x.to(self.world.device, non_blocking=True) for x in (batch.views[0], batch.labels))
        try:
            logits = self._logits(self.parallel, views)
        except ValueError as error:
            if "more than 1 value per channel" not in str(error):
                raise
            batch_size, side = self.protocol.batch_size, views.shape[-1]
            raise UserError(
                f"--batch-size {batch_size}: of an image of {side} px alone a BatchNorm of this network has a single "
                "value of each channel, which has no variance: take 2 or more"
            ) from error
        loss = F.cross_entropy(logits, labels)
        self.optimizer.zero_grad(set_to_none=True)
        self.scaler.scale(loss).backward()
        self.scaler.step(self.optimizer)
        self.scaler.update()
        return loss.detach()

    def accuracy(self, held_out: Loader) -> dict[str, list[float]]:
        """``{"top1": [share], "top5": [share]}`` on a centre-crop loader; the same on every rank."""
        network = partial(represent, self.network.eval())
        return accuracy_on_images(lambda x: self._logits(network, x).T[None], 1, held_out, self.world)

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

    def _logits(self, network: Callable[[Tensor], Tensor], views: Tensor) -> Tensor:
        with autocast(self.world.device, self.dtype):
            return network(views).float()


def _classifier(dim: int, classes: int, seed: int) -> nn.Linear:
    layer = nn.utils.skip_init(nn.Linear, dim, classes)  # draws nothing from the global generator
    start = LinearHeads.start(1, classes, dim, "normal", seed)
    layer.load_state_dict({"weight": start.weight[0], "bias": start.bias[0]})
    return layer


def finetune(
    backbone: EvaluatedBackbone,
    protocol: FineTuneProtocol,
    training: SupervisedTraining,
    percent: float | None,
    listed_by: str | None,
    world: World,
) -> Result:
    """Fine-tunes a backbone, or trains a new one, tests it and leaves ``finetuned.pt`` in the folder of its state.

    Args:
        percent, listed_by: which images have labels, see ``labelled_samples``.

    Raises:
        UserError: wrong images or labels, or ``finetuned.pt`` cannot be written; the state that it is made of is saved.
    """
    samples = labelled_samples(open_images(training.train), percent, listed_by, training.seed, world)

    def build(classes: int, dtype: torch.dtype) -> FineTuning:
        return FineTuning(backbone.network, classes, protocol, world, training.seed, dtype)

    labels = {"labels": len(samples), "subset": listed_by or f"{percent:g} %"}
    task = "fine-tuning" if backbone.path else "training from scratch"
    tuning, _, folder, result = training.run(task, "finetune", backbone, protocol, labels, build, world, samples)
    if world.is_main:
        path = folder / "finetuned.pt"
        with writing(path):
            write_atomically(tuning.network.state_dict(), path)
    return result
