"""``torch.compile`` of the network, region by region: a ResNet's; another backbone is one region.

Why regions (stem, residual block, head; see ``lockstep.py``) and not the network: the ResNet's blocks of one shape
share a compilation, the gradients' exchange starts when the last region's backward pass ends and not when all of it
does, and a convolution, which begins every region, ends a fusion anyway. Why static shapes: the five sizes of crop
stand side by side in one graph, so that nothing is compiled again (but once a stage where crops grow), and the kernels
know their sizes. Functions are compiled, not modules: parameters keep their names, and evaluation runs the same modules
uncompiled.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch._inductor.runtime.cache_dir_utils import default_cache_dir

from fastintl.network import lockstep, view_by_view
from loaders.compiler import require_c_compiler, require_cxx_compiler

# A region has a graph for every shape of block, ResNet-50 eight; torch gives up at eight and says little. Crops that
# grow have other shapes in each stage, whose graphs are compiled before the first step, and kept.
_GRAPHS_OF_A_REGION = 64

# Inductor's. What the views ask for alike, each in its own size, becomes one launch: with few images a GPU the host's
# launches, not the GPU, were what a step waited for.
OPTIONS: dict[str, Any] = {"combo_kernels": True}


def compiled_regions(
    device: torch.device,
    cuda_graphs: bool,
    regions: lockstep.Regions | view_by_view.Regions | None = None,
    stages: int = 1,
) -> lockstep.Regions | view_by_view.Regions:
    """The regions, to be compiled when they first run.

    Args:
        device: where they will run.
        cuda_graphs: whether each region's kernels replay as one CUDA graph. The caller begins each step by
            ``torch.compiler.cudagraph_mark_step_begin()``, and copies what it keeps of the results longer than that.
        regions: those of the model, uncompiled; None: a ResNet's.
        stages: how many sets of sides the views have one after the other, see ``loaders/growth.py``.

    Raises:
        UserError: the compiler that this needs, or Python's headers, are missing.
    """
    require_c_compiler() if device.type == "cuda" else require_cxx_compiler()
    _keep_cache_across_restarts()
    # The limit's older name, which every torch knows.
    limits, most = torch._dynamo.config, _GRAPHS_OF_A_REGION * stages
    limits.cache_size_limit = max(limits.cache_size_limit, most)
    limits.accumulated_cache_size_limit = max(limits.accumulated_cache_size_limit, most)
    # DDP would cut each region anew wherever a bucket of gradients ends; between regions it is cut often enough.
    torch._dynamo.config.optimize_ddp = False
    options = {**OPTIONS, "triton.cudagraphs": cuda_graphs}
    if isinstance(regions, view_by_view.Regions):
        # A network that is not ours may do what no graph holds: it is compiled around that.
        backbone = torch.compile(view_by_view.represent, dynamic=False, options=options)
        return view_by_view.Regions(backbone, _compiled(lockstep.project, options))
    parts = (lockstep.stem, lockstep.block, lockstep.head)
    return lockstep.Regions(*(_compiled(region, options) for region in parts))


def compiled_loss(loss: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """A loss as one graph, to be compiled when it first runs. It never replays as a CUDA graph: what it returns is
    kept beyond the next step."""
    _keep_cache_across_restarts()
    return _compiled(loss, OPTIONS)


def _compiled(function: Callable, options: dict[str, Any]) -> Callable:
    return torch.compile(function, fullgraph=True, dynamic=False, options=options)


def _keep_cache_across_restarts() -> None:
    """Moves the cache of compiled code from ``/tmp``, which a requeued job may find empty, to the user's caches."""
    # Importing torchvision already sets the variable, to torch's default.
    if os.environ.get("TORCHINDUCTOR_CACHE_DIR", default_cache_dir()) != default_cache_dir():
        return
    folder = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "fastintl" / "torch_compile"
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError:  # a read-only home: torch's default will do
        return
    os.environ["TORCHINDUCTOR_CACHE_DIR"] = str(folder)
