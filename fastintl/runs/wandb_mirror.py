"""A mirror of the metrics at Weights & Biases: ``metrics.jsonl`` is the truth, so the mirror may fail alone."""

from __future__ import annotations

import dataclasses
import logging
import secrets
from collections.abc import Callable
from types import ModuleType
from typing import Any

from fastintl.config import Config
from fastintl.runs.folder import RunFolder
from loaders.errors import UserError

_log = logging.getLogger("fastintl")

# Seconds that wandb may wait for an answer at the start of a run and at its end. With a server that never answers,
# wandb 0.31 takes about 15 s more than that to give up, and as much again when the process exits.
_START_SECONDS, _END_SECONDS = 30.0, 20.0


class WandbMirror:
    """The run at wandb. Whatever wandb raises is told once, in a sentence, and ends the mirror alone.

    Args:
        config: ``log.wandb`` is "online", "offline" or "off".
        folder: holds wandb's own files.
        run_id: the run to continue; None begins one.

    Attributes:
        run_id: to continue it after a restart; None if the mirror is off and always was.

    Raises:
        UserError: wandb is not installed.
    """

    def __init__(self, config: Config, folder: RunFolder, run_id: str | None) -> None:
        self.run_id, self._run = run_id, None
        if config.log.wandb == "off":
            return
        try:
            import wandb
        except ImportError as error:
            raise UserError(
                f"log.wandb={config.log.wandb} needs wandb: pip install wandb, or set log.wandb=off"
            ) from error
        self.run_id = run_id or secrets.token_hex(4)  # our own: a run whose start fails keeps it for the next start
        self._run = self._attempt(lambda: _begin(wandb, config, folder, self.run_id))

    def log(self, values: dict[str, Any], step: int) -> None:
        """Mirrors the numbers among ``values``."""
        if self._run:
            numbers = {key: value for key, value in values.items() if isinstance(value, int | float)}
            self._attempt(lambda: self._run.log(numbers, step=step))

    def close(self) -> None:
        """Ends the run at wandb; what a dead network kept from going there stays in the run folder."""
        if self._run:
            self._attempt(self._run.finish)
        self._run = None

    def _attempt(self, call: Callable[[], Any]) -> Any:
        try:
            return call()
        except Exception as error:  # of any type, from any layer of wandb
            self._run = None
            reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
            _log.warning("wandb mirrors nothing from here on (%s); the run goes on, metrics.jsonl has it all", reason)


def _begin(wandb: ModuleType, config: Config, folder: RunFolder, run_id: str):
    # wandb.init would ask for a key on a terminal, and wait for the answer.
    if config.log.wandb == "online" and not wandb.login(prompt=False, verify=False):
        raise ValueError("not logged in: run wandb login, or set WANDB_API_KEY or log.wandb=offline")
    return wandb.init(
        project=config.log.wandb_project,
        name=config.name,
        dir=folder.path,
        id=run_id,
        resume="allow",
        mode=config.log.wandb,
        config=dataclasses.asdict(config),
        save_code=False,
        settings=wandb.Settings(init_timeout=_START_SECONDS, finish_timeout=_END_SECONDS),
    )
