"""The device engine (Triton's kernels, torch's operations) against the definition, ``reference.py``, and torchvision.

Without a GPU the kernels run in Triton's interpreter, which takes some 0.1 s a tile: hence the small crops.
"""

from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms import CenterCrop as VisionCenterCrop
from torchvision.transforms import Compose, InterpolationMode, Normalize, Resize, ToTensor
from torchvision.transforms.functional import resized_crop

from loaders.errors import UserError
from loaders.multicrop import device as device_engine
from loaders.multicrop import reference
from loaders.multicrop.device import DeviceCenterCrop, DeviceMultiCrop, choose_implementation
from loaders.multicrop.draws import draw
from loaders.recipe import CenterCrop, CropSpec, MultiCrop
from loaders.sources.decoded import DecodedBatch, packed
from tests.helpers.triton_interpreter import require_interpreter

SIZES = [(120, 150), (40, 300), (300, 41), (64, 64), (5, 7), (1, 1), (1, 90)]
RECIPE = MultiCrop(
    (
        CropSpec(33, scale=(0.2, 1), hue=0.5, brightness=0.8, contrast=0.9, saturation=0.9, blur=0, solarize=0),
        CropSpec(20, scale=(0.05, 1), jitter=0.5, hue=0, blur=1, solarize=0.5),
        CropSpec(1, scale=(0.01, 1)),
    )
)
SEED, EPOCH = 3, 2
SAMPLES = range(10)
HAS_GPU = torch.cuda.is_available()
TARGETS = [
    pytest.param(("cpu", "triton"), marks=pytest.mark.skipif(HAS_GPU, reason="its kernels run on the GPU here")),
    ("cpu", "batched"),
    *(
        pytest.param(("cuda", name), marks=[pytest.mark.gpu, pytest.mark.skipif(not HAS_GPU, reason="no GPU")])
        for name in ("triton", "batched")
    ),
]


def image(i: int, height: int, width: int) -> torch.Tensor:
    rng = np.random.default_rng(i)
    coarse = Image.fromarray(rng.integers(0, 256, (4, 4, 3), dtype=np.uint8)).resize((width, height))
    pixels = np.asarray(coarse) + rng.normal(0, 10, (height, width, 3))
    return torch.from_numpy(np.clip(pixels, 0, 255).astype(np.uint8))


def batch_of(samples: range | list[int]) -> DecodedBatch:
    ids = np.array(samples)
    return packed([image(i, *SIZES[i % len(SIZES)]) for i in samples], ids, ids + 1000)


def padded(batch: DecodedBatch, planar: bool) -> DecodedBatch:
    """The same images, each in the corner of a box of noise; in planes of a channel each if ``planar``."""
    tall, wide = int(batch.heights.max()) + 2, int(batch.widths.max()) + 3
    shape = (3, tall, wide) if planar else (tall, wide, 3)
    boxes = np.random.default_rng(0).integers(0, 256, (len(batch.ids), *shape), dtype=np.uint8)
    for box, pixels in zip(boxes, batch.images, strict=True):
        height, width, _ = pixels.shape
        (box.transpose(1, 2, 0) if planar else box)[:height, :width] = pixels.numpy()
    return replace(
        batch,
        pixels=torch.from_numpy(boxes.reshape(-1)),
        offsets=np.arange(len(boxes)) * 3 * tall * wide,
        strides=np.tile([(wide, 1, tall * wide) if planar else (3 * wide, 3, 1)], (len(boxes), 1)),
    )


def levels(difference: torch.Tensor) -> torch.Tensor:
    """A difference of normalised views (..., 3, s, s), in grey levels."""
    return difference.abs().float().cpu() * 255 * torch.tensor(RECIPE.std)[:, None, None]


def agree(view: torch.Tensor, expected: torch.Tensor) -> None:
    error = levels(view - expected.to(view)).reshape(-1).sort().values
    # A value next to the solarising threshold may fall on either side of it.
    error = error[: -max(3, len(error) // 200)]
    if len(error):
        assert error.mean() < 0.5 and error.max() <= 2.1


@pytest.fixture(scope="module", params=TARGETS, ids="-".join)
def target(request) -> tuple[str, str]:
    if request.param[1] == "triton":
        pytest.importorskip("triton") if request.param[0] == "cuda" else require_interpreter()
    return request.param


@pytest.fixture(scope="module")
def views(target) -> list[torch.Tensor]:
    """The crops of a packed batch, float32, which most tests look at or compare to."""
    device, implementation = target
    batch = batch_of(SAMPLES)
    engine = DeviceMultiCrop(RECIPE, device, implementation=implementation)
    made = engine(batch.to(torch.device(device)), SEED, EPOCH)
    engine.close()
    return [view.cpu() for view in made]


def test_every_crop_agrees_with_the_reference(views):
    batch = batch_of(SAMPLES)
    draws = draw(RECIPE, SEED, EPOCH, batch.ids, batch.heights, batch.widths)
    for view, spec in enumerate(RECIPE.views):
        assert views[view].shape == (len(SAMPLES), 3, spec.size, spec.size) and views[view].dtype == torch.float32
        assert views[view].is_contiguous(memory_format=torch.channels_last)
        for i, pixels in enumerate(batch.images):
            expected = reference.crop(pixels.numpy(), draws[i, view], spec.size, RECIPE.mean, RECIPE.std)
            agree(views[view][i], torch.from_numpy(expected).permute(2, 0, 1))


def test_bilinear_crops_are_those_of_torchvision_and_the_reference(target):
    device, implementation = target
    batch = batch_of([0, 1, 4])
    plain = CropSpec(17, jitter=0, grayscale=0, blur=0, solarize=0, flip=0)
    recipe = MultiCrop((RECIPE.views[1], plain), interpolation="bilinear")
    coloured, resized = DeviceMultiCrop(recipe, device, implementation=implementation)(
        batch.to(torch.device(device)), SEED, EPOCH
    )
    draws = draw(recipe, SEED, EPOCH, batch.ids, batch.heights, batch.widths)
    for i, pixels in enumerate(batch.images):
        expected = reference.crop(pixels.numpy(), draws[i, 0], 20, RECIPE.mean, RECIPE.std, "bilinear")
        agree(coloured[i], torch.from_numpy(expected).permute(2, 0, 1))
        top, left, height, width = draws[i, 1, :4].astype(int).tolist()
        image = Image.fromarray(pixels.numpy())
        vision = resized_crop(image, top, left, height, width, [17, 17], InterpolationMode.BILINEAR)
        error = levels(resized[i].cpu() - Normalize(RECIPE.mean, RECIPE.std)(ToTensor()(vision)))
        assert error.mean() < 0.5 and error.max() < 2.01


@pytest.mark.parametrize("planar", [False, True])
def test_neither_the_batch_nor_its_layout_changes_a_crop(target, views, planar):
    device, implementation = target
    samples = [4, 3] if planar else [6, 2]
    engine = DeviceMultiCrop(RECIPE, device, implementation=implementation)
    some = engine(padded(batch_of(samples), planar).to(torch.device(device)), SEED, EPOCH)
    for view, expected in zip(some, views, strict=True):
        if implementation == "triton":
            assert torch.equal(view.cpu(), expected[samples])
        else:  # products of other sizes are summed in another order
            agree(view.cpu(), expected[samples])


@pytest.mark.parametrize("dtype, digits", [(torch.bfloat16, 8), (torch.float16, 11)])
def test_views_have_the_precision_of_their_type(target, views, dtype, digits):
    device, implementation = target
    if target == ("cpu", "triton") and dtype == torch.bfloat16:
        digits = 7  # the interpreter cuts digits off where a GPU rounds
    engine = DeviceMultiCrop(RECIPE, device, dtype, implementation)
    made = engine(batch_of([5, 1]).to(torch.device(device)), SEED, EPOCH)
    for view, expected in zip(made, views, strict=True):
        assert view.dtype == dtype and view.is_contiguous(memory_format=torch.channels_last)
        expected = expected[[5, 1]]
        if implementation == "triton":
            assert torch.all((view.cpu().float() - expected).abs() <= expected.abs() * 2.0**-digits + 1e-6)
        else:
            agree(view.cpu().float(), expected)


CENTRES = [(37, 20, "bilinear"), (18, 18, "bilinear"), (22, 18, "bicubic")]


@pytest.mark.parametrize("resize, size, interpolation", CENTRES)
def test_centre_crop_is_torchvisions(target, resize, size, interpolation):
    device, implementation = target
    batch = batch_of(range(len(SIZES)))
    recipe = CenterCrop(resize=resize, size=size, interpolation=interpolation)
    engine = DeviceCenterCrop(recipe, device, implementation=implementation)
    (view,) = engine(batch.to(torch.device(device)), 0, 0)
    assert view.is_contiguous(memory_format=torch.channels_last)
    steps = [Resize(resize, InterpolationMode(interpolation), antialias=True), VisionCenterCrop(size), ToTensor()]
    vision = Compose([*steps, Normalize(CenterCrop().mean, CenterCrop().std)])
    for crop, pixels in zip(view.cpu(), batch.images, strict=True):
        error = levels(crop - vision(Image.fromarray(pixels.numpy())))
        assert error.mean() < 0.5 and error.max() < 2.01


def test_large_images_and_centre_crops_keep_their_precision(target):
    """Far from the image's corner float32 positions would be coarse, and a long row takes many blocks of taps."""
    device, implementation = target
    row = torch.arange(20000, dtype=torch.float32) * 0.9
    pixels = (128 + 100 * torch.sin(row))[None, :, None].expand(3, -1, 3).to(torch.uint8).contiguous()
    batch = packed([pixels], np.array([0]), np.array([0]))
    engine = DeviceCenterCrop(CenterCrop(resize=4, size=4), device, implementation=implementation)
    (view,) = engine(batch.to(torch.device(device)), 0, 0)
    image = Image.fromarray(pixels.numpy())
    resized = image.resize((int(4 * 20000 / 3), 4), Image.Resampling.BILINEAR)
    left = round((resized.width - 4) / 2)
    vision = Normalize(RECIPE.mean, RECIPE.std)(ToTensor()(resized.crop((left, 0, left + 4, 4))))
    assert levels(view[0].cpu() - vision).max() < 2.01


def test_nothing_is_written_beyond_the_buffers(target, monkeypatch):
    device, implementation = target
    if implementation != "triton":
        pytest.skip("torch's operations check their bounds")
    from loaders.multicrop.triton_crops import TritonCrops

    room, whole = 4096, []

    def guarded(self, count, dtype):
        whole.append(torch.full((count + 2 * room,), 77, dtype=dtype, device=device))
        return whole[-1][room : room + count]

    monkeypatch.setattr(TritonCrops, "_empty", guarded)
    DeviceMultiCrop(RECIPE, device)(batch_of([0]).to(torch.device(device)), SEED, EPOCH)
    assert len(whole) == 5
    for buffer in whole:
        assert torch.all(buffer[:room] == 77) and torch.all(buffer[-room:] == 77)


def test_the_implementation_is_chosen_by_the_device(monkeypatch):
    cpu, gpu, capability = torch.device("cpu"), torch.device("cuda"), (7, 5)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    monkeypatch.setattr(device_engine, "_has_triton", lambda: True)
    assert choose_implementation(gpu) == "batched"
    capability = (8, 0)
    assert choose_implementation(gpu) == "triton"
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    assert choose_implementation(cpu) == "triton"
    monkeypatch.setattr(device_engine, "_has_triton", lambda: False)
    assert choose_implementation(cpu) == choose_implementation(gpu) == "batched"
    monkeypatch.setattr(device_engine, "_has_triton", lambda: True)
    monkeypatch.delenv("TRITON_INTERPRET")
    assert choose_implementation(cpu) == "batched"
    assert DeviceMultiCrop(RECIPE, "cpu").implementation == "batched"
    with pytest.raises(UserError, match="cudnn"):
        DeviceMultiCrop(RECIPE, "cpu", implementation="cudnn")
