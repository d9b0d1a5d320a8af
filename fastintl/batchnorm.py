"""Synchronised BatchNorm on GPUs and on CPUs.

Shapes: C channels; x is (N, C) or (N, C, H, W).
"""

from __future__ import annotations

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from fastintl.distributed import gather


def convert_batchnorm(module: nn.Module) -> nn.Module:
    """Replaces every BatchNorm by one whose statistics are over all ranks; state-dict keys stay.

    NCCL ranks get ``torch.nn.SyncBatchNorm``, which refuses CPU tensors; gloo ranks get ``CPUSyncBatchNorm``.
    With one rank the module is returned as it is. Call it after the process group is up and before DDP.
    """
    if not dist.is_initialized() or dist.get_world_size() == 1:
        return module
    if dist.get_backend() == "nccl":
        return nn.SyncBatchNorm.convert_sync_batchnorm(module)
    if isinstance(module, _BatchNorm):
        return CPUSyncBatchNorm.like(module)
    for name, child in module.named_children():
        setattr(module, name, convert_batchnorm(child))
    return module


class CPUSyncBatchNorm(_BatchNorm):
    """BatchNorm over the samples of all ranks for the gloo back end; in eval mode an ordinary BatchNorm."""

    @classmethod
    def like(cls, norm: _BatchNorm) -> CPUSyncBatchNorm:
        """A copy that shares the parameters and statistics of ``norm``."""
        new = cls(norm.num_features, norm.eps, norm.momentum, norm.affine, norm.track_running_stats)
        new._parameters, new._buffers = norm._parameters, norm._buffers
        new.train(norm.training)
        return new

    def _check_input_dim(self, x: Tensor) -> None:
        if x.dim() < 2:
            raise ValueError(f"BatchNorm takes (N, C) or (N, C, ...), got {tuple(x.shape)}")

    def forward(self, x: Tensor) -> Tensor:
        if not self.training:
            return super().forward(x)
        self._check_input_dim(x)
        y, mean_C, var_C, count = _SyncBatchNorm.apply(x, self.weight, self.bias, self.eps)
        if self.track_running_stats:
            self._track(mean_C, var_C * (count / (count - 1)))
        return y

    @torch.no_grad()
    def _track(self, mean_C: Tensor, unbiased_var_C: Tensor) -> None:
        self.num_batches_tracked += 1
        factor = 1 / float(self.num_batches_tracked) if self.momentum is None else self.momentum
        self.running_mean.lerp_(mean_C.to(self.running_mean.dtype), factor)
        self.running_var.lerp_(unbiased_var_C.to(self.running_var.dtype), factor)


class _SyncBatchNorm(torch.autograd.Function):
    """One collective each way. Statistics travel and combine in float64."""

    @staticmethod
    def forward(ctx, x: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float):
        dims = [i for i in range(x.dim()) if i != 1]
        local_var, local_mean = torch.var_mean(x, dims, correction=0)
        count = torch.full_like(local_mean, x.numel() // x.shape[1], dtype=torch.float64)
        local = torch.stack([count, local_mean.double(), local_var.double()])
        count, mean, var = gather(local).unbind(1)  # (W, C) each
        total = count.sum(0)
        if total[0] < 2:
            raise ValueError(f"BatchNorm in training mode needs two or more values a channel, got {tuple(x.shape)}")
        global_mean = (count * mean).sum(0) / total
        global_var = (count * (var + (mean - global_mean).square())).sum(0) / total
        mean_C, var_C, total = global_mean.to(x.dtype), global_var.to(x.dtype), float(total[0])
        ctx.save_for_backward(x, weight, mean_C, (var_C + eps).rsqrt())
        ctx.total = total
        ctx.mark_non_differentiable(mean_C, var_C)
        return F.batch_norm(x, mean_C, var_C, weight, bias, False, 0.0, eps), mean_C, var_C, total

    @staticmethod
    def backward(ctx, grad_y: Tensor, *_):
        x, weight, mean_C, inverse_std_C = ctx.saved_tensors
        dims = [i for i in range(x.dim()) if i != 1]
        shape = [1, -1] + [1] * (x.dim() - 2)
        x_hat = (x - mean_C.view(shape)) * inverse_std_C.view(shape)
        # The affine parameters get this rank's share (DDP averages it); the input needs all ranks' sums.
        grad_bias, grad_weight = grad_y.sum(dims), (grad_y * x_hat).sum(dims)
        grad_x = None
        if ctx.needs_input_grad[0]:
            sums = torch.stack([grad_bias, grad_weight]).double()
            dist.all_reduce(sums)
            mean_grad, mean_grad_x_hat = (sums / ctx.total).to(x.dtype)
            scale = inverse_std_C if weight is None else inverse_std_C * weight
            grad_x = (grad_y - mean_grad.view(shape)).sub_(x_hat.mul_(mean_grad_x_hat.view(shape)))
            grad_x.mul_(scale.view(shape))
        if weight is None:
            return grad_x, None, None, None
        return grad_x, grad_weight, grad_bias, None
