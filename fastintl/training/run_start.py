"""What a start of a run says of itself: to the user, and to ``starts.jsonl``."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime, timezone
from typing import TYPE_CHECKING, Any

import torch

from fastintl.training.step_memory import shortage
from loaders.environment import describe_environment, free_bytes

if TYPE_CHECKING:
    from fastintl.training.pretraining import Pretraining


def describe_start(run: Pretraining) -> dict[str, Any]:
    """A line of ``starts.jsonl``."""
    return {
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "step": run.step,
        "last_step": run.last_step,
        "epoch_steps": run.epoch_steps,
        "ranks": run.world.world_size,
        "device": run.world.device.type,
        "precision": _precision(run),
        "source": run.loader.source,
        "pictures": len(run.loader.images),
        **describe_environment(),
    }


def announcement(run: Pretraining) -> Iterator[str]:
    """The lines printed at the start."""
    images, held_out = run.loader.images, "none, so nothing is evaluated"
    if run.evaluation.queries is not None:
        queries = run.evaluation.queries.images
        held_out = f"{len(queries):,} in {queries.path}"
    yield f"run         {run.folder.path}" + (f", resumed at step {run.step}" if run.step else "")
    yield f"images    {len(images):,} in {images.path}, decoded by {run.loader.source}"
    yield f"held out    {held_out}"
    views = " ".join(str(size) for size in run.config.crops.sizes)
    yield (
        f"training    {run.config.model.arch}, views of {views} px, batch {run.config.train.batch_size} on "
        f"{run.world.world_size} x {run.world.device.type} in {_precision(run)}"
    )
    sentence = shortage(run.config, run.world, run.train_step.dtype, free_bytes(torch.device("cpu")))
    if sentence:
        yield f"memory      {sentence}"


def _precision(run: Pretraining) -> str:
    return str(run.train_step.dtype).removeprefix("torch.")
