"""The configuration: defaults, files, overrides, and a sentence for every mistake."""

import subprocess
import sys
from dataclasses import FrozenInstanceError, is_dataclass

import pytest
import yaml

from fastintl import config, train
from fastintl.config import Config, Crops, Train
from fastintl.config import options as configfile
from fastintl.data import center_crop
from loaders.errors import UserError


def load(tmp_path, text, *overrides, name="recipe.yaml"):
    path = tmp_path / name
    path.write_text(text)
    return config.load(path, list(overrides))


def test_every_key_is_documented_and_its_default_is_of_its_own_type():
    keys = configfile.options(Config)
    assert len(keys) == len(configfile.values(Config())) > 50
    for key, field in keys.items():
        assert len(field.metadata["doc"]) > 5 and field.metadata["doc"].endswith("."), key
        # What the class converts its default to equals the default: none is written as another type.
        assert configfile.values(Config())[key] == field.default, key


def test_dotted_prefix_of_every_group_is_its_field_name():
    for name, value in vars(Config()).items():
        if is_dataclass(value):
            assert type(value)._key == f"{name}."


def test_file_overrides_defaults_and_words_override_the_file(tmp_path):
    made = load(tmp_path, "train:\n  epochs: 7\n  batch_size: 64\noptim: {lr: 0.3}\n", "train.epochs=9")
    assert (made.train.epochs, made.train.batch_size, made.optim.lr) == (9, 64, 0.3)
    assert config.differences(made, Config()) == ["name", "optim.lr", "train.epochs", "train.batch_size"]


def test_name_comes_from_the_file_unless_set(tmp_path):
    assert load(tmp_path, "").name == "recipe"
    assert load(tmp_path, "name: other").name == "other"
    assert load(tmp_path, "name: other", "name=third").name == "third"
    assert load(tmp_path, "name: other", "name=null").name == "recipe"
    assert config.load(None, []).name == "run"


@pytest.mark.parametrize(
    ("word", "key", "expected"),
    [
        ("optim.weight_decay=1e-5", "optim.weight_decay", 1e-5),  # YAML 1.1 takes 1e-5 for a word
        ("optim.lr=1", "optim.lr", 1.0),
        ("crops.sizes=[40, 40, 32, 24, 24, 24]", "crops.sizes", (40, 40, 32, 24, 24, 24)),
        ("train.compile=off", "train.compile", "off"),  # and off for false
        ("log.wandb=offline", "log.wandb", "offline"),
        ("model.ema=false", "model.ema", False),
        ("train.max_steps=null", "train.max_steps", None),
        ("loss.trade_off=0", "loss.trade_off", 0.0),
        ("data.root=/a folder/#1: {x}", "data.root", "/a folder/#1: {x}"),
        ("data.name=10", "data.name", "10"),
        ("data.root=", "data.root", None),
    ],
)
def test_declared_type_decides_what_a_word_means(word, key, expected):
    value = configfile.values(config.load(None, [word]))[key]
    assert value == expected and type(value) is type(expected)


def test_home_folder_is_expanded_as_the_shell_does_not(monkeypatch):
    monkeypatch.setenv("HOME", "/home/somebody")
    assert config.load(None, ["data.root=~/images"]).data.root == "/home/somebody/images"


@pytest.mark.parametrize(
    ("word", "sentence"),
    [
        ("train.epoch=3", "unknown key train.epoch; did you mean train.epochs?"),
        ("epochs=3", "unknown key epochs; did you mean train.epochs?"),
        ("train.lr=3", "unknown key train.lr; did you mean optim.lr?"),
        ("xyzzy=3", "unknown key xyzzy; --help lists the keys"),
        ("train=3", "train is a group of keys"),
        ("train.epochs", "train.epochs is not of the form key=value"),
        ("train.epochs=abc", "train.epochs: abc is not a whole number"),
        ("train.epochs=1.5", "train.epochs: 1.5 is not a whole number"),
        ("train.epochs=true", "train.epochs: true is not a whole number"),
        ("train.epochs=0", "train.epochs: 0 is out of range; it must be at least 1"),
        ("eval.resize=99999999999999999999", "it must be at least 1 and at most 16384"),
        ("crops.sizes=[20000, 24]", "crops.sizes[0]: 20000 is out of range"),
        ("optim.lr=nan", "optim.lr: nan is not a number"),
        ("optim.lr=[1, 2]", "optim.lr: [1, 2] is not a number"),
        ("optim.lr=0", "optim.lr: 0.0 is out of range; it must be more than 0"),
        ("train.max_steps=x", "train.max_steps: x is not a whole number or null"),
        ("model.ema=maybe", "model.ema: maybe is not true or false"),
        ("train.precision=fp8", "train.precision: fp8 is not one of auto, bf16, fp16, fp32"),
        ("crops.blur=0.5", "crops.blur: 0.5 is one value; it needs 6 values in [...], one per view"),
        ("crops.sizes=[40, 40, 32]", "crops.scales: 6 values for 3 views"),
        ("crops.sizes=40", "crops.sizes: 40 is not a list, each item a whole number"),
        ("crops.sizes=[40", "crops.sizes, line 1: cannot be read as YAML"),
        ("crops.ratio=[1, 2, 3]", "crops.ratio: [1, 2, 3] is not a list of 2 values, each a number"),
        ("crops.interpolation=nearest", "crops.interpolation: nearest is not one of bicubic, bilinear"),
        ("eval.mean=[0.5, 0.5]", "eval.mean: [0.5, 0.5] is not a list of 3 values, each a number or null"),
        ("model.stem=cifar_pad", "model.stem: cifar_pad is not one of imagenet, cifar, cifar_padded, small"),
        ("crops.ratio=[2, 1]", "crops.ratio: [2.0, 1.0] must have the smaller value first"),
        ("crops.grow=[0.5]", "crops.grow: [0.5] is not [share, epoch], nor [] for crops that do not grow"),
        ("crops.grow=0.5", "crops.grow: 0.5 is not a list, each item a number"),
        ("crops.grow=[1, 70]", "crops.grow: [1.0, 70.0] begins with 1 of the views' sides; it must be less than 1"),
        ("crops.grow=[0, 70]", "crops.grow[0]: 0.0 is out of range; it must be more than 0"),
        ("crops.grow=[0.5, 7.5]", "crops.grow: [0.5, 7.5] reaches the full size at epoch 7.5; it must be a whole"),
        ("crops.grow=[0.99, 70]", "crops.grow: [0.99, 70.0] makes no view smaller, in steps that its side takes"),
        ("crops.grow=[0.5, 100]", "crops.grow: [0.5, 100.0] reaches the full size at epoch 100, and train.epochs=100"),
        ("crops.mean=[0, 0, 7]", "crops.mean[2]: 7.0 is out of range; it must be at least 0 and at most 1"),
        ("eval.size=300", "eval.size: 300 is more than eval.resize, 256"),
        ("eval.bank=3", "eval.bank: 3 images are fewer than the 5 neighbours of eval.k"),
        ("model.projector=[]", "model.projector: the list is empty"),
        ("optim.drop_factor=0.5", "optim.drop_factor: 0.5 has no effect with optim.schedule=cosine; it belongs"),
        ("name=a/b", "name: a/b is not a plain folder name"),
    ],
)
def test_each_mistake_gets_its_sentence(word, sentence):
    with pytest.raises(UserError) as caught:
        config.load(None, [word])
    assert sentence in str(caught.value)


def test_crops_that_grow_are_told_by_their_stages_and_replay_no_graphs():
    crops = config.load(None, ["crops.grow=[0.625, 70]"]).crops
    assert [(stage.epoch, stage.sides[0]) for stage in crops.stages] == [(0, 160), (35, 192), (70, 224)]
    assert crops.all_sides == (224, 192, 160, 128, 96, 144, 112, 80, 64)
    assert [stage.sides for stage in Crops().stages] == [Crops().sizes]
    with pytest.raises(UserError, match="crops.grow changes the shapes that train.cuda_graphs=on replays"):
        config.load(None, ["crops.grow=[0.625, 70]", "train.cuda_graphs=on"])


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["optim.name=adam", "optim.momentum=0.5"], "optim.momentum: 0.5 has no effect with optim.name=adam"),
        (["optim.schedule=step", "optim.final_fraction=0"], "it belongs to cosine and cosine_epoch"),
        (["optim.warmup_steps=500", "optim.warmup_epochs=3"], "optim.warmup_epochs: optim.warmup_steps takes its"),
    ],
)
def test_a_key_that_nothing_would_read_is_refused(words, sentence):
    with pytest.raises(UserError, match=sentence):
        config.load(None, words)


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("train:\n  epoch: 3\n", "recipe.yaml: unknown key train.epoch; did you mean train.epochs?"),
        ("train:\n  epochs: [3\n", "recipe.yaml, line 3: cannot be read as YAML"),
        ("train: {epochs: 3}\ntrain: {batch_size: 2}\n", "'train' is given twice"),
        ("train: 5\n", "recipe.yaml: train is a group of keys"),
        ("- 1\n- 2\n", "recipe.yaml: holds [1, 2], where key: value lines are expected"),
        ("train:\n  epochs: {a: 1}\n", 'train.epochs: {"a": "1"} is not a whole number'),
    ],
)
def test_each_mistake_in_a_file_gets_its_sentence(tmp_path, text, sentence):
    with pytest.raises(UserError) as caught:
        load(tmp_path, text)
    assert sentence in str(caught.value)


def test_file_that_cannot_be_read(tmp_path):
    with pytest.raises(UserError, match=r"nowhere\.yaml: cannot be read \(No such file or directory\)"):
        config.load(tmp_path / "nowhere.yaml", [])
    (tmp_path / "binary.yaml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UserError, match=r"binary\.yaml: cannot be read \(not a text file\)"):
        config.load(tmp_path / "binary.yaml", [])


def test_one_view_is_refused():
    with pytest.raises(UserError, match="needs 2 or more"):
        Crops(sizes=[32], scales=[[0.2, 1]], blur=[0], solarize=[0])


def test_construction_in_python_checks_and_converts_too():
    made = Crops(sizes=[32, 24], scales=[[0.2, 1]] * 2, blur=[0, 1], solarize=[0, 0])
    assert made.sizes == (32, 24) and made.blur == (0.0, 1.0)
    with pytest.raises(UserError, match="train.epochs: -1"):
        Train(epochs=-1)
    with pytest.raises(FrozenInstanceError):
        made.flip = 0.1


def test_yaml_round_trip_is_exact_and_plain_yaml():
    words = ["optim.lr=0.1234567890123", "train.max_steps=null", "data.train=/x/null.beton", "train.compile=on"]
    made = config.load(None, words)
    assert made.train.max_steps is None
    text = config.to_yaml(made)
    assert config.from_yaml(text) == made
    assert config.differences(config.from_yaml(text), made) == []
    # Any YAML reader gets the same values, not only ours.
    assert config.from_dict(yaml.safe_load(text)) == made


def test_a_run_from_before_a_key_goes_on_as_it_was(tmp_path):
    later = {"crops": ["interpolation"], "model": ["projector_views"], "eval": ["interpolation", "mean", "std"]}
    made = config.load(None, ["crops.mean=[0.5, 0.4, 0.3]", "crops.std=[0.2, 0.3, 0.4]"])
    saved = yaml.safe_load(config.to_yaml(made))
    for group, names in later.items():
        for name in names:
            del saved[group][name]
    resumed = config.from_yaml(yaml.safe_dump(saved))
    assert resumed == made and (resumed.crops.interpolation, resumed.model.projector_views) == ("bicubic", "apart")
    view = center_crop(resumed)
    assert (view.mean, view.std, view.interpolation) == ((0.5, 0.4, 0.3), (0.2, 0.3, 0.4), "bilinear")
    assert configfile.differences(made, config.from_yaml(yaml.safe_dump(saved)), "result") == []
    for word in ("crops.interpolation=bilinear", "model.projector_views=together"):
        assert configfile.differences(config.load(None, [word]), config.load(None), "result") == [word.split("=")[0]]


def test_help_names_every_key_and_needs_no_torch():
    code = "import sys, fastintl.config as c; print(c.help_text()); sys.exit('torch' in sys.modules)"
    text = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    for key in configfile.options(Config):
        assert f"\n  {key}=" in f"\n{text}"
    assert max(map(len, text.splitlines())) <= 120


def test_help_of_one_group(capsys):
    with pytest.raises(SystemExit) as end:
        train.main(["--help", "model"])
    out = capsys.readouterr().out
    assert end.value.code == 0 and out.startswith("model: the network.\n") and "optim" not in out
    assert all(f"  {key}=" in out for key in configfile.options(Config) if key.startswith("model."))
    with pytest.raises(SystemExit) as end:
        train.main(["--help", "modle"])
    said = "error: --help modle: there is no such group of keys; there are data, crops, model, loss, optim, "
    assert end.value.code == 2 and capsys.readouterr().err == f"{said}train, eval, log\n"
