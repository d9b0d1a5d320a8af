"""fastintl: self-supervised pretraining with INTL (ICLR 2024) at hardware speed.

The public names are imported on first use, so that ``import fastintl`` (and every ``--help``) needs no torch.
"""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import TYPE_CHECKING

import loaders

__version__ = "0.1.0"
__all__ = ["BarlowTwinsLoss", "CWRGPLoss", "INTLLoss", "SpectralLoss", "__version__", "load_backbone"]

# A package of this name is common, and the first that is imported is everybody's.
if Path(loaders.__file__ or "").parent.parent != Path(__file__).parent.parent:
    raise ImportError(
        f"fastintl needs the package loaders that comes with it, and Python has taken {loaders.__file__} for it: "
        "use fastintl in a process of its own, started in another folder, or rename the other package"
    )

if TYPE_CHECKING:
    from fastintl.losses.barlow_twins import BarlowTwinsLoss
    from fastintl.losses.cw_rgp import CWRGPLoss
    from fastintl.losses.intl import INTLLoss
    from fastintl.losses.spectral import SpectralLoss
    from fastintl.weights.backbone import load_backbone
else:
    _HOME = {
        "BarlowTwinsLoss": "fastintl.losses.barlow_twins",
        "CWRGPLoss": "fastintl.losses.cw_rgp",
        "INTLLoss": "fastintl.losses.intl",
        "SpectralLoss": "fastintl.losses.spectral",
        "load_backbone": "fastintl.weights.backbone",
    }

    def __getattr__(name: str):
        if name in _HOME:
            return getattr(importlib.import_module(_HOME[name]), name)
        raise AttributeError(f"module 'fastintl' has no attribute {name!r}")

    def __dir__() -> list[str]:
        return __all__
