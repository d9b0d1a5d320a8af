"""What happens to an image that cannot be decoded: it is listed, and a neighbour takes its place."""

from __future__ import annotations

import torch

from loaders.image_reading import BadImage
from loaders.order import neighbour
from loaders.quarantine import Quarantine
from loaders.sources.decode import Allocate, fresh

# The neighbour must be the same in every epoch, run and rank, whatever the run's seed.
_SEED = 0


def decode_or_substitute(
    images, sample: int, quarantine: Quarantine, allocate: Allocate = fresh
) -> tuple[int, torch.Tensor]:
    """Decodes an image, or the first decodable one of its neighbours (``loaders.order.neighbour``).

    Args:
        images: a ``loaders.sources.Images``.
        allocate: gives the room for the pixels.

    Returns:
        The id of the image that was decoded and its pixels, uint8 (H, W, 3).

    Raises:
        UserError: the quarantine has passed its limit.
    """
    chosen, attempt = sample, 0
    while True:
        try:
            return chosen, images.decode(chosen, allocate)
        except BadImage as error:
            quarantine.add(chosen, images.names[chosen], str(error))
        # Terminates: the quarantine raises at the latest when every image is in it.
        chosen, attempt = neighbour(len(images), _SEED, sample, attempt), attempt + 1
