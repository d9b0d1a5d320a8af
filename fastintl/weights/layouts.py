"""The names of the backbone's tensors in the files of this and other projects."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from torch import Tensor

# DataParallel, DistributedDataParallel and torch.compile put these between the parts of a name.
_WRAPPERS = {"module", "_orig_mod"}


@dataclass(frozen=True)
class Layout:
    """How tensors are named in a file, without the wrappers' parts.

    Attributes:
        whose: projects that write such files.
        prefix: what stands before torchvision's names of the backbone.
        target: what stands before those of its EMA copy.
        others: prefixes of tensors that are in the file and no part of the backbone.
    """

    whose: str
    prefix: str
    target: str | None = None
    others: tuple[str, ...] = ()

    def has_target(self, names: Iterable[str]) -> bool:
        return self.target is not None and any(_plain(name).startswith(self.target) for name in names)

    def split(self, state: dict[str, Tensor], target: bool) -> tuple[dict[str, Tensor], list[str]]:
        """The backbone's tensors under torchvision's names, and the names of tensors that nothing explains."""
        wanted = self.target if target else self.prefix
        # A classifier or MoCo's head is no part of the backbone either.
        passed_over = (f"{wanted}fc.", self.prefix if target else self.target, *self.others)
        passed_over = tuple(prefix for prefix in passed_over if prefix is not None)
        backbone, left_over = {}, []
        for name, value in state.items():
            plain = _plain(name)
            if plain.startswith(passed_over):
                continue
            if plain.startswith(wanted):
                backbone[plain.removeprefix(wanted)] = value
            else:
                left_over.append(name)
        return backbone, left_over


LAYOUTS = (
    Layout("fastintl", "encoder.backbone.", "target.backbone.", ("encoder.projector.", "target.projector.")),
    Layout(
        "INTL's authors, Barlow Twins",
        "backbone.",
        "momentum_backbone.",
        ("projection.", "momentum_projection.", "projector.", "bn."),
    ),
    Layout("MoCo v1 and v2", "encoder_q.", "encoder_k.", ("queue",)),
    Layout("CW-RGP", "model.", None, ("head.",)),
    Layout("torchvision, and every backbone saved alone", ""),
)


def find_layout(names: Iterable[str]) -> Layout | None:
    """The first layout under which a ResNet's first convolution is among the names."""
    plain = {_plain(name) for name in names}
    return next((layout for layout in LAYOUTS if f"{layout.prefix}conv1.weight" in plain), None)


def _plain(name: str) -> str:
    return ".".join(part for part in name.split(".") if part not in _WRAPPERS)
