"""What Inductor's code of a compiled function asks of a GPU that is not there: launches, bytes, and what is kept.

To be called in a process of its own, since it changes torch (see ``fake_gpu.py``). Written for torch 2.14.
"""

from __future__ import annotations

import math
import re
import types
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx

from .fake_gpu import GPU, pretend

_CALLS = re.compile(r"^\s+(?:\w+ = )?(triton_\w+\.run|extern_kernels\.\w+|torch\.ops\.\S+?)\(", re.M)
_NO_KERNEL = ("wait_tensor", "_reinterpret_tensor")  # calls that ask nothing of the GPU


@dataclass(frozen=True)
class Pass:
    """A forward or backward pass.

    Attributes:
        name: "forward" or "backward".
        launches: how many kernels it starts; a library's call counts as one.
        bytes_moved: what all of them read and write, each tensor that a kernel touches once.
        kept_bytes: its outputs; those of a forward pass go to the next region and to its own backward pass.
    """

    name: str
    launches: int
    bytes_moved: int
    kept_bytes: int


def lower(
    function: Callable, arguments: Sequence[Any], dtype: torch.dtype, gpu: GPU, options: dict[str, Any]
) -> list[Pass]:
    """The passes of a function, forward first.

    Args:
        function: to be compiled, on tensors that lie on the CPU; it is traced, not run.
        arguments: its arguments, of the sizes that are asked for; nothing is read or written there.
        dtype: number format of autocast.
        gpu: the GPU to generate code for.
        options: Inductor's, as given to ``torch.compile``.
    """
    with torch.autocast("cpu", dtype):
        graph, inputs = _traced(function, arguments)
    pretend(gpu)
    from torch._functorch import config as functorch_config
    from torch._inductor import compile_fx, config
    from torch._inductor import graph as inductor_graph

    passes: list[Pass] = []

    def generated(lowering: Any, code: Any) -> types.SimpleNamespace:
        passes.append(_pass(lowering, code.value))
        return types.SimpleNamespace(call=None, __file__="none", key="none", runner=None)

    inductor_graph.GraphLowering._compile_to_module_lines = generated
    inductor_graph.log_module_code = lambda *_, **__: None
    settings = {"force_disable_caches": True, "fx_graph_cache": False, "compile_threads": 1, **options}
    functorch = {"force_non_lazy_backward_lowering": True, "enable_autograd_cache": False}
    mode = torch._subclasses.FakeTensorMode(allow_non_fake_inputs=True)
    with mode:
        fakes = [_like(x) for x in inputs]
    tracing = torch._guards.tracing(torch._guards.TracingContext(mode))
    with config.patch(settings), functorch_config.patch(functorch), tracing, torch.autocast("cpu", dtype):
        compile_fx.compile_fx(graph, fakes, inner_compile=_on_the_gpu)
    return sorted(passes, key=lambda one: one.name, reverse=True)


class _Traced(Exception):
    """Ends the compilation where the graph is known."""


def _traced(function: Callable, arguments: Sequence[Any]) -> tuple[fx.GraphModule, list[Tensor]]:
    """Dynamo's graph of the function, and the tensors that it takes."""
    found: list[tuple[fx.GraphModule, list[Tensor]]] = []

    def backend(graph: fx.GraphModule, _: list[Tensor]) -> Callable:
        found.append((graph, [n.meta["example_value"] for n in graph.graph.nodes if n.op == "placeholder"]))
        raise _Traced

    torch._dynamo.reset()
    try:
        torch.compile(function, fullgraph=True, dynamic=False, backend=backend)(*arguments)
    except torch._dynamo.exc.BackendCompilerFailed as error:
        if not isinstance(error.inner_exception, _Traced):
            raise
    torch._dynamo.reset()
    return found[0]


def _like(x: Tensor) -> Tensor:
    fake = torch.empty_strided(x.shape, x.stride(), dtype=x.dtype)
    if isinstance(x, torch.nn.Parameter):
        return torch.nn.Parameter(fake, requires_grad=x.requires_grad)
    return fake.requires_grad_() if x.requires_grad else fake


def _on_the_gpu(graph: fx.GraphModule, inputs: list[Any], **options: Any) -> Any:
    """Inductor's inner compilation, of the graph moved from the CPU to the GPU."""
    from torch._inductor import compile_fx
    from torch.utils._pytree import tree_map

    def moved(x: Any) -> Any:
        if not isinstance(x, Tensor):
            return x
        return torch.empty_strided(x.shape, x.stride(), dtype=x.dtype, device="cuda:0")

    with torch._guards.detect_fake_mode(inputs):
        for node in graph.graph.nodes:
            node.meta.pop("tensor_meta", None)
            node.meta |= {key: tree_map(moved, node.meta[key]) for key in ("val", "example_value") if key in node.meta}
            if "device" in node.kwargs:
                node.kwargs = {**node.kwargs, "device": torch.device("cuda:0")}
        inputs = [moved(x) for x in inputs]
    graph.recompile()
    return compile_fx.compile_fx_inner(graph, inputs, **options)


def _pass(lowering: Any, source: str) -> Pass:
    from torch._inductor import ir

    taken = set(lowering.graph_input_names)
    tensors = (ir.TensorBox, ir.StorageBox, ir.BaseView, ir.Buffer)
    outputs = [x for x in lowering.graph_outputs if isinstance(x, tensors)]
    kept = {x.get_name(): x for x in outputs}  # by the buffer's name, which two outputs may share
    kept_bytes = sum(_bytes_of(x) for name, x in kept.items() if name not in taken)
    bytes_moved, _, _ = lowering.count_bytes()
    name = "backward" if lowering.is_backward else "forward"
    return Pass(name, launches(source), int(bytes_moved), kept_bytes)


def _bytes_of(x: Any) -> int:
    return math.prod(int(side) for side in x.get_size()) * x.get_dtype().itemsize


def launches(source: str) -> int:
    """How many calls of generated code start kernels."""
    calls = _CALLS.findall(source[source.index("def call(") :])
    return sum(not any(word in name for word in _NO_KERNEL) for name in calls)
