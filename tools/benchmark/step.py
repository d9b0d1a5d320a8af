"""Times training steps on synthetic views: the authors' way, each change to it alone, and all together."""

from __future__ import annotations

import gc
import statistics
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from fastintl.config import Config
from fastintl.distributed import World
from fastintl.network.precision import autocast_dtype
from fastintl.training.build import build_model
from fastintl.training.step import TrainingStep
from tools.benchmark.plain_step import PlainStep

# Without a GPU and without a recipe: the demo's network on three small crops, sixteen images.
TINY = (
    "model.arch=resnet8",
    "model.stem=small",
    "model.projector=[256,256,256]",
    "crops.sizes=[40,40,24]",
    "crops.scales=[[0.2,1],[0.2,1],[0.1,0.5]]",
    "crops.blur=[0,0,0]",
    "crops.solarize=[0,0,0]",
    "train.batch_size=16",
)
_WARM_UP_STEPS = 3
_SCHEDULE_STEPS = 1000  # of the synthetic epoch: the first steps of a warm-up, whose learning rate moves nothing far

Step = Callable[[list[Tensor], int], Tensor]


@dataclass
class Contender:
    """A way to take the step, and what was measured of it.

    Attributes:
        name: for the table.
        build: makes the step.
        dtype, channels_last: of the views that it is given.
        seconds: of a step, one value a round.
        first_step_seconds: of the very first, which compiles and picks the convolutions' algorithms.
        peak_bytes: of GPU memory, its weights included.
        error: why it could not run.
    """

    name: str
    build: Callable[[], Step] = field(repr=False)
    dtype: torch.dtype
    channels_last: bool = False
    seconds: list[float] = field(default_factory=list)
    first_step_seconds: float | None = None
    peak_bytes: int | None = None
    error: str | None = None

    @property
    def median(self) -> float | None:
        return statistics.median(self.seconds) if self.seconds else None


def contenders(config: Config, device: torch.device) -> list[list[Contender]]:
    """Two groups, each with the baseline; CUDA graphs keep their memory, so they form the second, on a GPU only."""
    old = torch.float16 if device.type == "cuda" else torch.float32
    best = autocast_dtype("auto", device)
    new = best if device.type == "cuda" else torch.bfloat16  # on a CPU a change, but hardly for the better
    name = f"authors' way, NCHW {_short(old)}"

    def plain(label: str, dtype: torch.dtype = old, **changes: bool) -> Contender:
        channels_last = changes.get("channels_last", False)
        return Contender(label, lambda: PlainStep(config, device, dtype, **changes), torch.float32, channels_last)

    def ours(label: str, **changes: str) -> Contender:
        train = replace(config.train, precision="auto", compile="on", **changes)
        settings = replace(config, train=train)
        return Contender(label, lambda: TrainingStep(settings, World(0, 1, 0, device), _SCHEDULE_STEPS), best, True)

    plain_group = [
        plain(name),
        plain("+ channels_last", channels_last=True),
        plain(f"+ {_short(new)}", new),
        plain("+ compile", compiled=True),
        plain("+ our loss", our_loss=True),
        ours("all together"),
    ]
    if device.type != "cuda":
        return [plain_group]
    graphs = [
        plain(name),
        plain("+ compile + graphs", compiled=True, cuda_graphs=True),
        ours("all together + graphs", cuda_graphs="on"),
    ]
    return [plain_group, graphs]


def compare(
    group: list[Contender], config: Config, device: torch.device, rounds: int, steps: int, note: Callable[[str], None]
) -> list[float]:
    """Times the contenders of a group in turn, round after round, and the device's matrix product beside them.

    Args:
        steps: of a round.
        note: told what is going on.

    Returns:
        Of each round, the floating-point operations a second of a large matrix product.
    """
    running: dict[str, tuple[Step, list[Tensor], int]] = {}
    for contender in group:
        note(f"first step of {contender.name}")
        _attempt(contender, lambda c=contender: running.update({c.name: _start(c, config, device)}))
    rates = []
    for round_ in range(rounds):
        note(f"round {round_ + 1} of {rounds}")
        rates.append(matrix_rate(device))
        for contender in group:
            if contender.error is None:
                step, views, own_bytes = running[contender.name]
                _attempt(contender, lambda c=contender, s=step, v=views, o=own_bytes: _time(c, s, v, steps, o))
    running.clear()
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()
    return rates


def synthetic_views(config: Config, device: torch.device, dtype: torch.dtype, channels_last: bool) -> list[Tensor]:
    """Views of noise in the recipe's sizes."""
    memory_format = torch.channels_last if channels_last else torch.contiguous_format
    count = config.train.batch_size
    views = [torch.randn(count, 3, size, size, device=device, dtype=dtype) for size in config.crops.sizes]
    return [view.contiguous(memory_format=memory_format) for view in views]


def step_flops(config: Config) -> int:
    """Floating-point operations of a step's convolutions and linear layers, forward and backward, without the loss."""
    with torch.device("meta"):
        model = build_model(config.model)
        views = [torch.empty(config.train.batch_size, 3, size, size) for size in config.crops.sizes]
        with FlopCounterMode(display=False) as counter:
            model(views)[0].sum().backward()
    return counter.get_total_flops()


def matrix_rate(device: torch.device) -> float:
    """Operations a second of a matrix product: 8192 cubed in the training format on a GPU, else 1024 in float32."""
    on_gpu = device.type == "cuda"
    size, dtype = (8192, autocast_dtype("auto", device)) if on_gpu else (1024, torch.float32)
    a, b = (torch.randn(size, size, device=device, dtype=dtype) for _ in range(2))
    for times in (3, 20):  # the first are the warm-up
        synchronize(device)
        start = time.perf_counter()
        for _ in range(times):
            a @ b
        synchronize(device)
    return times * 2 * size**3 / (time.perf_counter() - start)


def synchronize(device: torch.device) -> None:
    """Waits until the device has done what it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def as_json(groups: list[list[Contender]], flops: int, rates: list[list[float]], batch_size: int) -> list[dict]:
    """Contenders with every sample, the ratio to the first of their group, and their share of the matrix rate."""
    rows = []
    for number, (group, rate) in enumerate(zip(groups, rates, strict=True)):
        for contender in group:
            row = asdict(replace(contender, build=None))
            row["dtype"], row["group"] = _short(contender.dtype), number
            del row["build"]
            row["median_seconds"], row["images_per_second"] = contender.median, None
            if contender.median:
                row["images_per_second"] = batch_size / contender.median
                row["share_of_matrix_rate"] = flops / contender.median / statistics.median(rate)
                row["times_the_baseline"] = ratio(group[0], contender)
            rows.append(row)
    return rows


def ratio(baseline: Contender, contender: Contender) -> float | None:
    """How many times faster, the median over the rounds; both were timed in each, so drift hits both alike."""
    pairs = list(zip(baseline.seconds, contender.seconds, strict=False))
    return statistics.median(b / c for b, c in pairs) if pairs else None


def _start(contender: Contender, config: Config, device: torch.device) -> tuple[Step, list[Tensor], int]:
    before = torch.cuda.memory_allocated(device) if device.type == "cuda" else 0
    step = contender.build()
    views = synthetic_views(config, device, contender.dtype, contender.channels_last)
    synchronize(device)
    start = time.perf_counter()
    step(views, 0)
    synchronize(device)
    contender.first_step_seconds = time.perf_counter() - start
    for i in range(_WARM_UP_STEPS):
        step(views, i)
    own = torch.cuda.memory_allocated(device) - before if device.type == "cuda" else 0
    return step, views, own


def _time(contender: Contender, step: Step, views: list[Tensor], steps: int, own_bytes: int) -> None:
    device = views[0].device
    synchronize(device)
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        others = torch.cuda.memory_allocated(device) - own_bytes
    start = time.perf_counter()
    for i in range(steps):
        step(views, i)
    synchronize(device)
    contender.seconds.append((time.perf_counter() - start) / steps)
    if device.type == "cuda":
        contender.peak_bytes = torch.cuda.max_memory_allocated(device) - others


def _attempt(contender: Contender, action: Callable[[], None]) -> None:
    """Notes why a contender cannot run, out of memory for one, and lets the others go on."""
    try:
        action()
    except Exception as error:
        contender.error = f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()


def _short(dtype: torch.dtype) -> str:
    return {torch.float16: "fp16", torch.bfloat16: "bf16", torch.float32: "fp32"}[dtype]
