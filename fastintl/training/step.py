"""One update of the network: forward, loss, backward, optimiser, at the speed of the hardware.

Shapes: V views, n samples of this rank, N of all ranks, s pixels, d channels.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from fastintl import distributed
from fastintl.config import Config
from fastintl.distributed import World
from fastintl.losses.base import Position
from fastintl.network.batchnorm import running_statistics_kept
from fastintl.network.compilation import compiled_loss, compiled_regions
from fastintl.network.precision import autocast_dtype, resume_scaler
from fastintl.network.randomness import seed_step
from fastintl.training import optim
from fastintl.training.build import build_loss, build_model
from fastintl.training.determinism import set_deterministic
from loaders.errors import UserError


class TrainingStep:
    """Calling it trains on one batch. It needs neither a run folder nor a loader.

    Args:
        config: of the run.
        world: this rank's place; every rank makes a step of its own.
        epoch_steps: steps of an epoch, for the schedules.

    Attributes:
        model: the networks. Weights may be loaded into it at any time (``load_state_dict``).
        dtype: of autocast, float32 for none.
        compiled: whether ``torch.compile`` makes the networks' code.
        total_steps: of the run's schedules.
        loss_size: samples and channels that the loss is taken of.
        lr: learning rate of the last step.
        embeddings: of the last step over the global batch, detached: (V, N, d), and the target's (N, d) or None;
            to be read before the next step, which may write where they lie.
    """

    def __init__(self, config: Config, world: World, epoch_steps: int) -> None:
        self.config, self.world = config, world
        self.dtype = autocast_dtype(config.train.precision, world.device)
        self.epoch_steps, self.total_steps = epoch_steps, config.train.epochs * epoch_steps
        self.schedule = optim.Schedule.of(config, epoch_steps)
        set_deterministic(config.train.deterministic == "on")
        self.lr = 0.0
        self.embeddings: tuple[Tensor, Tensor | None] | None = None

        torch.manual_seed(config.seed)
        sizes = (*config.crops.all_sides, config.eval.size)
        self.model = build_model(config.model, sizes).to(world.device, memory_format=torch.channels_last)
        self.optimizer = optim.build_optimizer(self.model.encoder, config.optim)
        self.scaler = torch.amp.GradScaler(world.device.type, enabled=self.dtype == torch.float16)
        self.loss = build_loss(config.loss)
        shared = world.world_size if self.loss.per_rank else 1
        self.loss_size = config.train.batch_size // shared, config.model.projector[-1]
        self.loss.check(*self.loss_size)
        self._loss: Callable[..., Tensor] = self.loss  # or compiled, below
        self.cuda_graphs = config.train.cuda_graphs == "on"
        if self.cuda_graphs and (world.device.type != "cuda" or world.world_size > 1):
            raise UserError(
                "train.cuda_graphs=on needs a GPU, and one rank, for the ranks meet in the middle of what a graph "
                "would replay: set train.cuda_graphs=off"
            )
        if self.cuda_graphs and not self.model.in_lockstep:
            raise UserError(
                f"train.cuda_graphs=on replays ResNets alone, and not {config.model.arch}: set train.cuda_graphs=off"
            )
        self.compiled = config.train.compile == "on" or (config.train.compile == "auto" and world.device.type == "cuda")
        if self.compiled:
            stages = len(config.crops.stages)
            self.model.regions = compiled_regions(world.device, self.cuda_graphs, self.model.regions, stages)
            if self.loss.compiles:
                self._loss = compiled_loss(self.loss)
        self.model.regions = replace(self.model.regions, recompute=config.train.recompute == "on")
        self.parallel = distributed.data_parallel(self.model, world, config.train.compress_gradients)

    def __call__(self, views: Sequence[Tensor], step: int) -> Tensor:
        """Trains on one batch; nothing here waits for the device.

        Args:
            views: V tensors (n, 3, s, s) on the device, channels_last, each with its own s: those of the step's epoch,
                where crops grow.
            step: of the schedules, 0 .. total_steps - 1.

        Returns:
            The loss over the global batch, a detached scalar on the device.
        """
        optimizer, settings = self.optimizer, self.config
        self.lr = self.schedule(step)
        optim.set_learning_rate(optimizer, self.lr)
        optimizer.zero_grad(set_to_none=True)  # before the forward pass, whose activations then have the room
        if self.cuda_graphs:
            torch.compiler.cudagraph_mark_step_begin()
        self.model.update_target(optim.ema_momentum(step, self.total_steps, settings.model.ema_momentum))
        self.loss.position = Position(settings.seed, step, step // self.epoch_steps, self.world.rank)
        if not self.model.in_lockstep:  # ResNets draw nothing
            seed_step(settings.seed, step, self.world.rank)
        loss = self.forward(views)
        self.backward(loss)
        self.scaler.step(optimizer)
        self.scaler.update()
        return loss.detach()

    def forward(self, views: Sequence[Tensor]) -> Tensor:
        """The loss over the global batch, with gradient, unscaled."""
        with torch.autocast(self.world.device.type, self.dtype, enabled=self.dtype != torch.float32):
            online, target = self.parallel(views)
        if self.loss.per_rank:
            self.embeddings = distributed.gather_embeddings(online.detach(), target)
            return distributed.mean_over_ranks(self._loss(online))
        online, target = distributed.gather_embeddings(online, target)
        self.embeddings = online.detach(), target
        return self._loss(online) if target is None else self._loss(online, target)

    def backward(self, loss: Tensor) -> None:
        """The gradients of ``forward``'s loss, scaled."""
        # Blocks that run again would take their images up into the running statistics again.
        with running_statistics_kept(self.model) if self.model.regions.recompute else nullcontext():
            self.scaler.scale(loss).backward()

    def compile_ahead(self, stages: Sequence[Sequence[int]]) -> None:
        """Compiles the step for views of other sides than those it begins with, by a forward and backward pass on
        noise for each stage, the largest first: no compiler stops the training later, and a GPU that the largest
        crops do not fit says so now. Nothing that the training goes on with changes. Every rank must call it.

        Args:
            stages: the sides of the V views in pixels, stage by stage, each larger than the one before.
        """
        noise = torch.Generator(self.world.device).manual_seed(self.config.seed)
        self.loss.position = Position(self.config.seed, 0, 0, self.world.rank)
        samples = self.config.train.batch_size // self.world.world_size
        where = {"generator": noise, "device": self.world.device, "dtype": self.dtype}
        with running_statistics_kept(self.model):
            for sides in reversed(stages):
                shapes = [(samples, 3, side, side) for side in sides]
                views = [torch.randn(s, **where).contiguous(memory_format=torch.channels_last) for s in shapes]
                self.backward(self.forward(views))
                self.optimizer.zero_grad(set_to_none=True)
        self.embeddings = None

    def state_dict(self) -> dict[str, Any]:
        """Networks, optimiser and scaler, for a checkpoint."""
        return {
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "scaler": self.scaler.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Takes up a ``state_dict``; other entries of ``state`` are left alone."""
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        resume_scaler(self.scaler, state["scaler"])
