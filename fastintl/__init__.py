"""fastintl: self-supervised pretraining with INTL (ICLR 2024) at hardware speed.

The public names are imported on first use, so that ``import fastintl`` (and every ``--help``) needs no torch.
"""

from __future__ import annotations

import importlib

__version__ = "0.1.0"

_HOME = {
    "INTLLoss": "fastintl.losses.intl",
    "CWRGPLoss": "fastintl.losses.cw_rgp",
    "BarlowTwinsLoss": "fastintl.losses.barlow_twins",
    "SpectralLoss": "fastintl.losses.spectral",
    "load_backbone": "fastintl.weights.backbone",
}
__all__ = [*_HOME, "__version__"]


def __getattr__(name: str):
    if name in _HOME:
        return getattr(importlib.import_module(_HOME[name]), name)
    raise AttributeError(f"module 'fastintl' has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__
