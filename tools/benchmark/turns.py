"""Contenders that share a process, timed in turn."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

_REST_SECONDS = 0.5


@dataclass
class Contender:
    """One way to do a task.

    Attributes:
        run: does it once; None if it cannot.
        missing: why it cannot.
        seconds: of each round.
    """

    name: str
    run: Callable[[], Any] | None
    missing: str | None = None
    seconds: list[float] = field(default_factory=list)

    @property
    def median(self) -> float | None:
        return statistics.median(self.seconds) if self.seconds else None

    def as_row(self) -> dict[str, Any]:
        return {"name": self.name, "missing": self.missing, "seconds": self.seconds}


def able(contenders: Sequence[Contender]) -> list[Contender]:
    """Those that can run here."""
    return [contender for contender in contenders if contender.run]


def left_out(contenders: Sequence[Contender]) -> list[str]:
    """The others, and why."""
    return [f"{contender.name}: {contender.missing}" for contender in contenders if contender.missing]


def time_in_turn(contenders: Sequence[Contender], rounds: int, wait: Callable[[], None] = lambda: None) -> None:
    """Times all that can run, ``rounds`` times, round after round.

    Args:
        wait: waits for the device, where one works while Python goes on.
    """
    for _ in range(rounds):
        for contender in able(contenders):
            # OpenMP's teams, of which torch, scikit-learn and faiss each bring one, spin for 200 ms after their work.
            time.sleep(_REST_SECONDS)
            start = time.perf_counter()
            contender.run()
            wait()
            contender.seconds.append(time.perf_counter() - start)
