"""Which images keep their label in semi-supervised fine-tuning: a percentage, or a public list of file names."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from fastintl.distributed import World
from loaders.download import download
from loaders.errors import UserError
from loaders.files import file_digest
from loaders.order import permutation
from loaders.sources import Images

_SIMCLR = "https://raw.githubusercontent.com/google-research/simclr/383d4143fd8cf7879ae10f1046a9baeb753ff438"
# The lists of SimCLR (Chen et al., arXiv 2002.05709), which INTL, Barlow Twins and the field take: URL and SHA-256.
PUBLIC_LISTS = {
    "imagenet-1pct": (
        f"{_SIMCLR}/imagenet_subsets/1percent.txt",
        "71e82a48ba78252683ae334c4d019ebd5c6e855b9599c1389fbe83eb9549cf17",
    ),
    "imagenet-10pct": (
        f"{_SIMCLR}/imagenet_subsets/10percent.txt",
        "6d09de11e7bdaf5b1f3b1f249b6183695f97310cdd20f0c03e7235b6b9392091",
    ),
}


def labelled_samples(
    images: Images, percent: float | None, listed_by: str | None, seed: int, world: World
) -> np.ndarray:
    """The ids of the images whose labels are used, ascending.

    Args:
        percent: share of each class, see ``balanced``; None: those that a list names.
        listed_by: name of one of ``PUBLIC_LISTS``, or a file, see ``listed``.
    """
    if percent is not None:
        return balanced(images.labels, percent, seed)
    if listed_by not in PUBLIC_LISTS:
        return listed(images.names, Path(listed_by))
    folder = Path("data") / "lists"
    if world.is_main:
        public_list(listed_by, folder)
    world.barrier()
    return listed(images.names, public_list(listed_by, folder))


def balanced(labels: np.ndarray, percent: float, seed: int = 0) -> np.ndarray:
    """Draws the same percentage of every class, at least one image of each.

    Args:
        labels: (n,) integers.
        percent: above 0, up to 100.
        seed: what the images are drawn from; with one seed, a smaller percentage is part of a larger one.

    Returns:
        Sample ids, ascending.

    Raises:
        UserError: the percentage is out of range.
    """
    if not 0 < percent <= 100:
        raise UserError(f"--percent {percent:g} is not above 0 and up to 100")
    order = permutation(len(labels), seed, 0)
    chosen = []
    for label in np.unique(labels):
        of_class = order[labels[order] == label]
        chosen.append(of_class[: max(1, round(len(of_class) * percent / 100))])
    return np.sort(np.concatenate(chosen))


def listed(names: Sequence[str], path: Path) -> np.ndarray:
    """The images that a file names, one name a line: as in the dataset, or without the folders.

    Args:
        names: the names of the dataset's images, such as ``nXXXXXXXX/nXXXXXXXX_N.JPEG``.
        path: the list; ImageNet's public ones have lines such as ``nXXXXXXXX_N.JPEG``.

    Returns:
        Sample ids, ascending, each once.

    Raises:
        UserError: the list cannot be read, is empty, or holds names that no image has, or several.
    """
    try:
        wanted = [line.strip() for line in path.read_text("utf-8", "surrogateescape").split("\n") if line.strip()]
    except OSError as error:
        raise UserError(f"the list {path} cannot be read: {error.strerror or error}") from error
    if any("\0" in name for name in wanted):
        raise UserError(f"the list {path} cannot be read: no text")
    if not wanted:
        raise UserError(f"the list {path} is empty: it must hold one file name a line")
    ids: dict[str, list[int]] = {}
    for i, name in enumerate(names):
        for known_as in {name, name.rpartition("/")[2]}:
            ids.setdefault(known_as, []).append(i)
    for count, what in ((0, "no image"), (2, "several images")):
        wrong = [name for name in wanted if min(len(ids.get(name, ())), 2) == count]
        if wrong:
            raise UserError(
                f"the list {path} holds {len(wrong):,} of {len(wanted):,} names that {what} of the dataset's "
                f"{len(names):,} has, such as {wrong[0]} (one of the dataset's is {names[0]})"
            )
    return np.unique([ids[name][0] for name in wanted])


def public_list(name: str, folder: Path) -> Path:
    """The file of one of ``PUBLIC_LISTS``, fetched into ``folder`` unless it is there, and checked.

    Raises:
        UserError: it cannot be fetched, or is not the file it should be.
    """
    url, checksum = PUBLIC_LISTS[name]
    path = folder / f"{name}.txt"
    if not path.exists():
        download(url, path, checksum)
    elif file_digest(path, "sha256") != checksum:
        raise UserError(f"{path} is not the list {name}, its SHA-256 differs from {checksum}: remove it")
    return path
