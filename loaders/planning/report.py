"""What ``tools/doctor.py`` shows of this machine and a dataset, as tables in a terminal."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Sequence

from rich.console import Console
from rich.padding import Padding
from rich.table import Table

from loaders.environment import Machine
from loaders.planning.installed import Status
from loaders.planning.plan import Plan

_CROPPED_BY = {"triton": "Triton kernels", "batched": "batched torch operations"}


def print_installed(console: Console, found: Sequence[Status]) -> None:
    """The sources of images and packages, and what each missing one needs."""
    rows = [(status.name, "yes" if status.usable else "no", status.about) for status in found]
    print_grid(console, "sources of images, packages", rows)
    for status in found:
        if not status.usable:  # broken as a shell takes it, to be pasted
            words = textwrap.wrap(status.cure, console.width - 8, break_on_hyphens=False, break_long_words=False)
            console.print(f"  to have {status.name}:", style="bold")
            console.print("    " + " \\\n      ".join(words), soft_wrap=True)


def print_machine(console: Console, machine: Machine, precision: str, crops: str) -> None:
    """CPU, memory and GPUs, the number format that training takes here, and the engine that cuts the crops."""
    rows = [
        ("CPU", f"{machine.processor}, {machine.cores} cores for this process"),
        ("memory", f"{size(machine.free)} of {size(machine.memory)} free"),
    ]
    for gpu in machine.gpus:
        free = f"{size(gpu.free)} of {size(gpu.memory)} free"
        rows.append(("GPU", f"{gpu.name}, compute capability {gpu.capability}, {free}"))
    if machine.gpus:
        rows.append(("training", f"in {precision} (train.precision=auto); {_CROPPED_BY[crops]} cut the crops"))
    else:
        rows.append(("GPU", f"no GPU: training runs on the CPU in {precision}"))
    print_grid(console, "machine", rows)


def print_plan(console: Console, plan: Plan, machine: Machine) -> None:
    """The dataset, the memory that its loaders take, and the rates at which the machine feeds it."""
    print_grid(console, f"data: {plan.path}", _data_rows(plan, machine))
    title = f"memory of the loader's buffers at most, {plan.images} images a rank"
    print_grid(console, title, _memory_rows(plan, machine), numbers=True)
    cores = machine.cores
    title = f"images/s: one core, measured with the CPU decoders; all {cores}, estimated as {cores} times that"
    print_grid(console, title, _rate_rows(plan, cores), numbers=True)


def print_grid(console: Console, title: str, rows: Sequence[tuple[str, ...]], numbers: bool = False) -> None:
    """Rows without lines under a title; ``numbers`` aligns all columns but the first to the right."""
    grid = Table.grid(padding=(0, 2))
    for column in range(len(rows[0])):
        grid.add_column(justify="right" if numbers and column else "left", no_wrap=column < len(rows[0]) - 1)
    for row in rows:
        grid.add_row(*row)
    console.print(title, style="bold")
    console.print(Padding(grid, (0, 0, 0, 2), expand=False))


def size(count: float) -> str:
    """Bytes for people, in powers of 1000."""
    power = min(int(math.log10(max(count, 1)) / 3), 4)
    return f"{count / 1000**power:.3g} {('B', 'kB', 'MB', 'GB', 'TB')[power]}"


def _data_rows(plan: Plan, machine: Machine) -> list[tuple[str, str]]:
    facts, free = plan.facts, size(machine.free)
    (mean_height, mean_width), (height, width) = facts.mean_size, facts.largest_size
    sample = f"; sizes estimated from {facts.sampled} of them" if facts.sampled else ""
    cached = f"fits the {free} free, one page cache for all ranks"
    not_cached = f"more than the page cache can hold of the {free} free: every epoch reads the disk"
    where = "each GPU" if plan.on_gpu else f"memory, {plan.ranks} x {size(facts.decoded)}"
    rows = [
        ("images", f"{facts.images:,} in {facts.classes:,} classes, {facts.jpegs:.0%} JPEG{sample}"),
        ("size", f"{mean_width:.0f} x {mean_height:.0f} px on average, up to {width} x {height} px"),
        ("on disk", f"{size(facts.stored)}: {cached if plan.fits_page_cache else not_cached}"),
        ("as pixels", f"{size(facts.decoded)}: {'fits' if plan.fits_memory else 'too much for'} {where}"),
    ]
    bad = max(facts.unreadable, plan.undecodable)  # a file without an image is both
    return rows + [("damaged", f"{bad} of the images looked at")] * bool(bad)


def _memory_rows(plan: Plan, machine: Machine) -> list[tuple[str, ...]]:
    all_ranks = f"{plan.ranks} rank{'s'[: plan.ranks > 1]}"
    rows = [("", "pixels", "views", "work", "kept by malloc", "a rank", all_ranks, "its GPU", "")]
    gpu = min((gpu.free for gpu in machine.gpus), default=0)
    for source in plan.sources:
        memory, total = source.memory, source.memory_all
        bytes_of = (memory.pixels, memory.views, memory.work, memory.kept, memory.total, total, memory.on_gpu)
        fits = total <= machine.free and memory.on_gpu <= gpu
        rows.append((source.source, *map(size, bytes_of), "fits" if fits else "TOO MUCH"))
    return rows if plan.on_gpu else [(*row[:-2], row[-1]) for row in rows]


def _rate_rows(plan: Plan, cores: int) -> list[tuple[str, ...]]:
    rows = [("", "decode", "decode + crops", "crops on a GPU", "crops on the CPU")]
    for source in plan.sources:
        decode, both, fed = source.decode_per_core, source.feeds_cpu_crops, source.feeds_gpu_crops
        on_gpu = f"{fed:,.0f}" if fed else ("nothing to do" if decode is None else "GPU decodes")
        alone = f"{decode:,.0f}" if decode else "done once"
        rows.append((source.source, alone, f"{both / cores:,.0f}", on_gpu, f"{both:,.0f}"))
    return rows
