"""What a backbone learnt, to look at: the nearest training images of held-out ones, a map, accuracy per class.

Shapes: Q images asked, F images searched, d channels, P points of the map.
"""

from __future__ import annotations

import base64
import importlib.util
import io
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import closing
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from fastintl import config as configuration
from fastintl.config import Config
from fastintl.data import find, host_threads
from fastintl.distributed import World
from fastintl.evaluate.backbone import EvaluatedBackbone, Reading
from fastintl.evaluate.features import cached_features
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
        train = find(config, "train_labelled") or find(config, "train")
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
    searched, asked = open_images(train), open_images(val or train)
    require_same_classes(searched, asked)
    shown = min(_SHOWN, len(searched) - (val is None))
    if max(k, shown) > len(searched) - (val is None):
        raise knn.out_of_range(k, len(searched) - (val is None))
    bank = cached_features(backbone, train, cache, world, reading)
    queries = bank if val is None else cached_features(backbone, val, cache, world, reading)
    if not world.is_main:
        return None
    search = max(k, shown) + (val is None)
    square_Qk, index_Qk = knn.nearest(bank.features, queries.features, search, device=world.device)
    if val is None:
        square_Qk, index_Qk = _without_itself(square_Qk, index_Qk)
    labelled = bool((bank.labels >= 0).all() and (queries.labels >= 0).all())
    label_F, label_Q = torch.from_numpy(np.array(bank.labels)), torch.from_numpy(np.array(queries.labels))
    voted_Q = knn.majority(label_F, index_Qk[:, :k]) if labelled else None
    names = _Names(searched.classes or asked.classes, labelled)

    by_class = np.argsort(queries.labels, kind="stable")  # so that a sample is of all classes
    sample_A, sample_P = _spread(by_class, _ASKED_SHOWN), _spread(by_class, points)
    sample_W = _spread(by_class[(voted_Q != label_Q).numpy()[by_class]] if labelled else by_class[:0], _WRONG_SHOWN)
    rows = np.concatenate([sample_A, sample_W])
    of_asked = _thumbnails(asked, backbone, rows, reading, world, _SIDE)
    of_searched = _thumbnails(searched, backbone, index_Qk[rows, :shown].flatten().numpy(), reading, world, _SIDE)

    def row(q: int) -> list[Tile]:
        right = bool(voted_Q[q] == label_Q[q]) if labelled else None
        text = names.of(asked, int(label_Q[q]), q)
        said = f"the vote says {names.name(int(voted_Q[q]))}" if labelled and not right else ""
        tiles = [Tile(of_asked[q], text, right, more=said)]
        for square, i in zip(square_Qk[q, :shown].tolist(), index_Qk[q, :shown].tolist(), strict=True):
            same = bool(label_F[i] == label_Q[q]) if labelled else None
            tiles.append(
                Tile(of_searched[i], names.of(searched, int(label_F[i]), i), same, more=f"distance {square**0.5:.3g}")
            )
        return tiles

    on_map = _thumbnails(asked, backbone, sample_P, reading, world, _MAP_SIDE)
    tiles = [
        Tile(
            on_map[q],
            names.of(asked, int(label_Q[q]), q),
            colour=max(int(label_Q[q]), 0) if labelled else 0,
            more=f"taken for {names.name(int(voted_Q[q]))}" if labelled and voted_Q[q] != label_Q[q] else "",
        )
        for q in sample_P.tolist()
    ]
    return Neighbours(
        title=title,
        backbone=str(backbone.path),
        sha256=backbone.sha256 or "",
        searched=len(searched),
        asked=len(asked),
        held_out=val is not None,
        k=k,
        accuracy=float((voted_Q == label_Q).double().mean()) if labelled else None,
        classes=_by_class(label_Q, voted_Q, names) if labelled else (),
        confused=_confused(label_Q, voted_Q, names) if labelled else (),
        galleries=[
            Gallery("Images from the whole set, and their nearest", [row(q) for q in sample_A.tolist()]),
            Gallery("Taken for another class", [row(q) for q in sample_W.tolist()]),
        ],
        tiles=tiles,
        layouts=list(_layouts(np.asarray(queries.features[sample_P], np.float64), layout)),
    )


class _Names:
    """What to call images: their classes where all have a label, else their files."""

    def __init__(self, classes: Sequence[str], labelled: bool) -> None:
        self._classes, self._labelled = classes, labelled

    def name(self, label: int) -> str:
        """A class's name, or its number where the dataset has no names."""
        return self._classes[label] if label < len(self._classes) else f"class {label}"

    def of(self, images: Images, label: int, index: int) -> str:
        """What stands below an image."""
        return self.name(label) if self._labelled else Path(images.names[index]).name


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


def _by_class(label_Q: Tensor, voted_Q: Tensor, names: _Names) -> list[tuple[str, int, int]]:
    """Name, images found and images of each class that is asked for."""
    counts = label_Q.bincount()
    right = label_Q[voted_Q == label_Q].bincount(minlength=len(counts))
    return [(names.name(c), int(right[c]), int(counts[c])) for c in counts.nonzero().flatten().tolist()]


def _confused(label_Q: Tensor, voted_Q: Tensor, names: _Names) -> list[tuple[str, str, int]]:
    wrong = voted_Q != label_Q
    pairs = Counter(zip(label_Q[wrong].tolist(), voted_Q[wrong].tolist(), strict=True))
    ordered = sorted(pairs.items(), key=lambda entry: (-entry[1], entry[0]))
    return [(names.name(a), names.name(b), count) for (a, b), count in ordered[:_PAIRS]]


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
