"""Host memory for the pixels of one batch after another.

Fresh memory comes page by page and is zeroed first, which takes a tenth of the decoding. So a batch is put where the
one before it lay, unless that is too small, or more than twice what the batch needs.
"""

from __future__ import annotations

import torch

_ROOM = 1.25  # times the batch that it is made for: batches differ in size
_SMALL = 1 << 20  # bytes that are not worth giving back


def fits(memory: torch.Tensor, size: int) -> bool:
    """Whether a batch of so many bytes may use this memory again."""
    return size <= len(memory) <= max(2 * size, _SMALL)


def rounded(size: int) -> int:
    """Bytes of pinned memory that ``size`` bytes take: torch's allocator takes the next power of two, and keeps it."""
    return 1 << (size - 1).bit_length()


def pixel_memory(size: int, pinned: bool) -> torch.Tensor:
    """Fresh uint8 memory with room for ``size`` bytes, and for a somewhat larger batch after it.

    Args:
        pinned: whether it is page-locked, so that a GPU can copy from it while the host goes on.
    """
    room = rounded(size) if pinned else int(_ROOM * size)
    return torch.empty(room, dtype=torch.uint8, pin_memory=pinned)


class PixelBuffer:
    """Memory for one batch at a time.

    Args:
        pinned: see ``pixel_memory``.
    """

    def __init__(self, pinned: bool) -> None:
        self._pinned, self._memory = pinned, torch.empty(0, dtype=torch.uint8)

    def take(self, size: int) -> torch.Tensor:
        """Room for a batch, uint8 (size,), with arbitrary contents; the room taken before is used again."""
        if not fits(self._memory, size):
            self._memory = torch.empty(0, dtype=torch.uint8)  # the old memory goes before the new one comes
            self._memory = pixel_memory(size, self._pinned)
        return self._memory[:size]
