"""queries/s of the exact nearest-neighbour search on the CPU, beside scikit-learn's, faiss-cpu's and the bare matrix
product that each of them contains, on random features.

    python tools/bench.py knn --json knn.json
    python tools/bench.py knn --features 1281167 --channels 2048 --queries 2000 --rounds 1 --mapped /tmp

The second is ImageNet's size: 10.5 GB of features, which lie in a file, as ``features.py`` leaves them, and are read
from it. There the others' indices are left out, for they would copy all of it. ``memory`` is what a search takes beside
the features, its index included, the most at a time.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from loaders.errors import UserError

from .contenders import Contender, ratio, time_in_turn, timed
from .options import add_timing, require_positive
from .own_memory import own_bytes
from .results import Target, print_results, write_result

if TYPE_CHECKING:
    import numpy as np
    import torch

OURS, SCIKIT, FAISS = "fastintl", "scikit-learn, brute force", "faiss-cpu, flat index"
# All threads in one product, and each in tiles of its own, which waits less where others use the machine, too.
PRODUCT, TILES = "matrix product alone", "matrix product alone, in tiles"
_PROMISED = {SCIKIT: None, FAISS: 1.0, PRODUCT: 0.85, TILES: 0.85}
_PRODUCT_BLOCK, _TILE = 4096, 512
_VALIDATION = 50_000  # ImageNet's images to test on


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_timing(parser)
    parser.add_argument("--features", type=int, default=100_000, help="features to search in (default: 100000)")
    parser.add_argument("--queries", type=int, default=2048, help="features to search for (default: 2048)")
    parser.add_argument("--channels", type=int, default=512, help="of a feature (default: 512)")
    parser.add_argument("--k", type=int, default=5, help="neighbours (default: 5)")
    text = "features in a file in this folder, there until the end; no index that would copy them"
    parser.add_argument("--mapped", type=Path, metavar="FOLDER", help=text)


def run(arguments: argparse.Namespace) -> None:
    import numpy as np
    from rich.table import Table

    shape = require_positive(arguments, "features", "queries", "channels", "k", "rounds")
    if arguments.k > arguments.features:
        raise UserError("--k must be at most --features")
    rng = np.random.default_rng(0)
    queries = rng.standard_normal((arguments.queries, arguments.channels), np.float32)
    answers: dict[str, np.ndarray] = {}
    memory: dict[str, int] = {}
    with _features(rng, (arguments.features, arguments.channels), arguments.mapped) as features:
        group = contenders(features, queries, arguments.k, answers, memory, copies=arguments.mapped is None)
        time_in_turn(group, arguments.rounds)
    # The share of the neighbours that are ours, in any order.
    agreement = {name: _overlap(found, answers[OURS]) for name, found in answers.items() if OURS in answers}
    by_name = {contender.name: contender for contender in group}
    targets = [
        Target(f"{OURS} : {name}", least, ratio(by_name[name], by_name[OURS], "seconds"))
        for name, least in _PROMISED.items()
        if name in by_name
    ]
    table = Table(title=f"{arguments.k} nearest of {arguments.features:,} features of {arguments.channels} channels")
    for column in ("search", "queries/s", "memory", "same neighbours"):
        table.add_column(column, justify="left" if column == "search" else "right")
    for contender in group:
        if seconds := contender.median("seconds"):
            agrees = f"{agreement[contender.name]:.2%}" if contender.name in agreement else ""
            taken = f"{memory[contender.name] / 1e6:,.0f} MB" if contender.name in memory else ""
            table.add_row(contender.name, f"{arguments.queries / seconds:,.0f}", taken, agrees)
    rows = [
        c.as_json("seconds", failure="missing") | {"agrees": agreement.get(c.name), "memory_bytes": memory.get(c.name)}
        for c in group
    ]
    write_result(arguments, "knn", **shape, contenders=rows, targets=[target.as_json() for target in targets])
    print_results([table], group, targets)
    if seconds := by_name[OURS].median("seconds"):
        whole = seconds / arguments.queries * _VALIDATION
        print(f"{_VALIDATION:,} queries at this rate: {whole / 60:.1f} min")


@contextmanager
def _features(rng: np.random.Generator, shape: tuple[int, int], place: Path | None) -> Iterator[np.ndarray]:
    """Random features (F, d), in memory, or mapped from a file in ``place`` that is there until the end."""
    import numpy as np

    if place is None:
        yield rng.standard_normal(shape, np.float32)
        return
    with tempfile.TemporaryDirectory(dir=place) as folder:
        file = Path(folder) / "features.npy"
        written = np.lib.format.open_memmap(file, "w+", np.float32, shape)
        for start in range(0, len(written), _PRODUCT_BLOCK):
            rng.standard_normal(out=written[start : start + _PRODUCT_BLOCK], dtype=np.float32)
        written.flush()
        yield np.load(file, mmap_mode="r")


def contenders(
    features: np.ndarray,
    queries: np.ndarray,
    k: int,
    answers: dict[str, np.ndarray],
    memory: dict[str, int],
    copies: bool = True,
) -> list[Contender]:
    """Who is timed. What the searches find at first, untimed, goes to ``answers``: indices (Q, k) by name; and what
    they take for it, to ``memory``, in bytes.

    Args:
        copies: whether those may take part that copy the features.
    """

    def search(name: str, build: Callable) -> Contender:
        def prepare() -> Callable:
            build(features[: max(k, _TILE)], queries[:1], k)()  # imports and compiles
            (run, answers[name]), memory[name] = _with_memory(build, features, queries, k)
            return run

        return Contender(name, partial(timed, prepare))

    copying = [search(SCIKIT, _scikit), search(FAISS, _faiss)]
    return [
        search(OURS, _ours),
        *(copying if copies else []),
        Contender(PRODUCT, partial(timed, partial(_product, features, queries))),
        Contender(TILES, partial(timed, partial(_tiles, features, queries))),
    ]


def _overlap(found: np.ndarray, expected: np.ndarray) -> float:
    """The share of equal indices in the rows of two tables, (Q, k)."""
    import numpy as np

    return statistics.mean(len(np.intersect1d(a, b)) / len(b) for a, b in zip(found, expected, strict=True))


def _ours(features: np.ndarray, queries: np.ndarray, k: int) -> Callable:
    from fastintl.evaluate.nearest import cpu
    from fastintl.evaluate.nearest.knn import MEMORY

    return lambda: cpu.nearest(features, queries, k, "euclidean", MEMORY)[1]


def _scikit(features: np.ndarray, queries: np.ndarray, k: int) -> Callable:
    try:
        from sklearn.neighbors import NearestNeighbors
    except ImportError:
        raise UserError("it is not installed; pip install scikit-learn") from None
    index = NearestNeighbors(n_neighbors=k, algorithm="brute").fit(features)
    return lambda: index.kneighbors(queries, return_distance=False)


def _faiss(features: np.ndarray, queries: np.ndarray, k: int) -> Callable:
    try:
        import faiss
    except ImportError:
        raise UserError("it is not installed; pip install -c constraints.txt -e '.[bench]'") from None
    index = faiss.IndexFlatL2(features.shape[1])
    index.add(features)
    return lambda: index.search(queries, k)[1]


def _with_memory(build: Callable, *arguments: Any) -> tuple[tuple[Callable, np.ndarray], int]:
    """What ``build`` returns of its arguments and what that finds, and the most bytes that both take, looked at every
    10 ms; pages of files are left out."""

    def watch() -> None:
        while not done.wait(0.01):
            seen.append(own_bytes())

    seen, done = [own_bytes()], threading.Event()
    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        run = build(*arguments)
        found = run()
    finally:
        done.set()
        watcher.join()
    return (run, found), max(seen) - seen[0]


def _product(features: np.ndarray, queries: np.ndarray) -> Callable:
    import torch

    feature_Fd, query_Qd = _tensor(features), torch.from_numpy(queries)
    block_QF = torch.empty(len(queries), min(_PRODUCT_BLOCK, len(features)))

    def multiply() -> None:
        for block_Fd in feature_Fd.split(_PRODUCT_BLOCK):
            torch.mm(query_Qd, block_Fd.T, out=block_QF[:, : len(block_Fd)])

    return multiply


def _tensor(features: np.ndarray) -> torch.Tensor:
    import torch

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of a mapped file: nothing writes to it
        return torch.from_numpy(features)


def _tiles(features: np.ndarray, queries: np.ndarray) -> Callable:
    import torch

    from fastintl.evaluate.threads import team

    feature_Fd, threads = _tensor(features), torch.get_num_threads()
    rows = min(_TILE, -(-len(queries) // threads))

    def multiply(query_Qd: torch.Tensor) -> None:
        out = torch.empty(len(query_Qd), min(_TILE, len(feature_Fd)))
        for block_Fd in feature_Fd.split(_TILE):
            torch.mm(query_Qd, block_Fd.T, out=out[:, : len(block_Fd)])

    def multiply_all() -> None:
        with team(threads) as pool:
            list(pool.map(multiply, torch.from_numpy(queries).split(rows)))

    return multiply_all
