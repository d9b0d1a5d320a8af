"""What a restart by ``torchrun`` needs beside a checkpoint."""

from __future__ import annotations

import os

from fastintl.distributed.world import environment_number
from loaders.errors import UserError


def require_restartable() -> None:
    """Refuses a start by ``torchrun`` whose workers could not connect again after a restart.

    torchrun's agents lend the workers their store, in which each attempt to connect has a name space by the number of
    restarts. Every agent counts its own, so that after the loss of one node's worker the counts differ and the new
    workers find the addresses of dead ones, at each attempt anew (pytorch issue 135712).

    Raises:
        UserError: several nodes are to be restarted on a store that their agents share.
    """
    several_nodes = environment_number("GROUP_WORLD_SIZE", 1) > 1
    restarts = environment_number("TORCHELASTIC_MAX_RESTARTS", 0) > 0
    if several_nodes and restarts and os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True":
        raise UserError(
            "torchrun is to restart lost workers on several nodes (--max-restarts), which cannot connect again in the "
            "store that it shares with them: set TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1 in torchrun's environment on "
            "every node"
        )
