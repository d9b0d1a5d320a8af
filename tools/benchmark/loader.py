"""Compares loaders: ours with each source, and what others do for the same crops."""

from __future__ import annotations

import itertools
import statistics
import tempfile
from collections.abc import Callable
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from loaders.recipe import MultiCrop
from tools.benchmark.worker import Contender, Worker, time_round
from tools.benchmark.workload import Workload

_OURS, _BASELINES = "tools.benchmark.loader_ours", "tools.benchmark.loader_baselines"
PIL, VISION, DALI, SIX = "PIL, six pipelines", "torchvision v2, six", "DALI native, CPU", "FFCV, six decodes, no colour"
APART = "ffcv, a process a core"  # what the machine itself makes of more cores
PLAIN = "libjpeg-turbo, one decode"
FLOOR = "decode and resize alone"  # what bounds the full path: no crop can do without either
_SOURCES = ("ffcv", "dali", "memory", "folder")


@dataclass(frozen=True)
class Target:
    """A promise of the project.

    Attributes:
        what: whose rate is divided by whose.
        least: the ratio that was promised; None where the ratio only tells what the machine can do.
        measured: the median over the rounds, None where one of the two could not run.
    """

    what: str
    least: float | None
    measured: float | None

    @property
    def holds(self) -> bool | None:
        return None if self.measured is None or self.least is None else self.measured >= self.least

    def __str__(self) -> str:
        measured = "not measured" if self.measured is None else f"{self.measured:.2f}"
        promised = "" if self.least is None else f"promised {self.least:.2f}"
        verdict = {True: "holds", False: "MISSED", None: ""}[self.holds]
        return f"{self.what:48} {measured:>12}   {promised:13}   {verdict}"


def contenders(cores: int, on_gpu: bool) -> list[list[Contender]]:
    """Who runs against whom: two groups on one core and on all, the full path and decoding alone."""
    full = [
        Contender(PIL, _BASELINES, "authors_pipeline", 1, works_ahead=False),
        Contender(VISION, _BASELINES, "torchvision_v2", 1, works_ahead=False),
        Contender(DALI, _BASELINES, "dali_native", 1),
        Contender(SIX, _BASELINES, "ffcv_six_decodes", 1),
        Contender(FLOOR, _BASELINES, "decode_and_resize", 1, works_ahead=False),
    ]
    decode = [Contender(PLAIN, _BASELINES, "plain_decode", 1, works_ahead=False)]
    for many in sorted({1, cores}):
        full += [Contender(source, _OURS, "full_path", many, (source,)) for source in _SOURCES]
        decode += [Contender(source, _OURS, "decode_only", many, (source,)) for source in ("ffcv", "dali", "folder")]
    if cores > 1:
        full.append(Contender(APART, _OURS, "full_path", cores, ("ffcv",), processes=cores))
    groups = [full, decode]
    if on_gpu:
        groups.append([Contender("crops on the GPU alone", _OURS, "engine_on_gpu", cores, works_ahead=False)])
    return groups


def compare(work: Workload, groups: list[list[Contender]], rounds: int, seconds: float, note: Callable) -> None:
    """Times every contender ``rounds`` times for ``seconds``, those of a group in turn; fills their ``samples``."""
    for group in groups:
        workers: list[list[Worker]] = []
        try:
            for contender in group:
                note(f"starting {contender.name} on {contender.cores}")
                workers.append([])
                for place in range(contender.processes):  # one after the other: two would share the cores
                    workers[-1].append(Worker(contender, work, place))
                    workers[-1][-1].wait_until_warm()
            for round_ in range(rounds):
                note(f"round {round_ + 1} of {rounds}")
                for its_workers in workers:
                    time_round(its_workers, seconds)
        finally:
            for worker in itertools.chain.from_iterable(workers):
                worker.stop()


def targets(full: list[Contender], decode: list[Contender], cores: int) -> list[Target]:
    """The project's promises, measured."""
    one = {c.name: c for c in full if c.cores == 1}
    found = [
        Target("ffcv, full path : PIL, on one core", 6.0, ratio(one["ffcv"], one[PIL])),
        Target("ffcv, full path : DALI native, on one core", 4.0, ratio(one["ffcv"], one[DALI])),
        Target(f"ffcv, full path : {FLOOR}, on one core", None, ratio(one["ffcv"], one[FLOOR])),
    ]
    plain = {c.name: c for c in decode if c.cores == 1}
    found.append(Target("ffcv, decode only : libjpeg-turbo, on one core", 1 / 1.25, ratio(plain["ffcv"], plain[PLAIN])))
    if cores > 1:
        for source in _SOURCES:
            many = next(c for c in full if c.name == source and c.cores == cores)
            found.append(Target(f"{source}, full path : itself on one core", 0.9 * cores, ratio(many, one[source])))
        apart = next(c for c in full if c.name == APART)
        found.append(Target(f"{APART} : one process on one core", None, ratio(apart, one["ffcv"])))
    return found


def ratio(first: Contender, second: Contender) -> float | None:
    """Median over the rounds of the two rates' ratio; rounds are taken in turn, so drift hits both alike."""
    pairs = list(zip(first.samples, second.samples, strict=False))
    return statistics.median(a[0] / b[0] for a, b in pairs) if pairs else None


def rate(contender: Contender) -> float | None:
    """Median images a second."""
    return statistics.median(sample[0] for sample in contender.samples) if contender.samples else None


@contextmanager
def workload(data: Path, recipe: MultiCrop, batch_size: int, device: str, note: Callable):
    """The work on ``data``; a folder is converted to a temporary ``.beton`` for those who read nothing else."""
    if not data.is_dir():
        yield Workload(data, data, recipe, batch_size, 1, device)
        return
    from loaders.beton.convert import convert
    from loaders.datasets.folder import class_tree

    with tempfile.TemporaryDirectory() as place:
        note(f"writing the images of {data} as a .beton file")
        beton = Path(place) / "images.beton"
        convert(class_tree(data), beton)
        yield Workload(data, beton, recipe, batch_size, 1, device)


def left_out(group: list[Contender]) -> list[str]:
    """Those of a group that could not run, on how many cores, and why."""
    return [f"{contender.name} on {contender.cores}: {contender.error}" for contender in group if contender.error]


def as_json(groups: list[list[Contender]]) -> list[dict]:
    """Contenders with every sample, as plain values."""
    names = ("full path", "decode only", "crops on the GPU")
    return [row for name, group in zip(names, groups, strict=False) for row in as_rows(name, group)]


def as_rows(name: str, group: list[Contender]) -> list[dict]:
    """Those of one group, which is called ``name``."""
    rows = []
    for contender in group:
        row = asdict(contender)
        samples = row.pop("samples")
        row |= {
            "group": name,
            "images_per_second": [sample[0] for sample in samples],
            "cpu_seconds_per_image": [sample[1] for sample in samples],
            "median_images_per_second": rate(contender),
        }
        rows.append(row)
    return rows
