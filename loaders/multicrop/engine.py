"""What cuts crops, whatever it is: on a CPU, on a GPU, of sides that grow."""

from __future__ import annotations

from typing import Protocol

import torch

from loaders.sources.decoded import DecodedBatch


class Engine(Protocol):
    """Cuts the views of decoded images that lie on its device."""

    def __call__(self, decoded: DecodedBatch, seed: int, epoch: int) -> list[torch.Tensor]: ...

    def close(self) -> None: ...
