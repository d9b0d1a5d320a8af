"""The recipes hold the published numbers: the tables of facts below, from the papers and released scripts."""

import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from fastintl import config
from fastintl.config import Config
from fastintl.evaluate.linear import protocols
from tools import finetune, knn, linear

ROOT = Path(__file__).parent.parent
RCFGS = ROOT / "rcfgs"


def table(text: str) -> list[dict[str, str]]:
    """The rows of a table whose columns are set apart by ``|``, the first line names them."""
    names, *rows = ([cell.strip() for cell in line.split("|")] for line in text.strip().splitlines())
    return [dict(zip(names, row, strict=True)) for row in rows]


# lr is for 256 images a step, but for 1 image more or less with adam; decay: whether biases decay, too; published:
# top-1 of the linear classifier / 5-nn / top-5, in per cent.
PUBLISHED = table("""
recipe               | data          | arch     | stem     | zero  | projector      | bias  | ema   | crops      | epochs | batch | optimiser | lr   | wd     | decay | schedule     | warm-up    | loss                                      | published
ep100                | imagenet      | resnet50 | imagenet | true  | 8192 8192 8192 | false | true  | multi      | 100    | 256   | sgd       | 0.5  | 1e-5   | false | cosine       | 2 epochs   | intl                                      | 73.5
ep200                | imagenet      | resnet50 | imagenet | true  | 8192 8192 8192 | false | true  | multi      | 200    | 256   | sgd       | 0.4  | 1e-5   | false | cosine       | 2 epochs   | intl                                      | 75.2
ep400                | imagenet      | resnet50 | imagenet | true  | 8192 8192 8192 | false | true  | multi      | 400    | 256   | sgd       | 0.4  | 1e-5   | false | cosine       | 2 epochs   | intl                                      | 76.1
ep800                | imagenet      | resnet50 | imagenet | true  | 8192 8192 8192 | false | true  | multi      | 800    | 256   | sgd       | 0.3  | 1e-5   | false | cosine       | 2 epochs   | intl                                      | 76.6
ep800_two_crop       | imagenet      | resnet50 | imagenet | true  | 8192 8192 8192 | false | false | two        | 800    | 256   | sgd       | 0.3  | 1e-5   | false | cosine       | 2 epochs   | intl                                      | 73.1
in100                | imagenet100   | resnet18 | imagenet | false | 4096 4096 8192 | false | false | two        | 400    | 128   | sgd       | 0.5  | 2.5e-5 | false | cosine       | 2 epochs   | intl                                      | 81.68 / 73.46 / 95.42
cifar10              | cifar10       | resnet18 | cifar    | false | 2048 2048 2048 | false | false | cifar      | 1000   | 256   | sgd       | 0.3  | 1e-4   | true  | cosine       | 2 epochs   | intl                                      | 92.60 / 90.03 / 99.80
cifar100             | cifar100      | resnet18 | cifar    | false | 2048 2048 2048 | false | false | cifar      | 1000   | 256   | sgd       | 0.3  | 1e-4   | true  | cosine       | 2 epochs   | intl                                      | 70.88 / 61.90 / 92.13
cw_rgp/cifar10_2     | cifar10       | resnet18 | cifar    | true  | 1024 512       | true  | false | cw_rgp 2   | 1000   | 256   | adam      | 3e-3 | 1e-6   | true  | step         | 500 steps  | cw_rgp groups 4 w_size 64 w_iter 4        | 91.92 / 89.54
cw_rgp/cifar10_4     | cifar10       | resnet18 | cifar    | true  | 1024 512       | true  | false | cw_rgp 4   | 1000   | 256   | adam      | 3e-3 | 1e-6   | true  | step         | 500 steps  | cw_rgp groups 4 w_size 64 w_iter 1        | 92.47 / 90.74
cw_rgp/cifar100_2    | cifar100      | resnet18 | cifar    | true  | 1024 512       | true  | false | cw_rgp 2   | 1000   | 512   | adam      | 3e-3 | 1e-6   | true  | step         | 500 steps  | cw_rgp groups 4 w_size 64 w_iter 1        | 67.51 / 57.35
cw_rgp/cifar100_4    | cifar100      | resnet18 | cifar    | true  | 1024 512       | true  | false | cw_rgp 4   | 1000   | 256   | adam      | 3e-3 | 1e-6   | true  | step         | 500 steps  | cw_rgp groups 4 w_size 64 w_iter 1        | 68.26 / 58.67
cw_rgp/stl10_2       | stl10         | resnet18 | small    | true  | 1024 512       | true  | false | cw_rgp 2   | 2000   | 512   | adam      | 2e-3 | 1e-6   | true  | step         | 500 steps  | cw_rgp groups 4 w_size 64 w_iter 1        | 90.76 / 87.34
cw_rgp/stl10_4       | stl10         | resnet18 | small    | true  | 1024 512       | true  | false | cw_rgp 4   | 2000   | 256   | adam      | 2e-3 | 1e-6   | true  | step         | 500 steps  | cw_rgp groups 4 w_size 64 w_iter 1        | 92.04 / 88.95
cw_rgp/tiny_imagenet_2 | tiny-imagenet | resnet18 | small  | true  | 2048 1024      | true  | false | cw_rgp 2   | 1000   | 512   | adam      | 2e-3 | 1e-6   | true  | step         | 500 steps  | cw_rgp groups 2 w_size 128 w_iter 1       | 49.23 / 34.04
cw_rgp/tiny_imagenet_4 | tiny-imagenet | resnet18 | small  | true  | 2048 1024      | true  | false | cw_rgp 4   | 1000   | 256   | adam      | 2e-3 | 1e-6   | true  | step         | 500 steps  | cw_rgp groups 2 w_size 128 w_iter 1       | 50.24 / 35.99
cw_rgp/imagenet_ep100 | imagenet     | resnet50 | imagenet | true  | 2048 2048 1024 | true  | false | cw_rgp 4   | 100    | 512   | sgd       | 0.05 | 1e-4   | true  | cosine_epoch | 500 steps  | cw_rgp groups 2 w_size 128 w_iter 1 cov_w 0.005 cov_stop 50 scope rank | 69.7
cw_rgp/imagenet_ep200 | imagenet     | resnet50 | imagenet | true  | 2048 2048 1024 | true  | false | cw_rgp 4   | 200    | 512   | sgd       | 0.05 | 1e-4   | true  | cosine_epoch | 500 steps  | cw_rgp groups 2 w_size 128 w_iter 1 cov_w 0.01 cov_stop 100 scope rank | 71.0
barlow_twins/imagenet | imagenet     | resnet50 | imagenet | true  | 8192 8192 8192 | false | false | two        | 1000   | 2048  | lars      | 0.2  | 1e-6   | false | cosine       | 10 epochs  | barlow_twins lambd 0.0051                 | 73.2
barlow_twins/cifar10 | cifar10       | resnet18 | cifar    | false | 2048 2048 2048 | false | false | cifar      | 1000   | 256   | sgd       | 0.3  | 1e-4   | true  | cosine       | 2 epochs   | barlow_twins lambd 0.0051                 |
""")  # noqa: E501

# Images to train on; mean and standard deviation; shorter side and crop of the images that are tested.
DATA = {
    row["data"]: row
    for row in table("""
data          | images | mean                 | std                  | resize | size
imagenet      | 1281167  | 0.485 0.456 0.406    | 0.229 0.224 0.225    | 256    | 224
imagenet100   | 126689   | 0.485 0.456 0.406    | 0.229 0.224 0.225    | 256    | 224
cifar10       | 50000    | 0.4914 0.4822 0.4465 | 0.2470 0.2435 0.2616 | 32     | 32
cifar100      | 50000    | 0.5071 0.4865 0.4409 | 0.2673 0.2564 0.2762 | 32     | 32
stl10         | 105000   | 0.43 0.42 0.39       | 0.27 0.26 0.27       | 70     | 64
tiny-imagenet | 100000   | 0.480 0.448 0.398    | 0.277 0.269 0.282    | 64     | 64
""")
}

# size, scale from, scale to, probability of blur, of solarise
VIEWS = {
    "multi": [
        (224, 0.2, 1.0, 0.5, 0.1),
        (224, 0.2, 1.0, 0.5, 0.1),
        (192, 0.171, 0.857, 0.5, 0.1),
        (160, 0.143, 0.714, 0.5, 0.1),
        (128, 0.114, 0.571, 0.5, 0.1),
        (96, 0.086, 0.429, 0.5, 0.1),
    ],
    "two": [(224, 0.08, 1.0, 1.0, 0.0), (224, 0.08, 1.0, 0.1, 0.2)],
    "cifar": [(32, 0.08, 1.0, 0.0, 0.0), (32, 0.08, 1.0, 0.0, 0.2)],
}

# The tools' options, by recipe of rcfgs/eval.
EVALUATIONS = table("""
recipe             | tool     | options
linear_multi_crop  | linear   | protocol imagenet epochs 100 batch-size 256 optimizer sgd schedule steps lr 0.4 weight-decay 0
linear_two_crop    | linear   | protocol imagenet epochs 100 batch-size 256 optimizer sgd schedule steps lr 0.2 weight-decay 0
linear_readme      | linear   | protocol imagenet epochs 100 batch-size 256 optimizer sgd schedule steps lr 0.3 weight-decay 0
linear_cw_rgp      | linear   | protocol cw_rgp epochs 100 batch-size 1024 optimizer lars schedule cosine lr 0.1 weight-decay 0
linear_small       | linear   | protocol small epochs 500 batch-size 1000 optimizer adam schedule exponential lr 0.01 weight-decay 5e-6
knn_5              | knn      | k 5 metric euclidean vote majority
knn_200_weighted   | knn      | k 20,200 metric cosine vote weighted temperature 0.07
semi_1pct          | finetune | subset imagenet-1pct epochs 20 batch-size 256 lr-backbone 0.004 lr-classifier 0.2 weight-decay 0
semi_1pct_two_crop | finetune | subset imagenet-1pct epochs 20 batch-size 256 lr-backbone 0.006 lr-classifier 0.2 weight-decay 0
semi_10pct         | finetune | subset imagenet-10pct epochs 20 batch-size 256 lr-backbone 0.004 lr-classifier 0.2 weight-decay 0
semi_10pct_two_crop | finetune | subset imagenet-10pct epochs 20 batch-size 256 lr-backbone 0.006 lr-classifier 0.2 weight-decay 0
semi_1pct_readme   | finetune | subset imagenet-1pct epochs 20 batch-size 256 lr-backbone 0.005 lr-classifier 0.5 weight-decay 0
""")  # noqa: E501

by_recipe = pytest.mark.parametrize("facts", PUBLISHED, ids=lambda facts: facts["recipe"])


def pairs(text: str) -> dict[str, str]:
    words = text.split()
    return dict(zip(words[::2], words[1::2], strict=True))


def numbers(text: str) -> tuple[float, ...]:
    return tuple(map(float, text.split()))


def views_of(facts: dict[str, str]) -> list[tuple[float, ...]]:
    if not facts["crops"].startswith("cw_rgp"):
        return VIEWS[facts["crops"]]
    blur = 0.5 if facts["data"] == "imagenet" else 0.0
    return [(float(DATA[facts["data"]]["size"]), 0.2, 1.0, blur, 0.0)] * int(facts["crops"].split()[1])


@by_recipe
def test_recipe_is_the_published_one(facts):
    made = config.load(RCFGS / f"{facts['recipe']}.yaml")
    assert (made.name, made.data.name) == (facts["recipe"].replace("/", "_"), facts["data"])
    train = made.train
    assert (train.epochs, train.batch_size, train.max_steps) == (int(facts["epochs"]), int(facts["batch"]), None)
    check_optimiser(made, facts)

    model = made.model
    assert (model.arch, model.stem) == (facts["arch"], facts["stem"])
    assert (str(model.zero_init_residual).lower(), str(model.projector_bias).lower()) == (facts["zero"], facts["bias"])
    assert model.projector == tuple(map(int, facts["projector"].split()))
    assert str(model.ema).lower() == facts["ema"] and (model.ema_momentum == 0.996 or not model.ema)

    crops, data = made.crops, DATA[facts["data"]]
    columns = zip(crops.sizes, crops.scales, crops.blur, crops.solarize, strict=True)
    assert [(s, *scale, b, o) for s, scale, b, o in columns] == views_of(facts)
    assert crops.ratio == (3 / 4, 4 / 3) and crops.flip == 0.5
    of_cw_rgp = facts["crops"].startswith("cw_rgp")
    assert (crops.jitter, crops.brightness, crops.contrast, crops.hue) == (0.8, 0.4, 0.4, 0.1)
    assert crops.saturation == (0.4 if of_cw_rgp else 0.2)
    assert crops.grayscale == (0.1 if of_cw_rgp and facts["data"] != "imagenet" else 0.2)
    assert crops.blur_sigma == (0.1, 2.0)
    assert (crops.mean, crops.std) == (numbers(data["mean"]), numbers(data["std"]))
    assert (made.eval.k, made.eval.resize, made.eval.size) == (5, int(data["resize"]), int(data["size"]))


def check_optimiser(made: Config, facts: dict[str, str]) -> None:
    optim = made.optim
    found = (optim.name, optim.lr, optim.weight_decay, str(optim.decay_one_dimensional).lower(), optim.schedule)
    expected = [facts[name] for name in ("optimiser", "lr", "wd", "decay", "schedule")]
    assert found == (expected[0], float(expected[1]), float(expected[2]), *expected[3:])
    length, unit = facts["warm-up"].split()
    assert (optim.warmup_steps or optim.warmup_epochs) == float(length)
    assert (optim.warmup_steps is not None) == (unit == "steps")
    assert optim.momentum == 0.9  # adam reads none
    assert optim.lr_one_dimensional == (0.0048 if optim.name == "lars" else None)
    if optim.schedule == "step":
        assert (optim.drop_epochs, optim.drop_factor) == ((50, 25), 0.2)
    else:
        assert optim.final_fraction == (0.0 if optim.schedule == "cosine_epoch" else 0.001)


@by_recipe
def test_the_loss_is_the_published_one(facts):
    loss = config.load(RCFGS / f"{facts['recipe']}.yaml").loss
    name, _, settings = facts["loss"].partition(" ")
    keys = {key: type(getattr(loss, key))(value) for key, value in pairs(settings).items()}
    assert loss == config.Loss(name=name, **keys)  # and everything else is at its default
    if name == "intl":
        assert (loss.iterations, loss.axis, loss.trade_off) == (4, "channel", None)


@pytest.mark.parametrize("path", sorted(RCFGS.rglob("*.yaml")), ids=lambda path: str(path.relative_to(RCFGS)))
def test_header_states_command_hardware_and_result(path):
    lines = path.read_text().splitlines()
    header = "\n".join(lines[: lines.index("")])
    assert all(line.startswith("#") for line in header.splitlines())
    fields = [line[2:].split(":")[0] for line in lines if line.startswith(("# P", "# E", "# S", "# G"))]
    assert fields == ["Planned for", "Expected", "Source", "GPU-hours"]
    assert ("make demo" if path.stem == "demo" else f"--rcfg {path.relative_to(ROOT)}") in header


@by_recipe
def test_header_has_the_published_figures_and_counts_all_images_of_all_epochs(facts):
    header = (RCFGS / f"{facts['recipe']}.yaml").read_text().split("\n\n")[0]
    figures = [figure for figure in facts["published"].split(" / ") if figure]
    assert all(f" {figure} % " in header for figure in figures)
    assert figures or "nothing is published" in header
    # The last, incomplete batch of an epoch is dropped.
    batch, epochs = int(facts["batch"]), int(facts["epochs"])
    images = int(DATA[facts["data"]]["images"]) // batch * batch * epochs
    assert f" {images / 1e6:,.0f} million images / 3600 s / " in header


def test_every_published_recipe_is_there():
    paths = {str(path.relative_to(RCFGS).with_suffix("")) for path in RCFGS.rglob("*.yaml")}
    pretraining = {path for path in paths if not path.startswith(("eval/", "detection/"))}
    assert {facts["recipe"] for facts in PUBLISHED} | {"demo"} == pretraining
    detection = {f"detection/{name}" for name in ("voc0712", "coco_2x", "shapes")}  # see test_detection_model.py
    assert detection == {path for path in paths if path.startswith("detection/")}
    assert {f"eval/{facts['recipe']}" for facts in EVALUATIONS} == {path for path in paths if path[:5] == "eval/"}


def test_demo_is_the_multi_crop_recipe_with_ema_and_its_baselines():
    made = config.load(RCFGS / "demo.yaml")
    assert made.model.ema and made.eval.baselines and len(made.crops.sizes) > 2
    assert made.data.root == "data/demo" and made.data.name == "demo"


def test_every_recipe_prints_as_it_is_resolved():
    for facts in PUBLISHED:
        made = config.load(RCFGS / f"{facts['recipe']}.yaml")
        assert config.from_yaml(config.to_yaml(made)) == made
    command = [sys.executable, "-m", "fastintl.train", "--rcfg", "rcfgs/cw_rgp/stl10_4.yaml", "--print-config"]
    printed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
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
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert result.returncode == 2 and words in result.stderr and result.stderr.count("\n") == 1


def test_no_two_recipes_write_to_the_same_run():
    names = [config_name(path) for path in RCFGS.rglob("*.yaml") if path.parent.name != "eval"]
    assert len(set(names)) == len(names)


def config_name(path: Path) -> str:
    return yaml.safe_load(path.read_text()).get("name", path.stem)
