"""CW-RGP: channel whitening with random group partition.

Weng et al., "An Investigation into Whitening Loss for Self-supervised Learning", NeurIPS 2022, arXiv 2210.03586.

Shapes: V views, N samples, d channels, T cuts (``w_iter``), S = N / w sub-batches of w samples (``w_size``),
G groups of k = d / G channels.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from fastintl.losses.base import Loss, Position, result_type
from fastintl.losses.cosine import unit_rows
from fastintl.losses.matrix_function import InversePower, matrix_function
from fastintl.losses.whitening import centre
from loaders.errors import UserError
from loaders.philox import Domain, philox
from loaders.upload import upload

Scope = Literal["rank", "global"]
_ZCA = InversePower(0.5)


class CWRGPLoss(Loss):
    """Mean squared error between all pairs of views, whitened over samples in random groups of channels.

    The samples are cut at random into sub-batches, alike in all views. In each view and sub-batch every sample is
    centred over its d channels, a random permutation of the channels is cut into G groups, and each group ``x``
    (w, k) becomes ``Sigma^-1/2 x`` with ``Sigma = x x^T / (k - 1)`` (ZCA); then the channels return to their places.
    With ``mse(a, b) = 2 - 2 mean_i cos(a_i, b_i)`` over the samples of all sub-batches and cuts the loss is the mean
    of ``mse(w_i, w_j)`` over the V (V - 1) / 2 pairs. Before epoch ``cov_stop`` comes
    ``cov_w sum_v sum_{i != j} C_ij^2 / N``, with ``C`` (N, N) the covariance of the samples before whitening.

    Computed in float64, whatever the autocast: the covariances are small. ``matrix_function`` says what becomes of a
    singular one. On a GPU the eigendecomposition waits for the device.

    Args:
        groups: G.
        w_size: w.
        w_iter: T, random cuts whose losses are averaged.
        cov_w: weight of the covariance term.
        cov_stop: epoch from which the term is left out.
        scope: what is cut into sub-batches: the samples of each rank (as published) or of all ranks together.

    Raises:
        UserError: an argument out of range, or one of ``cov_w`` and ``cov_stop`` without the other.
    """

    against_collapse = "set loss.cov_w and loss.cov_stop or lower optim.lr"

    def __init__(
        self,
        groups: int = 4,
        w_size: int = 64,
        w_iter: int = 1,
        cov_w: float = 0.0,
        cov_stop: int = 0,
        scope: Scope = "rank",
    ) -> None:
        super().__init__()
        if groups < 1 or w_size < 2 or w_iter < 1:
            raise UserError(
                f"CWRGPLoss: groups={groups}, w_size={w_size}, w_iter={w_iter}; at least 1, 2 and 1 are needed"
            )
        if scope not in ("rank", "global"):
            raise UserError(f"CWRGPLoss: scope is {scope!r}; it must be 'rank' or 'global'")
        if (cov_w > 0) != (cov_stop > 0):
            raise UserError(
                f"CWRGPLoss: cov_w={cov_w:g} with cov_stop={cov_stop} does nothing; set both or neither: loss.cov_w is "
                "the weight of the covariance term and loss.cov_stop the epoch from which it is left out"
            )
        self.groups, self.w_size, self.w_iter = groups, w_size, w_iter
        self.cov_w, self.cov_stop, self.scope = cov_w, cov_stop, scope
        self.per_rank = scope == "rank"

    def check(self, samples: int, channels: int) -> None:
        super().check(samples, channels)
        if channels % self.groups:
            raise UserError(
                f"CWRGPLoss: {channels} channels do not divide into {self.groups} groups; set loss.groups to a "
                f"divisor of {channels} (the last width of model.projector)"
            )
        if self.w_size > channels // self.groups:
            raise UserError(
                f"CWRGPLoss: {self.w_size} samples cannot be whitened by a group's {channels // self.groups} channels, "
                f"their covariance is singular; set loss.w_size to {channels // self.groups} or less, or lower "
                "loss.groups"
            )
        if samples % self.w_size:
            raise UserError(
                f"CWRGPLoss: {samples} samples do not divide into sub-batches of {self.w_size}; set loss.w_size to a "
                f"divisor of {samples} or change train.batch_size"
                + (", which the ranks share unless loss.scope=global" if self.per_rank else "")
            )

    def forward(self, views: Tensor | Sequence[Tensor]) -> Tensor:
        views_VNd = self._stacked(views)
        centred_VNd = self._centred(views_VNd)
        samples_TN, channels_VTSd = self._draw(centred_VNd)
        unit_VTSwd = unit_rows(self._whitened(centred_VNd, samples_TN, channels_VTSd))
        # The sum over all pairs of a_i . a_j from |sum_i a_i|^2: one pass instead of one a pair.
        own, everyone = unit_VTSwd.square().sum(), unit_VTSwd.sum(0).square().sum()
        v = len(views_VNd)
        mean_cosine = (everyone - own) / (v * (v - 1) * samples_TN.numel())
        loss = 2 - 2 * mean_cosine
        if self.cov_w and (self.position is None or self.position.epoch < self.cov_stop):
            loss = loss + self.cov_w * _covariance_term(centred_VNd)
        return loss.to(result_type(views_VNd))

    def transformed(self, views_VNd: Tensor) -> Tensor:
        """The embeddings whitened after the first cut, (V, N, d) float64."""
        centred_VNd = self._centred(views_VNd)
        samples_TN, channels_VTSd = self._draw(centred_VNd)
        whitened_VTSwd = self._whitened(centred_VNd, samples_TN[:1], channels_VTSd[:, :1])
        return whitened_VTSwd.reshape(centred_VNd.shape)[:, samples_TN[0].argsort()]

    def _centred(self, views_VNd: Tensor) -> Tensor:
        return centre(views_VNd.double(), -1, torch.finfo(result_type(views_VNd)).eps)

    def _draw(self, x_VNd: Tensor) -> tuple[Tensor, Tensor]:
        """The orders of the samples (T, N), and of the channels in each view, cut and sub-batch (V, T, S, d)."""
        v, n, d = x_VNd.shape
        shapes = (self.w_iter, n), (v, self.w_iter, n // self.w_size, d)
        # Over the global batch every rank must draw the same.
        position = self.position and self.position._replace(rank=self.position.rank if self.per_rank else 0)
        return tuple(random_orders(position, x_VNd.device, *shapes))

    def _whitened(self, centred_VNd: Tensor, samples_TN: Tensor, channels_VTSd: Tensor) -> Tensor:
        """The whitened embeddings, (V, T, S, w, d), from one batched eigendecomposition of all groups."""
        w, k = self.w_size, centred_VNd.shape[-1] // self.groups
        cut_VTSwd = centred_VNd[:, samples_TN].unflatten(2, (-1, w))
        order_VTSwd = channels_VTSd[..., None, :].expand_as(cut_VTSwd)
        groups_VTSGwk = cut_VTSwd.gather(-1, order_VTSwd).unflatten(-1, (self.groups, k)).transpose(-3, -2)
        x_Bwk = groups_VTSGwk.flatten(0, 3)
        white_Bwk = matrix_function(x_Bwk @ x_Bwk.mT / (k - 1), _ZCA) @ x_Bwk
        shuffled_VTSwd = white_Bwk.view(groups_VTSGwk.shape).transpose(-3, -2).flatten(-2)
        back_VTSwd = channels_VTSd.argsort(-1)[..., None, :].expand_as(cut_VTSwd)
        return shuffled_VTSwd.gather(-1, back_VTSwd)


def _covariance_term(centred_VNd: Tensor) -> Tensor:
    """The covariance term ``sum_v sum_{i != j} C_ij^2 / N``."""
    n, d = centred_VNd.shape[-2:]
    covariance_VNN = centred_VNd @ centred_VNd.mT / (d - 1)
    diagonal_VN = covariance_VNN.diagonal(dim1=-2, dim2=-1)
    return (covariance_VNN - torch.diag_embed(diagonal_VN)).square().sum() / n


def random_orders(position: Position | None, device: torch.device, *shapes: tuple[int, ...]) -> list[Tensor]:
    """An int64 tensor for each shape, every row along its last dimension a random permutation.

    They are a pure function of the position in a run, uploaded without waiting for the device.

    Args:
        position: what the orders depend on; its epoch does not matter, and None draws from torch's global generator.
    """
    if position is None:
        seed = int(torch.randint(2**62, ()))
        position = Position(seed, step=0, epoch=0, rank=0)
    count = sum(int(np.prod(shape)) for shape in shapes)
    words = philox(position.seed, np.arange((count + 1) // 2), position.step, position.rank, Domain.PARTITION)
    keys = (words[:, 0::2] << np.uint64(32) | words[:, 1::2]).ravel()  # 64 bits, so that none are equal
    orders, start = [], 0
    for shape in shapes:
        size = int(np.prod(shape))
        orders.append(np.argsort(keys[start : start + size].reshape(shape), axis=-1, kind="stable"))
        start += size
    return upload(orders, device)
