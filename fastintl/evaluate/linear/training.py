"""The training of linear heads: on features in memory, or step by step on features that the caller computes."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
import torch.distributed as dist
from torch import Tensor

from fastintl.evaluate.accuracy import Accuracy
from fastintl.evaluate.features import Features
from fastintl.evaluate.labels import check_labels
from fastintl.evaluate.linear.heads import LinearHeads, build_head_optimizer, take_up
from fastintl.evaluate.linear.protocols import HeadProtocol
from fastintl.evaluate.threads import team
from loaders.errors import UserError
from loaders.order import permutation

_EVALUATION_BATCH = 1000


class HeadTraining:
    """The heads of a protocol's grid, their optimiser, and one step of both.

    Args:
        classes, dim: C and d of the heads.
        seed: what the start, which all heads share, is drawn from.
        across_ranks: whether the ranks train the same heads on shares of each batch; otherwise each trains alone.
        part: which heads of the grid.
    """

    def __init__(
        self,
        protocol: HeadProtocol,
        classes: int,
        dim: int,
        seed: int = 0,
        device: torch.device | str = "cpu",
        across_ranks: bool = False,
        part: slice = slice(None),
    ) -> None:
        self.protocol, self.across_ranks = protocol, across_ranks
        lr, weight_decay = torch.tensor(protocol.grid[part]).unbind(1)
        self.heads = LinearHeads.start(len(lr), classes, dim, protocol.init, seed, device)
        self.optimizer = build_head_optimizer(protocol.optimizer, self.heads, lr * protocol.lr_scale, weight_decay)

    @torch.no_grad()
    def step(self, x_Bd: Tensor, label_B: Tensor, epoch: int, batch_size: int, loss_H: Tensor | None = None) -> None:
        """One update of every head.

        Args:
            x_Bd, label_B: this rank's share of the batch.
            batch_size: samples of all ranks.
            loss_H: where the losses are added, if they are wanted: summed over this rank's share and divided by
                ``batch_size``; on the device.
        """
        gradients = self.heads.gradients(x_Bd, label_B, batch_size, loss_H)
        if self.across_ranks:
            for gradient in gradients:
                dist.all_reduce(gradient)
        self.optimizer.step(gradients, self.protocol.factor(epoch))

    def state_dict(self) -> dict:
        return {"weight": self.heads.weight, "bias": self.heads.bias, "optimizer": self.optimizer.state_dict()}

    def load_state_dict(self, state: dict) -> None:
        take_up(self.heads.weight, state["weight"])
        take_up(self.heads.bias, state["bias"])
        self.optimizer.load_state_dict(state["optimizer"])


def train_on_features(
    train: Features,
    classes: int,
    protocol: HeadProtocol,
    seed: int = 0,
    device: torch.device | str = "cpu",
    on_epoch: Callable[[], None] = lambda: None,
) -> LinearHeads:
    """Trains the heads of a protocol's grid in one pass over features in memory.

    The batches of an epoch are ``permutation(n, seed, epoch)`` in slices; the last one is shorter and counts as a
    batch. No global random state is drawn from, and every process trains alone.

    Args:
        train: features (n, d) and labels (n,) in ``0 .. classes - 1``.
        on_epoch: called after every epoch, to show progress.

    Returns:
        Heads in the order of ``protocol.grid``.

    Raises:
        UserError: labels that are not classes, or features that are not numbers.
    """
    check_labels(train.labels, classes, "the training set")
    # The sum is finite if all are, and twenty times faster than looking at each.
    if not train.features.sum().isfinite():
        raise UserError("the training features hold NaN or infinite values; the network has diverged")
    features, labels = train.features.to(device).float(), train.labels.to(device)
    device = features.device
    parts = _parts(len(protocol.grid), torch.get_num_threads() if device.type == "cpu" else 1)
    trainings = [HeadTraining(protocol, classes, features.shape[1], seed, device, part=part) for part in parts]
    with team(len(parts)) as threads:
        for epoch in range(protocol.epochs):
            order = torch.from_numpy(permutation(len(labels), seed, epoch)).to(device)
            list(threads.map(partial(_train_epoch, features, labels, order, epoch), trainings))
            on_epoch()
    weight, bias = zip(*(training.heads.parameters for training in trainings), strict=True)
    return LinearHeads(torch.cat(weight), torch.cat(bias))


def _train_epoch(features: Tensor, labels: Tensor, order: Tensor, epoch: int, training: HeadTraining) -> None:
    for batch in order.split(training.protocol.batch_size):
        # Not features[batch], which is several times slower on a CPU.
        training.step(features.index_select(0, batch), labels.index_select(0, batch), epoch, len(batch))


def _parts(heads: int, threads: int) -> list[slice]:
    """The heads in as many parts as leave the fewest to a thread; a part's threads share its products.

    Heads know nothing of each other, so the parts are trained from end to end without waiting for each other, which
    threads that share every operation do after each.
    """
    count = min(range(1, min(heads, threads) + 1), key=lambda parts: (-(-heads // parts) / (threads // parts), -parts))
    edges = [heads * i // count for i in range(count + 1)]
    return [slice(*edge) for edge in zip(edges, edges[1:], strict=False)]


def accuracy_on_features(heads: LinearHeads, held_out: Features) -> dict[str, list[float]]:
    """``{"top1": [one a head], "top5": …}`` on features in memory.

    Raises:
        UserError: labels that are not classes.
    """
    device, classes = heads.weight.device, heads.weight.shape[1]
    check_labels(held_out.labels, classes, "the held-out set")
    counted = Accuracy(len(heads), device)
    batches = (column.split(_EVALUATION_BATCH) for column in (held_out.features, held_out.labels))
    for x, labels in zip(*batches, strict=True):
        counted.add(heads.scores(x.to(device)), labels.to(device))
    return counted.top()
