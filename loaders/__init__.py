"""Images in, crops out: a multi-crop loader that is usable alone and knows nothing of the method.

>>> from loaders import make_loader, MultiCrop, CropSpec
>>> recipe = MultiCrop((CropSpec(224), CropSpec(96, scale=(0.05, 0.3))))
>>> loader = make_loader("images/train", recipe, batch_size=64)
>>> for batch in loader:
...     batch.views[0]  # (64, 3, 224, 224), channels_last, normalised
"""

from __future__ import annotations

import importlib

_HOMES = {
    "make_loader": "loaders.loader",
    "Loader": "loaders.loader",
    "Batch": "loaders.loader",
    "MultiCrop": "loaders.recipe",
    "CropSpec": "loaders.recipe",
    "CenterCrop": "loaders.recipe",
    "random_crop_and_flip": "loaders.recipe",
    "UserError": "loaders.errors",
}
__all__ = sorted(_HOMES)


def __getattr__(name: str):
    # Late, so that a command's --help does not wait for torch.
    if name not in _HOMES:
        raise AttributeError(f"module 'loaders' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)
