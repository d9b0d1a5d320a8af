"""What the ranks exchange in a step: gradients, the embeddings of the global batch with their gradient, scalars.

Shapes: V views, n samples of one rank, N = n * world size samples of the global batch, d channels.
"""

from __future__ import annotations

import inspect

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.algorithms.ddp_comm_hooks import default_hooks
from torch.nn.parallel import DistributedDataParallel

from fastintl.distributed.world import World, world_size
from fastintl.losses.base import note_gathered

_ROWS = 1 << 15  # that travel together
_COMPRESSION = {"fp16": default_hooks.fp16_compress_hook, "bf16": default_hooks.bf16_compress_hook}


def data_parallel(model: nn.Module, world: World, compress: str = "none") -> nn.Module:
    """DistributedDataParallel around ``model``, or ``model`` itself where there is one rank.

    Buffers are not exchanged: BatchNorm over all ranks (``batchnorm.batch_norm``) has the same
    statistics on every rank anyway.

    Args:
        compress: format in which gradients travel, ``"none"`` (their own), ``"fp16"`` or ``"bf16"``; each rank's
            share is rounded once before the sum and the sum at every addition.
    """
    if world.world_size == 1:
        return model
    known = inspect.signature(DistributedDataParallel).parameters
    no_buffers = "forward_sync_buffers" if "forward_sync_buffers" in known else "broadcast_buffers"
    device_ids = [world.device] if world.device.type == "cuda" else None
    # A group of its own: an all-reduce of BatchNorm, which everything waits for, need not queue behind the buckets.
    options = {"process_group": dist.new_group(), "gradient_as_bucket_view": True, no_buffers: False}
    parallel = DistributedDataParallel(model, device_ids=device_ids, **options)
    if compress != "none":
        parallel.register_comm_hook(None, _COMPRESSION[compress])
    return parallel


def gather(x: Tensor) -> Tensor:
    """The tensors of all ranks, which must have one shape: (...) -> (W, ...), without gradient."""
    everything = x.new_empty(dist.get_world_size(), *x.shape)
    # The newer name of the same collective; torch 2.14 warns about the older one.
    collective = getattr(dist, "all_gather_single", None) or dist.all_gather_into_tensor
    collective(everything.flatten(0, 1), x.contiguous())
    return everything


def gather_rows(x_nd: Tensor, world: World, everywhere: bool) -> Tensor | None:
    """The rows of all ranks below each other, (n, d) -> (N, d), on the CPU; n may differ from rank to rank.

    A block of rows travels at a time, so that no device and no rank needs room for more than the result and a block.

    Args:
        x_nd: on the CPU; a rank without rows need not know d.
        everywhere: every rank gets them; otherwise rank 0 alone does, and the others None.
    """
    if world.world_size == 1:
        return x_nd
    shapes = gather(torch.tensor(x_nd.shape, device=world.device))
    counts, width = shapes[:, 0].tolist(), int(shapes[:, 1].max())
    wanted, end = everywhere or world.is_main, 0
    everything = x_nd.new_empty(sum(counts), width) if wanted else None
    for rank, count in enumerate(counts):
        for start in range(0, count, _ROWS):
            rows = slice(start, min(start + _ROWS, count))
            mine = x_nd[rows] if rank == world.rank else x_nd.new_empty(rows.stop - start, width)
            block = mine.contiguous().to(world.device)
            if everywhere:
                dist.broadcast(block, rank)
            elif rank > 0 and world.is_main:
                dist.recv(block, rank)
            elif rank > 0 and rank == world.rank:
                dist.send(block, 0)
            if wanted:
                everything[end : end + len(block)] = block.cpu()
                end += len(block)
    return everything


def gather_views(z_Vnd: Tensor) -> Tensor:
    """The embeddings of all ranks, (V, n, d) -> (V, N, d) in rank order, in one collective, with gradient.

    Every rank must bring the same shape, and must compute the same loss L from the result. With parameters t
    and the embeddings z_r of rank r, the gradient of the global batch is ``dL/dt = sum_r dL/dz_r dz_r/dt``.
    Rank r knows all of ``dL/dz`` without asking anyone, its own slice ``dL/dz_r`` included, and its backward
    pass makes ``g_r = dL/dz_r dz_r/dt``. DistributedDataParallel averages, ``1/W sum_r g_r``, so the slice is
    multiplied by the world size W here, and no collective is needed on the way back. (Where synchronised
    BatchNorm couples the ranks, its own backward collective adds up the slices, each with the same factor W.)

    The result is the input itself where there is one rank.
    """
    if world_size() == 1:
        return z_Vnd
    z_VNd = _GatherViews.apply(z_Vnd)
    note_gathered(z_VNd.shape[1])
    return z_VNd


def gather_embeddings(online_Vnd: Tensor, target_nd: Tensor | None) -> tuple[Tensor, Tensor | None]:
    """``gather_views`` of online and target embeddings in one collective; the target has no gradient.

    Args:
        online_Vnd: (V, n, d), with gradient.
        target_nd: (n, d), or None for a method without target.

    Returns:
        The same over the global batch, (V, N, d) and (N, d) or None.
    """
    if target_nd is None or world_size() == 1:
        return gather_views(online_Vnd), target_nd
    both = gather_views(torch.cat([online_Vnd, target_nd.detach()[None]]))
    return both[:-1], both[-1].detach()


def mean_over_ranks(loss: Tensor) -> Tensor:
    """The mean of a scalar of every rank, on every rank; with gradient, which DistributedDataParallel averages.

    The gradient of the mean is ``1/W sum_r g_r``, and that average is DistributedDataParallel's own: each rank passes
    its g_r on as it is.
    """
    if world_size() == 1:
        return loss
    return _MeanOverRanks.apply(loss)


class _MeanOverRanks(torch.autograd.Function):
    @staticmethod
    def forward(ctx, loss: Tensor) -> Tensor:
        return gather(loss[None]).mean()

    @staticmethod
    def backward(ctx, grad: Tensor) -> Tensor:
        return grad


class _GatherViews(torch.autograd.Function):
    @staticmethod
    def forward(ctx, z_Vnd: Tensor) -> Tensor:
        v, _, d = z_Vnd.shape
        return gather(z_Vnd).transpose(0, 1).reshape(v, -1, d)

    @staticmethod
    def backward(ctx, grad_VNd: Tensor) -> Tensor:
        world_size = dist.get_world_size()
        return grad_VNd.chunk(world_size, dim=1)[dist.get_rank()] * world_size
