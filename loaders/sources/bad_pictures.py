"""What happens to a picture that cannot be decoded: it is listed, and a neighbour takes its place."""

from __future__ import annotations

import torch

from loaders.order import neighbour
from loaders.picture_reading import BadPicture
from loaders.quarantine import Quarantine
from loaders.sources.decode import Allocate, fresh

# The neighbour must be the same in every epoch, run and rank, whatever the run's seed.
_SEED = 0


def decode_or_substitute(
    pictures, sample: int, quarantine: Quarantine, allocate: Allocate = fresh
) -> tuple[int, torch.Tensor]:
    """Decodes a picture, or the first decodable one of its neighbours (``loaders.order.neighbour``).

    Args:
        pictures: a ``loaders.sources.Pictures``.
        allocate: gives the room for the pixels.

    Returns:
        The id of the picture that was decoded and its pixels, uint8 (H, W, 3).

    Raises:
        UserError: the quarantine has passed its limit.
    """
    chosen, attempt = sample, 0
    while True:
        try:
            return chosen, pictures.decode(chosen, allocate)
        except BadPicture as error:
            quarantine.add(chosen, pictures.names[chosen], str(error))
        # Terminates: the quarantine raises at the latest when every picture is in it.
        chosen, attempt = neighbour(len(pictures), _SEED, sample, attempt), attempt + 1
