"""Nearest-neighbour accuracy on held-out pictures during a run."""

from __future__ import annotations

import numpy as np
from torch import nn

from fastintl.config import Config
from fastintl.data import evaluation_loader, find
from fastintl.distributed import World, gather
from fastintl.evaluate import knn
from fastintl.evaluate.features import extract
from fastintl.run_folder import RunFolder
from loaders import Loader, UserError
from loaders.sources import open_pictures

_RAW_SIDE = 32  # raw pixels are compared at this resolution: finer ones only cost memory


class OnlineEvaluation:
    """k-nearest-neighbour classification of the held-out pictures, with labelled training pictures as neighbours.

    Without held-out pictures nothing is ever due.

    Raises:
        UserError: the two splits do not have the same classes.
    """

    def __init__(self, config: Config, world: World, folder: RunFolder) -> None:
        self.config, self.world = config, world
        self.queries = self.bank = None
        val = find(config, "val")
        if val is not None:
            self.queries = evaluation_loader(config, val, world, folder.quarantine)
            self.bank = self._open_bank(folder)

    @property
    def chance(self) -> float:
        """Accuracy of always guessing the most frequent held-out class."""
        labels = self.queries.pictures.labels
        return float(np.bincount(labels[labels >= 0]).max() / len(labels))

    def is_due(self, epoch: int, is_last: bool) -> bool:
        """Whether to evaluate after ``epoch`` epochs."""
        every = self.config.eval.every
        return self.queries is not None and (is_last or (every > 0 and epoch % every == 0))

    def knn_top1(self, network: nn.Module) -> float:
        """Share of the held-out pictures whose class the neighbours' vote names; the same on every rank."""
        device = self.world.device
        bank, queries = extract(network, self.bank, device), extract(network, self.queries, device)
        mine = slice(self.world.rank, None, self.world.world_size)  # every rank classifies its share
        predicted = knn.predict(
            bank.features.to(device), bank.labels.to(device), queries.features[mine].to(device), k=self.config.eval.k
        )
        correct = (predicted == queries.labels[mine].to(device)).sum()
        if self.world.world_size > 1:
            correct = gather(correct[None]).sum()
        return correct.item() / len(queries.labels)

    def raw_pixels_top1(self) -> float:
        """The same with the normalised pixels as features, averaged to 32 x 32 where they are more."""
        return self.knn_top1(nn.AdaptiveAvgPool2d(_RAW_SIDE) if self.config.eval.size > _RAW_SIDE else nn.Identity())

    def close(self) -> None:
        for loader in (self.queries, self.bank):
            if loader is not None:
                loader.close()

    def _open_bank(self, folder: RunFolder) -> Loader:
        path = find(self.config, "train_labelled") or find(self.config, "train")
        pictures, held_out = open_pictures(path), self.queries.pictures
        if (pictures.labels < 0).any():
            raise UserError(
                f"{path} has pictures without a label, which cannot vote: set data.train_labelled to those with one"
            )
        if pictures.classes and held_out.classes and pictures.classes != held_out.classes:
            raise UserError(f"{path} and {held_out.path} do not have the same classes")
        count, limit = len(pictures), self.config.eval.bank
        samples = None
        if limit is not None and limit < count:
            samples = np.linspace(0, count, limit, endpoint=False).astype(np.int64)
        return evaluation_loader(self.config, pictures, self.world, folder.quarantine, samples)
