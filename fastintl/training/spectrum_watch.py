"""The embedding's spectrum during a run: measured on some log steps, with a warning at collapse."""

from __future__ import annotations

import logging
from typing import Any

import numpy as np
from torch import Tensor

from fastintl.config import Log
from fastintl.losses.base import Loss
from fastintl.training import spectrum

_log = logging.getLogger("fastintl")

# Effective rank, as the loss compares the embedding, that is a collapse in any batch and under any loss.
_FEWEST = 2.0

_LISTED = 64  # at most so many eigenvalues are written


class SpectrumWatch:
    """Measures one view's spectrum: that of the first view the loss gets.

    One view and not all, since the views share the network whose health this is; the first, since in every recipe
    it has the full size and the widest range of crops, so that runs compare.

    Args:
        log: ``spectrum_every`` and ``every``.
        loss: whose covariance is decomposed, before and after what the loss makes of the embedding.
    """

    def __init__(self, log: Log, loss: Loss) -> None:
        self._every, self._log_every = log.spectrum_every, log.every
        self._loss = loss
        self._collapsed = False

    def is_due(self, step: int, is_last: bool) -> bool:
        """Whether log step ``step`` is the first at or after a multiple of ``log.spectrum_every``, or the last."""
        return self._every > 0 and (is_last or step % self._every < self._log_every)

    def measure(self, views_VNd: Tensor, step: int) -> dict[str, Any]:
        """The metrics of one step; warns when the embedding has collapsed since the last time.

        Args:
            views_VNd: embeddings of the global batch, (V, N, d), detached.

        Returns:
            ``effective_rank`` and ``condition_number``, both also ``…_whitened`` (after what the loss makes of the
            embedding), ``possible_rank`` (r), ``collapse_limit`` (of the effective rank after it),
            ``top_eigenvalue_share`` (before whitening), and ``spectrum``: eigenvalues ``before`` and ``after`` at
            log-spaced ``ranks``, 1 the largest. Empty where the embedding is not finite.
        """
        if not views_VNd[0].isfinite().all():
            return {}
        view_1Nd = views_VNd[:1].double()
        before = spectrum.eigenvalues(view_1Nd[0], self._loss.axis).cpu()
        after = spectrum.eigenvalues(self._loss.transformed(view_1Nd)[0], self._loss.axis).cpu()
        ranks = np.unique(np.geomspace(1, len(before), _LISTED).round().astype(int))
        metrics = {
            "effective_rank": spectrum.effective_rank(before),
            "effective_rank_whitened": spectrum.effective_rank(after),
            "possible_rank": len(before),
            "collapse_limit": max(_FEWEST, self._loss.collapsed_share * len(before)),
            "condition_number": spectrum.condition_number(before),
            "condition_number_whitened": spectrum.condition_number(after),
            "top_eigenvalue_share": (before[0] / before.sum()).nan_to_num(1.0).item(),
            "spectrum": {
                "ranks": ranks.tolist(),
                "before": [float(f"{value:.4g}") for value in before[ranks - 1].tolist()],
                "after": [float(f"{value:.4g}") for value in after[ranks - 1].tolist()],
            },
        }
        self._watch(metrics, step)
        return metrics

    def _watch(self, metrics: dict[str, Any], step: int) -> None:
        rank, limit = metrics["effective_rank_whitened"], metrics["collapse_limit"]
        if rank < limit and not self._collapsed:
            self._collapsed = True
            _log.warning(
                "the embedding has collapsed at step %d: as the loss compares it its effective rank is %.1f of %d, and "
                "below %.1f the loss sees too few directions to tell the images apart; %s, under a new name",
                step,
                rank,
                metrics["possible_rank"],
                limit,
                self._loss.against_collapse,
            )
        elif rank > 2 * limit:  # not at the limit itself, where a rank that wavers would warn again and again
            self._collapsed = False
