"""The names of the backbone's tensors in the files of this and other projects."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from torch import Tensor

# DataParallel, DistributedDataParallel and torch.compile put these between the parts of a name.
_WRAPPERS = {"module", "_orig_mod"}
# A ResNet's layers as the children of a Sequential, of which relu and max-pool hold no tensors.
_CHILDREN = {"0": "conv1", "1": "bn1", "4": "layer1", "5": "layer2", "6": "layer3", "7": "layer4"}


@dataclass(frozen=True)
class Layout:
    """How tensors are named in a file, without the wrappers' parts.

    Attributes:
        whose: projects that write such files.
        prefix: what stands before the library's names of the backbone.
        target: what stands before those of its EMA copy.
        others: prefixes of tensors that are in the file and no part of the backbone.
        numbered: whether the layers of a ResNet have numbers in place of names, see ``_CHILDREN``.
    """

    whose: str
    prefix: str
    target: str | None = None
    others: tuple[str, ...] = ()
    numbered: bool = False

    def has_target(self, names: Iterable[str]) -> bool:
        return self.target is not None and any(_plain(name).startswith(self.target) for name in names)

    def split(
        self, state: dict[str, Tensor], target: bool, left_out: Iterable[str]
    ) -> tuple[dict[str, Tensor], list[str]]:
        """The backbone's tensors under its library's names, and the names of tensors that nothing explains.

        Args:
            left_out: layers that the network has at its end and the backbone has not, such as ``fc``. A classifier or
                MoCo's head is no part of the backbone.
        """
        wanted = self.target if target else self.prefix
        heads = [f"{wanted}{layer}." for layer in left_out]
        passed_over = (*heads, self.prefix if target else self.target, *self.others)
        passed_over = [prefix for prefix in passed_over if prefix is not None]
        backbone, left_over = {}, []
        for name, value in state.items():
            plain = _plain(name)
            # Of several prefixes the longest tells what a tensor is of.
            prefix = max((p for p in (wanted, *passed_over) if plain.startswith(p)), key=len, default=None)
            if prefix is None:
                left_over.append(name)
            elif prefix == wanted:
                backbone[self._library_name(plain.removeprefix(wanted))] = value
        return backbone, left_over

    def holds(self, plain_names: set[str], first: str) -> bool:
        """Whether a backbone's tensor ``first`` is among the names."""
        if self.numbered:
            return first == "conv1.weight" and f"{self.prefix}0.weight" in plain_names
        return f"{self.prefix}{first}" in plain_names

    def _library_name(self, name: str) -> str:
        child, _, rest = name.partition(".")
        return f"{_CHILDREN.get(child, child)}.{rest}" if self.numbered else name


# Looked up in the projects' repositories on GitHub, in the file that is named with each.
_SOLO = ("projector.", "momentum_projector.", "predictor.", "classifier.", "momentum_classifier.", "prototypes.")
_SOLO += ("queue", "head.", "momentum_head.", "dino_loss_func.")
_LIGHTLY = ("projection_head.", "projection_head_momentum.", "prediction_head.", "prototypes.", "criterion.")
_MMSELFSUP = ("neck.", "head.", "loss.", "data_preprocessor.", "queue")
LAYOUTS = (
    Layout("fastintl", "encoder.backbone.", "target.backbone.", ("encoder.projector.", "target.projector.")),
    Layout(
        "INTL's authors, Barlow Twins, VICReg (facebookresearch/vicreg: main_vicreg.py), and ours fine-tuned",
        "backbone.",
        "momentum_backbone.",
        ("projection.", "momentum_projection.", "projector.", "bn.", "fc."),
    ),
    Layout(
        "solo-learn (vturrisi/solo-learn: solo/methods/base.py and those beside it)",
        "backbone.",
        "momentum_backbone.",
        _SOLO,
    ),
    Layout("solo-learn's first versions", "encoder.", "momentum_encoder.", _SOLO),
    Layout(
        "lightly (lightly-ai/lightly: examples/pytorch_lightning/byol.py)",
        "backbone.",
        "backbone_momentum.",
        (*_LIGHTLY, "online_classifier."),
    ),
    Layout("lightly, a ResNet's children in a Sequential", "backbone.", "backbone_momentum.", _LIGHTLY, numbered=True),
    *(
        Layout(
            "lightly (lightly-ai/lightly: examples/pytorch_lightning/dino.py)",
            "student_backbone.",
            "teacher_backbone.",
            ("student_head.", "teacher_head.", "criterion."),
            numbered,
        )
        for numbered in (False, True)
    ),
    Layout(
        "MMSelfSup 1.x (open-mmlab/mmselfsup: mmselfsup/models/algorithms/byol.py)",
        "backbone.",
        "target_net.0.",
        (*_MMSELFSUP, "target_net."),
    ),
    Layout(
        "MMSelfSup (open-mmlab/mmselfsup: mmselfsup/models/algorithms/moco.py)",
        "backbone.",
        "encoder_k.0.",
        (*_MMSELFSUP, "encoder_k.", "encoder_q."),
    ),
    Layout("MoCo v1 and v2", "encoder_q.", "encoder_k.", ("queue",)),
    Layout(
        "MoCo v3 (facebookresearch/moco-v3: moco/builder.py)", "base_encoder.", "momentum_encoder.", ("predictor.",)
    ),
    Layout("SimSiam (facebookresearch/simsiam: simsiam/builder.py)", "encoder.", None, ("predictor.",)),
    Layout(
        "DINO (facebookresearch/dino: main_dino.py)",
        "student.backbone.",
        "teacher.backbone.",
        ("student.head.", "teacher.head."),
    ),
    Layout(
        "BYOL (lucidrains/byol-pytorch: byol_pytorch/byol_pytorch.py)",
        "online_encoder.net.",
        "target_encoder.net.",
        ("net.", "online_encoder.projector.", "target_encoder.projector.", "online_predictor."),
    ),
    *(
        Layout("VISSL (facebookresearch/vissl: vissl/models/trunks/resnext.py)", f"{trunk}_feature_blocks.")
        for trunk in ("trunk.", "")
    ),
    Layout("CW-RGP", "model.", None, ("head.",)),
    Layout(
        "torchvision, every backbone saved alone, and SwAV (facebookresearch/swav: src/resnet50.py)",
        "",
        None,
        ("projection_head.", "prototypes."),
    ),
)


def find_layout(state: dict[str, Tensor], first: str, left_out: Iterable[str]) -> Layout | None:
    """The layout under which a backbone's ``first`` tensor is among the names, the one that explains the most of them.

    Args:
        left_out: see ``Layout.split``.
    """
    plain = {_plain(name) for name in state}
    fitting = [layout for layout in LAYOUTS if layout.holds(plain, first)]
    return min(fitting, key=lambda layout: len(layout.split(state, False, left_out)[1]), default=None)


def _plain(name: str) -> str:
    return ".".join(part for part in name.split(".") if part not in _WRAPPERS)
