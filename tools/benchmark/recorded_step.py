"""The parts of a training step with their shapes, found by running it on tensors without memory (torch's "meta" ones).

Shapes: n images of one rank, V views, N images of all ranks, d channels of the embedding.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode, register_flop_formula

import fastintl.losses.exact_matmul  # noqa: F401  (registers the operation)
from fastintl.config import Config
from fastintl.network import lockstep
from fastintl.network.model import JointEmbedding
from fastintl.training.build import build_model

# ATen's MultiTensorApply.cuh: tensors of a launch by how many lists of them there are, and chunks of values.
_TENSORS_OF_A_LAUNCH = {1: 110, 2: 64, 3: 48, 4: 36, 5: 30}
_CHUNKS_OF_A_LAUNCH, _VALUES_OF_A_CHUNK = 320, 65_536


@register_flop_formula(torch.ops.fastintl.exact_matmul)
def _(a: tuple[int, int, int], b: tuple[int, int, int], **_: Any) -> int:
    """The operations of the losses' own product, as torch's counter has it for ``bmm``."""
    return 2 * a[0] * a[1] * a[2] * b[2]


@dataclass
class Call:
    """A region as the step calls it; calls of the same shapes share their code.

    Attributes:
        name: of the region: stem, a block such as layer1.0, or head.
        function: the region.
        modules: its first argument, one a view.
        inputs: shape of each view's tensor, and whether it has a gradient.
        rest: its other arguments.
        flops: of its forward and of its backward pass.
        freed_elements: values of its outputs that no backward pass wants, the target's.
        output_elements: values of its other outputs.
        times: how often the step calls it.
    """

    name: str
    function: Callable
    modules: Sequence[nn.Module]
    inputs: list[tuple[tuple[int, ...], bool]]
    rest: tuple
    flops: tuple[int, int]
    freed_elements: int
    output_elements: int
    times: int = 1


@dataclass
class _Recorder:
    names: dict[int, str]
    calls: dict[Any, Call] = field(default_factory=dict)

    def region(self, name: str, function: Callable) -> Callable:
        def recorded(modules: Sequence[nn.Module], xs: Sequence[Tensor], *rest: Any) -> list[Tensor]:
            shapes = [(tuple(x.shape), x.requires_grad) for x in xs]
            parameters = [tuple(p.shape) for p in modules[-1].parameters()] if name == "block" else []
            key = (name, str(shapes), str(parameters))
            outputs = function(modules, xs, *rest)
            if key in self.calls:
                self.calls[key].times += 1
            else:
                called = self.names.get(id(modules[-1]), name) if name == "block" else name
                freed = sum(x.numel() for x in outputs if not x.requires_grad)
                kept = sum(x.numel() for x in outputs if x.requires_grad)
                flops = _flops(function, modules, xs, rest)
                self.calls[key] = Call(called, function, modules, shapes, rest, flops, freed, kept)
            return outputs

        return recorded


def record(config: Config, ranks: int) -> tuple[JointEmbedding, list[Call]]:
    """The network, without memory, and the different calls of its regions on one rank."""
    with torch.device("meta"):
        model = build_model(config.model)
        sides = config.crops.sizes
        views = [torch.empty(config.train.batch_size // ranks, 3, side, side) for side in sides]
    names = {id(module): name for name, module in model.encoder.backbone.named_modules()}
    recorder = _Recorder(names)
    model.regions = lockstep.Regions(
        *(recorder.region(name, getattr(lockstep, name)) for name in ("stem", "block", "head"))
    )
    model(views)
    return model, list(recorder.calls.values())


def _flops(function: Callable, modules: Sequence[nn.Module], xs: Sequence[Tensor], rest: tuple) -> tuple[int, int]:
    xs = [torch.empty_like(x).requires_grad_(x.requires_grad) for x in xs]
    return pass_flops(lambda: sum(x.sum() for x in function(modules, xs, *rest) if x.requires_grad))


def pass_flops(compute: Callable[[], Tensor]) -> tuple[int, int]:
    """Operations of computing a scalar, and of its backward pass."""
    with FlopCounterMode(display=False) as forward:
        value = compute()
    with FlopCounterMode(display=False) as backward:
        value.backward()
    return forward.get_total_flops(), backward.get_total_flops()


class EagerCount(TorchDispatchMode):
    """Counts the operations of code that is not compiled: each that is no view is a launch, or as many as torch's
    lists of tensors take."""

    def __init__(self) -> None:
        super().__init__()
        self.launches, self.bytes_moved = 0, 0

    def __torch_dispatch__(self, function: Any, types: Any, arguments: tuple = (), options: dict | None = None) -> Any:
        result = function(*arguments, **(options or {}))
        if function.is_view or function._schema.name in ("aten::detach", "aten::empty", "aten::empty_like"):
            return result
        lists = [x for x in arguments if isinstance(x, (list, tuple)) and x and isinstance(x[0], Tensor)]
        if "_foreach_" in function._schema.name or "_fused_" in function._schema.name:
            self.launches += foreach_launches([x.numel() for x in lists[0]], len(lists))
        else:
            self.launches += 1
        touched = [x for x in torch.utils._pytree.tree_leaves((arguments, result)) if isinstance(x, Tensor)]
        self.bytes_moved += sum(x.numel() * x.element_size() for x in {id(x): x for x in touched}.values())
        return result


def foreach_launches(sizes: Sequence[int], lists: int) -> int:
    """Launches of an operation on lists of tensors of so many values each (ATen's multi_tensor_apply)."""
    most_tensors, launches, tensors, chunks = _TENSORS_OF_A_LAUNCH[lists], 0, 0, 0
    for size in sizes:
        tensors += 1
        own = math.ceil(size / _VALUES_OF_A_CHUNK)
        for chunk in range(own):
            chunks += 1
            last = chunk == own - 1
            if chunks == _CHUNKS_OF_A_LAUNCH or (last and tensors == most_tensors):
                launches, chunks, tensors = launches + 1, 0, 0 if last else 1
    return launches + (chunks > 0)
