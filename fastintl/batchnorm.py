"""BatchNorm of several views at once: each view by its own statistics, those of all ranks in one exchange.

Shapes: V views, C channels; a view is (n, C) or (n, C, s, s), the same n on every rank.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor
from torch.nn.modules.batchnorm import _BatchNorm

from fastintl.distributed import world_size


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
    affine = [norm.weight for norm in norms] + [norm.bias for norm in norms]
    *normalised, mean_VC, var_VC = _SyncBatchNorm.apply([norm.eps for norm in norms], *views, *affine)
    with torch.no_grad():
        for norm, view, mean_C, var_C in zip(norms, views, mean_VC, var_VC, strict=True):
            count = view.numel() // view.shape[1] * world_size()
            norm.num_batches_tracked.add_(1)
            norm.running_mean.lerp_(mean_C, norm.momentum)
            norm.running_var.lerp_(var_C * (count / (count - 1)), norm.momentum)
    return normalised


class _SyncBatchNorm(torch.autograd.Function):
    """(V eps, V views, V weights, V biases) -> V normalised views, mean (V, C), biased variance (V, C).

    With ``x_hat = (x - mean) / std`` and averages over the global batch, the gradient of a view is
    ``weight / std (dy - average(dy) - x_hat average(dy x_hat))`` (Ioffe and Szegedy, arXiv 1502.03167). That of
    weight and bias is this rank's share, which DistributedDataParallel averages.
    """

    @staticmethod
    def forward(ctx, eps: list[float], *tensors: Tensor):
        views, weights, biases = _thirds(tensors)
        moments = []
        for x in views:
            var_C, mean_C = torch.var_mean(x.float(), _all_but_channels(x), correction=0)
            # The squares of means and variances of float32 add up and cancel without loss in float64.
            mean_C = mean_C.double()
            moments.append(torch.stack([mean_C, var_C + mean_C.square()]))
        mean_VC, square_VC = _average_over_ranks(torch.stack(moments)).unbind(1)
        var_VC = (square_VC - mean_VC.square()).clamp(min=0).float()
        mean_VC = mean_VC.float()
        outputs = [
            F.batch_norm(x, mean_VC[i], var_VC[i], weights[i], biases[i], False, 0.0, eps[i])
            for i, x in enumerate(views)
        ]
        inverse_std_VC = torch.stack([(var_VC[i] + eps[i]).rsqrt() for i in range(len(views))])
        ctx.save_for_backward(*views, *weights, mean_VC, inverse_std_VC)
        # A view of a network without gradient (the EMA target) among others.
        ctx.learns = [any(ctx.needs_input_grad[1 + i :: len(views)]) for i in range(len(views))]
        without_gradient = [y for y, learns in zip(outputs, ctx.learns, strict=True) if not learns]
        ctx.mark_non_differentiable(mean_VC, var_VC, *without_gradient)
        return *outputs, mean_VC, var_VC

    @staticmethod
    def backward(ctx, *grads: Tensor):
        count = len(ctx.learns)
        *views_weights, mean_VC, inverse_std_VC = ctx.saved_tensors
        learning = [i for i in range(count) if ctx.learns[i]]
        x_hats, sums = {}, []
        for i in learning:
            x, dy = views_weights[i].float(), grads[i].float()
            x_hats[i] = (x - _like(mean_VC[i], x)) * _like(inverse_std_VC[i], x)
            dims = _all_but_channels(x)
            sums.append(torch.stack([dy.sum(dims), (dy * x_hats[i]).sum(dims)]))
        average = _average_over_ranks(torch.stack(sums))
        gradients: list[Tensor | None] = [None] * (3 * count)
        for row, i in enumerate(learning):
            x, weight = views_weights[i], views_weights[count + i]
            average_dy, average_dy_x_hat = (a / (x.numel() // x.shape[1]) for a in average[row])
            centred = grads[i].float() - _like(average_dy, x) - x_hats[i] * _like(average_dy_x_hat, x)
            gradients[i] = (centred * _like(inverse_std_VC[i] * weight, x)).to(x.dtype)
            gradients[count + i], gradients[2 * count + i] = sums[row][1], sums[row][0]
        return None, *gradients


def _average_over_ranks(x: Tensor) -> Tensor:
    dist.all_reduce(x)
    return x / dist.get_world_size()


def _thirds(items: Sequence[Tensor]) -> tuple[Sequence[Tensor], Sequence[Tensor], Sequence[Tensor]]:
    count = len(items) // 3
    return items[:count], items[count : 2 * count], items[2 * count :]


def _all_but_channels(x: Tensor) -> list[int]:
    return [0, *range(2, x.dim())]


def _like(values_C: Tensor, x: Tensor) -> Tensor:
    """Shaped to broadcast over everything but the channels of ``x``."""
    return values_C.view(1, -1, *[1] * (x.dim() - 2))
