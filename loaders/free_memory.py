"""How much memory is free, on the host or on a GPU."""

from __future__ import annotations

import torch


def free_bytes(device: torch.device) -> int:
    """Bytes that can still be had on ``device``; on the host without swapping, the page cache counted as free."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    with open("/proc/meminfo") as file:
        return next(int(line.split()[1]) * 1024 for line in file if line.startswith("MemAvailable"))
