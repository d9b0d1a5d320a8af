"""The two ways in which a run ends well: with its results, or with its state saved for another start."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, NoReturn

from fastintl.distributed.preemption import REQUEUE_STATUS
from fastintl.report.run_page import refresh_report
from fastintl.runs import summary
from fastintl.runs.checkpoint import write_atomically
from loaders.errors import UserError

if TYPE_CHECKING:
    from fastintl.detection.training import DetectionTraining
    from fastintl.training.pretraining import Pretraining


def leave_results(run: Pretraining) -> None:
    """Leaves the backbone, the summary and the report in the run folder, and prints the table.

    Raises:
        UserError: something could not be written.
    """
    run.progress.close()
    if not run.world.is_main:
        return
    results = summary.summarise(run.metrics.rows(), run.config, run.step, run.clock)
    problem = None
    try:
        write_atomically(run.model.encoder.backbone.state_dict(), run.folder.backbone)
        run.folder.write_summary(results)
    except OSError as error:
        problem = error.strerror
    refresh_report(run.folder.path)
    summary.print_table(results, run.config, run.folder.path)
    run.save_points.require(run.step)
    if problem:
        raise UserError(
            f"the results could not be written to {run.folder.path} ({problem}): make room there and start the "
            "same command again"
        )


def stop_for_requeue(run: Pretraining | DetectionTraining) -> NoReturn:
    """Saves and asks for another start by ``REQUEUE_STATUS``, on all ranks at the same step."""
    run.guard.check(run.step)
    run.save()
    run.agreement.wait()  # torchrun ends all ranks once one has left: nobody leaves before the save
    if run.world.is_main:
        run.save_points.require(run.step)
    run.progress.note(
        f"stopped by a signal at step {run.step}, which is saved: the same command goes on from there "
        f"(exit status {REQUEUE_STATUS})"
    )
    sys.exit(REQUEUE_STATUS)
