"""Every kernel compiles for real GPUs, from Ampere on, as the engine launches it; ptxas needs no GPU for that."""

import os
import subprocess
import sys

import pytest

pytest.importorskip("triton")

# In a process of its own: where there is no GPU, Triton is in interpreter mode in this one.
SCRIPT = """
import sys
import numpy as np, torch, triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from loaders.multicrop import kernels
from loaders.multicrop.device import DeviceCenterCrop, DeviceMultiCrop
from loaders.recipe import CenterCrop, CropSpec, MultiCrop
from loaders.sources.decoded import packed

capability, dtype, planar = int(sys.argv[1]), getattr(torch, sys.argv[2]), sys.argv[3] == "planar"
names = {torch.uint8: "*u8", torch.int32: "*i32", torch.int64: "*i64", torch.float16: "*fp16",
         torch.bfloat16: "*bf16", torch.float32: "*fp32"}

class Compile:
    def __init__(self, kernel):
        self.kernel = kernel

    def __getitem__(self, grid):
        return self.launch

    def launch(self, *arguments, **options):
        parameters = self.kernel.arg_names
        constants = {name: options.pop(name) for name in list(options) if name in parameters}
        types = [names[a.dtype] if isinstance(a, torch.Tensor) else "i32" for a in arguments]
        signature = dict(zip(parameters, types)) | {name: "constexpr" for name in constants}
        assert list(signature) == list(parameters)
        aligned = {(i,): [["tt.divisibility", 16]] for i, t in enumerate(types) if t[0] == "*"}
        source = ASTSource(self.kernel, signature, constants, aligned)
        compiled = triton.compile(source, target=GPUTarget("cuda", capability, 32), options=options)
        assert len(compiled.asm["cubin"]) > 1000 and f".target sm_{capability}" in compiled.asm["ptx"]
        print("compiled", self.kernel.__name__, compiled.metadata.shared)

for name in ("weights_kernel", "resize_kernel", "colour_kernel", "blur_kernel"):
    setattr(kernels, name, Compile(getattr(kernels, name)))
batch = packed([torch.zeros((9, 9, 3), dtype=torch.uint8)], np.array([0]), np.array([0]))
if planar:
    batch.strides = np.array([[9, 1, 81]])
if sys.argv[4] == "random":
    DeviceMultiCrop(MultiCrop((CropSpec(224, blur=1),)), "cpu", dtype, "triton")(batch, 0, 0)
else:
    DeviceCenterCrop(CenterCrop(), "cpu", dtype, "triton")(batch, 0, 0)
"""


@pytest.mark.parametrize(
    "capability, dtype, layout, crops, kernels",
    [
        (80, "bfloat16", "interleaved", "random", 4),
        (90, "float16", "planar", "random", 4),
        (90, "float32", "interleaved", "centre", 3),
    ],
)
def test_every_kernel_compiles(tmp_path, capability, dtype, layout, crops, kernels):
    environment = {key: value for key, value in os.environ.items() if key != "TRITON_INTERPRET"}
    environment["TRITON_CACHE_DIR"] = str(tmp_path)
    command = [sys.executable, "-c", SCRIPT, str(capability), dtype, layout, crops]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.count("compiled") == kernels
