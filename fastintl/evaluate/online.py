"""Accuracy on held-out images during a pretraining: k-NN, and linear classifiers on the same features."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import numpy as np
from torch import nn

from fastintl.config import Config
from fastintl.data import evaluation_loader, find, find_labelled
from fastintl.distributed import World
from fastintl.evaluate.accuracy import best
from fastintl.evaluate.features import Features, extract, labels_of_all_ranks, of_all_ranks
from fastintl.evaluate.labels import count_classes
from fastintl.evaluate.linear.logistic import logistic_probe, require_scikit_learn
from fastintl.evaluate.linear.protocols import SMALL
from fastintl.evaluate.linear.training import accuracy_on_features, train_on_features
from fastintl.evaluate.nearest import knn
from fastintl.runs.folder import RunFolder
from loaders import Loader, UserError
from loaders.sources import open_images

_RAW_SIDE = 32  # raw pixels are compared at this resolution: finer ones only cost memory


class OnlineEvaluation:
    """Classifies held-out images by features: k-NN among labelled training images, and classifiers trained on them.

    It leaves no trace in the pretraining: the network's mode, weights and statistics and all global random states stay
    as they are. Without held-out images nothing is ever due.

    Attributes:
        tell: is told how far an evaluation is, in a few words; says nothing unless it is set.

    Raises:
        UserError: the two splits do not have the same classes, or scikit-learn is asked for and not installed.
    """

    def __init__(self, config: Config, world: World, folder: RunFolder) -> None:
        self.config, self.world = config, world
        self.queries = self.bank = None
        self.tell: Callable[[str], object] = lambda text: None
        val = find(config, "val")
        if val is not None:
            if "quick" in config.eval.probes:
                require_scikit_learn()
            self.queries = evaluation_loader(config, val, world, folder.quarantine)
            self.bank = self._open_bank(folder)

    @property
    def chance(self) -> float:
        """The accuracy of always predicting the most frequent held-out class."""
        labels = self.queries.images.labels
        return float(np.bincount(labels[labels >= 0]).max() / len(labels))

    def is_due(self, epoch: int, is_last: bool) -> bool:
        """Whether to evaluate after ``epoch`` epochs."""
        every = self.config.eval.every
        return self.queries is not None and (is_last or (every > 0 and epoch % every == 0))

    def scores(self, network: nn.Module) -> dict[str, float]:
        """``knn_top1``, the same on every rank, and on the first also ``<probe>_top1`` and ``_top5`` of each probe."""
        share, queries = self._features(network)
        found = {"knn_top1": self._knn_top1(share, queries)}
        if not self.config.eval.probes:
            return found
        bank = of_all_ranks(share, self.world, everywhere=False)
        if bank is not None:  # on rank 0; the others are back before it is done
            classes = count_classes(self.bank.images, self.queries.images)
            for probe in self.config.eval.probes:
                test = self._linear if probe == "linear" else logistic_probe
                accuracy = test(bank, queries, classes)
                found |= {f"{probe}_{name}": value for name, value in accuracy.items()}
        return found

    def knn_top1(self, network: nn.Module, title: str = "evaluation") -> float:
        """Share of the held-out images whose class the neighbours' vote names; the same on every rank.

        Args:
            title: what ``tell`` calls it.
        """
        return self._knn_top1(*self._features(network, title))

    def _features(self, network: nn.Module, title: str = "evaluation") -> tuple[Features, Features]:
        """This rank's share of the labelled images, and all held-out ones."""
        batches, done = len(self.bank) + len(self.queries), itertools.count(1)

        def batch_done() -> None:
            self.tell(f"{title}: {next(done) / batches:.0%} of the features")

        loaders = self.bank, self.queries
        bank, queries = (extract(network, loader, self.world.device, batch_done) for loader in loaders)
        return bank, of_all_ranks(queries, self.world)

    def _linear(self, bank: Features, queries: Features, classes: int) -> dict[str, float]:
        heads = train_on_features(bank, classes, SMALL, self.config.seed, self.world.device)
        return best(accuracy_on_features(heads, queries))

    def _knn_top1(self, share: Features, queries: Features) -> float:
        labels, mine = labels_of_all_ranks(share, self.world)
        features = share.features.reshape(len(share.ids), queries.features.shape[1])  # of a rank without a share, too
        columns = features, labels, queries.features, queries.labels
        on_device = (column.to(self.world.device) for column in columns)
        return knn.accuracy(*on_device, k=self.config.eval.k, world=self.world, mine=mine)

    def raw_pixels_top1(self) -> float:
        """k-NN accuracy with the normalised pixels as features, averaged to 32 x 32 where they are more."""
        averaged = nn.AdaptiveAvgPool2d(_RAW_SIDE) if self.config.eval.size > _RAW_SIDE else nn.Identity()
        return self.knn_top1(averaged, "raw pixels")

    def close(self) -> None:
        for loader in (self.queries, self.bank):
            if loader is not None:
                loader.close()

    def _open_bank(self, folder: RunFolder) -> Loader:
        path = find_labelled(self.config)
        images, held_out = open_images(path), self.queries.images
        if (images.labels < 0).any():
            raise UserError(
                f"{path} has images without a label, which cannot vote: set data.train_labelled to those with one, or "
                "data.val=null to evaluate nothing"
            )
        count_classes(images, held_out)  # or the first evaluation, hours later, would be refused
        count, limit = len(images), self.config.eval.bank
        if count < self.config.eval.k:
            raise UserError(f"eval.k: {self.config.eval.k} neighbours are more than the {count} images of {path}")
        samples = None
        if limit is not None and limit < count:
            samples = np.linspace(0, count, limit, endpoint=False).astype(np.int64)
        return evaluation_loader(self.config, images, self.world, folder.quarantine, samples)
