"""The recipes hold the published numbers: the tables of facts below, from the papers and released scripts."""

import sys
from pathlib import Path

import pytest
import torch
import yaml

from fastintl import config
from fastintl.config import Config
from fastintl.data import center_crop
from fastintl.evaluate.linear import protocols
from fastintl.training.optim import build_optimizer, set_learning_rate
from tests.helpers import warm_python
from tools import finetune, knn, linear
from tools.benchmark.flops import mean_work, stages_work

ROOT = Path(__file__).parent.parent
RCFGS = ROOT / "rcfgs"


def table(text: str) -> list[dict[str, str]]:
    """The rows of a table whose columns are set apart by ``|``, the first line names them."""
    names, *rows = ([cell.strip() for cell in line.split("|")] for line in text.strip().splitlines())
    return [dict(zip(names, row, strict=True)) for row in rows]


# images: to train on; lr: for 256 images a step, but for 1 image more or less with adam; decay: whether biases decay,
# too; published: top-1 of the linear classifier / 5-nn / top-5, in per cent. Barlow Twins' own decay is 1e-6: see
# test_barlow_twins_steps_are_its_authors.
TRAINING = table("""
recipe                 | data          | images  | epochs | batch | optimiser | lr   | wd     | decay | schedule     | warm-up   | loss                                                                   | published
ep100                  | imagenet      | 1281167 | 100    | 256   | sgd       | 0.5  | 1e-5   | false | cosine       | 2 epochs  | intl                                                                   | 73.5
ep200                  | imagenet      | 1281167 | 200    | 256   | sgd       | 0.4  | 1e-5   | false | cosine       | 2 epochs  | intl                                                                   | 75.2
ep400                  | imagenet      | 1281167 | 400    | 256   | sgd       | 0.4  | 1e-5   | false | cosine       | 2 epochs  | intl                                                                   | 76.1
ep800                  | imagenet      | 1281167 | 800    | 256   | sgd       | 0.3  | 1e-5   | false | cosine       | 2 epochs  | intl                                                                   | 76.6
ep800_two_crop         | imagenet      | 1281167 | 800    | 256   | sgd       | 0.3  | 1e-5   | false | cosine       | 2 epochs  | intl                                                                   | 73.1
in100                  | imagenet100   | 126689  | 400    | 128   | sgd       | 0.5  | 2.5e-5 | false | cosine       | 2 epochs  | intl                                                                   | 81.68 / 73.46 / 95.42
cifar10                | cifar10       | 50000   | 1000   | 256   | sgd       | 0.3  | 1e-4   | true  | cosine       | 2 epochs  | intl                                                                   | 92.60 / 90.03 / 99.80
cifar100               | cifar100      | 50000   | 1000   | 256   | sgd       | 0.3  | 1e-4   | true  | cosine       | 2 epochs  | intl                                                                   | 70.88 / 61.90 / 92.13
cw_rgp/cifar10_2       | cifar10       | 50000   | 1000   | 256   | adam      | 3e-3 | 1e-6   | true  | step         | 500 steps | cw_rgp groups 4 w_size 64 w_iter 4                                     | 91.92 / 89.54
cw_rgp/cifar10_4       | cifar10       | 50000   | 1000   | 256   | adam      | 3e-3 | 1e-6   | true  | step         | 500 steps | cw_rgp groups 4 w_size 64 w_iter 1                                     | 92.47 / 90.74
cw_rgp/cifar100_2      | cifar100      | 50000   | 1000   | 512   | adam      | 3e-3 | 1e-6   | true  | step         | 500 steps | cw_rgp groups 4 w_size 64 w_iter 1                                     | 67.51 / 57.35
cw_rgp/cifar100_4      | cifar100      | 50000   | 1000   | 256   | adam      | 3e-3 | 1e-6   | true  | step         | 500 steps | cw_rgp groups 4 w_size 64 w_iter 1                                     | 68.26 / 58.67
cw_rgp/stl10_2         | stl10         | 105000  | 2000   | 512   | adam      | 2e-3 | 1e-6   | true  | step         | 500 steps | cw_rgp groups 4 w_size 64 w_iter 1                                     | 90.76 / 87.34
cw_rgp/stl10_4         | stl10         | 105000  | 2000   | 256   | adam      | 2e-3 | 1e-6   | true  | step         | 500 steps | cw_rgp groups 4 w_size 64 w_iter 1                                     | 92.04 / 88.95
cw_rgp/tiny_imagenet_2 | tiny-imagenet | 100000  | 1000   | 512   | adam      | 2e-3 | 1e-6   | true  | step         | 500 steps | cw_rgp groups 2 w_size 128 w_iter 1                                    | 49.23 / 34.04
cw_rgp/tiny_imagenet_4 | tiny-imagenet | 100000  | 1000   | 256   | adam      | 2e-3 | 1e-6   | true  | step         | 500 steps | cw_rgp groups 2 w_size 128 w_iter 1                                    | 50.24 / 35.99
cw_rgp/imagenet_ep100  | imagenet      | 1281167 | 100    | 512   | sgd       | 0.05 | 1e-4   | true  | cosine_epoch | 500 steps | cw_rgp groups 2 w_size 128 w_iter 1 cov_w 0.005 cov_stop 50 scope rank | 69.7
cw_rgp/imagenet_ep200  | imagenet      | 1281167 | 200    | 512   | sgd       | 0.05 | 1e-4   | true  | cosine_epoch | 500 steps | cw_rgp groups 2 w_size 128 w_iter 1 cov_w 0.01 cov_stop 100 scope rank | 71.0
barlow_twins/imagenet  | imagenet      | 1281167 | 1000   | 2048  | lars      | 0.2  | 16e-6  | false | cosine       | 10 epochs | barlow_twins lambd 0.0051                                              | 73.2
barlow_twins/cifar10   | cifar10       | 50000   | 1000   | 256   | sgd       | 0.3  | 1e-4   | true  | cosine       | 2 epochs  | barlow_twins lambd 0.0051                                              |
""")  # noqa: E501

# zero: whether residual blocks start as the identity; bias, views: of the projector.
NETWORKS = table("""
recipe                 | arch     | stem         | zero  | projector      | bias  | views    | ema
ep100                  | resnet50 | imagenet     | true  | 8192 8192 8192 | false | apart    | true
ep200                  | resnet50 | imagenet     | true  | 8192 8192 8192 | false | apart    | true
ep400                  | resnet50 | imagenet     | true  | 8192 8192 8192 | false | apart    | true
ep800                  | resnet50 | imagenet     | true  | 8192 8192 8192 | false | apart    | true
ep800_two_crop         | resnet50 | imagenet     | true  | 8192 8192 8192 | false | apart    | false
in100                  | resnet18 | imagenet     | false | 4096 4096 8192 | false | apart    | false
cifar10                | resnet18 | cifar_padded | false | 2048 2048 2048 | false | apart    | false
cifar100               | resnet18 | cifar_padded | false | 2048 2048 2048 | false | apart    | false
cw_rgp/cifar10_2       | resnet18 | cifar        | true  | 1024 512       | true  | together | false
cw_rgp/cifar10_4       | resnet18 | cifar        | true  | 1024 512       | true  | together | false
cw_rgp/cifar100_2      | resnet18 | cifar        | true  | 1024 512       | true  | together | false
cw_rgp/cifar100_4      | resnet18 | cifar        | true  | 1024 512       | true  | together | false
cw_rgp/stl10_2         | resnet18 | small        | true  | 1024 512       | true  | together | false
cw_rgp/stl10_4         | resnet18 | small        | true  | 1024 512       | true  | together | false
cw_rgp/tiny_imagenet_2 | resnet18 | small        | true  | 2048 1024      | true  | together | false
cw_rgp/tiny_imagenet_4 | resnet18 | small        | true  | 2048 1024      | true  | together | false
cw_rgp/imagenet_ep100  | resnet50 | imagenet     | true  | 2048 2048 1024 | true  | together | false
cw_rgp/imagenet_ep200  | resnet50 | imagenet     | true  | 2048 2048 1024 | true  | together | false
barlow_twins/imagenet  | resnet50 | imagenet     | true  | 8192 8192 8192 | false | apart    | false
barlow_twins/cifar10   | resnet18 | cifar_padded | false | 2048 2048 2048 | false | apart    | false
""")

# A value a view: sizes, scale from and to, probability of blur and of solarise.
CROPS = table("""
recipe                 | sizes                  | from                      | to                      | blur              | solarise          | saturation | grayscale | interpolation | mean              | std
ep100                  | 224 224 192 160 128 96 | .2 .2 .171 .143 .114 .086 | 1 1 .857 .714 .571 .429 | .5 .5 .5 .5 .5 .5 | .1 .1 .1 .1 .1 .1 | 0.2        | 0.2       | bicubic       | 0.485 0.456 0.406 | 0.229 0.224 0.225
ep200                  | 224 224 192 160 128 96 | .2 .2 .171 .143 .114 .086 | 1 1 .857 .714 .571 .429 | .5 .5 .5 .5 .5 .5 | .1 .1 .1 .1 .1 .1 | 0.2        | 0.2       | bicubic       | 0.485 0.456 0.406 | 0.229 0.224 0.225
ep400                  | 224 224 192 160 128 96 | .2 .2 .171 .143 .114 .086 | 1 1 .857 .714 .571 .429 | .5 .5 .5 .5 .5 .5 | .1 .1 .1 .1 .1 .1 | 0.2        | 0.2       | bicubic       | 0.485 0.456 0.406 | 0.229 0.224 0.225
ep800                  | 224 224 192 160 128 96 | .2 .2 .171 .143 .114 .086 | 1 1 .857 .714 .571 .429 | .5 .5 .5 .5 .5 .5 | .1 .1 .1 .1 .1 .1 | 0.2        | 0.2       | bicubic       | 0.485 0.456 0.406 | 0.229 0.224 0.225
ep800_two_crop         | 224 224                | .08 .08                   | 1 1                     | 1 .1              | 0 .2              | 0.2        | 0.2       | bicubic       | 0.485 0.456 0.406 | 0.229 0.224 0.225
in100                  | 224 224                | .08 .08                   | 1 1                     | 1 .1              | 0 .2              | 0.2        | 0.2       | bicubic       | 0.485 0.456 0.406 | 0.229 0.224 0.225
cifar10                | 32 32                  | .08 .08                   | 1 1                     | 0 0               | 0 .2              | 0.2        | 0.2       | bicubic       | .4914 .4822 .4465 | .2470 .2435 .2616
cifar100               | 32 32                  | .08 .08                   | 1 1                     | 0 0               | 0 .2              | 0.2        | 0.2       | bicubic       | .5071 .4865 .4409 | .2673 .2564 .2762
cw_rgp/cifar10_2       | 32 32                  | .2 .2                     | 1 1                     | 0 0               | 0 0               | 0.4        | 0.1       | bicubic       | .4914 .4822 .4465 | .2023 .1994 .2010
cw_rgp/cifar10_4       | 32 32 32 32            | .2 .2 .2 .2               | 1 1 1 1                 | 0 0 0 0           | 0 0 0 0           | 0.4        | 0.1       | bicubic       | .4914 .4822 .4465 | .2023 .1994 .2010
cw_rgp/cifar100_2      | 32 32                  | .2 .2                     | 1 1                     | 0 0               | 0 0               | 0.4        | 0.1       | bicubic       | .5071 .4867 .4408 | .2675 .2565 .2761
cw_rgp/cifar100_4      | 32 32 32 32            | .2 .2 .2 .2               | 1 1 1 1                 | 0 0 0 0           | 0 0 0 0           | 0.4        | 0.1       | bicubic       | .5071 .4867 .4408 | .2675 .2565 .2761
cw_rgp/stl10_2         | 64 64                  | .2 .2                     | 1 1                     | 0 0               | 0 0               | 0.4        | 0.1       | bicubic       | .43 .42 .39       | .27 .26 .27
cw_rgp/stl10_4         | 64 64 64 64            | .2 .2 .2 .2               | 1 1 1 1                 | 0 0 0 0           | 0 0 0 0           | 0.4        | 0.1       | bicubic       | .43 .42 .39       | .27 .26 .27
cw_rgp/tiny_imagenet_2 | 64 64                  | .2 .2                     | 1 1                     | 0 0               | 0 0               | 0.4        | 0.1       | bicubic       | .480 .448 .398    | .277 .269 .282
cw_rgp/tiny_imagenet_4 | 64 64 64 64            | .2 .2 .2 .2               | 1 1 1 1                 | 0 0 0 0           | 0 0 0 0           | 0.4        | 0.1       | bicubic       | .480 .448 .398    | .277 .269 .282
cw_rgp/imagenet_ep100  | 224 224 224 224        | .2 .2 .2 .2               | 1 1 1 1                 | .5 .5 .5 .5       | 0 0 0 0           | 0.4        | 0.2       | bilinear      | 0.485 0.456 0.406 | 0.229 0.224 0.225
cw_rgp/imagenet_ep200  | 224 224 224 224        | .2 .2 .2 .2               | 1 1 1 1                 | .5 .5 .5 .5       | 0 0 0 0           | 0.4        | 0.2       | bilinear      | 0.485 0.456 0.406 | 0.229 0.224 0.225
barlow_twins/imagenet  | 224 224                | .08 .08                   | 1 1                     | 1 .1              | 0 .2              | 0.2        | 0.2       | bicubic       | 0.485 0.456 0.406 | 0.229 0.224 0.225
barlow_twins/cifar10   | 32 32                  | .08 .08                   | 1 1                     | 0 0               | 0 .2              | 0.2        | 0.2       | bicubic       | .4914 .4822 .4465 | .2470 .2435 .2616
""")  # noqa: E501

# The view that is tested: shorter side and centre crop. The statistics of CIFAR are those of cifar/eval in INTL's code.
TESTS = table("""
recipe                 | resize | size | interpolation | mean              | std
ep100                  | 256    | 224  | bilinear      | 0.485 0.456 0.406 | 0.229 0.224 0.225
ep200                  | 256    | 224  | bilinear      | 0.485 0.456 0.406 | 0.229 0.224 0.225
ep400                  | 256    | 224  | bilinear      | 0.485 0.456 0.406 | 0.229 0.224 0.225
ep800                  | 256    | 224  | bilinear      | 0.485 0.456 0.406 | 0.229 0.224 0.225
ep800_two_crop         | 256    | 224  | bilinear      | 0.485 0.456 0.406 | 0.229 0.224 0.225
in100                  | 256    | 224  | bilinear      | 0.485 0.456 0.406 | 0.229 0.224 0.225
cifar10                | 32     | 32   | bilinear      | .4914 .4822 .4465 | .247 .243 .261
cifar100               | 32     | 32   | bilinear      | .4914 .4822 .4465 | .247 .243 .261
cw_rgp/cifar10_2       | 32     | 32   | bilinear      | .4914 .4822 .4465 | .2023 .1994 .2010
cw_rgp/cifar10_4       | 32     | 32   | bilinear      | .4914 .4822 .4465 | .2023 .1994 .2010
cw_rgp/cifar100_2      | 32     | 32   | bilinear      | .5071 .4867 .4408 | .2675 .2565 .2761
cw_rgp/cifar100_4      | 32     | 32   | bilinear      | .5071 .4867 .4408 | .2675 .2565 .2761
cw_rgp/stl10_2         | 70     | 64   | bicubic       | .43 .42 .39       | .27 .26 .27
cw_rgp/stl10_4         | 70     | 64   | bicubic       | .43 .42 .39       | .27 .26 .27
cw_rgp/tiny_imagenet_2 | 64     | 64   | bilinear      | .480 .448 .398    | .277 .269 .282
cw_rgp/tiny_imagenet_4 | 64     | 64   | bilinear      | .480 .448 .398    | .277 .269 .282
cw_rgp/imagenet_ep100  | 256    | 224  | bilinear      | 0.485 0.456 0.406 | 0.229 0.224 0.225
cw_rgp/imagenet_ep200  | 256    | 224  | bilinear      | 0.485 0.456 0.406 | 0.229 0.224 0.225
barlow_twins/imagenet  | 256    | 224  | bilinear      | 0.485 0.456 0.406 | 0.229 0.224 0.225
barlow_twins/cifar10   | 32     | 32   | bilinear      | .4914 .4822 .4465 | .247 .243 .261
""")

# The tools' options, by recipe of rcfgs/eval.
EVALUATIONS = table("""
recipe              | tool     | options
linear_multi_crop   | linear   | protocol imagenet epochs 100 batch-size 256 optimizer sgd schedule steps lr 0.4 weight-decay 0 crop-interpolation bilinear
linear_two_crop     | linear   | protocol imagenet epochs 100 batch-size 256 optimizer sgd schedule steps lr 0.2 weight-decay 0 crop-interpolation bilinear
linear_readme       | linear   | protocol imagenet epochs 100 batch-size 256 optimizer sgd schedule cosine lr 0.3 weight-decay 1e-6 crop-interpolation bilinear
linear_barlow_twins | linear   | protocol imagenet epochs 100 batch-size 256 optimizer sgd schedule cosine lr 0.3 weight-decay 1e-6 crop-interpolation bilinear
linear_cw_rgp       | linear   | protocol cw_rgp epochs 100 batch-size 1024 optimizer lars schedule cosine lr 0.1 weight-decay 0 crop-interpolation bilinear
linear_small        | linear   | protocol small epochs 500 batch-size 1000 optimizer adam schedule exponential lr 0.01 weight-decay 5e-6
knn_5               | knn      | k 5 metric euclidean vote majority
knn_200_weighted    | knn      | k 20,200 metric cosine vote weighted temperature 0.07
semi_1pct           | finetune | subset imagenet-1pct epochs 20 batch-size 256 lr-backbone 0.004 lr-classifier 0.2 weight-decay 0 schedule constant crop-interpolation bilinear
semi_1pct_two_crop  | finetune | subset imagenet-1pct epochs 20 batch-size 256 lr-backbone 0.006 lr-classifier 0.2 weight-decay 0 schedule constant crop-interpolation bilinear
semi_10pct          | finetune | subset imagenet-10pct epochs 20 batch-size 256 lr-backbone 0.004 lr-classifier 0.2 weight-decay 0 schedule constant crop-interpolation bilinear
semi_10pct_two_crop | finetune | subset imagenet-10pct epochs 20 batch-size 256 lr-backbone 0.006 lr-classifier 0.2 weight-decay 0 schedule constant crop-interpolation bilinear
semi_1pct_readme    | finetune | subset imagenet-1pct epochs 20 batch-size 256 lr-backbone 0.005 lr-classifier 0.5 weight-decay 0 schedule cosine crop-interpolation bilinear
""")  # noqa: E501

by_recipe = pytest.mark.parametrize("recipe", [row["recipe"] for row in TRAINING])


def facts_of(rows: list[dict[str, str]], recipe: str) -> dict[str, str]:
    """The one row of a recipe."""
    (row,) = (row for row in rows if row["recipe"] == recipe)
    return row


def load(recipe: str) -> Config:
    return config.load(RCFGS / f"{recipe}.yaml")


def pairs(text: str) -> dict[str, str]:
    words = text.split()
    return dict(zip(words[::2], words[1::2], strict=True))


def numbers(text: str) -> tuple[float, ...]:
    return tuple(map(float, text.split()))


@by_recipe
def test_the_training_is_the_published_one(recipe):
    made, facts = load(recipe), facts_of(TRAINING, recipe)
    assert (made.name, made.data.name) == (recipe.replace("/", "_"), facts["data"])
    train = made.train
    assert (train.epochs, train.batch_size, train.max_steps) == (int(facts["epochs"]), int(facts["batch"]), None)
    optim = made.optim
    found = (optim.name, optim.lr, optim.weight_decay, str(optim.decay_one_dimensional).lower(), optim.schedule)
    expected = [facts[name] for name in ("optimiser", "lr", "wd", "decay", "schedule")]
    assert found == (expected[0], float(expected[1]), float(expected[2]), *expected[3:])
    length, unit = facts["warm-up"].split()
    assert (optim.warmup_steps or optim.warmup_epochs) == float(length)
    assert (optim.warmup_steps is not None) == (unit == "steps")
    assert optim.momentum == 0.9  # adam reads none
    assert optim.lr_one_dimensional == (0.0048 / 16 if optim.name == "lars" else None)
    if optim.schedule == "step":
        assert (optim.drop_epochs, optim.drop_factor) == ((50, 25), 0.2)
    else:
        assert optim.final_fraction == (0.0 if optim.schedule == "cosine_epoch" else 0.001)


@by_recipe
def test_the_network_is_the_published_one(recipe):
    model, facts = load(recipe).model, facts_of(NETWORKS, recipe)
    assert (model.arch, model.stem, model.projector_views) == (facts["arch"], facts["stem"], facts["views"])
    assert (str(model.zero_init_residual).lower(), str(model.projector_bias).lower()) == (facts["zero"], facts["bias"])
    assert model.projector == tuple(map(int, facts["projector"].split()))
    assert str(model.ema).lower() == facts["ema"] and (model.ema_momentum == 0.996 or not model.ema)


@by_recipe
def test_the_crops_are_the_published_ones(recipe):
    crops, facts = load(recipe).crops, facts_of(CROPS, recipe)
    scales = tuple(zip(numbers(facts["from"]), numbers(facts["to"]), strict=True))
    assert (crops.sizes, crops.scales) == (numbers(facts["sizes"]), scales)
    assert (crops.blur, crops.solarize) == (numbers(facts["blur"]), numbers(facts["solarise"]))
    assert crops.ratio == (3 / 4, 4 / 3) and crops.flip == 0.5
    assert (crops.jitter, crops.brightness, crops.contrast, crops.hue) == (0.8, 0.4, 0.4, 0.1)
    assert (crops.saturation, crops.grayscale) == (float(facts["saturation"]), float(facts["grayscale"]))
    assert crops.blur_sigma == (0.1, 2.0) and crops.interpolation == facts["interpolation"]
    assert (crops.mean, crops.std) == (numbers(facts["mean"]), numbers(facts["std"]))


@by_recipe
def test_the_tested_view_is_the_published_one(recipe):
    made, facts = load(recipe), facts_of(TESTS, recipe)
    view = center_crop(made)
    assert (made.eval.k, view.resize, view.size) == (5, int(facts["resize"]), int(facts["size"]))
    assert view.interpolation == facts["interpolation"]
    assert (view.mean, view.std) == (numbers(facts["mean"]), numbers(facts["std"]))


@by_recipe
def test_the_loss_is_the_published_one(recipe):
    loss = load(recipe).loss
    name, _, settings = facts_of(TRAINING, recipe)["loss"].partition(" ")
    keys = {key: type(getattr(loss, key))(value) for key, value in pairs(settings).items()}
    assert loss == config.Loss(name=name, **keys)  # and everything else is at its default
    if name == "intl":
        assert (loss.iterations, loss.axis, loss.trade_off) == (4, "channel", None)


def test_barlow_twins_steps_are_its_authors():
    """On 16 GPUs: their gradient is 1/16 of the true one, their rates are 0.2 and 0.0048, their decay is 1e-6."""
    settings, generator = load("barlow_twins/imagenet").optim, torch.Generator().manual_seed(0)
    layer = torch.nn.Linear(6, 4).double()
    theirs = [p.detach().clone() for p in layer.parameters()]
    momenta = [torch.zeros_like(p) for p in theirs]
    optimizer = build_optimizer(layer, settings)
    for factor in (0.1, 1.0, 8.0, 3.0):  # of the schedule
        set_learning_rate(optimizer, factor * settings.lr)
        for p, mine, momentum, rate in zip(theirs, layer.parameters(), momenta, (0.2, 0.0048), strict=True):
            # So small that the decay counts.
            mine.grad = 1e-4 * torch.randn(p.shape, dtype=torch.float64, generator=generator)
            update = mine.grad / 16
            if p.ndim > 1:
                update = update + 1e-6 * p
                update = 0.001 * p.norm() / update.norm() * update
            momentum.mul_(0.9).add_(update)
            p.sub_(factor * rate * momentum)
        optimizer.step()
    for mine, p in zip(layer.parameters(), theirs, strict=True):
        torch.testing.assert_close(mine.detach(), p, rtol=1e-12, atol=1e-15)


@pytest.mark.parametrize("path", sorted(RCFGS.rglob("*.yaml")), ids=lambda path: str(path.relative_to(RCFGS)))
def test_header_states_command_hardware_and_result(path):
    lines = path.read_text().splitlines()
    header = "\n".join(lines[: lines.index("")])
    assert all(line.startswith("#") for line in header.splitlines())
    fields = [line[2:].split(":")[0] for line in lines if line.startswith(("# P", "# E", "# S", "# G"))]
    assert fields == ["Planned for", "Expected", "Source", "GPU-hours"]
    assert ("make demo" if path.stem == "demo" else f"--rcfg {path.relative_to(ROOT)}") in header


@by_recipe
def test_header_has_the_published_figures_and_counts_all_images_of_all_epochs(recipe):
    header, facts = (RCFGS / f"{recipe}.yaml").read_text().split("\n\n")[0], facts_of(TRAINING, recipe)
    figures = [figure for figure in facts["published"].split(" / ") if figure]
    assert all(f" {figure} % " in header for figure in figures)
    assert figures or "nothing is published" in header
    # The last, incomplete batch of an epoch is dropped.
    batch, epochs = int(facts["batch"]), int(facts["epochs"])
    images = int(facts["images"]) // batch * batch * epochs
    assert f" {images / 1e6:,.0f} million images / 3600 s / " in header


def test_every_published_recipe_is_there():
    paths = {str(path.relative_to(RCFGS).with_suffix("")) for path in RCFGS.rglob("*.yaml")}
    pretraining = {path for path in paths if not path.startswith(("eval/", "detection/", "fast/"))}
    for rows in (TRAINING, NETWORKS, CROPS, TESTS):
        assert sorted([*(row["recipe"] for row in rows), "demo"]) == sorted(pretraining)
    detection = {f"detection/{name}" for name in ("voc0712", "coco_2x", "shapes")}  # see test_detection_model.py
    assert detection == {path for path in paths if path.startswith("detection/")}
    assert {f"eval/{facts['recipe']}" for facts in EVALUATIONS} == {path for path in paths if path[:5] == "eval/"}


@pytest.mark.parametrize(("recipe", "most"), [("ep100", 0.75), ("cifar10", 0.72)])
def test_a_fast_recipe_is_the_published_one_with_crops_that_grow_and_its_header_counts_what_it_takes(recipe, most):
    fast, header = load(f"fast/{recipe}"), (RCFGS / f"fast/{recipe}.yaml").read_text().split("\n\n")[0]
    assert config.differences(fast, load(recipe)) == ["name", "crops.grow"]
    words, stages = " ".join(header.replace("#", " ").split()), stages_work(fast)
    assert mean_work(stages) <= most
    assert f" {mean_work(stages):.3f} of its operations" in words
    full, mean = stages[-1].flops / 1e12, mean_work(stages) * stages[-1].flops / 1e12
    assert f" {full:.3g} TFLOP a step of 256 images at full size, {mean:.3g} on the mean of the run." in words


def test_every_fast_recipe_is_one_of_those():
    assert {path.stem for path in (RCFGS / "fast").iterdir()} == {"ep100", "cifar10"}


def test_demo_is_the_multi_crop_recipe_with_ema_and_its_baselines():
    made = config.load(RCFGS / "demo.yaml")
    assert made.model.ema and made.eval.baselines and len(made.crops.sizes) > 2
    assert made.data.root == "data/demo" and made.data.name == "demo"


def test_every_recipe_prints_as_it_is_resolved():
    for facts in TRAINING:
        made = load(facts["recipe"])
        assert config.from_yaml(config.to_yaml(made)) == made
    command = [sys.executable, "-m", "fastintl.train", "--rcfg", "rcfgs/cw_rgp/stl10_4.yaml", "--print-config"]
    printed = warm_python.run(command, cwd=ROOT).stdout
    assert config.from_yaml(printed) == config.load(RCFGS / "cw_rgp" / "stl10_4.yaml")


@pytest.mark.parametrize("facts", EVALUATIONS, ids=lambda facts: facts["recipe"])
def test_recipe_of_an_evaluation_is_the_published_one(facts):
    path = RCFGS / "eval" / f"{facts['recipe']}.yaml"
    assert f"tools/{facts['tool']}.py " in path.read_text()
    parse = {"linear": linear, "knn": knn, "finetune": finetune}[facts["tool"]].parse_arguments
    words = ["weights", "--train", "a", "--val", "b"]
    given = vars(parse([*words, "--rcfg", str(path)]))
    options = [word for option in pairs(facts["options"]).items() for word in (f"--{option[0]}", option[1])]
    by_hand = parse([*words, *options])
    assert given == {**vars(by_hand), "rcfg": str(path)}
    published = {"linear_multi_crop": "IMAGENET", "linear_cw_rgp": "CW_RGP", "linear_small": "SMALL"}
    if facts["recipe"] in published:
        assert linear._protocol(by_hand) == getattr(protocols, published[facts["recipe"]])


def test_options_of_the_command_line_override_an_evaluations_recipe(tmp_path, capsys):
    words = ["weights", "--train", "a", "--val", "b"]
    path = RCFGS / "eval" / "linear_two_crop.yaml"
    given = linear.parse_arguments([*words, "--rcfg", str(path), "--lr", "0.1", "0.8"])
    assert given.lr == [0.1, 0.8] and given.epochs == 100
    recipe = tmp_path / "mine.yaml"
    recipe.write_text("frozen: true\nfrom-scratch: false\npercent: 5\n")
    given = finetune.parse_arguments([*words, "--rcfg", str(recipe)])
    assert given.frozen and not given.from_scratch and given.percent == 5
    recipe.write_text("epoch-s: 5\n")
    with pytest.raises(SystemExit):
        linear.parse_arguments([*words, "--rcfg", str(recipe)])
    assert "unrecognized arguments: --epoch-s=5" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("recipe", "words"),
    [("nowhere.yaml", "nowhere.yaml: cannot be read"), (RCFGS / "cifar10.yaml", "is it the recipe of a pretraining?")],
)
def test_a_recipe_that_is_none_is_one_sentence(recipe, words):
    command = [sys.executable, "tools/knn.py", "weights", "--train", "a", "--val", "b", "--rcfg", recipe]
    result = warm_python.run(command, cwd=ROOT)
    assert result.returncode == 2 and words in result.stderr and result.stderr.count("\n") == 1


def test_no_two_recipes_write_to_the_same_run():
    names = [config_name(path) for path in RCFGS.rglob("*.yaml") if path.parent.name != "eval"]
    assert len(set(names)) == len(names)


def config_name(path: Path) -> str:
    return yaml.safe_load(path.read_text()).get("name", path.stem)
