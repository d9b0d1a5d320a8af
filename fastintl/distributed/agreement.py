"""Small numbers that all ranks settle among their hosts: no GPU takes part, and none is waited for."""

from __future__ import annotations

import sys
from collections.abc import Callable
from datetime import timedelta
from typing import NoReturn

import torch
import torch.distributed as dist

from fastintl.distributed.world import World
from loaders.errors import USER_ERROR_STATUS, UserError

_PATIENCE = timedelta(days=1)  # with a rank that is at work; one that is gone is noticed at once


class Agreement:
    """A process group of the hosts (gloo, whatever carries the training). Every rank makes the same calls in turn.

    A call fails with a ``RuntimeError`` as soon as a rank is gone, also where the GPUs would wait for it in vain. For
    one that works on alone it waits for hours, where the GPUs' own collectives give up after ten minutes.

    Attributes:
        is_main: whether this is the first rank.
    """

    def __init__(self, world: World) -> None:
        self.is_main = world.is_main
        self._group = dist.new_group(backend="gloo") if world.world_size > 1 else None
        if self._group is not None and hasattr(dist, "set_timeout"):  # older torch: half an hour
            dist.set_timeout(_PATIENCE, self._group)  # not before: hosts that find no way to each other shall say so

    def largest(self, value: int) -> int:
        """The largest of the ranks' values."""
        return self.largest_later(value)()

    def largest_later(self, value: int) -> Callable[[], int]:
        """The same without waiting: the ranks exchange their values in the background until the result is called."""
        if self._group is None:
            return lambda: value
        shared = torch.tensor(value, dtype=torch.int64)
        work = dist.all_reduce(shared, dist.ReduceOp.MAX, self._group, async_op=True)

        def result() -> int:
            work.wait()
            return int(shared)

        return result

    def same(self, value: int) -> bool:
        """Whether all ranks hold the same value."""
        return self.largest(value) == -self.largest(-value)

    def wait(self) -> None:
        """Waits until every rank is here."""
        self.largest(0)

    def fail(self, sentence: str) -> NoReturn:
        """Ends all ranks, for a reason that all know: the first one says it.

        Raises:
            UserError: on the first rank.
            SystemExit: on the others, with the same status.
        """
        self.wait()  # torchrun ends all ranks once one has left
        if self.is_main:
            raise UserError(sentence)
        sys.exit(USER_ERROR_STATUS)
