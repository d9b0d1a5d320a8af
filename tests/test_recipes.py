"""The recipes hold the published numbers: the table of facts below, from the papers and released scripts."""

from pathlib import Path

import pytest

from fastintl import config

RCFGS = Path(__file__).parent.parent / "rcfgs"

# epochs, learning rate for 256 pictures, EMA, published top-1 of the linear classifier in per cent
PUBLISHED = {
    "ep100": (100, 0.5, True, "73.5"),
    "ep200": (200, 0.4, True, "75.2"),
    "ep400": (400, 0.4, True, "76.1"),
    "ep800": (800, 0.3, True, "76.6"),
    "ep800_two_crop": (800, 0.3, False, "73.1"),
}

# size, scale from, scale to, probability of blur, of solarise
MULTI_CROP = [
    (224, 0.2, 1.0, 0.5, 0.1),
    (224, 0.2, 1.0, 0.5, 0.1),
    (192, 0.171, 0.857, 0.5, 0.1),
    (160, 0.143, 0.714, 0.5, 0.1),
    (128, 0.114, 0.571, 0.5, 0.1),
    (96, 0.086, 0.429, 0.5, 0.1),
]
TWO_CROP = [(224, 0.08, 1.0, 1.0, 0.0), (224, 0.08, 1.0, 0.1, 0.2)]


@pytest.mark.parametrize("name", PUBLISHED)
def test_recipe_is_the_published_one(name):
    epochs, lr, ema, _ = PUBLISHED[name]
    made = config.load(RCFGS / f"{name}.yaml")
    assert (made.name, made.data.name) == (name, "imagenet")
    assert (made.train.epochs, made.train.batch_size, made.train.max_steps) == (epochs, 256, None)

    optim = made.optim
    assert (optim.lr, optim.momentum, optim.weight_decay) == (lr, 0.9, 1e-5)
    assert (optim.warmup_epochs, optim.final_fraction, optim.decay_one_dimensional) == (2, 0.001, False)

    model = made.model
    assert (model.arch, model.stem, model.zero_init_residual) == ("resnet50", "imagenet", True)
    assert (model.projector, model.ema, model.ema_momentum) == ((8192, 8192, 8192), ema, 0.996)
    assert made.loss == config.Loss(name="intl", iterations=4, axis="channel", trade_off=None)

    crops = made.crops
    columns = zip(crops.sizes, crops.scales, crops.blur, crops.solarize, strict=True)
    assert [(s, *scale, b, o) for s, scale, b, o in columns] == (MULTI_CROP if ema else TWO_CROP)
    assert crops.ratio == (3 / 4, 4 / 3) and crops.flip == 0.5
    assert (crops.jitter, crops.brightness, crops.contrast) == (0.8, 0.4, 0.4)
    assert (crops.saturation, crops.hue, crops.grayscale) == (0.2, 0.1, 0.2)
    assert crops.blur_sigma == (0.1, 2.0)
    assert (crops.mean, crops.std) == ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))

    assert (made.eval.k, made.eval.resize, made.eval.size) == (5, 256, 224)


@pytest.mark.parametrize("path", sorted(RCFGS.glob("*.yaml")), ids=lambda path: path.stem)
def test_header_states_command_hardware_and_result(path):
    lines = path.read_text().splitlines()
    header = "\n".join(lines[: lines.index("")])
    assert all(line.startswith("#") for line in header.splitlines())
    fields = [line[2:].split(":")[0] for line in lines if line.startswith(("# P", "# E", "# S", "# G"))]
    assert fields == ["Planned for", "Expected", "Source", "GPU-hours"]
    assert (f"rcfgs/{path.name}" if path.stem in PUBLISHED else f"make {path.stem}") in header
    if path.stem in PUBLISHED:
        assert f"{PUBLISHED[path.stem][3]} %" in header


@pytest.mark.parametrize("name", PUBLISHED)
def test_the_estimate_of_gpu_hours_counts_all_pictures_of_all_epochs(name):
    pictures = 1_281_167 // 256 * 256 * PUBLISHED[name][0]  # the last, incomplete batch of an epoch is dropped
    assert f" {pictures / 1e6:,.0f} million pictures / 3600 s / " in (RCFGS / f"{name}.yaml").read_text()


def test_every_published_recipe_is_there():
    assert set(PUBLISHED) | {"demo"} == {path.stem for path in RCFGS.glob("*.yaml")}


def test_demo_is_the_multi_crop_recipe_with_ema_and_its_baselines():
    made = config.load(RCFGS / "demo.yaml")
    assert made.model.ema and made.eval.baselines and len(made.crops.sizes) > 2
    assert made.data.root == "data/demo" and made.data.name == "demo"
