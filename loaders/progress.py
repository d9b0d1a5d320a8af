"""Progress of long work: a bar on a terminal, a line now and then elsewhere."""

from __future__ import annotations

import sys
import time


class Progress:
    """Counts things done out of a total, on stderr; a context manager.

    Args:
        title: What is being made.
        unit: What is counted, in the plural.
        total: How many there are.
        done: How many were done before the start, which do not count for the rate.
    """

    PLAIN_SECONDS = 10.0

    def __init__(self, title: str, unit: str, total: int, done: int = 0) -> None:
        self._title, self._unit, self._total, self._done = title, unit, total, done
        self._first = done
        self._bar = _terminal_bar(unit) if sys.stderr.isatty() else None
        self._start = self._last_line = time.monotonic()

    @property
    def done(self) -> int:
        return self._done

    @property
    def seconds(self) -> float:
        """Seconds since the start."""
        return time.monotonic() - self._start

    @property
    def rate(self) -> float:
        """Things a second since the start."""
        return (self._done - self._first) / max(self.seconds, 1e-9)

    def __enter__(self) -> Progress:
        if self._bar is not None:
            self._bar.start()
            self._task = self._bar.add_task(self._title, total=self._total, completed=self._done, rate="")
        return self

    def __exit__(self, *error) -> None:
        if self._bar is not None:
            self._bar.stop()

    def advance(self, count: int) -> None:
        """Counts ``count`` more as done."""
        self._done += count
        if self._bar is not None:
            self._bar.update(self._task, completed=self._done, rate=f"{self.rate:,.0f}/s")
        elif time.monotonic() - self._last_line >= self.PLAIN_SECONDS:
            self._last_line = time.monotonic()
            print(self._line(), file=sys.stderr, flush=True)

    def _line(self) -> str:
        left = (self._total - self._done) / max(self.rate, 1e-9)
        return (
            f"{self._title}: {self._done:,} of {self._total:,} {self._unit}, {self.rate:,.0f}/s, "
            f"{left / 60:,.1f} min left"
        )


def _terminal_bar(unit: str):
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
    from rich.progress import Progress as Bar

    columns = (
        "{task.description}",
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn(unit),
        TextColumn("{task.fields[rate]}"),
    )
    return Bar(*columns, TimeRemainingColumn(), TextColumn("left"), console=Console(stderr=True))
