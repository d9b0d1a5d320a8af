"""A mirror of the metrics at Weights & Biases: ``metrics.jsonl`` is the truth, so the mirror may fail alone."""

from __future__ import annotations

import dataclasses
import secrets
from pathlib import Path
from types import ModuleType

from fastintl.config import Config
from fastintl.runs.folder import RunFolder
from fastintl.runs.mirror import Mirror
from loaders.errors import UserError

# Seconds that wandb may wait for an answer at the start of a run and at its end. With a server that never answers,
# wandb 0.31 takes about 15 s more than that to give up, and as much again when the process exits.
_START_SECONDS, _END_SECONDS = 30.0, 20.0


class WandbMirror(Mirror):
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

    name = "wandb"

    def __init__(self, config: Config, folder: RunFolder, run_id: str | None) -> None:
        super().__init__()
        self.run_id = run_id
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

    def _send_numbers(self, numbers: dict[str, int | float], step: int) -> None:
        self._run.log(numbers, step=step)

    def _send_image(self, name: str, path: Path, step: int) -> None:
        import wandb

        self._run.log({name: wandb.Image(str(path))}, step=step)

    def _end(self) -> None:
        """What a dead network kept from going to wandb stays in the run folder."""
        self._run.finish()


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
