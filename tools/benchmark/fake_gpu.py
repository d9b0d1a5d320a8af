"""A GPU that is not there, so that torch's Inductor generates the code that it would generate for it.

Nothing can run on it. ``pretend`` changes torch for the whole process and cannot be undone: call it in a process of its
own. It reaches into torch's private parts, and was written for torch 2.14.
"""

from __future__ import annotations

import sys
import types
from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class GPU:
    """What a GPU's datasheet says.

    Attributes:
        name: as torch would report it.
        capability: CUDA's, major and minor.
        multiprocessors: how many it has.
        l2_bytes: size of its L2 cache.
        shared_bytes: shared memory of a block, at most.
        memory_bytes: size of its memory.
        bytes_per_second: of its memory, read and written.
        flops_per_second: of its matrix units in fp16 or bf16, without sparsity.
        float32_flops_per_second: of its other units.
    """

    name: str
    capability: tuple[int, int]
    multiprocessors: int
    l2_bytes: int
    shared_bytes: int
    memory_bytes: int
    bytes_per_second: float
    flops_per_second: float
    float32_flops_per_second: float

    def least_seconds(self, bytes_moved: float, flops: float, float32: bool) -> float:
        """The longer of two times: of so many bytes, and of so many operations, in float32 or on the matrix units."""
        rate = self.float32_flops_per_second if float32 else self.flops_per_second
        return max(bytes_moved / self.bytes_per_second, flops / rate)


# NVIDIA's datasheets of the SXM boards.
GPUS = {
    "v100": GPU("Tesla V100-SXM2-32GB", (7, 0), 80, 6 << 20, 98_304, 32 << 30, 0.9e12, 125e12, 15.7e12),
    "a100": GPU("NVIDIA A100-SXM4-80GB", (8, 0), 108, 40 << 20, 166_912, 80 << 30, 2.039e12, 312e12, 19.5e12),
    "h100": GPU("NVIDIA H100 80GB HBM3", (9, 0), 132, 50 << 20, 232_448, 80 << 30, 3.35e12, 989e12, 66.9e12),
}


def pretend(gpu: GPU) -> None:
    """Makes torch and Inductor believe that this process has such a GPU, and that it compiles and runs nothing."""
    import torch._C as core
    import torch._dynamo.device_interface as interfaces
    import torch._inductor.async_compile as async_compile
    import torch.utils._triton as triton_of_torch
    from torch import accelerator, cuda
    from torch.cuda import graphs

    properties = _properties(gpu)

    def always(value: object) -> types.FunctionType:
        return lambda *_, **__: value

    replacements: list[tuple[object, dict[str, object]]] = [
        (cuda, {"is_available": True, "device_count": 1, "current_device": 0, "is_initialized": True}),
        (cuda, {"get_device_properties": properties, "_get_device_properties": properties}),
        (cuda, {"get_device_capability": gpu.capability, "get_device_name": gpu.name, "is_bf16_supported": True}),
        (cuda, {"_lazy_init": None, "synchronize": None, "set_device": None, "set_rng_state": None}),
        (cuda, {"get_rng_state": torch.zeros(16, dtype=torch.uint8), "is_current_stream_capturing": False}),
        (cuda, {"_exchange_device": 0, "_maybe_exchange_device": 0}),
        (graphs, {"_cuda_isCurrentStreamCapturing": False}),
        (core, {"_cuda_getCurrentRawStream": 0, "_cuda_setDevice": None, "_cuda_exchangeDevice": 0}),
        (core, {"_cuda_maybeExchangeDevice": 0, "_cuda_getDevice": 0, "_accelerator_getDeviceIndex": 0}),
        (core, {"_conv_determine_backend_memory_format": torch.channels_last}),
        (accelerator, {"is_available": True, "current_device_index": 0}),
        (triton_of_torch, {"triton_hash_with_backend": "hash", "triton_backend": None}),
        (async_compile.AsyncCompile, {"triton": None}),
    ]
    for owner, values in replacements:
        for name, value in values.items():
            setattr(owner, name, always(value))
    interface = interfaces.CudaInterface
    interface.Worker.get_device_properties = staticmethod(always(properties))
    answers = {"is_available": True, "device_count": 1, "current_device": 0, "is_triton_capable": True}
    answers |= {"get_compute_capability": 10 * gpu.capability[0] + gpu.capability[1]}
    for name, value in (answers | {"raise_if_triton_unavailable": None}).items():
        setattr(interface, name, staticmethod(always(value)))
    for module in list(sys.modules.values()):
        if getattr(module, "__name__", "").startswith("torch") and "has_triton" in vars(module):
            module.has_triton = always(True)


def _properties(gpu: GPU) -> types.SimpleNamespace:
    """What ``torch.cuda.get_device_properties`` would return."""
    major, minor = gpu.capability
    return types.SimpleNamespace(
        name=gpu.name,
        major=major,
        minor=minor,
        total_memory=gpu.memory_bytes,
        multi_processor_count=gpu.multiprocessors,
        L2_cache_size=gpu.l2_bytes,
        shared_memory_per_block=49_152,
        shared_memory_per_block_optin=gpu.shared_bytes,
        shared_memory_per_multiprocessor=gpu.shared_bytes + 1024,
        max_threads_per_multi_processor=2048,
        max_threads_per_block=1024,
        regs_per_multiprocessor=65_536,
        warp_size=32,
        is_integrated=0,
        is_multi_gpu_board=0,
        gcnArchName="",
        uuid="",
        clock_rate=1_500_000,
        memory_clock_rate=1_500_000,
        memory_bus_width=5120,
        pci_bus_id=0,
        pci_device_id=0,
        pci_domain_id=0,
    )
