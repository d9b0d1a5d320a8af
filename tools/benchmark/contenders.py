"""Ways to do one task, timed in turn, round after round: what slows the machine for a while slows all of them."""

from __future__ import annotations

import gc
import statistics
import sys
import time
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from loaders.errors import UserError

_REST_SECONDS = 0.5

# First prepares and yields nothing; from then on does one round at each ``next`` and yields what it measured, values
# by name. Where it is closed or fails, it cleans up.
Rounds = Generator[Mapping[str, float], None, None]


@dataclass
class Contender:
    """One way to do a task, and what was measured of it.

    Attributes:
        name: its name in tables and figures.
        start: begins its rounds.
        settings: what else its JSON says of it.
        rounds: what each round measured, such as ``{"seconds": 0.1}``.
        error: why it could not run.
    """

    name: str
    start: Callable[[], Rounds]
    settings: Mapping[str, Any] = field(default_factory=dict)
    rounds: list[Mapping[str, float]] = field(default_factory=list)
    error: str | None = None

    def values(self, what: str) -> list[float]:
        """What was measured under this name, a value a round."""
        return [measured[what] for measured in self.rounds if what in measured]

    def median(self, what: str) -> float | None:
        """The median over the rounds; None if there were none."""
        return statistics.median(self.values(what)) if self.values(what) else None

    def largest(self, what: str) -> float | None:
        """The largest value of a round; None if there is none."""
        return max(self.values(what), default=None)

    def as_json(self, *names: str, failure: str = "error") -> dict[str, Any]:
        """Name, settings, its error under the name ``failure``, and every value under the other names."""
        return {"name": self.name, **self.settings, failure: self.error, **{what: self.values(what) for what in names}}


def time_in_turn(contenders: Sequence[Contender], rounds: int, may_fail: bool = True) -> None:
    """Prepares each, then lets each do a round in turn, ``rounds`` times, and keeps what they measured.

    Args:
        may_fail: whether one that fails is left out from then on, with its ``error`` set. On several ranks the others
            would wait for it for ever.
    """
    running = [(contender, contender.start()) for contender in contenders]
    try:
        for number in range(rounds + 1):
            for contender, measured in running:
                note(f"round {number} of {rounds}: {contender.name}" if number else f"starting {contender.name}")
                if contender.error is None:
                    _do_round(contender, measured, keep=number > 0, may_fail=may_fail)
    finally:
        for _, measured in running:
            measured.close()
        _free_memory()


def _do_round(contender: Contender, measured: Rounds, keep: bool, may_fail: bool) -> None:
    try:
        found = next(measured)
    except Exception as error:
        if not may_fail:
            raise
        contender.error = sentence(error)
    if contender.error is not None:
        _free_memory()  # only here, where no traceback holds it any more
    elif keep:
        contender.rounds.append(found)


def timed(prepare: Callable[[], Callable[[], Any]], wait: Callable[[], None] = lambda: None) -> Rounds:
    """Rounds of a function of this process, ``seconds`` each.

    Args:
        prepare: does what is not timed and returns the function.
        wait: waits for the device, where one works while Python goes on.
    """
    run = prepare()
    yield {}
    while True:
        # OpenMP's teams, of which torch, scikit-learn and faiss each bring one, spin for 200 ms after their work.
        time.sleep(_REST_SECONDS)
        start = time.perf_counter()
        run()
        wait()
        yield {"seconds": time.perf_counter() - start}


def ratio(first: Contender, second: Contender, what: str) -> float | None:
    """The median over the rounds of the first's value to the second's; both were measured in each."""
    pairs = list(zip(first.values(what), second.values(what), strict=False))
    return statistics.median(a / b for a, b in pairs) if pairs else None


def sentence(error: Exception) -> str:
    """What went wrong, on one line."""
    about = "" if isinstance(error, UserError) else f"{type(error).__name__}: "
    return about + " ".join(str(error).split())[:300]


def note(text: str) -> None:
    """Says on a terminal what is going on."""
    if sys.stderr.isatty():
        print(f"\r\033[K{text}", end="", file=sys.stderr, flush=True)


def _free_memory() -> None:
    import torch

    gc.collect()
    torch.cuda.empty_cache()
