"""The interface between the training step and a loss.

Shapes: V views, N samples of the global batch (or of a rank's share, see ``per_rank``), d channels.
"""

from __future__ import annotations

import inspect
import logging
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor, nn

from fastintl.losses.whitening import Axis
from loaders.errors import UserError

_log = logging.getLogger("fastintl")
_said: set[str] = set()
_gathered: set[int] = set()


def note_gathered(samples: int) -> None:
    """Says that embeddings of so many samples are those of all ranks; ``fastintl.distributed``'s gathering does."""
    _gathered.add(samples)


class Position(NamedTuple):
    """The place of a step in a run: all that a loss's draws and schedules depend on, so that a resumed run repeats
    them. ``step`` counts the run's steps and ``epoch`` its epochs, both from 0."""

    seed: int
    step: int
    epoch: int
    rank: int


class Loss(nn.Module):
    """A loss of V views. A subclass must have ``forward(views)``, or ``forward(views, target=None)``.

    Attributes:
        position: set before every step of a run. None: the loss is used alone, draws come from torch's global
            generator and schedules stand at epoch 0.
        per_rank: each rank takes the loss of its own samples, and their mean is trained on. Otherwise every rank takes
            the loss of the global batch.
        axis: which covariance's spectrum is watched: "channel", that of the samples, or "batch", that of the channels.
        collapsed_share: share of the possible effective rank below which an embedding counts as collapsed, where that
            was measured for the loss; with 0 only an effective rank below two does.
        compiles: whether ``torch.compile`` makes one graph of it that no step changes.
        against_collapse: what to change when the embedding collapses, for the sentence of the warning.
    """

    position: Position | None = None
    per_rank = False
    axis: Axis = "channel"
    collapsed_share = 0.0
    compiles = False
    against_collapse = "lower optim.lr"

    def check(self, samples: int, channels: int) -> None:
        """Refuses numbers of samples and channels that the loss cannot take, before a run starts and at every call.

        Raises:
            UserError: names the setting to change.
        """
        if samples < 2 or channels < 2:
            raise UserError(
                f"{self._name}: {samples} samples of {channels} channels; it needs two or more of each: raise "
                "train.batch_size or the last width of model.projector"
            )

    def weakness(self, samples: int, channels: int) -> str | None:
        """Why the loss cannot learn well from so many samples and channels: a sentence with the cure, or None."""
        return None

    def forward(self, views: Tensor | Sequence[Tensor]) -> Tensor:
        """The loss of the embeddings of all views.

        Args:
            views: embeddings, (V, N, d) or a sequence of (N, d).

        Returns:
            The loss, a scalar; float32, or float64 for float64 embeddings.
        """
        raise NotImplementedError

    if TYPE_CHECKING:  # nn.Module's own gives Any

        def __call__(self, views: Tensor | Sequence[Tensor]) -> Tensor: ...

    def transformed(self, views_VNd: Tensor) -> Tensor:
        """The embeddings in the form in which they are compared, (V, N, d): whitened, by a loss that whitens."""
        return views_VNd

    def parts(self, views: Tensor | Sequence[Tensor], target: Tensor | None = None) -> dict[str, Tensor]:
        """The loss's terms by name, scalars with their weights; empty for a loss that tells none."""
        return {}

    def _stacked(self, views: Tensor | Sequence[Tensor], fewest: int = 2) -> Tensor:
        """The views as one tensor, (V, N, d), checked."""
        views_VNd = views if isinstance(views, Tensor) else torch.stack(tuple(views))
        shape = tuple(views_VNd.shape)
        if views_VNd.ndim != 3 or min(shape) < 1:
            raise UserError(f"{self._name}: views have shape {shape}; they must be (V, N, d) or a list of (N, d)")
        if shape[0] < fewest:
            raise UserError(f"{self._name}: one view alone; give two or more views")
        self.check(*shape[1:])
        if not torch.compiler.is_compiling():
            self.warn(*shape[1:])
            self._warn_of_local(shape[1])
        return views_VNd

    def warn(self, samples: int, channels: int) -> None:
        """Tells the user of a ``weakness``, once."""
        if sentence := self.weakness(samples, channels):
            _say_once(sentence)

    def _warn_of_local(self, samples: int) -> None:
        """Tells the user, once, of a rank's own samples in the place of all ranks'."""
        if not self.per_rank and _ranks() > 1 and samples not in _gathered:
            _say_once(
                f"{self._name}: the {samples} samples of one rank are taken for the whole batch of {_ranks()} ranks, "
                "which is another loss: gather them first, views, target = "
                "fastintl.distributed.gather_embeddings(views, target) (if that was done by other means, all is well)"
            )

    def extra_repr(self) -> str:
        arguments = inspect.signature(type(self)).parameters
        return ", ".join(f"{name}={getattr(self, name)!r}" for name in arguments if hasattr(self, name))

    @property
    def _name(self) -> str:
        return type(self).__name__


def result_type(embeddings: Tensor) -> torch.dtype:
    """The number format of a loss: float32 whatever the autocast, float64 for float64 embeddings."""
    return torch.float64 if embeddings.dtype == torch.float64 else torch.float32


def _ranks() -> int:
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def _say_once(sentence: str) -> None:
    if sentence not in _said and (_ranks() == 1 or dist.get_rank() == 0):
        _log.warning(sentence)
    _said.add(sentence)
