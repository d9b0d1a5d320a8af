"""A mirror of the metrics in TensorBoard's files, ``tensorboard/`` in the run's folder."""

from __future__ import annotations

from pathlib import Path

from fastintl.config import Config
from fastintl.runs.folder import RunFolder
from fastintl.runs.mirror import Mirror
from loaders.errors import UserError


class TensorboardMirror(Mirror):
    """The run in TensorBoard.

    Args:
        config: ``log.tensorboard`` turns it on.
        folder: holds its files.
        step: where the run resumes; TensorBoard then leaves out what a killed run wrote after it.

    Raises:
        UserError: the package tensorboard is not installed.
    """

    name = "tensorboard"

    def __init__(self, config: Config, folder: RunFolder, step: int) -> None:
        super().__init__()
        if not config.log.tensorboard:
            return
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError as error:
            raise UserError(
                "log.tensorboard=true needs a package: pip install tensorboard, or set log.tensorboard=false"
            ) from error
        purge_step = step + 1 if step else None
        self._run = self._attempt(lambda: SummaryWriter(str(folder.path / "tensorboard"), purge_step=purge_step))

    def _send_numbers(self, numbers: dict[str, int | float], step: int) -> None:
        for key, value in numbers.items():
            self._run.add_scalar(key, value, step)

    def _send_image(self, name: str, path: Path, step: int) -> None:
        import numpy as np
        from PIL import Image

        with Image.open(path) as image:
            self._run.add_image(name, np.asarray(image.convert("RGBA")), step, dataformats="HWC")

    def _end(self) -> None:
        self._run.close()
