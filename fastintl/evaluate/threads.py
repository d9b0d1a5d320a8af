"""Threads that work beside each other, each with matrix products of its own."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any, TypeVar

import torch

Item = TypeVar("Item")
Each = Callable[[Callable[[Item], Any], Iterable[Item]], None]


@contextmanager
def team(count: int) -> Iterator[Each]:
    """So many threads, among which torch's are shared out: a product of one waits for no other.

    Yields:
        ``each(work, items)``, which does ``work(item)`` for all items and raises what one of them raises. A team of
        one works in the thread that calls it.
    """
    if count == 1:
        yield _in_turn
        return
    threads = torch.get_num_threads()
    try:
        with ThreadPoolExecutor(count, "team", torch.set_num_threads, (max(1, threads // count),)) as pool:
            yield lambda work, items: list(pool.map(work, items))
    finally:
        torch.set_num_threads(threads)  # new threads take the number that was set last, in whatever thread


def _in_turn(work: Callable[[Item], Any], items: Iterable[Item]) -> None:
    for item in items:
        work(item)
