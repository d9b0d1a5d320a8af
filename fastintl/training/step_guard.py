"""A loss or gradient that is no longer a number: noticed on the device, kept from the weights, and explained.

Shapes: V views, N samples of the global batch, d channels.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fastintl.distributed.agreement import Agreement
from fastintl.distributed.collectives import gather
from fastintl.runs.loss_guard import BrokenStep, LossGuard
from fastintl.training.step import TrainingStep
from loaders import Loader
from loaders.files import write_text

# Below it the unscaled gradients themselves pass fp16's largest number, 65504, and no scale would help.
_SMALLEST_SCALE = 1.0


@dataclass(frozen=True)
class Reading:
    """Of the newest step: loss, norm of the global batch's gradient over all parameters, and the gradient scaler's
    scale (1 without); of the run: ``skipped_steps``, those whose gradient overflowed fp16, so that they did not train.
    """

    loss: float
    gradient_norm: float
    skipped_steps: int
    loss_scale: float


class StepGuard(LossGuard):
    """Also watches the gradient of every step, and holds the weights on the device once a step breaks.

    From the first step whose loss or gradient is not finite, the optimiser's updates are left out (by ``found_inf``,
    the mark by which a gradient scaler tells fused optimisers to do so). So the weights stay those that this step
    began with until somebody checks. Under a gradient scaler a gradient that overflows is no such step: the scaler
    leaves that update out and lowers its scale, and the guard counts it.

    Args:
        step: the training step; its optimiser must be a fused one.
        agreement: among the ranks.
    """

    def __init__(self, step: TrainingStep, agreement: Agreement) -> None:
        super().__init__(agreement)
        device = step.world.device
        self._step = step
        self._held = torch.zeros((), device=device)
        self._skipped = torch.zeros((), dtype=torch.int64, device=device)
        self._norm = torch.zeros((), device=device)
        step.optimizer.register_step_pre_hook(self._before_update)

    def see(self, losses: Tensor) -> None:
        """Takes a step's loss, a scalar on the device, after the step."""
        super().see(torch.stack([losses.float(), self._norm]))
        self._held.copy_(torch.maximum(self._held, (~losses.isfinite()).float()))

    def are_good(self, rows: Tensor) -> Tensor:
        """Whether loss and gradient norm are finite; under a gradient scaler, the loss."""
        return super().are_good(rows[:, :1] if self._step.scaler.is_enabled() else rows)

    def reading(self, step: int) -> Reading | None:
        """What was seen since the last reading; None if nothing. Waits for the device, and every rank must call it.

        Args:
            step: how many steps are done.

        Raises:
            BrokenStep: on all ranks, the first step that broke on any of them.
            UserError: no scale keeps the gradients within fp16.
        """
        rows = self.read(step)
        if rows is None:
            return None
        reading = Reading(*rows[-1].tolist(), self.skipped_steps, self._step.scaler.get_scale())
        if self._step.scaler.is_enabled() and reading.loss_scale < _SMALLEST_SCALE:
            self.agreement.fail(
                f"the gradients overflow fp16 at step {step} whatever their scale ({reading.skipped_steps} steps were "
                "skipped): begin again under another name (name=…) with train.precision=bf16 or fp32"
            )
        return reading

    def is_held(self) -> bool:
        """Whether a step has broken; waits for the device."""
        return bool(self._held)

    @property
    def skipped_steps(self) -> int:
        """Steps of the whole run whose gradient overflowed fp16, so that they did not train; waits for the device."""
        return int(self._skipped)

    @skipped_steps.setter
    def skipped_steps(self, count: int) -> None:
        self._skipped.fill_(count)

    @torch.no_grad()
    def _before_update(self, optimizer: torch.optim.Optimizer, args: tuple, kwargs: dict) -> None:
        gradients = [p.grad for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
        norm = torch.nn.utils.get_total_norm(gradients)
        if self._step.scaler.is_enabled():
            norm = norm / optimizer.grad_scale
            self._skipped += (optimizer.found_inf * (1 - self._held)).long()
            optimizer.found_inf = torch.maximum(optimizer.found_inf, self._held)
        else:
            self._held.copy_(torch.maximum(self._held, (~norm.isfinite()).float()))
            optimizer.found_inf = self._held
        self._norm.copy_(norm)


def explain(broken: BrokenStep, step: TrainingStep, loader: Loader, path: Path) -> str:
    """Writes what can be known of a broken step, on the first rank; every rank must call it.

    Args:
        path: of the JSON file.

    Returns:
        A sentence for the user.
    """
    loss, norm = broken.values
    record = {"step": broken.number + 1, "loss": repr(loss), "gradient_norm": repr(norm)}
    record |= describe(step, loader, broken.number)
    where = f"see {path} for its images and for statistics"
    if step.world.is_main:
        try:
            write_text(path, json.dumps(record, indent=1) + "\n")
        except OSError as error:
            where = f"{path} could not be written ({error.strerror or error})"
    precision = "" if step.dtype == torch.float32 else " or with train.precision=fp32"
    return (
        f"{broken} and a gradient of norm {norm:g} and was kept from the weights; {where}; the "
        f"checkpoints are from before it: begin again under another name (name=…) with a lower optim.lr{precision}"
    )


def describe(step: TrainingStep, loader: Loader, number: int) -> dict[str, Any]:
    """Takes a broken step again and measures it; every rank must call it. The guard holds the weights meanwhile.

    Only the EMA target, which goes on following the held weights, may be a few updates ahead of the first time.

    Args:
        number: of the step, 0 .. total_steps - 1.

    Returns:
        Plain values for a JSON file: the position, the settings that matter, the samples of the global batch in
        order, and ``statistics`` of embeddings, gradients, parameters and buffers.
    """
    epoch, batch_number = divmod(number, len(loader))
    loader.set_position(epoch, batch_number)
    scale = step.scaler.get_scale()
    with closing(iter(loader)) as batches:
        batch = next(batches)
    loss = step(batch.views, number)
    ids = gather(batch.ids.to(step.world.device)).flatten() if step.world.world_size > 1 else batch.ids
    ids = ids.tolist()
    online, target = step.embeddings
    views = [*([] if target is None else [target]), *online]
    gradients = ((name, p.grad / scale) for name, p in step.model.named_parameters() if p.grad is not None)
    return {
        "epoch": epoch,
        "batch": batch_number,
        "loss_taken_again": repr(loss.item()),
        "learning_rate": step.lr,
        "loss_scale": scale,
        "precision": str(step.dtype).removeprefix("torch."),
        "ranks": step.world.world_size,
        "samples": [{"id": id, "name": loader.images.names[id]} for id in ids],
        "samples_with_broken_embeddings": [ids[row] for row in _broken_rows(views)],
        "embeddings": _all((f"view {i}", z_Nd) for i, z_Nd in enumerate(views)),
        "gradients": _all(gradients),
        "parameters": _all(step.model.named_parameters()),
        "buffers": _all(step.model.named_buffers()),
    }


def statistics(x: Tensor) -> dict[str, float]:
    """``values``: how many; ``nonfinite``: how many of them are NaN or infinite; the others' ``mean``, ``std``,
    ``least`` and ``most``. Computed on the host, where there is room when a GPU is full."""
    x = x.detach().cpu().flatten().double()
    finite = x[x.isfinite()]
    result: dict[str, float] = {"values": x.numel(), "nonfinite": x.numel() - finite.numel()}
    if finite.numel():
        result |= {
            "mean": finite.mean().item(),
            "std": finite.std(correction=0).item(),
            "least": finite.min().item(),
            "most": finite.max().item(),
        }
    return result


def _all(tensors: Iterable[tuple[str, Tensor]]) -> dict[str, dict[str, float]]:
    return {name: statistics(tensor) for name, tensor in tensors}


def _broken_rows(views: list[Tensor]) -> list[int]:
    """The places in the global batch of the samples with a value that is not finite in any view, (N, d) each."""
    broken = torch.stack([~view.isfinite().all(dim=1) for view in views]).any(dim=0)
    return broken.nonzero().flatten().tolist()
