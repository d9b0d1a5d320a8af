"""Crops that grow: the stages, and that a stage's crop is a plain recipe's crop of that size from the same draws."""

from contextlib import closing
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from loaders import CropSpec, MultiCrop, UserError, make_loader
from loaders.growth import Growth, Stage, shares, sides_at, stages_of, step_of
from loaders.loader import open_engine
from loaders.multicrop import draws, reference
from loaders.multicrop.cpu import CpuMultiCrop
from loaders.multicrop.device import DeviceMultiCrop
from loaders.multicrop.growing import GrowingCrops
from loaders.sources.decoded import DecodedBatch, packed
from tests.helpers.triton_interpreter import require_interpreter

IMAGENET = (224, 224, 192, 160, 128, 96)
# 32 and 24 pixels begin at 20 and 16, by way of 24 and 18, 28 and 22.
GROWING = MultiCrop(
    (CropSpec(32, blur=1, blur_sigma=(0.5, 2)), CropSpec(24, scale=(0.1, 0.5), solarize=0.5)),
    growth=Growth(0.625, 6),
)
SIDES = {0: (20, 16), 1: (20, 16), 2: (24, 18), 4: (28, 22), 5: (28, 22), 6: (32, 24), 9: (32, 24)}


def decoded() -> DecodedBatch:
    images = []
    for i, (height, width) in enumerate([(60, 75), (40, 90), (5, 7)]):
        coarse = np.random.default_rng(i).integers(0, 256, (4, 4, 3), dtype=np.uint8)
        images.append(torch.from_numpy(np.asarray(Image.fromarray(coarse).resize((width, height))).copy()))
    return packed(images, np.arange(3), np.arange(3))


def test_the_stages_of_the_recipe_for_imagenet():
    assert stages_of(IMAGENET, Growth(0.625, 70)) == (
        Stage(0, (160, 160, 128, 112, 80, 64)),
        Stage(35, (192, 192, 160, 144, 112, 80)),
        Stage(70, IMAGENET),
    )
    assert [step_of(side) for side in (*IMAGENET, 64, 32, 24, 6)] == [32, 32, 16, 16, 16, 8, 8, 4, 2, 1]
    assert shares(stages_of(IMAGENET, Growth(0.625, 70)), 100) == pytest.approx([0.35, 0.35, 0.3])
    assert shares(stages_of(IMAGENET, Growth(0.625, 70)), 50) == pytest.approx([0.7, 0.3, 0])
    assert stages_of(IMAGENET, None) == (Stage(0, IMAGENET),)


@pytest.mark.parametrize("epoch", [1, 2, 3, 7, 100])
@pytest.mark.parametrize("share", [0.01, 0.3, 0.5, 0.625, 0.7, 0.97])
@pytest.mark.parametrize("sides", [IMAGENET, (32, 32), (40, 40, 32, 24), (225, 100), (7, 5), (1, 1)])
def test_stages_rise_to_the_full_size_at_the_epoch(sides, share, epoch):
    found = stages_of(sides, Growth(share, epoch))
    assert 1 <= len(found) <= 4 and found[0].epoch == 0
    assert found[-1].sides == sides
    assert len(found) == 1 or found[-1].epoch == epoch
    for before, after in zip(found, found[1:], strict=False):
        assert before.epoch < after.epoch and before.sides != after.sides
        assert all(small <= large for small, large in zip(before.sides, after.sides, strict=True))
    for stage in found[:-1]:
        for side, full in zip(stage.sides, sides, strict=True):
            assert share * full <= side + 1e-5 and side <= full and (side == full or side % step_of(full) == 0)


def test_growth_that_is_none_is_one_sentence():
    for share, epoch, sentence in ((1, 5, "between 0 and 1"), (0, 5, "between 0 and 1"), (0.5, 0, "epoch 1 or later")):
        with pytest.raises(UserError, match=sentence):
            Growth(share, epoch)


def test_draws_of_a_stage_are_those_of_full_size_and_the_blur_shrinks_with_the_side():
    ids, heights, widths = np.arange(50), np.full(50, 300), np.full(50, 400)
    full = draws.draw(replace(GROWING, growth=None), 3, 2, ids, heights, widths)
    small = draws.draw(GROWING.at(2), 3, 2, ids, heights, widths)
    others = [column for column in range(draws.COLUMNS) if column != draws.BLUR_SIGMA]
    assert np.array_equal(small[..., others], full[..., others])
    sigmas, smaller = full[..., draws.BLUR_SIGMA], small[..., draws.BLUR_SIGMA]
    np.testing.assert_allclose(smaller, sigmas * [24 / 32, 18 / 24], rtol=1e-6)
    assert sigmas.any()


@pytest.mark.parametrize(
    ("engine", "epoch"), [*((engine, epoch) for engine in ("cpu", "batched") for epoch in SIDES), ("triton", 2)]
)
def test_every_engine_cuts_the_crop_of_a_plain_recipe_of_that_size(engine, epoch):
    if engine == "triton":
        if torch.cuda.is_available():
            pytest.skip("its kernels run on the GPU here")
        require_interpreter()

    def fixed(recipe: MultiCrop):
        return CpuMultiCrop(recipe, 2) if engine == "cpu" else DeviceMultiCrop(recipe, "cpu", implementation=engine)

    plain = MultiCrop(
        tuple(
            replace(spec, size=side, blur_sigma=tuple(side / spec.size * sigma for sigma in spec.blur_sigma))
            for spec, side in zip(GROWING.views, SIDES[epoch], strict=True)
        )
    )
    batch = decoded()
    with closing(GrowingCrops(GROWING, fixed)) as growing, closing(fixed(plain)) as alone:
        growing(batch, 1, 9 - epoch)  # whatever epoch came before
        views = growing(batch, 1, epoch)
        assert [view.shape[-1] for view in views] == list(SIDES[epoch])
        for view, other in zip(views, alone(batch, 1, epoch), strict=True):
            assert torch.equal(view, other)
    drawn = draws.draw(plain, 1, epoch, batch.ids, batch.heights, batch.widths)
    for i, image in enumerate(batch.images):
        for v, side in enumerate(SIDES[epoch]):
            expected = reference.crop(image.numpy(), drawn[i, v], side, GROWING.mean, GROWING.std)
            assert np.abs(views[v][i].permute(1, 2, 0).numpy() - expected).mean() < 0.01


def test_a_recipe_that_does_not_grow_has_the_engine_it_always_had():
    plain = replace(GROWING, growth=None)
    assert plain.at(0) is plain
    with closing(open_engine(plain, torch.device("cpu"), torch.float32, 1)) as engine:
        assert type(engine) is CpuMultiCrop and engine.recipe is plain


@pytest.mark.parametrize("source", ["folder", "memory"])
def test_a_loader_gives_each_epoch_its_sides_wherever_it_begins(image_folder, source):
    with make_loader(image_folder, GROWING, 4, source=source, threads=1) as loader:
        epochs = [list(loader) for _ in range(8)]
        again = loader.crops(0, 2)[1]
    for epoch, batches in enumerate(epochs):
        sides = {tuple(view.shape[-1] for view in batch.views) for batch in batches}
        assert sides == {sides_at(GROWING.stages, epoch)}
    assert [view.shape[-1] for view in again] == list(SIDES[2])
    with make_loader(image_folder, GROWING, 4, source=source, threads=2, epoch=4, start_batch=1) as loader:
        for batch, other in zip(loader, epochs[4][1:], strict=True):
            assert all(torch.equal(view, same) for view, same in zip(batch.views, other.views, strict=True))
