"""A whole training by the authors' CIFAR program, with its own loader, schedule and evaluation."""

from __future__ import annotations

import importlib
import json
import time
from pathlib import Path
from typing import Any

from tools.fidelity.theirs import programs, stand_ins

_RECORD = Path("epochs.jsonl")


def train(job: dict[str, Any]) -> dict[str, Any]:
    """Trains in the present folder, and goes on where a training that was stopped there has saved.

    Args:
        job: ``script`` and ``arguments``; ``train`` and ``held_out``: pixels (n, 32, 32, 3) uint8 and labels (n,);
            ``arch``, ``stem`` and ``zero_init_residual`` of a network of ours, in the place of their ResNet-18.

    Returns:
        ``loss`` and ``seconds`` of every epoch; ``knn_top1`` and ``linear_top1`` at the end, if the arguments ask for
        an evaluation.
    """
    from fastintl.network.model import build_backbone

    stand_ins.Images.train, stand_ins.Images.held_out = (
        tuple(column.numpy() for column in job[name]) for name in ("train", "held_out")
    )
    logged: list[dict[str, Any]] = []
    stand_ins.install(logged.append)
    program = programs.load(job["script"])

    def backbone(cfg: Any) -> tuple:
        network = build_backbone(job["arch"], job["stem"], job["zero_init_residual"])
        return network, network.feature_dim

    importlib.import_module("methods.base").get_backbone = backbone
    evaluation = importlib.import_module("eval.evaluate")
    get_data, train_epoch = evaluation.get_data, program.train
    evaluation.get_data = lambda model, loader, size, device: get_data(model, loader, size, "cpu")

    def timed(loader: Any, model: Any, optimizer: Any, epoch: int, cfg: Any) -> float:
        begun = time.perf_counter()
        loss = train_epoch(loader, model, optimizer, epoch, cfg)
        _write({"epoch": epoch, "loss": float(loss), "seconds": time.perf_counter() - begun})
        return loss

    program.train = timed
    saved = sorted(Path("ckpt").glob("ckpt_*.pth.tar"))
    programs.run(program, [*job["arguments"], *(["--resume", str(saved[0])] if saved else [])])
    for values in logged:
        if "acc_knn" in values:
            _write({"knn_top1": float(values["acc_knn"]), "linear_top1": float(values["acc"])})
    rows = [json.loads(line) for line in _RECORD.read_text().splitlines()]
    epochs = {row["epoch"]: row for row in rows if "epoch" in row}  # one that was cut off comes twice
    answer = {name: [epochs[epoch][name] for epoch in sorted(epochs)] for name in ("loss", "seconds")}
    return answer | next((row for row in reversed(rows) if "knn_top1" in row), {})


def _write(row: dict[str, Any]) -> None:
    with _RECORD.open("a") as file:
        file.write(json.dumps(row) + "\n")
