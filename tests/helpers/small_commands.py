"""What makes the commands of README.md and docs/ small, and which of them are not run and why.

The patterns match from a command's beginning, or from the file or module that ``python`` or ``torchrun`` starts on.
What is added stands behind the command's own words and so overrides them.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from tests.helpers import detecting

_DETECTOR = [f"{key}={value}" for key, value in detecting.SMALL.items() if not key.startswith("optim.")]
_IMAGENET = "--train data/imagenet_train.beton --val data/imagenet_val.beton"

# All patterns that match add their words.
ADDED = [
    (r"fastintl\.train --rcfg", "train.device=cpu train.batch_size=16 train.max_steps=2 model.projector=[64,64]"),
    (r"fastintl\.train .*/ep100\.yaml", "crops.sizes=[64,64,48,48,32,32] eval.resize=72 eval.size=64"),
    (r"fastintl\.train .*/in100\.yaml", "crops.sizes=[64,64] eval.resize=72 eval.size=64"),
    (r"fastintl\.train .*/cw_rgp/", "loss.w_size=16"),
    (r"fastintl\.train .*/(cifar|stl10)", "data.verify=false"),  # a miniature has no published checksum
    (r"torchrun .*data\.root=data/ImageNet", "name=migrated"),  # else it would find the README's run finished
    (r"torchrun .*data\.root=/data/imagenet", "name=scaled"),
    (r"tools/(knn|linear|features|finetune|neighbours)\.py", "--device cpu"),
    (r"tools/knn\.py ckpt", "--resize 72 --size 64"),
    (r"tools/linear\.py (?!.*quick)", "--epochs 1 --batch-size 16"),
    (r"tools/linear\.py .*…", "--train cifar10:train@data/cifar10 --val cifar10:val@data/cifar10"),
    (r"tools/finetune\.py", "--epochs 1 --batch-size 16 --subset subset.txt"),
    (r"tools/finetune\.py .*…", _IMAGENET),
    (r"tools/detect\.py", " ".join([*_DETECTOR, "optim.steps=2 optim.drops=[1] optim.warmup_steps=1"])),
    (r"tools/detect\.py --data voc", f"data.classes={detecting.VOC['data.classes']}"),
    (r"tools/bench\.py loader", "--rounds 1 --seconds 0.2 --batch-size 8"),
    (r"tools/bench\.py ranks", "--rounds 1 --steps 1"),
    (r"tools/draw_method\.py", "--out figures"),  # not over the page's own
    (r"fastintl demo", "train.max_steps=40 name=installed"),
    (r"fastintl train --rcfg ep100", "train.device=cpu train.batch_size=16 train.max_steps=2 model.projector=[64,64]"),
    (r"fastintl train --rcfg ep100", "crops.sizes=[64,64,48,48,32,32] eval.resize=72 eval.size=64 name=by_name"),
    (r"make demo", "ARGS=train.max_steps=40 -o setup python=python"),  # in the environment that is there
]
# These are small as they are.
WHOLE = [
    (r"\S+ --help", ""),
    (r"tests/detection_sets\.py", ""),
    (r"tools/bench\.py (costs|estimate)", ""),
    (r"tools/(compile_cpu|doctor|download|export|report|show_crops|write_ffcv)\.py", ""),
]
LEFT_OUT = [
    (r"tools/bench\.py count", "it takes minutes; tests/tools/benchmark/test_count.py runs a small one"),
    (r"tools/bench\.py scale", "it takes minutes; tests/tools/benchmark/test_scale.py runs a small one"),
    (r"tools/bench\.py tradeoff", "it takes hours; tests/tools/benchmark/test_tradeoff.py runs a small one"),
    (r"make (setup|test|lint|docs|docs-check|gpu-check)", "it sets up or tests the project or the machine"),
    (r"\S*pip install", "it changes the environment"),
    (r"pip could not", "a sentence, no command"),
    (r"fastintl\.train$", "it stands for any training"),
    (r"torchrun --nnodes 4", "it wants four machines"),
    (r"tools/detectron2/train\.py", "it wants detectron2"),
    (r"tools/against_authors\.py", "it wants checkouts of the authors' repositories"),
    (r"tests/(chaos|elastic|follow_readme|fuzz)\.py", "a long trial of its own"),
]


def matching(table: Sequence[tuple[str, str]], words: Sequence[str]) -> list[str]:
    """The second texts of a table's rows whose pattern matches a command, or its program and what is behind it."""
    whole = " ".join(words)
    program = re.sub(r"^(python|torchrun( --standalone| --[\w-]+ \d+)*)( -m)? ", "", whole)
    return [text for pattern, text in table if re.match(pattern, whole) or re.match(pattern, program)]


def added(words: Sequence[str]) -> list[str]:
    """The words that make a command small; none if it is small."""
    return " ".join(matching(ADDED, words)).split()


def reason_to_leave_out(words: Sequence[str]) -> str | None:
    return next(iter(matching(LEFT_OUT, words)), None)


def known(words: Sequence[str]) -> bool:
    """Whether the tables say anything about a command."""
    return bool(matching([*ADDED, *WHOLE, *LEFT_OUT], words))
