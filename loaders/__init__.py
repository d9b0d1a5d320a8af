"""Images in, crops out: a multi-crop loader that is usable alone and knows nothing of the method.

>>> from loaders import make_loader, MultiCrop, CropSpec
>>> recipe = MultiCrop((CropSpec(224), CropSpec(96, scale=(0.05, 0.3))))
>>> loader = make_loader("images/train", recipe, batch_size=64)
>>> for batch in loader:
...     batch.views[0]  # (64, 3, 224, 224), channels_last, normalised
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

__all__ = [
    "Batch",
    "CenterCrop",
    "CropSpec",
    "Loader",
    "MultiCrop",
    "UserError",
    "make_loader",
    "random_crop_and_flip",
]

if TYPE_CHECKING:
    from loaders.errors import UserError
    from loaders.loader import Batch, Loader, make_loader
    from loaders.recipe import CenterCrop, CropSpec, MultiCrop, random_crop_and_flip
else:  # late, so that a command's --help does not wait for torch
    _HOMES = {"UserError": "errors", **dict.fromkeys(("Batch", "Loader", "make_loader"), "loader")}

    def __getattr__(name: str):
        if name not in __all__:
            raise AttributeError(f"module 'loaders' has no attribute {name!r}")
        return getattr(importlib.import_module(f"loaders.{_HOMES.get(name, 'recipe')}"), name)
