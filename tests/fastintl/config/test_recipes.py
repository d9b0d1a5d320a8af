"""A recipe is named by its file or by its name, and what is neither is one sentence."""

import pytest

from fastintl import config
from fastintl.config import recipes
from loaders.errors import UserError
from tests.helpers.documents import ROOT


@pytest.mark.parametrize("name", ["ep100", "ep100.yaml", "rcfgs/ep100.yaml"])
def test_a_recipe_is_found_by_name_from_any_folder(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert recipes.find(name).samefile(ROOT / "rcfgs/ep100.yaml")
    assert config.load(name) == config.load(ROOT / "rcfgs/ep100.yaml") and config.load(name).name == "ep100"


def test_ones_own_file_comes_before_a_recipe_and_a_folder_does_not(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "demo").mkdir()
    (tmp_path / "ep100.yaml").write_text("seed: 7\n")
    assert config.load("ep100.yaml").seed == 7
    assert recipes.find("demo").samefile(ROOT / "rcfgs/demo.yaml")


@pytest.mark.parametrize(
    "name, cure",
    [
        ("ep10", "did you mean ep100 or ep800 or ep400?"),
        ("knn_5", "did you mean eval/knn_5?"),
        ("cw_rgp/cifar10", "did you mean barlow_twins/cifar10 or cifar10 or fast/cifar10?"),
        ("qqq.yaml", "there are cifar10, cifar100, demo, ep100, ep200, ep400, ep800, ep800_two_crop, in100 and more"),
    ],
)
def test_an_unknown_recipe_names_near_ones(name, cure):
    with pytest.raises(UserError) as error:
        config.load(name)
    assert str(error.value) == f"{name}: cannot be read (No such file or directory) and is no recipe's name; {cure}"
