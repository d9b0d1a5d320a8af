"""What a dataset asks of this machine: its size, the loader's memory, and the images that the cores can feed."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from loaders.environment import Machine
from loaders.errors import UserError
from loaders.planning.data_facts import DataFacts, data_facts
from loaders.planning.loader_memory import LoaderMemory, loader_memory
from loaders.planning.rates import crop_rate, decode_rate
from loaders.recipe import MultiCrop
from loaders.sources import open_images
from loaders.sources.images import BetonImages
from loaders.sources.memory import SHARE
from loaders.sources.quarantine import Quarantine


@dataclass(frozen=True)
class SourcePlan:
    """What one source would do.

    Attributes:
        source: the source's name.
        memory: bytes that one rank's loader takes.
        memory_all: bytes that the loaders of all ranks take together on the host.
        decode_per_core: images that one core decodes in a second of its time, measured; None where none are decoded.
        feeds_gpu_crops: images per second that all cores feed where GPUs cut the crops, an estimate; None where the
            host does not decode for them: from memory there is nothing to decode, DALI leaves it to the GPU.
        feeds_cpu_crops: the same where the CPU cuts the crops, too.
    """

    source: str
    memory: LoaderMemory
    memory_all: int
    decode_per_core: float | None
    feeds_gpu_crops: float | None
    feeds_cpu_crops: float


@dataclass(frozen=True)
class Plan:
    """A dataset on this machine.

    Attributes:
        path: the dataset.
        facts: what it holds.
        ranks: processes on this machine.
        images: images in one rank's share of a batch.
        threads: host threads of one rank.
        on_gpu: whether the crops are cut on a GPU.
        fits_page_cache: whether the stored bytes fit the free memory beside the loaders' buffers, whatever the source.
        fits_memory: whether the memory source would take the dataset, in every rank.
        crops_per_core: decoded images whose views one core cuts in a second, measured.
        undecodable: images that could not be decoded while this was measured.
        sources: the sources that run here and read this dataset.
    """

    path: str
    facts: DataFacts
    ranks: int
    images: int
    threads: int
    on_gpu: bool
    fits_page_cache: bool
    fits_memory: bool
    crops_per_core: float
    undecodable: int
    sources: list[SourcePlan]

    @property
    def feeds_gpu_crops(self) -> float | None:
        """Images/s that all cores feed where GPUs cut the crops; None: no source decodes on the host for them."""
        return max((source.feeds_gpu_crops for source in self.sources if source.feeds_gpu_crops), default=None)

    @property
    def feeds_cpu_crops(self) -> float:
        """Images/s that all cores feed where they cut the crops too, from a source that decodes every epoch."""
        return max(source.feeds_cpu_crops for source in self.sources if source.decode_per_core)


def make_plan(
    data: Path,
    recipe: MultiCrop,
    batch_size: int,
    ranks: int,
    machine: Machine,
    usable: list[str],
    view_bytes: int = 4,
) -> Plan:
    """Looks at a dataset and measures, which takes one or two seconds for each source.

    Args:
        data: a ``.beton`` file or a folder ``class/image``.
        batch_size: images in a batch, over all ranks.
        ranks: processes on this machine; they share its cores and its memory.
        usable: names of the sources that run here.
        view_bytes: bytes of a value of the views.

    Raises:
        UserError: bad data, or a batch that the ranks cannot share.
    """
    if ranks < 1 or batch_size < 1 or batch_size % ranks:
        raise UserError(f"a batch of {batch_size} images cannot be shared evenly by {ranks} ranks")
    images = open_images(data)
    facts, on_gpu, threads = data_facts(images), bool(machine.gpus), max(1, machine.cores // ranks)
    quarantine = Quarantine(images.path, len(images), max_bad=1.0)
    crops = crop_rate(images, facts, recipe, quarantine)
    plans = []
    for source in usable:
        if source == "ffcv" and not isinstance(images, BetonImages):
            continue
        memory = loader_memory(source, facts, recipe, batch_size // ranks, threads, on_gpu, view_bytes)
        decode = None if source == "memory" else decode_rate(images, facts, source, quarantine)
        plans.append(
            SourcePlan(
                source=source,
                memory=memory,
                memory_all=memory.total * ranks,
                decode_per_core=decode,
                feeds_gpu_crops=machine.cores * decode if source in ("ffcv", "folder") else None,
                feeds_cpu_crops=machine.cores / (1 / crops + (1 / decode if decode else 0)),
            )
        )
    buffers = max(plan.memory_all for plan in plans if plan.source != "memory")
    return Plan(
        path=str(data),
        facts=facts,
        ranks=ranks,
        images=batch_size // ranks,
        threads=threads,
        on_gpu=on_gpu,
        fits_page_cache=facts.stored + buffers <= machine.free,
        fits_memory=_fits_memory(facts.decoded, machine, ranks),
        crops_per_core=crops,
        undecodable=len(quarantine),
        sources=plans,
    )


def _fits_memory(decoded: int, machine: Machine, ranks: int) -> bool:
    """Every rank keeps the pixels for itself, on its GPU where it has one."""
    if machine.gpus:
        return decoded <= SHARE * min(gpu.free for gpu in machine.gpus)
    return decoded * ranks <= SHARE * machine.free
