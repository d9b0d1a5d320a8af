"""What a backbone learnt, to look at: the nearest training images of held-out ones, a map, accuracy per class.

Shapes: Q images asked, F images searched, d channels, P points of the map.
"""

from __future__ import annotations

import base64
import importlib.util
import io
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from fastintl import config as configuration
from fastintl.config import Config
from fastintl.data import find, find_labelled, host_threads
from fastintl.distributed import World
from fastintl.evaluate.backbone import EvaluatedBackbone, Reading
from fastintl.evaluate.features import StoredFeatures, cached_features
from fastintl.evaluate.labels import require_same_classes
from fastintl.evaluate.nearest import knn
from fastintl.report.crops import to_pixels
from fastintl.report.neighbours import Gallery, Layout, Neighbours, Tile
from fastintl.runs.folder import RunFolder
from loaders import UserError, make_loader
from loaders.sources import Images, open_images

_ASKED_SHOWN, _WRONG_SHOWN, _SHOWN = 12, 12, 5  # queries of the two galleries, and neighbours of each
_PAIRS = 20  # of classes that are confused
_SIDE, _MAP_SIDE, _QUALITY = 96, 56, 80  # of the images in the page, in pixels, and of their JPEG
_SEED = 0  # of the maps that draw at random
_PACKAGES = {"tsne": ("sklearn", "scikit-learn"), "umap": ("umap", "umap-learn")}


def data_of_run(folder: Path) -> tuple[Path, Path | None, int]:
    """The images of a run: the labelled training images, those held out (None: none are), and its ``eval.k``.

    Raises:
        UserError: no run, or its images are no longer where they were.
    """
    path = RunFolder(folder).config
    if not path.is_file():
        raise UserError(f"{folder} is no run: there is no {path}; name the images by --train and --val, and --out")
    config: Config = configuration.from_yaml(path.read_text(), str(path))
    try:
        train = find_labelled(config)
        return train, find(config, "val"), config.eval.k
    except UserError as error:
        raise UserError(f"{error}; or name the images by --train and --val") from error


def require_layout(name: str) -> None:
    """Refuses the name of a map whose package is not installed."""
    if name in _PACKAGES and importlib.util.find_spec(_PACKAGES[name][0]) is None:
        raise UserError(f"--map {name} needs a package: pip install {_PACKAGES[name][1]}, or --map pca")


def find_neighbours(
    backbone: EvaluatedBackbone,
    title: str,
    train: Path,
    val: Path | None,
    cache: Path,
    world: World,
    reading: Reading,
    k: int,
    points: int,
    layout: str,
) -> Neighbours | None:
    """Looks for the nearest images of ``train`` of every image of ``val``; the ranks share the features.

    Args:
        title: what the page is called.
        val: None: the images of ``train``, each among the others.
        cache: folder that keeps the features.
        k: neighbours that vote.
        points: at most so many images on the map.
        layout: "pca", "tsne", "umap", or "auto": what is installed of the last two.

    Returns:
        What was found; None on every rank but the first.

    Raises:
        UserError: as ``cached_features``; other classes, or fewer images than neighbours.
    """
    require_layout(layout)
    searched, asked, among_itself = open_images(train), open_images(val or train), val is None
    require_same_classes(searched, asked)
    candidates = len(searched) - among_itself
    if k > candidates:
        raise knn.out_of_range(k, candidates)
    bank = cached_features(backbone, train, cache, world, reading)
    queries = bank if among_itself else cached_features(backbone, val, cache, world, reading)
    if not world.is_main:
        return None
    shown = min(_SHOWN, candidates)
    answers = _answers(searched, asked, bank, queries, k, max(k, shown), among_itself, world.device)

    def thumbnails(images: Images, rows: np.ndarray, side: int) -> dict[int, str]:
        return _thumbnails(images, backbone, rows, reading, world, side)

    by_class = np.argsort(queries.labels, kind="stable")  # so that a sample is of all classes
    sample_P = _spread(by_class, points)
    on_map = thumbnails(asked, sample_P, _MAP_SIDE)
    return Neighbours(
        title=title,
        backbone=str(backbone.path),
        sha256=backbone.sha256 or "",
        searched=len(searched),
        asked=len(asked),
        held_out=not among_itself,
        k=k,
        accuracy=answers.accuracy(),
        classes=answers.by_class(),
        confused=answers.confused(),
        galleries=_galleries(answers, by_class, shown, thumbnails),
        tiles=[answers.point(q, on_map[q]) for q in sample_P.tolist()],
        layouts=list(_layouts(np.asarray(queries.features[sample_P], np.float64), layout)),
    )


@dataclass(frozen=True)
class _Answers:
    """The images asked, with their neighbours and what those say.

    Attributes:
        searched, asked: the two sets of images, which may be one.
        label_F, label_Q: their labels.
        square_Qn, index_Qn: squared distances of the neighbours and which of F they are, the nearest first.
        voted_Q: the classes that the vote finds; None where not all images have a label.
    """

    searched: Images
    asked: Images
    label_F: Tensor
    label_Q: Tensor
    square_Qn: Tensor
    index_Qn: Tensor
    voted_Q: Tensor | None

    def is_right(self, q: int) -> bool | None:
        """Whether the vote finds the class of an image asked; None without labels."""
        return None if self.voted_Q is None else bool(self.voted_Q[q] == self.label_Q[q])

    def query(self, q: int, image: str) -> Tile:
        said = f"the vote says {self._name(self.voted_Q[q])}" if self.is_right(q) is False else ""
        return Tile(image, self._text(self.asked, self.label_Q, q), self.is_right(q), more=said)

    def neighbour(self, q: int, place: int, image: str) -> Tile:
        """The neighbour of an image asked that is the nearest but ``place``."""
        f = int(self.index_Qn[q, place])
        same = None if self.voted_Q is None else bool(self.label_F[f] == self.label_Q[q])
        distance = f"distance {self.square_Qn[q, place].item() ** 0.5:.3g}"
        return Tile(image, self._text(self.searched, self.label_F, f), same, more=distance)

    def point(self, q: int, image: str) -> Tile:
        """An image asked as a point of the map."""
        colour = 0 if self.voted_Q is None else int(self.label_Q[q])
        said = f"taken for {self._name(self.voted_Q[q])}" if self.is_right(q) is False else ""
        return Tile(image, self._text(self.asked, self.label_Q, q), colour=colour, more=said)

    def accuracy(self) -> float | None:
        """The share of the images asked whose class the vote finds; None without labels."""
        return None if self.voted_Q is None else float((self.voted_Q == self.label_Q).double().mean())

    def by_class(self) -> list[tuple[str, int, int]]:
        """Name, images found and images of each class that is asked for; none without labels."""
        if self.voted_Q is None:
            return []
        counts = self.label_Q.bincount()
        right = self.label_Q[self.voted_Q == self.label_Q].bincount(minlength=len(counts))
        return [(self._name(c), int(right[c]), int(counts[c])) for c in counts.nonzero().flatten().tolist()]

    def confused(self) -> list[tuple[str, str, int]]:
        """Class, class that was found in its place, and how often, the most frequent first; none without labels."""
        if self.voted_Q is None:
            return []
        wrong = self.voted_Q != self.label_Q
        pairs = Counter(zip(self.label_Q[wrong].tolist(), self.voted_Q[wrong].tolist(), strict=True))
        ordered = sorted(pairs.items(), key=lambda entry: (-entry[1], entry[0]))
        return [(self._name(a), self._name(b), count) for (a, b), count in ordered[:_PAIRS]]

    def _text(self, images: Images, labels: Tensor, index: int) -> str:
        """What to call an image: its class where all have a label, else its file."""
        return Path(images.names[index]).name if self.voted_Q is None else self._name(labels[index])

    def _name(self, label: Tensor | int) -> str:
        """A class's name, or its number where the dataset has no names."""
        classes, label = self.searched.classes or self.asked.classes, int(label)
        return classes[label] if label < len(classes) else f"class {label}"


def _answers(
    searched: Images,
    asked: Images,
    bank: StoredFeatures,
    queries: StoredFeatures,
    k: int,
    n: int,
    among_itself: bool,
    device: torch.device,
) -> _Answers:
    """Searches n neighbours of each image asked, of which k vote.

    Args:
        among_itself: whether the images asked are those searched, of which none is a neighbour of its own.
    """
    square, index = knn.nearest(bank.features, queries.features, n + among_itself, device=device)
    if among_itself:
        square, index = _without_itself(square, index)
    label_F, label_Q = (torch.from_numpy(np.array(stored.labels)) for stored in (bank, queries))
    labelled = bool((label_F >= 0).all() and (label_Q >= 0).all())
    voted_Q = knn.majority(label_F, index[:, :k]) if labelled else None
    return _Answers(searched, asked, label_F, label_Q, square, index, voted_Q)


def _galleries(
    answers: _Answers, by_class: np.ndarray, shown: int, thumbnails: Callable[[Images, np.ndarray, int], dict[int, str]]
) -> list[Gallery]:
    """Images from the whole set, and some that the vote takes for another class, each with its neighbours.

    Args:
        by_class: the images asked, those of a class beside each other.
        shown: how many neighbours of each.
    """
    is_wrong_Q = np.zeros(len(by_class), bool)
    if answers.voted_Q is not None:
        is_wrong_Q = (answers.voted_Q != answers.label_Q).numpy()
    wrong = by_class[is_wrong_Q[by_class]]
    samples = _spread(by_class, _ASKED_SHOWN), _spread(wrong, _WRONG_SHOWN)
    rows = np.concatenate(samples)
    near = answers.index_Qn[rows, :shown].numpy()
    of_asked, of_searched = thumbnails(answers.asked, rows, _SIDE), thumbnails(answers.searched, near.flatten(), _SIDE)

    def row(q: int) -> list[Tile]:
        near = enumerate(answers.index_Qn[q, :shown].tolist())
        return [answers.query(q, of_asked[q]), *(answers.neighbour(q, n, of_searched[f]) for n, f in near)]

    titles = "Images from the whole set, and their nearest", "Taken for another class"
    return [Gallery(title, [row(q) for q in rows.tolist()]) for title, rows in zip(titles, samples, strict=True)]


def _without_itself(square_Qk: Tensor, index_Qk: Tensor) -> tuple[Tensor, Tensor]:
    """The neighbours of images among themselves (Q, k) without the image itself: (Q, k - 1).

    Of many that are equal an image need not be among its own nearest: then the farthest is left out.
    """
    is_self = index_Qk == torch.arange(len(index_Qk))[:, None]
    is_self[:, -1] |= ~is_self.any(1)
    kept = (len(index_Qk), index_Qk.shape[1] - 1)
    return square_Qk[~is_self].view(kept), index_Qk[~is_self].view(kept)


def _spread(rows: np.ndarray, most: int) -> np.ndarray:
    """At most so many, evenly from the first on."""
    return rows if len(rows) <= most else rows[np.linspace(0, len(rows), most, endpoint=False).astype(np.int64)]


def _thumbnails(
    images: Images, backbone: EvaluatedBackbone, rows: np.ndarray, reading: Reading, world: World, side: int
) -> dict[int, str]:
    """Images as the backbone is given them, cropped, and small, as ``data:`` URIs by their index."""
    wanted = np.unique(rows)
    if not len(wanted):
        return {}
    # Of this rank alone: the others are done.
    loader = make_loader(
        images,
        backbone.crop,
        min(reading.batch_size, len(wanted)),
        samples=wanted,
        source=reading.source,
        device=world.device,
        threads=host_threads(reading.threads),
    )
    with closing(loader):
        views = [view for batch in loader for view in batch.views[0]]
        uris = (_as_uri(to_pixels(view, backbone.crop), side) for view in views)
        return dict(zip(wanted.tolist(), uris, strict=True))


def _as_uri(pixels: np.ndarray, side: int) -> str:
    """(s, s, 3) in [0, 1] as a JPEG of at most ``side`` pixels."""
    image = Image.fromarray((255 * pixels).round().astype(np.uint8))
    if image.width > side:
        image = image.resize((side, side), Image.Resampling.LANCZOS)
    file = io.BytesIO()
    image.save(file, "JPEG", quality=_QUALITY)
    return f"data:image/jpeg;base64,{base64.b64encode(file.getvalue()).decode()}"


def _layouts(features_Pd: np.ndarray, name: str) -> Iterator[Layout]:
    """The maps: PCA's always, and beside it the one that is asked for, or that can be had."""
    centred_Pd = features_Pd - features_Pd.mean(0)
    points_P2, shares = principal_components(centred_Pd)
    note = "The two directions in which features differ most, of {}, hold {:.0%} and {:.0%} of the variance."
    yield Layout("PCA", note.format(_count(features_Pd), *shares), _rounded(points_P2))
    if name == "auto":
        installed = (kind for kind in ("umap", "tsne") if importlib.util.find_spec(_PACKAGES[kind][0]))
        name = next(installed, "pca")
    if name == "pca" or len(features_Pd) < 5:
        return
    note = "Neighbours stay together; distances between groups, and their sizes, say little."
    if name == "umap":
        from umap import UMAP

        found = UMAP(n_neighbors=min(15, len(centred_Pd) - 1), random_state=_SEED).fit_transform(centred_Pd)
        yield Layout("UMAP", note, _rounded(found))
    else:
        from sklearn.manifold import TSNE

        found = TSNE(perplexity=min(30, (len(centred_Pd) - 1) / 3), init="pca", random_state=_SEED)
        yield Layout("t-SNE", note, _rounded(found.fit_transform(centred_Pd)))


def principal_components(centred_Pd: np.ndarray) -> tuple[np.ndarray, tuple[float, float]]:
    """Coordinates (P, 2) along the two directions of most variance, and their shares of it; zeros where there is none.

    A direction's sign is that which makes its largest entry positive.
    """
    _, length, direction = np.linalg.svd(centred_Pd, full_matrices=False)
    points_P2, shares = np.zeros((len(centred_Pd), 2)), [0.0, 0.0]
    total = float(np.square(length).sum())
    for n in range(min(2, len(length))):
        axis = direction[n] * np.sign(direction[n][np.abs(direction[n]).argmax()])
        points_P2[:, n] = centred_Pd @ axis
        shares[n] = float(length[n] ** 2 / total) if total else 0.0
    return points_P2, (shares[0], shares[1])


def _count(features_Pd: np.ndarray) -> str:
    return f"{len(features_Pd):,} images"


def _rounded(points: np.ndarray) -> list[tuple[float, float]]:
    return [(float(f"{x:.5g}"), float(f"{y:.5g}")) for x, y in points.tolist()]
