"""Whether the same training gives the same bits on a GPU (``train.deterministic``).

On a CPU it does. A GPU adds up in an order of its own wherever many threads add to one value, and cuDNN measures which
algorithm is the fastest, which another start may judge otherwise. Our own kernels add nothing atomically.
"""

from __future__ import annotations

import os

import torch

from loaders.errors import UserError

# What cuBLAS needs to be told before its first product, or it may give every stream another workspace.
_WORKSPACE = "CUBLAS_WORKSPACE_CONFIG"
_REPEATABLE = (":4096:8", ":16:8")


def set_deterministic(wanted: bool) -> None:
    """Chooses, for all that this process computes from now on, between the fastest and repeatable algorithms.

    It holds for one GPU model, one version of torch and one number of ranks, not between them. An operation that has no
    repeatable algorithm raises a RuntimeError when it is called. To be called before the first product on a GPU.

    Raises:
        UserError: the environment asks for a workspace of cuBLAS that does not repeat.
    """
    if wanted:
        workspace = os.environ.setdefault(_WORKSPACE, _REPEATABLE[0])
        if workspace not in _REPEATABLE:
            raise UserError(
                f"CUBLAS_WORKSPACE_CONFIG is {workspace!r}, with which cuBLAS does not repeat its results: unset it "
                f"or set it to {_REPEATABLE[0]}, for train.deterministic=on"
            )
        # All that we read was written before; to fill every new tensor first would cost its bytes again.
        torch.utils.deterministic.fill_uninitialized_memory = False
    torch.use_deterministic_algorithms(wanted)
    torch.backends.cudnn.deterministic = wanted
    torch.backends.cudnn.benchmark = not wanted  # the sizes of the crops never change
