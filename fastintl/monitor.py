"""What a run tells beside ``metrics.jsonl``: a mirror at wandb, and progress on the terminal."""

from __future__ import annotations

import dataclasses
import sys
import time
from contextlib import suppress

from fastintl.config import Config
from fastintl.run_folder import RunFolder
from loaders.errors import UserError

_PLAIN_SECONDS = 10.0


def open_wandb(config: Config, folder: RunFolder, run_id: str | None):
    """A wandb run, which continues ``run_id`` if there is one; None if the mirror is off.

    Raises:
        UserError: wandb is not installed.
    """
    if config.log.wandb == "off":
        return None
    try:
        import wandb
    except ImportError as error:
        raise UserError(f"log.wandb={config.log.wandb} needs wandb: pip install wandb, or set log.wandb=off") from error
    return wandb.init(
        project=config.log.wandb_project,
        name=config.name,
        dir=folder.path,
        id=run_id,
        resume="allow",
        mode=config.log.wandb,
        config=dataclasses.asdict(config),
        save_code=False,
    )


class Clock:
    """Time spent training, and the pictures and the waiting in it. It runs inside ``with``, so not in evaluations.

    Attributes:
        total: seconds so far; set it to continue an earlier run's.
    """

    def __init__(self) -> None:
        self.total = 0.0
        self._seconds, self._pictures, self._waited = 0.0, 0, 0.0

    def __enter__(self) -> Clock:
        self._start = time.perf_counter()
        return self

    def __exit__(self, *exc_info) -> None:
        self._advance()

    def count(self, pictures: int, waited: float) -> None:
        """Adds a step: its pictures over all ranks, and the seconds it waited for them."""
        self._pictures += pictures
        self._waited += waited

    def read(self) -> dict[str, float]:
        """Pictures per second and the share of the time spent waiting, since the last reading."""
        self._advance()
        seconds = max(self._seconds, 1e-9)
        reading = {"images_per_second": self._pictures / seconds, "data_wait": self._waited / seconds}
        self._seconds, self._pictures, self._waited = 0.0, 0, 0.0
        return reading

    def _advance(self) -> None:
        now = time.perf_counter()
        self.total += now - self._start
        self._seconds += now - self._start
        self._start = now


class TrainingProgress:
    """A bar on a terminal, elsewhere a line now and then; on stderr.

    Args:
        total: steps of the run.
        step: steps done before.
        shown: False on all ranks but the first.
    """

    def __init__(self, total: int, step: int, shown: bool) -> None:
        self._total, self._shown = total, shown
        self._last_line = 0.0
        self._bar = None
        if shown and sys.stderr.isatty():
            from rich.console import Console
            from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

            columns = (
                BarColumn(),
                MofNCompleteColumn(),
                TextColumn("{task.description}"),
                TimeRemainingColumn(),
            )
            self._bar = Progress(*columns, TextColumn("left"), console=Console(stderr=True))
            self._bar.start()
            self._task = self._bar.add_task("training", total=total, completed=step)

    def update(self, step: int, epoch: int, metrics: dict[str, float], seconds_left: float) -> None:
        """Shows the newest metrics of a log step."""
        if not self._shown:
            return
        text = (
            f"epoch {epoch}  loss {metrics['loss']:.4f}  lr {metrics['lr']:.4f}  "
            f"{metrics['images_per_second']:,.0f} images/s  data-wait {metrics['data_wait']:.0%}"
        )
        now = time.monotonic()
        if self._bar is not None:
            self._bar.update(self._task, completed=step, description=text)
        elif now - self._last_line >= _PLAIN_SECONDS or step == self._total:
            self._last_line = now
            _print(f"step {step}/{self._total}  {text}  {seconds_left / 60:.1f} min left")

    def note(self, text: str) -> None:
        """Prints a line above the bar."""
        if not self._shown:
            return
        if self._bar is not None:
            self._bar.console.print(text, highlight=False)
        else:
            _print(text)

    def close(self) -> None:
        if self._bar is not None:
            self._bar.stop()


def _print(text: str) -> None:
    with suppress(OSError):  # stderr may be a log file on a disk that is full
        print(text, file=sys.stderr, flush=True)
