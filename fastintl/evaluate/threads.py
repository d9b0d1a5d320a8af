"""Threads that work beside each other, each with matrix products of its own."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import torch


@contextmanager
def team(count: int) -> Iterator[Executor]:
    """So many threads, among which torch's are shared out: a product of one waits for no other.

    They begin what they are given in that order. A team of one is the thread that calls it.
    """
    if count == 1:
        yield _AtOnce()
        return
    threads = torch.get_num_threads()
    try:
        with ThreadPoolExecutor(count, "team", torch.set_num_threads, (max(1, threads // count),)) as pool:
            yield pool
    finally:
        torch.set_num_threads(threads)  # new threads take the number that was set last, in whatever thread


class _AtOnce(Executor):
    """Does what it is given before it returns."""

    def submit(self, work: Callable, /, *arguments: Any, **options: Any) -> Future:
        future = Future()
        try:
            future.set_result(work(*arguments, **options))
        except Exception as error:
            future.set_exception(error)
        return future
