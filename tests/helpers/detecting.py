"""Detectors learnt by tools/detect.py from coloured shapes, on schedules that take seconds."""

from pathlib import Path

from tests.detection_sets import CLASSES

SIDE = 64
SMALL = {
    "views.train_sizes": "[64]",
    "views.test_size": SIDE,
    "model.anchor_sizes": "[12,18,27]",
    "model.proposals_train": "[300,60]",
    "model.proposals_test": "[200,30]",
    "model.rois": 16,
    "model.roi_size": 8,
    "optim.lr": 0.3,
    "optim.steps": 110,
    "optim.drops": "[90]",
    "optim.warmup_steps": 20,
    "train.batch_size": 8,
    "train.device": "cpu",
    "data.threads": 1,
    "eval.precise_bn": 10,
}
VOC = {"data.train": "[VOC2007/trainval]", "data.classes": f"[{','.join(CLASSES)}]"}


def words(shapes: Path, data: str, out: Path, *more: object, **changes) -> list[str]:
    """The options of ``tools/detect.py`` for a training in ``out``.

    Args:
        shapes: folder of the datasets ``voc`` and ``coco``.
        data: which of them.
        more: options beside those.
        changes: keys with ``__`` for the dot.
    """
    keys = {**SMALL, **(VOC if data == "voc" else {}), "out": out}
    keys |= {key.replace("__", "."): value for key, value in changes.items()}
    told = ["--data", data, "--root", shapes / data, *more, *(f"{key}={value}" for key, value in keys.items())]
    return [str(word) for word in told]
