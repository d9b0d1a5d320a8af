"""The training step the way INTL's released code takes it, with each of our changes as a switch.

One forward pass a view, a loss that whitens view by view, a GradScaler around fp16, an EMA parameter by parameter.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from fastintl.config import Config
from fastintl.losses.intl import INTLLoss
from fastintl.network.compilation import compiled_regions
from fastintl.training import optim
from fastintl.training.build import build_model


class PlainStep:
    """Calling it trains on one batch, on one rank.

    Args:
        config: its recipe; its settings of speed are not read.
        device: where it runs.
        dtype: the number format of autocast.
        channels_last: memory format of the weights.
        compiled: whether the network runs in compiled regions; the views then run in lockstep.
        cuda_graphs: whether these replay as CUDA graphs.
        our_loss: ``INTLLoss`` for ``plain_loss``.
    """

    def __init__(
        self,
        config: Config,
        device: torch.device,
        dtype: torch.dtype,
        channels_last: bool = False,
        compiled: bool = False,
        cuda_graphs: bool = False,
        our_loss: bool = False,
    ) -> None:
        self.config, self.device, self.dtype = config, device, dtype
        self.compiled, self.cuda_graphs = compiled, cuda_graphs
        memory_format = torch.channels_last if channels_last else torch.contiguous_format
        self.model = build_model(config.model).to(device, memory_format=memory_format)
        if compiled:
            self.model.regions = compiled_regions(device, cuda_graphs)
        settings = config.optim
        groups = optim.parameter_groups(self.model.encoder, settings)
        self.optimizer = torch.optim.SGD(groups, lr=settings.lr, momentum=settings.momentum)
        self.scaler = torch.amp.GradScaler(device.type, enabled=dtype == torch.float16)
        self.loss = INTLLoss(config.loss.iterations) if our_loss else self.plain_loss

    def __call__(self, views: Sequence[Tensor], step: int) -> Tensor:
        if self.cuda_graphs:
            torch.compiler.cudagraph_mark_step_begin()
        self._update_target()
        with torch.autocast(self.device.type, self.dtype, enabled=self.dtype != torch.float32):
            online, target = self.model(views) if self.compiled else self._view_by_view(views)
        loss = self.loss(online, target)
        self.optimizer.zero_grad()
        self.scaler.scale(loss).backward()
        self.scaler.step(self.optimizer)
        self.scaler.update()
        return loss.detach()

    def plain_loss(self, online: Sequence[Tensor], target: Tensor | None) -> Tensor:
        """INTL of channel whitening, view by view (see ``INTLLoss`` for the symbols)."""
        whitened = [self._whiten(z) for z in online]
        if target is None:
            anchor, others = whitened[0], whitened[1:]
        else:
            anchor, others = self._whiten(target), whitened
        beta = 0.01 * (math.log2(len(anchor)) - 3)
        loss = 0.0
        for w in others:
            cosine = torch.nn.functional.cosine_similarity(w, anchor)
            loss = loss + 2 - 2 * cosine.mean() + beta * (w.var(1) - 1).square().sum()
            if target is None:
                loss = loss + beta * (anchor.var(1) - 1).square().sum()
        return loss / len(others)

    def _whiten(self, z: Tensor) -> Tensor:
        centred = z.float() - z.float().mean(1, keepdim=True)
        sigma = centred @ centred.T / (centred.shape[1] - 1)
        trace = sigma.trace()
        p = torch.eye(len(z), device=z.device)
        for _ in range(self.config.loss.iterations):
            p = 1.5 * p - 0.5 * torch.matrix_power(p, 3) @ (sigma / trace)
        return p @ centred / trace.sqrt()

    def _view_by_view(self, views: Sequence[Tensor]) -> tuple[list[Tensor], Tensor | None]:
        if self.model.target is None:
            return [self.model.encoder(view) for view in views], None
        with torch.no_grad():
            target = self.model.target(views[0])
        return [self.model.encoder(view) for view in views[1:]], target

    @torch.no_grad()
    def _update_target(self) -> None:
        momentum = self.config.model.ema_momentum
        if self.model.target is not None:
            pairs = zip(self.model.target.parameters(), self.model.encoder.parameters(), strict=True)
            for slow, fast in pairs:
                slow.copy_(slow * momentum + fast * (1 - momentum))
