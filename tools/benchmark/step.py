"""The training step on synthetic views: the authors' way, each of our changes to it alone, and all together; a small
network without a GPU. On a GPU, each at the whole recipe and at what one rank of eight has of it:

    python tools/bench.py step --rcfg rcfgs/ep100.yaml --json step_256.json
    python tools/bench.py step --rcfg rcfgs/ep100.yaml train.batch_size=32 --json step_32.json
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

from .contenders import Contender, Rounds, ratio, time_in_turn
from .flops import step_flops
from .options import add_steps, recipe_or_tiny, require_positive
from .results import print_results, write_result

if TYPE_CHECKING:
    import torch
    from rich.table import Table
    from torch import Tensor

    from fastintl.config import Config

    Step = Callable[[list[Tensor], int], Tensor]

_WARM_UP_STEPS = 3
_SCHEDULE_STEPS = 1000  # of the synthetic epoch: the first steps of a warm-up, whose learning rate moves nothing far
_SHORT = {"float16": "fp16", "bfloat16": "bf16", "float32": "fp32"}

add_arguments = add_steps


def run(arguments: argparse.Namespace) -> None:
    sizes = require_positive(arguments, "rounds", "steps")
    import torch

    from fastintl.config import to_yaml

    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    config = recipe_or_tiny(arguments, device.type)
    torch.backends.cudnn.benchmark = True
    flops, batch, model = step_flops(config), config.train.batch_size, config.model
    rows, rates = [], []
    for number, group in enumerate(contenders(config, device, arguments.steps)):
        # What the device could do at best, timed in the same rounds.
        product = Contender("matrix product", partial(_matrix_rate, device))
        time_in_turn([product, *group], arguments.rounds)
        rates.append(product.values("operations_per_second"))
        share = flops / product.median("operations_per_second")
        rows += [_as_json(contender, group[0], share, batch) | {"group": number} for contender in group]
    measured = {"flops_of_a_step": flops, "matrix_rates": rates, "config": to_yaml(config), "contenders": rows}
    write_result(arguments, "step", **sizes, **measured)
    title = f"{model.arch}, batch {batch}, views {' '.join(map(str, config.crops.sizes))}, {device.type}"
    print_results(list(_tables(rows, title)), [Contender(row["name"], None, error=row["error"]) for row in rows])


def contenders(config: Config, device: torch.device, steps: int) -> list[list[Contender]]:
    """Two groups, each with the baseline; CUDA graphs keep their memory, so they form the second, on a GPU only."""
    import torch

    from fastintl.distributed import World
    from fastintl.network.precision import autocast_dtype
    from fastintl.training.step import TrainingStep

    from .plain_step import PlainStep
    from .synthetic import synthetic_views

    old = torch.float16 if device.type == "cuda" else torch.float32
    best = autocast_dtype("auto", device)
    new = best if device.type == "cuda" else torch.bfloat16  # on a CPU a change, but hardly for the better

    def contender(name: str, build: Callable[[], Step], dtype: torch.dtype, channels_last: bool) -> Contender:
        views = partial(synthetic_views, config, device, dtype, channels_last)
        settings = {"dtype": _short(dtype), "channels_last": channels_last}
        return Contender(name, partial(_rounds, build, views, device, steps), settings)

    def plain(name: str, dtype: torch.dtype = old, **changes: bool) -> Contender:
        channels_last = changes.get("channels_last", False)
        return contender(name, lambda: PlainStep(config, device, dtype, **changes), torch.float32, channels_last)

    def ours(name: str, **changes: str) -> Contender:
        settings = replace(config, train=replace(config.train, precision="auto", compile="on", **changes))
        return contender(name, lambda: TrainingStep(settings, World(0, 1, 0, device), _SCHEDULE_STEPS), best, True)

    authors = f"authors' way, NCHW {_short(old)}"
    changes = [
        plain(authors),
        plain("+ channels_last", channels_last=True),
        plain(f"+ {_short(new)}", new),
        plain("+ compile", compiled=True),
        plain("+ our loss", our_loss=True),
        ours("all together"),
    ]
    if device.type != "cuda":
        return [changes]
    graphs = [
        plain(authors),
        plain("+ compile + graphs", compiled=True, cuda_graphs=True),
        ours("all together + graphs", cuda_graphs="on"),
    ]
    return [changes, graphs]


def _rounds(
    build: Callable[[], Step], make_views: Callable[[], list[Tensor]], device: torch.device, steps: int
) -> Rounds:
    """Rounds of so many steps: ``seconds`` of a step, ``first_step_seconds`` of the very first, which compiles and
    picks the convolutions' algorithms, and on a GPU ``peak_bytes`` of its memory, the weights included."""
    import torch

    from .synthetic import seconds_of

    on_gpu = device.type == "cuda"
    before = torch.cuda.memory_allocated(device) if on_gpu else 0
    step, views = build(), make_views()
    first = seconds_of(lambda: step(views, 0), device)
    seconds_of(lambda: step(views, 0), device, _WARM_UP_STEPS)
    own = torch.cuda.memory_allocated(device) - before if on_gpu else 0
    yield {}
    while True:
        if on_gpu:
            torch.cuda.reset_peak_memory_stats(device)
            others = torch.cuda.memory_allocated(device) - own
        seconds = seconds_of(lambda: step(views, 0), device, steps)
        peak = {"peak_bytes": torch.cuda.max_memory_allocated(device) - others} if on_gpu else {}
        yield {"seconds": seconds / steps, "first_step_seconds": first, **peak}


def _matrix_rate(device: torch.device) -> Rounds:
    """Operations a second of a matrix product: 8192 cubed in the training format on a GPU, else 1024 in float32."""
    import torch

    from fastintl.network.precision import autocast_dtype

    from .synthetic import seconds_of

    size, dtype = (8192, autocast_dtype("auto", device)) if device.type == "cuda" else (1024, torch.float32)
    times = 20
    yield {}
    while True:
        a, b = (torch.randn(size, size, device=device, dtype=dtype) for _ in range(2))
        multiply = partial(torch.matmul, a, b)
        seconds_of(multiply, device, 3)  # as a warm-up
        yield {"operations_per_second": times * 2 * size**3 / seconds_of(multiply, device, times)}


def _as_json(contender: Contender, baseline: Contender, share: float, batch_size: int) -> dict[str, Any]:
    """A row with every sample, the ratio to the baseline, and the share of the matrix rate."""
    seconds = contender.median("seconds")
    row = contender.as_json("seconds") | {
        "first_step_seconds": contender.largest("first_step_seconds"),
        "peak_bytes": contender.largest("peak_bytes"),
        "median_seconds": seconds,
        "images_per_second": batch_size / seconds if seconds else None,
    }
    if seconds:
        row["share_of_matrix_rate"] = share / seconds
        row["times_the_baseline"] = ratio(baseline, contender, "seconds")
    return row


def _tables(rows: Sequence[dict[str, Any]], title: str) -> Iterator[Table]:
    from rich.table import Table

    columns = ("step", "ms", "images/s", "times the first", "of the matrix rate", "peak memory", "first step")
    for number in sorted({row["group"] for row in rows}):
        table = Table(*columns, title=title)
        for row in (row for row in rows if row["group"] == number and row["median_seconds"]):
            memory = "" if row["peak_bytes"] is None else f"{row['peak_bytes'] / 1e9:.1f} GB"
            times = (f"{1000 * row['median_seconds']:,.1f}", f"{row['images_per_second']:,.0f}")
            ratios = (f"{row['times_the_baseline'] or 0:.2f}", f"{row['share_of_matrix_rate']:.1%}")
            table.add_row(row["name"], *times, *ratios, memory, f"{row['first_step_seconds']:.1f} s")
        yield table


def _short(dtype: torch.dtype) -> str:
    return _SHORT[str(dtype).removeprefix("torch.")]
