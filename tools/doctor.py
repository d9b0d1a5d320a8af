"""Says what can run here and what a dataset asks of this machine, before a run is started.

Without --data: the sources of images and what the missing ones need, the GPUs and their precision. With --data
also the dataset's size against the memory, the memory of the loader's buffers, and the images a second that this
machine's cores can feed, measured on some of its images (a few seconds).
"""

from __future__ import annotations

import argparse
import logging
import math
import sys
import textwrap
from dataclasses import asdict
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from loaders.errors import UserError, exit_on_user_error  # noqa: E402
from loaders.files import write_json  # noqa: E402

# ResNet-50 at 224 px on one A100 in NVIDIA's PyTorch example, images/s: the assumption behind what GPUs take.
_A100_IMAGES_PER_SECOND = 2470


def parse_arguments(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, metavar="FILE", help="a .beton file or a folder class/image")
    parser.add_argument("--ranks", type=int, metavar="N", help="ranks on this machine (default: one a GPU)")
    parser.add_argument("--batch-size", type=int, metavar="B", help="of all ranks together (default: the recipe's)")
    parser.add_argument("--rcfg", metavar="FILE", help="a recipe, such as rcfgs/ep100.yaml (default: ep100's values)")
    parser.add_argument("--json", type=Path, metavar="PATH", help="write what is found as JSON, too")
    return parser.parse_args(arguments)


@exit_on_user_error
def main(arguments: list[str] | None = None) -> None:
    given = parse_arguments(arguments)
    logging.getLogger("loaders").addHandler(logging.NullHandler())  # bad images are counted in the table
    report = examine(given)
    print_report(report)
    if given.json is not None:
        write_json(given.json, report)


def examine(given: argparse.Namespace) -> dict:
    """All that is to be said, as plain data."""
    from rich.console import Console

    from fastintl import config as configuration

    config = configuration.load(given.rcfg)

    from loaders.environment import this_machine
    from loaders.planning import installed

    sources, machine = installed.sources(), this_machine()
    report = {
        "sources": [asdict(status) for status in sources],
        "packages": [asdict(status) for status in installed.packages()],
        "machine": asdict(machine) | training(machine),
        "plan": None,
        "demand": None,
    }
    if given.data is None:
        return report

    from fastintl.data import multi_crop
    from loaders.planning.plan import make_plan

    usable = [status.name for status in sources if status.usable]
    if "folder" not in usable:
        raise UserError(f"no image can be read, {sources[-1].about}: {sources[-1].cure}")
    ranks = max(1, len(machine.gpus)) if given.ranks is None else given.ranks
    batch_size = config.train.batch_size if given.batch_size is None else given.batch_size
    with Console(stderr=True).status("measuring"):
        plan = asdict(make_plan(given.data, multi_crop(config.crops), batch_size, ranks, machine, usable))
    return report | {"plan": plan, "demand": demand(config, plan, machine.cores)}


def training(machine) -> dict[str, str]:
    """The number format that ``train.precision=auto`` takes here, and what cuts the crops."""
    import torch

    from fastintl.network.precision import autocast_dtype
    from loaders.multicrop.device import choose_implementation

    device = torch.device("cuda" if machine.gpus else "cpu")
    crops = choose_implementation(device) if machine.gpus else "cpu"
    return {"precision": str(autocast_dtype("auto", device)).removeprefix("torch."), "crops": crops}


def demand(config, plan: dict, cores: int) -> dict | None:
    """What one A100 would take of this recipe and how many cores feed it; None for other networks than ResNet-50.

    The cost of an image is counted in trained images of 224 px: forward and backward over a view cost by its area,
    the EMA target's forward alone a third.
    """
    if (config.model.arch, config.model.stem) != ("resnet50", "imagenet"):
        return None
    areas = [(side / 224) ** 2 for side in config.crops.sizes]
    cost = areas[0] / 3 + sum(areas[1:]) if config.model.ema else sum(areas)
    takes, (gpu_crops, cpu_crops) = _A100_IMAGES_PER_SECOND / cost, feeds(plan)
    return {
        "assumed_images_of_224_px": _A100_IMAGES_PER_SECOND,
        "cost_in_images_of_224_px": cost,
        "images_per_second_of_a_gpu": takes,
        "cores_a_gpu_with_gpu_crops": takes * cores / gpu_crops if gpu_crops else None,
        "cores_a_gpu_with_cpu_crops": takes * cores / cpu_crops,
    }


def feeds(plan: dict) -> tuple[float | None, float]:
    """Images/s that all cores feed, with the crops on GPUs (None: the host does not decode) and on the CPU."""
    decoding = [source for source in plan["sources"] if source["decode_per_core"]]
    gpu_crops = [source["feeds_gpu_crops"] for source in decoding if source["feeds_gpu_crops"]]
    return max(gpu_crops, default=None), max(source["feeds_cpu_crops"] for source in decoding)


def print_report(report: dict) -> None:
    from rich.console import Console

    console = Console(highlight=False, markup=False)
    console.width = min(console.width, 100) if console.is_terminal else 100
    print_installed(console, report["sources"] + report["packages"])
    print_machine(console, report["machine"])
    if report["plan"] is None:
        print_grid(console, "data", [("none given", "--data FILE_OR_FOLDER measures what this machine feeds from it")])
        return
    print_data(console, report["plan"], report["machine"])
    print_memory(console, report["plan"], report["machine"])
    print_rates(console, report["plan"], report["machine"])
    console.print("bottleneck", style="bold")
    for sentence in conclusions(report["plan"], report["machine"], report["demand"]):
        console.print(textwrap.indent(textwrap.fill(sentence, console.width - 2), "  "))


def print_grid(console, title: str, rows: list[tuple[str, ...]], numbers: bool = False) -> None:
    from rich.padding import Padding
    from rich.table import Table

    grid = Table.grid(padding=(0, 2))
    for column in range(len(rows[0])):
        grid.add_column(justify="right" if numbers and column else "left", no_wrap=column < len(rows[0]) - 1)
    for row in rows:
        grid.add_row(*row)
    console.print(title, style="bold")
    console.print(Padding(grid, (0, 0, 0, 2), expand=False))


def print_installed(console, found: list[dict]) -> None:
    print_grid(
        console,
        "sources of images, packages",
        [(status["name"], "yes" if status["usable"] else "no", status["about"]) for status in found],
    )
    for status in found:
        if not status["usable"]:  # broken as a shell takes it, to be pasted
            words = textwrap.wrap(status["cure"], console.width - 8, break_on_hyphens=False, break_long_words=False)
            console.print(f"  to have {status['name']}:", style="bold")
            console.print("    " + " \\\n      ".join(words), soft_wrap=True)


def print_machine(console, machine: dict) -> None:
    rows = [
        ("CPU", f"{machine['processor']}, {machine['cores']} cores for this process"),
        ("memory", f"{size(machine['free'])} of {size(machine['memory'])} free"),
    ]
    for gpu in machine["gpus"]:
        about = f"{gpu['name']}, compute capability {gpu['capability']}"
        rows.append(("GPU", f"{about}, {size(gpu['free'])} of {size(gpu['memory'])} free"))
    if machine["gpus"]:
        by = {"triton": "Triton kernels", "batched": "batched torch operations"}[machine["crops"]]
        rows.append(("training", f"in {machine['precision']} (train.precision=auto); {by} cut the crops"))
    else:
        rows.append(("GPU", f"no GPU: training runs on the CPU in {machine['precision']}"))
    print_grid(console, "machine", rows)


def print_data(console, plan: dict, machine: dict) -> None:
    facts, ranks, free = plan["facts"], plan["ranks"], size(machine["free"])
    mean, largest = facts["mean_size"], facts["largest_size"]
    sample = f"; sizes estimated from {facts['sampled']} of them" if facts["sampled"] else ""
    cached = f"fits the {free} free, one page cache for all ranks"
    not_cached = f"more than the page cache can hold of the {free} free: every epoch reads the disk"
    where = "each GPU" if plan["on_gpu"] else f"memory, {ranks} x {size(facts['decoded'])}"
    rows = [
        ("images", f"{facts['images']:,} in {facts['classes']:,} classes, {facts['jpegs']:.0%} JPEG{sample}"),
        ("size", f"{mean[1]:.0f} x {mean[0]:.0f} px on average, up to {largest[1]} x {largest[0]} px"),
        ("on disk", f"{size(facts['stored'])}: {cached if plan['fits_page_cache'] else not_cached}"),
        ("as pixels", f"{size(facts['decoded'])}: {'fits' if plan['fits_memory'] else 'too much for'} {where}"),
    ]
    bad = max(facts["unreadable"], plan["undecodable"])  # a file without an image is both
    if bad:
        rows.append(("damaged", f"{bad} of the images looked at"))
    print_grid(console, f"data: {plan['path']}", rows)


def print_memory(console, plan: dict, machine: dict) -> None:
    ranks = plan["ranks"]
    rows = [("", "pixels", "views", "work", "kept by malloc", "a rank", f"{ranks} rank{'s'[: ranks > 1]}", "")]
    for source in plan["sources"]:
        memory, total = source["memory"], source["memory_all"]
        parts = [size(memory[part]) for part in ("pixels", "views", "work", "kept")]
        verdict = "fits" if total <= machine["free"] else "TOO MUCH"
        rows.append((source["source"], *parts, size(total // ranks), size(total), verdict))
    title = f"host memory of the loader's buffers at most, {plan['images']} images a rank"
    print_grid(console, title, rows, numbers=True)


def print_rates(console, plan: dict, machine: dict) -> None:
    cores = machine["cores"]
    rows = [("", "decode", "decode + crops", "crops on a GPU", "crops on the CPU")]
    for source in plan["sources"]:
        decode, both, fed = (source[key] for key in ("decode_per_core", "feeds_cpu_crops", "feeds_gpu_crops"))
        on_gpu = f"{fed:,.0f}" if fed else ("nothing to do" if decode is None else "GPU decodes")
        decode = f"{decode:,.0f}" if decode else "done once"
        rows.append((source["source"], decode, f"{both / cores:,.0f}", on_gpu, f"{both:,.0f}"))
    title = f"images/s: one core, measured with the CPU decoders; all {cores}, estimated as {cores} times that"
    print_grid(console, title, rows, numbers=True)


def conclusions(plan: dict, machine: dict, demand: dict | None) -> list[str]:
    """What limits training, in sentences."""
    gpu_crops, cpu_crops = feeds(plan)
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
        if machine["gpus"] and gpu_crops:
            wanted = takes * plan["ranks"]
            limit = "the GPUs, not the loader" if gpu_crops >= wanted else "the host's cores"
            said.append(f"For {plan['ranks']} such ranks, {wanted:,.0f} images/s, the limit is {limit}.")
    if not machine["gpus"]:
        said.append("On this machine itself the limit is the training step, which runs on the CPU.")
    if Path(plan["path"]).is_dir():
        said.append(
            "FFCV decodes .beton files: python tools/write_ffcv.py folder --root IMAGES --out DATA writes them."
        )
    if not plan["fits_page_cache"]:
        rate = plan["facts"]["stored"] / plan["facts"]["images"] * (gpu_crops or cpu_crops)
        said.append(f"The disk must read {size(rate)}/s to feed that, since the dataset does not stay in memory.")
    return said


def size(count: float) -> str:
    """Bytes for people."""
    power = min(int(math.log10(max(count, 1)) / 3), 4)
    return f"{count / 1000**power:.3g} {('B', 'kB', 'MB', 'GB', 'TB')[power]}"


if __name__ == "__main__":
    main()
