"""What a training step asks of a GPU, counted without one: launches, bytes, operations, what is kept for the backward
pass, and the least time that these take.

    python tools/bench.py count --rcfg rcfgs/ep100.yaml --gpu h100
    python tools/bench.py count --rcfg rcfgs/ep100.yaml --gpu h100 --ranks 8 --json count.json

Compiled parts are lowered by torch's Inductor for that GPU and read off the code that it generates; in others every
operation counts as one launch. Nothing is measured: the least time of a part is that of its bytes at the memory's speed
or of its operations at the matrix units', whichever is longer, and a step takes more. It takes some minutes, and wants
torch 2.14.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from loaders.errors import UserError
from tools.benchmark.options import add_overrides, require_positive

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from fastintl.config import Config
    from fastintl.network.model import JointEmbedding
    from tools.benchmark.fake_gpu import GPU
    from tools.benchmark.recorded_step import Call

_GPUS = ("a100", "h100", "v100")  # of fake_gpu.GPUS, which needs torch
_BUCKET_BYTES = 25 << 20  # of DistributedDataParallel


@dataclass(frozen=True)
class Part:
    """What a part of a step asks of one GPU, all its calls together.

    Attributes:
        name: a compiled region with its direction, or another part.
        times: how often a step calls it.
        launches: kernels, and calls of a library.
        bytes_moved: read and written in the GPU's memory.
        flops: of convolutions and matrix products.
        kept_bytes: what stays for the backward pass.
        least_seconds: the longer of the bytes' time and the operations'.
    """

    name: str
    times: int
    launches: int
    bytes_moved: float
    flops: float
    kept_bytes: float
    least_seconds: float


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--rcfg", type=Path, required=True, help="recipe")
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
    from tools.benchmark.results import write_result

    config, batch = load(arguments.rcfg, arguments.overrides), arguments.ranks
    if config.train.batch_size % batch:
        raise UserError(f"a batch of {config.train.batch_size} images cannot be shared evenly by {batch} GPUs")
    parts = parts_of(config, arguments.gpu, arguments.ranks, arguments.jobs)
    total = _sum("whole step", parts)
    weights = weight_bytes(config)
    _print(parts, total, weights, f"{config.name}, {arguments.ranks} x {arguments.gpu.upper()}")
    rows = {"parts": [asdict(part) for part in parts], "total": asdict(total), "weight_bytes": weights}
    write_result(arguments, "count", gpu=arguments.gpu, ranks=arguments.ranks, config=to_yaml(config), **rows)


def parts_of(config: Config, gpu_name: str, ranks: int, jobs: int) -> list[Part]:
    """All parts of a step on one of ``ranks`` GPUs; the compiled ones are lowered in processes of their own."""
    from tools.benchmark.fake_gpu import GPUS
    from tools.benchmark.recorded_step import record

    gpu = GPUS[gpu_name]
    model, calls = record(config, ranks)
    tasks = [(config, gpu_name, ranks, number) for number in range(len(calls) + 1)]
    with ProcessPoolExecutor(jobs, multiprocessing.get_context("spawn"), max_tasks_per_child=1) as processes:
        *regions, loss = processes.map(_lowered, tasks)
    itemsize = _training_dtype(config, gpu).itemsize
    parts: list[Part] = []
    for call, passes in zip(calls, regions, strict=True):
        parts += _region_parts(call, passes, config.train.recompute == "on", itemsize, gpu)
    parts += [_part(f"loss {way}", 1, *figures, gpu, gpu.float32_flops_per_second) for way, *figures in loss]
    return parts + _other_parts(config, model, gpu, ranks)


def _lowered(task: tuple[Config, str, int, int]) -> list[tuple[str, int, float, float, float]]:
    """The passes of one call of the step, the loss's last: direction, launches, bytes, FLOP (a loss's), kept bytes."""
    config, gpu_name, ranks, number = task
    import torch

    from tools.benchmark.fake_gpu import GPUS
    from tools.benchmark.recorded_step import record

    torch.set_num_threads(1)
    gpu = GPUS[gpu_name]
    _, calls = record(config, ranks)
    if number == len(calls):
        return _lowered_loss(config, gpu)
    if ranks > 1:
        _fake_ranks(ranks)
    call, dtype = calls[number], _training_dtype(config, gpu)
    for module in dict.fromkeys(call.modules):
        module.to_empty(device="cpu").to(memory_format=torch.channels_last)
    inputs = [_empty(shape, dtype).requires_grad_(learns) for shape, learns in call.inputs]
    return _lower(call.function, (call.modules, inputs, *call.rest), dtype, gpu)


def _lower(function: Callable, arguments: tuple, dtype: torch.dtype, gpu: GPU) -> list[tuple]:
    from fastintl.network.compilation import OPTIONS
    from tools.benchmark.lowering import lower

    passes = lower(function, arguments, dtype, gpu, OPTIONS)
    names = ("forward", "backward")
    return [(names[p.backward], sum(p.launches.values()), p.bytes_moved, 0.0, p.kept_bytes) for p in passes]


def _lowered_loss(config: Config, gpu: GPU) -> list[tuple]:
    """The loss over the global batch, which every rank computes; a loss that is not compiled by its operations."""
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    from fastintl.training.build import build_loss
    from tools.benchmark.recorded_step import EagerCount

    loss, dtype = build_loss(config.loss), _training_dtype(config, gpu)
    n, d = config.train.batch_size, config.model.projector[-1]
    views, target = len(config.crops.sizes), config.model.ema
    online = torch.empty(views - target, n, d, dtype=dtype, requires_grad=True)
    embeddings = (online, torch.empty(n, d, dtype=dtype)) if target else (online,)
    if loss.compiles:
        meta = [x.detach().to("meta").requires_grad_(x.requires_grad) for x in embeddings]
        with FlopCounterMode(display=False) as forward:
            value = loss(*meta)
        with FlopCounterMode(display=False) as backward:
            value.backward()
        flops = (forward.get_total_flops(), backward.get_total_flops())
        passes = _lower(loss, embeddings, dtype, gpu)
        return [(*one[:3], of_it, one[4]) for one, of_it in zip(passes, flops, strict=True)]
    count, kept = EagerCount(), 0
    with count:
        loss(*[torch.empty_like(x, device="meta").requires_grad_(x.requires_grad) for x in embeddings]).backward()
    return [("forward and backward, not compiled", count.launches, count.bytes_moved, 0.0, kept)]


def _region_parts(call: Call, passes: Sequence[tuple], recompute: bool, itemsize: int, gpu: GPU) -> Iterator[Part]:
    keeps_inputs_alone = recompute and call.name != "head"
    for (way, launches, moved, _, kept), flops in zip(passes, call.flops, strict=True):
        if way == "backward":
            kept = 0
            if keeps_inputs_alone:  # the forward pass comes first once more
                _, again, moved_again, _, _ = passes[0]
                launches, moved, flops = launches + again, moved + moved_again, flops + call.flops[0]
        elif keeps_inputs_alone:
            kept = call.output_elements * itemsize
        else:
            kept = max(0, kept - call.freed_elements * itemsize)
        figures = (call.times * launches, call.times * moved, call.times * flops, call.times * kept)
        yield _part(f"{call.name} {way}", call.times, *figures, gpu, gpu.flops_per_second)


def _other_parts(config: Config, model: JointEmbedding, gpu: GPU, ranks: int) -> list[Part]:
    from tools.benchmark.recorded_step import foreach_launches

    groups = _sizes_by_group(config, model)
    sizes = [size for group in groups for size in group]
    count = sum(sizes)
    lists = {"sgd": 2 + (config.optim.momentum > 0), "adam": 4, "lars": 3}[config.optim.name]
    found = [
        ("optimiser", sum(foreach_launches(group, lists) for group in groups), 4 * count * (2 * lists - 1)),
        ("guard: the gradient's norm", foreach_launches(sizes, 1) + 4, 4 * count),
    ]
    if model.target is not None:
        found.append(("EMA", foreach_launches(sizes, 2), 12 * count))
    if ranks > 1:
        found.append(("gradient exchange", -(-4 * count // _BUCKET_BYTES), 8 * count))
    pixels = sum(side**2 for side in config.crops.sizes) * config.train.batch_size // ranks
    found.append(("crops: views written", 5, 2 * 3 * pixels))
    return [_part(name, 1, launches, moved, 0, 0, gpu, gpu.flops_per_second) for name, launches, moved in found]


def _sizes_by_group(config: Config, model: JointEmbedding) -> list[list[int]]:
    from fastintl.training.optim import parameter_groups

    groups = parameter_groups(model.encoder, config.optim)
    return [[parameter.numel() for parameter in group["params"]] for group in groups]


def _part(
    name: str, times: int, launches: int, moved: float, flops: float, kept: float, gpu: GPU, flops_per_second: float
) -> Part:
    seconds = max(moved / gpu.bytes_per_second, flops / flops_per_second)
    return Part(name, times, launches, moved, flops, kept, seconds)


def _sum(name: str, parts: Sequence[Part]) -> Part:
    fields = ("launches", "bytes_moved", "flops", "kept_bytes", "least_seconds")
    return Part(name, 1, *(sum(getattr(part, field) for part in parts) for field in fields))


def _training_dtype(config: Config, gpu: GPU) -> torch.dtype:
    import torch

    automatic = "bf16" if gpu.capability >= (8, 0) else "fp16"
    precision = automatic if config.train.precision == "auto" else config.train.precision
    return {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}[precision]


def _empty(shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    import torch

    memory_format = torch.channels_last if len(shape) == 4 else torch.contiguous_format
    return torch.empty(shape, dtype=dtype, memory_format=memory_format)


def _fake_ranks(ranks: int) -> None:
    import torch.distributed as dist
    from torch.testing._internal.distributed.fake_pg import FakeStore

    dist.init_process_group("fake", rank=0, world_size=ranks, store=FakeStore())


def _print(parts: Sequence[Part], total: Part, weights: int, title: str) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table("part", "times", "launches", "GB moved", "TFLOP", "GB kept", "least ms", title=title)
    regions = [part for part in parts if part.name.endswith((" forward", " backward")) and "loss" not in part.name]
    for part in [*parts, _sum("regions", regions), total]:
        figures = (part.bytes_moved / 1e9, part.flops / 1e12, part.kept_bytes / 1e9, 1000 * part.least_seconds)
        table.add_row(part.name, str(part.times), f"{part.launches:,}", *(f"{figure:,.2f}" for figure in figures))
    console = Console(width=120, highlight=False)
    console.print(table)
    memory = (total.kept_bytes + weights) / 1e9
    console.print(f"weights, gradients, momenta and target {weights / 1e9:.1f} GB, with what is kept {memory:.1f} GB")
    console.print(
        f"at most {1e6 * total.least_seconds / total.launches:.0f} us of the host a launch, or the GPU waits for it; "
        "counted, not measured: a step takes longer than the least time"
    )
