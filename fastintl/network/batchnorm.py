"""BatchNorm of several views at once: each view has its own statistics over all ranks, from one all-reduce.

Shapes: V views, C channels; a view is (n, C) or (n, C, s, s), the same n on every rank.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from fastintl.distributed import world_size
from loaders.errors import UserError


def batch_norm(norms: Sequence[_BatchNorm], views: Sequence[Tensor]) -> list[Tensor]:
    """Normalises each view by a torch BatchNorm, in training over the samples of all ranks.

    The numbers are those of one process that calls ``norms[0](views[0]), norms[1](views[1]), ...`` on the global
    batch, running statistics included, which take up the views in that order. ``torch.nn.SyncBatchNorm`` waits
    for the other ranks once a view, forward and backward; here the views wait together: one all-reduce each way.
    It is made of plain torch operations, so ``torch.compile`` fuses it with what stands before and after.

    Args:
        norms: one a view, often the same one; with affine parameters, running statistics and a momentum.
        views: one a norm; their heights and widths may differ.
    """
    if world_size() == 1 or not norms[0].training:
        return [norm(view) for norm, view in zip(norms, views, strict=True)]
    eps = [norm.eps for norm in norms]
    # A view may belong to a network without gradient (the EMA target).
    learns = [view.requires_grad or norm.weight.requires_grad for norm, view in zip(norms, views, strict=True)]
    weight_VC, bias_VC = torch.stack([norm.weight for norm in norms]), torch.stack([norm.bias for norm in norms])
    *normalised, mean_VC, var_VC = _OverAllRanks.apply(eps, learns, weight_VC, bias_VC, *views)
    with torch.no_grad():
        for norm, view, mean_C, var_C in zip(norms, views, mean_VC, var_VC, strict=True):
            count = view.numel() // view.shape[1] * world_size()
            norm.num_batches_tracked.add_(1)
            norm.running_mean.lerp_(mean_C, norm.momentum)
            norm.running_var.lerp_(var_C * (count / (count - 1)), norm.momentum)
    return normalised


@contextmanager
def running_statistics_kept(module: nn.Module) -> Iterator[None]:
    """Gives all buffers of a module, at the end, the values that they have at the beginning."""
    by_type: dict[torch.dtype, list[Tensor]] = {}
    for buffer in module.buffers():
        by_type.setdefault(buffer.dtype, []).append(buffer)
    values = {dtype: [buffer.clone() for buffer in buffers] for dtype, buffers in by_type.items()}
    yield
    with torch.no_grad():
        for dtype, buffers in by_type.items():
            torch._foreach_copy_(buffers, values[dtype])


class SyncBatchNorm(_BatchNorm):
    """``batch_norm`` of one view as a module, for networks that are not run in lockstep."""

    @classmethod
    def like(cls, norm: _BatchNorm) -> SyncBatchNorm:
        """A module that shares the parameters and statistics of ``norm``."""
        new = cls(norm.num_features, norm.eps, norm.momentum)
        new._parameters, new._buffers = norm._parameters, norm._buffers
        return new.train(norm.training)

    def forward(self, x: Tensor) -> Tensor:
        if world_size() == 1 or not self.training:
            return super().forward(x)
        return batch_norm([self], [x])[0]

    def _check_input_dim(self, x: Tensor) -> None:
        if x.dim() < 2:
            raise ValueError(f"BatchNorm takes (N, C) or (N, C, ...), got {tuple(x.shape)}")


class _SyncBatchNormAct(SyncBatchNorm):
    """timm's ``BatchNormAct2d``, a BatchNorm with what follows it in one module."""

    def forward(self, x: Tensor) -> Tensor:
        return self.act(self.drop(super().forward(x)))


def convert_batchnorm(module: nn.Module) -> nn.Module:
    """Replaces every BatchNorm by one whose statistics are over all ranks; state-dict keys stay.

    With one rank the module is returned as it is. Call it after the process group is up and before DDP.

    Raises:
        UserError: a BatchNorm whose statistics cannot be taken over all ranks.
    """
    if world_size() == 1:
        return module
    if isinstance(module, _BatchNorm):
        return _over_all_ranks(module)
    for name, child in module.named_children():
        setattr(module, name, convert_batchnorm(child))
    return module


def _over_all_ranks(norm: _BatchNorm) -> SyncBatchNorm:
    with_act = {"act", "drop"} <= norm._modules.keys()
    plain = type(norm).forward in (_BatchNorm.forward, SyncBatchNorm.forward, nn.SyncBatchNorm.forward)
    usual = norm.affine and norm.track_running_stats and norm.momentum is not None
    if not usual or not (plain or with_act):
        raise UserError(
            f"a {type(norm).__name__} of this network has statistics that cannot be taken over all ranks (it needs "
            "weight, bias, running statistics and a momentum, and the forward pass of torch.nn's): train on one rank"
        )
    if not with_act:
        return SyncBatchNorm.like(norm)
    new = _SyncBatchNormAct.like(norm)
    new.drop, new.act = norm.drop, norm.act
    return new


class _OverAllRanks(torch.autograd.Function):
    """V eps, V learns, weight (V, C), bias (V, C), V views -> V normalised views, mean (V, C), variance (V, C).

    With ``x_hat = (x - mean) / std`` and averages over the global batch, the gradient of a view is
    ``weight / std (dy - average(dy) - x_hat average(dy x_hat))`` (Ioffe and Szegedy, arXiv 1502.03167). That of
    weight and bias is this rank's share, which DistributedDataParallel averages.
    """

    @staticmethod
    def forward(ctx, eps: list[float], learns: list[bool], weight_VC: Tensor, bias_VC: Tensor, *views: Tensor):
        moments = []
        for x in views:
            var_C, mean_C = torch.var_mean(_exact(x), _all_but_channels(x), correction=0)
            # Squares of float32 means and variances add up and cancel in float64 without loss.
            mean_C = mean_C.double()
            moments.append(torch.stack([mean_C, var_C + mean_C.square()]))
        mean_VC, square_VC = _average_over_ranks(torch.stack(moments)).unbind(1)
        var_VC = (square_VC - mean_VC.square()).clamp(min=0).to(weight_VC.dtype)
        mean_VC = mean_VC.to(weight_VC.dtype)
        normalised = [
            F.batch_norm(x, mean_VC[i], var_VC[i], weight_VC[i], bias_VC[i], False, 0.0, eps[i])
            for i, x in enumerate(views)
        ]
        # Without a gradient's need for it, the target's view is not kept.
        kept = [x for x, learning in zip(views, learns, strict=True) if learning]
        ctx.save_for_backward(weight_VC, mean_VC, var_VC, *kept)
        ctx.eps, ctx.learns = eps, learns
        fixed = [y for y, learning in zip(normalised, learns, strict=True) if not learning]
        ctx.mark_non_differentiable(mean_VC, var_VC, *fixed)
        return *normalised, mean_VC, var_VC

    @staticmethod
    def backward(ctx, *grads: Tensor):
        weight_VC, mean_VC, var_VC, *kept = ctx.saved_tensors
        learning = [i for i, learns in enumerate(ctx.learns) if learns]
        views = dict(zip(learning, kept, strict=True))
        sums_V2C = torch.zeros_like(weight_VC).unsqueeze(1).repeat(1, 2, 1)
        for i in learning:
            # With the statistics given, torch's own backward pass sums up dy x_hat and dy in one reading.
            given = weight_VC[i], mean_VC[i], var_VC[i], None, None, False, ctx.eps[i], [False, True, True]
            _, by_x_hat_C, plain_C = torch.ops.aten.native_batch_norm_backward(grads[i], views[i], *given)
            sums_V2C[i] = torch.stack([plain_C, by_x_hat_C])
        averages_V2C = _average_over_ranks(sums_V2C.clone())
        grad_views: list[Tensor | None] = [None] * len(ctx.learns)
        for i in learning:
            x, dy = views[i], grads[i]
            inverse_std_C = (var_VC[i] + ctx.eps[i]).rsqrt()
            average_dy_C, average_dy_x_hat_C = averages_V2C[i] / (dy.numel() // dy.shape[1])
            centred = torch.addcmul(
                -_like(average_dy_C, x), x - _like(mean_VC[i], x), -_like(inverse_std_C * average_dy_x_hat_C, x)
            )
            grad_views[i] = (centred + dy).mul_(_like(inverse_std_C * weight_VC[i], x)).to(x.dtype)
        return None, None, sums_V2C[:, 1], sums_V2C[:, 0], *grad_views


def _average_over_ranks(x: Tensor) -> Tensor:
    dist.all_reduce(x)
    return x / dist.get_world_size()


def _exact(x: Tensor) -> Tensor:
    """In float32, or in float64 as it is."""
    return x if x.dtype == torch.float64 else x.float()


def _all_but_channels(x: Tensor) -> list[int]:
    return [0, *range(2, x.dim())]


def _like(values_C: Tensor, x: Tensor) -> Tensor:
    """A value for each channel, shaped to broadcast over ``x``."""
    return values_C.view(1, -1, *[1] * (x.dim() - 2))
