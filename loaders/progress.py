"""Progress of long work: a bar on a terminal, a line now and then elsewhere."""

from __future__ import annotations

import sys
import time
from contextlib import suppress

from loaders.terminal import open_console


class ProgressDisplay:
    """How far something is, on stderr.

    Args:
        total: how many things there are to do.
        done: how many were done before.
        title: stands before the bar.
        text: stands behind the bar until the first update.
        shown: False shows nothing, as on all ranks but the first.
    """

    PLAIN_SECONDS = 10.0  # between two lines

    def __init__(self, total: int, done: int = 0, title: str = "", text: str = "", shown: bool = True) -> None:
        self.total, self._shown, self._last_line = total, shown, time.monotonic()
        self._bar = _terminal_bar(bool(title)) if shown and sys.stderr.isatty() else None
        if self._bar is not None:
            self._bar.start()
            self._task = self._bar.add_task(text, total=total, completed=done, title=title)

    def show(self, done: int, text: str, line: str, at_once: bool = False) -> None:
        """Moves the bar.

        Args:
            text: stands behind the bar.
            line: is printed instead of a bar, if the last one is ``PLAIN_SECONDS`` old, or ``at_once``.
        """
        if self._bar is not None:
            self._bar.update(self._task, completed=done, description=text)
        elif self._shown and (at_once or time.monotonic() - self._last_line >= self.PLAIN_SECONDS):
            self._last_line = time.monotonic()
            _print(line)

    def note(self, text: str) -> None:
        """Prints a line, above the bar where there is one."""
        if self._bar is not None:
            self._bar.console.print(text)
        elif self._shown:
            _print(text)

    def close(self) -> None:
        """Ends the bar."""
        if self._bar is not None:
            self._bar.stop()


class Progress(ProgressDisplay):
    """Counts things done out of a total; a context manager.

    Args:
        title: what is being made.
        unit: what is counted, in the plural.
        total: how many there are.
        done: how many were done before the start, which do not count for the rate.
        shown: False shows nothing.

    Attributes:
        done: how many are done.
    """

    def __init__(self, title: str, unit: str, total: int, done: int = 0, shown: bool = True) -> None:
        super().__init__(total, done, title, unit, shown)
        self._title, self._unit, self._first, self.done = title, unit, done, done
        self._start = time.monotonic()

    @property
    def seconds(self) -> float:
        """Seconds since the start."""
        return time.monotonic() - self._start

    @property
    def rate(self) -> float:
        """Things a second since the start."""
        return (self.done - self._first) / max(self.seconds, 1e-9)

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, *error) -> None:
        self.close()

    def advance(self, count: int) -> None:
        """Counts ``count`` more as done."""
        self.done += count
        rate = f"{self.rate:,.0f}/s"
        minutes = (self.total - self.done) / max(self.rate, 1e-9) / 60
        line = f"{self._title}: {self.done:,} of {self.total:,} {self._unit}, {rate}, {minutes:,.1f} min left"
        self.show(self.done, f"{self._unit} {rate}", line)


def _terminal_bar(titled: bool):
    """Total and time left have their room on a narrow terminal, too; what is long beside them is cut."""
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
    from rich.progress import Progress as Bar
    from rich.table import Column

    def text(what: str, ratio: int | None) -> TextColumn:
        return TextColumn(what, markup=False, table_column=Column(ratio=ratio, no_wrap=True, overflow="ellipsis"))

    fixed = (MofNCompleteColumn(table_column=Column(no_wrap=True)), TimeRemainingColumn(), TextColumn("left"))
    bar = BarColumn(None, table_column=Column(ratio=1))
    if titled:
        columns = (text("{task.fields[title]}", 3), bar, *fixed, text("{task.description}", None))
    else:
        columns = (bar, *fixed, text("{task.description}", 4))
    return Bar(*columns, console=open_console(stderr=True), expand=True)


def _print(line: str) -> None:
    with suppress(OSError):  # stderr may be a log file on a disk that is full
        print(line, file=sys.stderr, flush=True)
