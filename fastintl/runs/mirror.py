"""What the mirrors of the metrics share: ``metrics.jsonl`` is the truth, so a mirror may fail alone."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

_log = logging.getLogger("fastintl")


class Mirror:
    """A copy of a run's numbers and images elsewhere. Whatever goes wrong is told once, in a sentence, and ends it.

    Attributes:
        name: what it is called in that sentence.
    """

    name = ""

    def __init__(self) -> None:
        self._run: Any = None  # None: off, or ended

    def log(self, values: dict[str, Any], step: int) -> None:
        """Mirrors the numbers among ``values``."""
        if self._run:
            numbers = {key: value for key, value in values.items() if isinstance(value, int | float)}
            self._attempt(lambda: self._send_numbers(numbers, step))

    def show(self, name: str, path: Path, step: int) -> None:
        """Mirrors the image in a file."""
        if self._run:
            self._attempt(lambda: self._send_image(name, path, step))

    def close(self) -> None:
        """Ends the mirror."""
        if self._run:
            self._attempt(self._end)
        self._run = None

    def _send_numbers(self, numbers: dict[str, int | float], step: int) -> None:
        raise NotImplementedError

    def _send_image(self, name: str, path: Path, step: int) -> None:
        raise NotImplementedError

    def _end(self) -> None:
        raise NotImplementedError

    def _attempt(self, call: Callable[[], Any]) -> Any:
        try:
            return call()
        except Exception as error:  # of any type, from any layer of the mirror's package
            self._run = None
            reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
            sentence = "%s mirrors nothing from here on (%s); the run goes on, metrics.jsonl has it all"
            _log.warning(sentence, self.name, reason)
