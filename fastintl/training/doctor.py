"""What ``tools/doctor.py`` finds: what can run on this machine, and whether its cores, its GPUs or its disk will limit
the training of a recipe."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch

from fastintl.config import Config
from fastintl.data import multi_crop
from fastintl.network.precision import autocast_dtype
from loaders import terminal
from loaders.datasets.catalogue import Reference
from loaders.environment import Machine, this_machine
from loaders.errors import UserError
from loaders.growth import shares
from loaders.multicrop.device import choose_implementation
from loaders.planning import installed, report
from loaders.planning.plan import Plan, make_plan
from loaders.terminal import open_console

# ResNet-50 at 224 px on one A100 in NVIDIA's PyTorch example, images/s: the assumption behind what GPUs take.
_A100_IMAGES_PER_SECOND = 2470


@dataclass(frozen=True)
class Examination:
    """All that is found.

    Attributes:
        precision: the number format that ``train.precision=auto`` takes here.
        crops: what cuts the crops: "triton", "batched" or "cpu".
        plan: what a dataset asks of the machine; None where none is given.
        demand: see ``demand``; None without a plan.
    """

    sources: list[installed.Status]
    packages: list[installed.Status]
    machine: Machine
    precision: str
    crops: str
    plan: Plan | None = None
    demand: dict[str, float | None] | None = None

    def as_json(self) -> dict[str, Any]:
        """Plain values."""
        found = asdict(self)
        found["machine"] |= {name: found.pop(name) for name in ("precision", "crops")}
        return found

    def print(self) -> None:
        """Shows it in a terminal, on one screen."""
        console = open_console()
        console.width = min(console.width, 100) if console.is_terminal else 100
        report.print_installed(console, self.sources + self.packages)
        report.print_machine(console, self.machine, self.precision, self.crops)
        if self.plan is None:
            cure = "--data FILE_OR_FOLDER measures what this machine feeds from it"
            report.print_grid(console, "data", [("none given", cure)])
            return
        report.print_plan(console, self.plan, self.machine)
        console.print("bottleneck", style="bold")
        for sentence in _conclusions(self.plan, self.machine, self.demand):
            console.print(textwrap.indent(textwrap.fill(sentence, console.width - 2), "  "))


def examine(config: Config, data: Path | None, ranks: int | None, batch_size: int | None) -> Examination:
    """Looks at this machine and, where ``data`` is given, measures on some of its images.

    Args:
        data: a ``.beton`` file or a folder ``class/image``.
        ranks: processes that train on this machine; None is one a GPU.
        batch_size: images a step, of all ranks together; None is the recipe's.

    Raises:
        UserError: bad data, a batch that the ranks cannot share, or no decoder.
    """
    sources, machine = installed.sources(), this_machine()
    device = torch.device("cuda" if machine.gpus else "cpu")
    dtype = autocast_dtype("auto", device)
    precision = str(dtype).removeprefix("torch.")
    crops = choose_implementation(device) if machine.gpus else "cpu"
    found = (sources, installed.packages(), machine, precision, crops)
    if data is None:
        return Examination(*found)
    usable = [status.name for status in sources if status.usable]
    if "folder" not in usable:
        raise UserError(f"no image can be read, {sources[-1].about}: {sources[-1].cure}")
    ranks = max(1, len(machine.gpus)) if ranks is None else ranks
    batch_size = config.train.batch_size if batch_size is None else batch_size
    largest = replace(multi_crop(config.crops), growth=None)
    with open_console(stderr=True).status("measuring"):
        plan = make_plan(data, largest, batch_size, ranks, machine, usable, dtype.itemsize)
    return Examination(*found, plan, demand(config, plan, machine.cores))


def demand(config: Config, plan: Plan, cores: int) -> dict[str, float | None] | None:
    """What one A100 takes of a recipe, and how many cores like this machine's feed it; None for other networks than
    ResNet-50.

    The cost of an image is counted in trained images of 224 px: forward and backward over a view cost by its area,
    the EMA target's forward alone a third. Where crops grow it is the mean over the run, and the first stage, whose
    crops are the smallest, asks the most of the loader; the loader itself is measured at full size.
    """
    if (config.model.arch, config.model.stem) != ("resnet50", "imagenet"):
        return None
    costs = [_cost(stage.sides, config.model.ema) for stage in config.crops.stages]
    cost = sum(a * b for a, b in zip(costs, shares(config.crops.stages, config.train.epochs), strict=True))
    takes, fed = _A100_IMAGES_PER_SECOND / cost, plan.feeds_gpu_crops
    return {
        "assumed_images_of_224_px": _A100_IMAGES_PER_SECOND,
        "cost_in_images_of_224_px": cost,
        "images_per_second_of_a_gpu": takes,
        "images_per_second_of_a_gpu_at_first": _A100_IMAGES_PER_SECOND / costs[0],
        "cores_a_gpu_with_gpu_crops": takes * cores / fed if fed else None,
        "cores_a_gpu_with_cpu_crops": takes * cores / plan.feeds_cpu_crops,
    }


def _cost(sides: Sequence[int], ema: bool) -> float:
    areas = [(side / 224) ** 2 for side in sides]
    return areas[0] / 3 + sum(areas[1:]) if ema else sum(areas)


def _conclusions(plan: Plan, machine: Machine, demand: dict[str, float | None] | None) -> list[str]:
    """What limits training, in sentences."""
    gpu_crops, cpu_crops = plan.feeds_gpu_crops, plan.feeds_cpu_crops
    fed = f"{gpu_crops:,.0f} images/s with the crops on a GPU, " if gpu_crops else ""
    said = [f"This machine's cores feed about {fed}{cpu_crops:,.0f} images/s with the crops on the CPU."]
    if demand is not None:
        takes = demand["images_per_second_of_a_gpu"]
        cores = {"on the GPU": demand["cores_a_gpu_with_gpu_crops"], "on the CPU": demand["cores_a_gpu_with_cpu_crops"]}
        needed = " or ".join(f"{count:.1f} with the crops {where}" for where, count in cores.items() if count)
        said.append(
            f"An A100 would take {takes:,.0f} images/s, if it trains ResNet-50 on "
            f"{demand['assumed_images_of_224_px']:,} images/s of 224 px (NVIDIA's example) and an image of this recipe "
            f"costs {demand['cost_in_images_of_224_px']:.1f} of those. Cores like these that feed it: {needed}."
        )
        at_first = demand["images_per_second_of_a_gpu_at_first"]
        if at_first != takes:
            said.append(
                "That is the mean over the run, whose crops grow: while they are smallest, it would take "
                f"{at_first:,.0f} images/s, and as many more cores."
            )
        if machine.gpus and gpu_crops:
            wanted = takes * plan.ranks
            limit = "the GPUs, not the loader" if gpu_crops >= wanted else "the host's cores"
            said.append(f"For {plan.ranks} such ranks, {wanted:,.0f} images/s, the limit is {limit}.")
    if not machine.gpus:
        said.append("On this machine itself the limit is the training step, which runs on the CPU.")
    if Path(plan.path).suffix != ".beton" and Reference.parse(plan.path) is None:
        cure = "python tools/write_ffcv.py folder --root IMAGES --out DATA writes them (tars and parquet likewise)"
        said.append(terminal.as_typed(f"FFCV decodes .beton files: {cure}."))
    if not plan.fits_page_cache:
        rate = report.size(plan.facts.stored / plan.facts.images * (gpu_crops or cpu_crops))
        said.append(f"The disk must read {rate}/s to feed that, since the dataset does not stay in memory.")
    return said
