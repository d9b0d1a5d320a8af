"""What a training step asks of a GPU, counted without one: launches, bytes, operations, what is kept for the backward
pass, and the least time that these take.

    python tools/bench.py count --rcfg rcfgs/ep100.yaml --gpu h100
    python tools/bench.py count --rcfg rcfgs/ep100.yaml --gpu h100 --ranks 8 --json count.json

Compiled parts are lowered by torch's Inductor for that GPU and read off the code that it generates; in others every
operation counts as one launch. Nothing is measured: the least time of a part is that of its bytes at the memory's speed
or of its operations at the matrix units', whichever is longer, and a step takes more. Where crops grow this is a step
at full size, which keeps the most, and a line tells the operations of the other stages. It takes some minutes, and
wants torch 2.14.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from loaders.errors import UserError
from loaders.startup import fork_server
from loaders.terminal import open_console

from .options import add_overrides, require_positive, share_of_batch

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from fastintl.config import Config
    from fastintl.network.model import JointEmbedding

    from .fake_gpu import GPU
    from .lowering import Pass
    from .recorded_step import Call

_GPUS = ("a100", "h100", "v100")  # of fake_gpu.GPUS, which needs torch
_BUCKET_BYTES = 25 << 20  # of DistributedDataParallel
_NORM_OF_NORMS = 4  # the norms put in order and side by side, their norm, a copy of it
_CROP_LAUNCHES = 5  # four kernels (loaders/multicrop/triton_crops.py), and the upload of their table


@dataclass(frozen=True)
class Part:
    """What a part of a step asks of one GPU, all its calls together.

    Attributes:
        name: a compiled region with its direction, or another part.
        times: how often a step calls it.
        launches: kernels, and calls of a library.
        bytes_moved: read and written in the GPU's memory.
        flops: of convolutions and matrix products.
        float32: whether those are in float32, not in the training's format.
        kept_bytes: what stays for the backward pass.
        least_seconds: see ``GPU.least_seconds``.
    """

    name: str
    times: int
    launches: int
    bytes_moved: float
    flops: float
    float32: bool
    kept_bytes: float
    least_seconds: float


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--rcfg", metavar="RECIPE", required=True, help="a file, or a name such as ep100")
    parser.add_argument("--gpu", choices=_GPUS, default="h100", help="(default: h100)")
    parser.add_argument("--ranks", type=int, default=1, help="GPUs that share the batch (default: 1)")
    jobs = len(os.sched_getaffinity(0))
    parser.add_argument("--jobs", type=int, default=jobs, help="processes that lower at once (default: one a core)")
    parser.add_argument("--json", type=Path, help="write the parts to this file")
    add_overrides(parser)


def run(arguments: argparse.Namespace) -> None:
    require_positive(arguments, "ranks", "jobs")
    import torch

    if torch.__version__.split(".")[:2] != ["2", "14"]:
        raise UserError(f"bench.py count reads what torch 2.14's Inductor writes; this is torch {torch.__version__}")
    from fastintl.config import load, to_yaml
    from fastintl.training.step_memory import weight_bytes

    from .flops import describe, stages_work
    from .results import write_result

    config = load(arguments.rcfg, arguments.overrides)
    share_of_batch(config, arguments.ranks)
    parts = parts_of(config, arguments.gpu, arguments.ranks, arguments.jobs)
    total = _sum("whole step", parts)
    weights = weight_bytes(config)
    _print(parts, total, weights, f"{config.name}, {arguments.ranks} x {arguments.gpu.upper()}")
    rows = {"parts": [asdict(part) for part in parts], "total": asdict(total), "weight_bytes": weights}
    if config.crops.grow:
        stages = stages_work(config)
        print(describe(stages))
        rows["stages"] = [asdict(stage) for stage in stages]
    write_result(arguments, "count", gpu=arguments.gpu, ranks=arguments.ranks, config=to_yaml(config), **rows)


def parts_of(config: Config, gpu_name: str, ranks: int, jobs: int) -> list[Part]:
    """All parts of a step on one of ``ranks`` GPUs; the compiled ones are lowered in processes of their own."""
    from .fake_gpu import GPUS
    from .flops import loss_flops
    from .lowering import Pass
    from .recorded_step import record

    gpu, recompute = GPUS[gpu_name], config.train.recompute == "on"
    model, calls = record(config, ranks)
    tasks = [(config, gpu_name, ranks, number) for number in range(len(calls) + 1)]
    context = fork_server("torch._inductor.compile_fx", f"{__package__}.lowering")  # whose import takes ten seconds
    with ProcessPoolExecutor(jobs, context, max_tasks_per_child=1) as processes:
        *regions, loss = processes.map(_lowered, tasks)
    itemsize = _training_dtype(config, gpu).itemsize
    parts: list[Part] = []
    for call, passes in zip(calls, regions, strict=True):
        parts += _region_parts(call, passes, recompute and call.name != "head", itemsize, gpu)
    if recompute:
        inside = max(forward.kept_bytes for forward, _ in regions)
        parts.append(_part("the largest region, run again", 1, Pass("", 0, 0, inside), 0, gpu))
    for one, flops in zip(loss, loss_flops(config) if len(loss) == 2 else [0], strict=True):
        parts.append(_part(f"loss {one.name}", 1, one, flops, gpu, float32=True))
    return parts + _other_parts(config, model, gpu, ranks)


def _lowered(task: tuple[Config, str, int, int]) -> list[Pass]:
    """The passes of one call of the step; behind the last call the loss's, which is one pass where it is not compiled.

    Every rank computes the loss over the global batch.
    """
    config, gpu_name, ranks, number = task
    import torch

    from fastintl.network.compilation import OPTIONS
    from fastintl.training.build import build_loss

    from .fake_gpu import GPUS
    from .flops import embeddings
    from .lowering import Pass, lower
    from .recorded_step import EagerCount, record

    torch.set_num_threads(1)
    gpu = GPUS[gpu_name]
    dtype, (_, calls) = _training_dtype(config, gpu), record(config, ranks)
    if number == len(calls):
        loss = build_loss(config.loss)
        if loss.compiles:
            return lower(loss, embeddings(config, "cpu", dtype), dtype, gpu, OPTIONS)
        with EagerCount() as count:
            loss(*embeddings(config, "meta", dtype)).backward()
        return [Pass("forward and backward, not compiled", count.launches, count.bytes_moved, 0)]
    if ranks > 1:
        _fake_ranks(ranks)
    call = calls[number]
    for module in dict.fromkeys(call.modules):
        module.to_empty(device="cpu").to(memory_format=torch.channels_last)
    inputs = [_empty(shape, dtype).requires_grad_(learns) for shape, learns in call.inputs]
    return lower(call.function, (call.modules, inputs, *call.rest), dtype, gpu, OPTIONS)


def _region_parts(call: Call, passes: Sequence[Pass], runs_again: bool, itemsize: int, gpu: GPU) -> Iterator[Part]:
    """``runs_again``: whether the region keeps its inputs alone, and its backward pass begins with the forward one."""
    forward, backward = passes
    forward_flops, backward_flops = call.flops
    if runs_again:
        forward = replace(forward, kept_bytes=call.output_elements * itemsize)
        launches, moved = forward.launches + backward.launches, forward.bytes_moved + backward.bytes_moved
        backward, backward_flops = replace(backward, launches=launches, bytes_moved=moved), sum(call.flops)
    else:
        forward = replace(forward, kept_bytes=max(0, forward.kept_bytes - call.freed_elements * itemsize))
    yield _part(f"{call.name} forward", call.times, forward, forward_flops, gpu)
    yield _part(f"{call.name} backward", call.times, replace(backward, kept_bytes=0), backward_flops, gpu)


def _other_parts(config: Config, model: JointEmbedding, gpu: GPU, ranks: int) -> list[Part]:
    from fastintl.training.optim import parameter_groups, states_a_parameter

    from .lowering import Pass
    from .recorded_step import foreach_launches

    groups = [[p.numel() for p in group["params"]] for group in parameter_groups(model.encoder, config.optim)]
    sizes = [size for group in groups for size in group]
    count, lists = sum(sizes), 2 + states_a_parameter(config.optim)
    found = [
        ("optimiser", sum(foreach_launches(group, lists) for group in groups), 4 * count * (2 * lists - 1)),
        ("guard: the gradient's norm", foreach_launches(sizes, 1) + _NORM_OF_NORMS, 4 * count),
    ]
    if model.target is not None:
        found.append(("EMA", foreach_launches(sizes, 2), 12 * count))
    if ranks > 1:
        found.append(("gradient exchange", -(-4 * count // _BUCKET_BYTES), 8 * count))
    pixels = sum(side**2 for side in config.crops.sizes) * config.train.batch_size // ranks
    found.append(("crops: views written", _CROP_LAUNCHES, 2 * 3 * pixels))
    return [_part(name, 1, Pass("", launches, moved, 0), 0, gpu) for name, launches, moved in found]


def _part(name: str, times: int, one: Pass, flops: float, gpu: GPU, float32: bool = False) -> Part:
    """``times`` calls of a pass, with the operations of one."""
    moved, flops = times * one.bytes_moved, times * flops
    seconds = gpu.least_seconds(moved, flops, float32)
    return Part(name, times, times * one.launches, moved, flops, float32, times * one.kept_bytes, seconds)


def _sum(name: str, parts: Sequence[Part]) -> Part:
    def total(field: str) -> float:
        return sum(getattr(part, field) for part in parts)

    kept, seconds = total("kept_bytes"), total("least_seconds")
    return Part(name, 1, total("launches"), total("bytes_moved"), total("flops"), False, kept, seconds)


def _training_dtype(config: Config, gpu: GPU) -> torch.dtype:
    from fastintl.network.precision import FORMATS, gpu_format

    precision = config.train.precision
    return gpu_format(gpu.capability) if precision == "auto" else FORMATS[precision]


def _empty(shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    import torch

    memory_format = torch.channels_last if len(shape) == 4 else torch.contiguous_format
    return torch.empty(shape, dtype=dtype, memory_format=memory_format)


def _fake_ranks(ranks: int) -> None:
    import torch.distributed as dist
    from torch.testing._internal.distributed.fake_pg import FakeStore

    dist.init_process_group("fake", rank=0, world_size=ranks, store=FakeStore())


def _print(parts: Sequence[Part], total: Part, weights: int, title: str) -> None:
    from rich.table import Table

    table = Table("part", "times", "launches", "GB moved", "TFLOP", "GB kept", "least ms", title=title)
    regions = [part for part in parts if part.name.endswith((" forward", " backward")) and "loss" not in part.name]
    for part in [*parts, _sum("regions", regions), total]:
        figures = (part.bytes_moved / 1e9, part.flops / 1e12, part.kept_bytes / 1e9, 1000 * part.least_seconds)
        table.add_row(part.name, str(part.times), f"{part.launches:,}", *(f"{figure:,.2f}" for figure in figures))
    console = open_console(width=120)
    console.print(table)
    memory = (total.kept_bytes + weights) / 1e9
    console.print(f"weights, gradients, momenta and target {weights / 1e9:.1f} GB, with what is kept {memory:.1f} GB")
    console.print(
        f"at most {1e6 * total.least_seconds / total.launches:.0f} us of the host a launch, or the GPU waits for it; "
        "counted, not measured: a step takes longer than the least time"
    )
