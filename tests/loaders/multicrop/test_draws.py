"""The draws against torchvision's own, over 10^5 of each: whole distributions, not means."""

import numpy as np
import pytest
import torch
from scipy import stats
from torchvision.transforms import ColorJitter, RandomResizedCrop

from loaders.multicrop import draws
from loaders.multicrop.draws import draw
from loaders.recipe import CropSpec, MultiCrop

COUNT = 100_000
THEIRS = 40_000  # torchvision draws one after the other
LEVEL = 1e-4  # a correct generator fails one comparison in 10^4


def table(spec: CropSpec, height: int, width: int, count: int = COUNT) -> np.ndarray:
    return draw(MultiCrop((spec,)), 0, 0, np.arange(count), np.full(count, height), np.full(count, width))[:, 0]


@pytest.mark.parametrize("height, width, scale", [(375, 500, (0.2, 1.0)), (90, 300, (0.5, 1.0)), (32, 32, (0.08, 1.0))])
def test_boxes_are_distributed_as_torchvisions(height, width, scale):
    rows = table(CropSpec(224, scale=scale), height, width)
    ours = rows[:, draws.TOP : draws.WIDTH + 1].astype(np.float64)
    torch.manual_seed(0)
    image = torch.empty(3, height, width)
    theirs = np.array([RandomResizedCrop.get_params(image, scale, (3 / 4, 4 / 3)) for _ in range(THEIRS)], float)
    for name, of in {
        "top": lambda box: box[:, 0],
        "left": lambda box: box[:, 1],
        "height": lambda box: box[:, 2],
        "width": lambda box: box[:, 3],
        "area": lambda box: box[:, 2] * box[:, 3],
        "aspect": lambda box: box[:, 3] / box[:, 2],
    }.items():
        assert stats.ks_2samp(of(ours), of(theirs)).pvalue > LEVEL, name
    assert (ours[:, 0] + ours[:, 2] <= height).all() and (ours[:, 1] + ours[:, 3] <= width).all()
    assert (ours >= 0).all() and (ours[:, 2:] > 0).all()


@pytest.mark.parametrize("height, width", [(10, 2000), (2000, 10), (20, 200)])
def test_where_no_attempt_fits_the_box_is_torchvisions_central_one(height, width):
    rows = table(CropSpec(224, scale=(0.9, 1.0)), height, width, count=50)
    expected = RandomResizedCrop.get_params(torch.empty(3, height, width), (0.9, 1.0), (3 / 4, 4 / 3))
    assert (rows[:, draws.TOP : draws.WIDTH + 1] == np.array(expected)).all()


@pytest.mark.parametrize("height, width", [(1, 1), (1, 5000), (2, 1), (20000, 10)])
def test_the_smallest_images_have_a_box(height, width):
    boxes = table(CropSpec(32, scale=(0.05, 1.0)), height, width, count=500)[:, draws.TOP : draws.WIDTH + 1]
    assert (boxes[:, 2:] >= 1).all() and (boxes[:, :2] >= 0).all()
    assert (boxes[:, 0] + boxes[:, 2] <= height).all() and (boxes[:, 1] + boxes[:, 3] <= width).all()


def test_jitter_is_distributed_as_torchvisions():
    spec = CropSpec(224)
    rows = table(spec, 375, 500)
    jittered = rows[rows[:, draws.JITTER_ORDER] >= 0]
    assert stats.binomtest(len(jittered), COUNT, spec.jitter).pvalue > LEVEL
    torch.manual_seed(0)
    jitter = ColorJitter(spec.brightness, spec.contrast, spec.saturation, spec.hue)
    theirs = [
        jitter.get_params(jitter.brightness, jitter.contrast, jitter.saturation, jitter.hue) for _ in range(COUNT // 2)
    ]
    for column, place in ((draws.BRIGHTNESS, 1), (draws.CONTRAST, 2), (draws.SATURATION, 3), (draws.HUE, 4)):
        their_factors = np.array([params[place] for params in theirs])
        assert stats.ks_2samp(rows[:, column], their_factors).pvalue > LEVEL, column
    ours = np.bincount(jittered[:, draws.JITTER_ORDER].astype(int), minlength=24)
    orders = {tuple(order): row for row, order in enumerate(draws.JITTER_ORDERS)}
    their_orders = np.bincount([orders[tuple(params[0].tolist())] for params in theirs], minlength=24)
    assert stats.chi2_contingency([ours, their_orders]).pvalue > LEVEL


def test_switches_and_sigma_have_their_probabilities_and_range():
    spec = CropSpec(224, flip=0.5, grayscale=0.2, blur=0.3, solarize=0.1)
    rows = table(spec, 375, 500)
    for column, probability in ((draws.FLIP, 0.5), (draws.GRAYSCALE, 0.2), (draws.SOLARIZE, 0.1)):
        assert set(np.unique(rows[:, column])) == {0, 1}
        assert stats.binomtest(int(rows[:, column].sum()), COUNT, probability).pvalue > LEVEL
    sigma = rows[:, draws.BLUR_SIGMA]
    assert stats.binomtest(int((sigma > 0).sum()), COUNT, spec.blur).pvalue > LEVEL
    assert stats.kstest(sigma[sigma > 0], stats.uniform(0.1, 1.9).cdf).pvalue > LEVEL


def test_the_numbers_of_a_draw_are_independent():
    rows = table(CropSpec(224, blur=1.0), 4000, 4000, count=20_000)
    rows = rows[:, [draws.HEIGHT, *range(draws.FLIP, draws.COLUMNS)]]  # the rest of the box does depend on its height
    rows = rows[rows[:, draws.JITTER_ORDER - draws.FLIP + 1] >= 0]
    correlation = np.corrcoef(rows, rowvar=False) - np.eye(rows.shape[1])
    assert np.abs(correlation).max() < 5 / np.sqrt(len(rows))


def test_probabilities_of_zero_and_one_are_certain():
    never = table(CropSpec(32, flip=0, jitter=0, grayscale=0, blur=0, solarize=0), 64, 64, 1000)
    always = table(CropSpec(32, flip=1, jitter=1, grayscale=1, blur=1, solarize=1), 64, 64, 1000)
    assert not never[:, [draws.FLIP, draws.GRAYSCALE, draws.BLUR_SIGMA, draws.SOLARIZE]].any()
    assert (never[:, draws.JITTER_ORDER] == -1).all() and (always[:, draws.JITTER_ORDER] >= 0).all()
    assert always[:, [draws.FLIP, draws.GRAYSCALE, draws.BLUR_SIGMA, draws.SOLARIZE]].all()


def test_a_draw_depends_on_seed_epoch_sample_and_view_alone():
    recipe = MultiCrop((CropSpec(32), CropSpec(24), CropSpec(24)))
    ids = np.array([5, 900, 17, 2])
    heights, widths = np.array([40, 50, 60, 70]), np.array([70, 60, 50, 40])
    full = draw(recipe, 1, 2, ids, heights, widths)
    for i in range(4):
        assert np.array_equal(draw(recipe, 1, 2, ids[i : i + 1], heights[i : i + 1], widths[i : i + 1])[0], full[i])
    assert not np.array_equal(full[:, 1], full[:, 2])
    assert not np.array_equal(full, draw(recipe, 1, 3, ids, heights, widths))
    assert not np.array_equal(full, draw(recipe, 2, 2, ids, heights, widths))
