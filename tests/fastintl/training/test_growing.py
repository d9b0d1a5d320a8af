"""Runs whose crops grow: killed and resumed in a stage and at its edge, by several ranks, and what they say of it."""

import json
import shutil
import sys

import pytest
import torch

from fastintl import config
from fastintl.config import Config
from fastintl.data import multi_crop, training_loader
from fastintl.distributed import World
from fastintl.network.compilation import compiled_regions
from tests.helpers import warm_python
from tests.helpers.processes import kill, wait_for
from tests.helpers.training import (
    ROOT,
    assert_identical,
    command,
    last_state,
    saved_step,
    start,
    train,
    train_on_ranks,
)

# Of the 24 steps of a small run: views of 12 12 10 px for 6, of 16 16 14 px for 6, of 20 20 16 px for 12.
GROW = {"crops__grow": "[0.6,2]", "eval__every": 0}


@pytest.fixture(scope="module")
def grown(tmp_path_factory, images):
    out = tmp_path_factory.mktemp("grown")
    result = train(out, images, **GROW)
    assert result.returncode == 0, result.stderr
    return out, result


def test_a_run_says_how_its_crops_grow(grown):
    out, result = grown
    assert "views of 12 12 10 px, batch 8" in result.stderr
    assert "growing     16 16 14 px from epoch 1, then 20 20 16 px from epoch 2" in result.stderr
    assert "  grow: [0.6, 2.0]\n" in (out / "run" / "config.yaml").read_text()


def test_it_trains_otherwise_than_at_constant_size(grown, finished):
    grown, constant = last_state(grown[0]), last_state(finished)
    assert grown["step"] == constant["step"]
    assert any(not torch.equal(value, constant["model"][key]) for key, value in grown["model"].items())


@pytest.mark.parametrize("stops", [(3, 6), (11, 12)], ids=str)
def test_stopped_in_a_stage_or_at_its_edge_it_ends_with_the_same_weights(grown, images, tmp_path, stops):
    for step in stops:
        assert train(tmp_path, images, **GROW, train__max_steps=step).returncode == 0
        assert saved_step(tmp_path) == step
    assert train(tmp_path, images, **GROW).returncode == 0
    assert_identical(last_state(grown[0]), last_state(tmp_path))
    rows = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert {row["step"] for row in rows if "loss" in row} == {*range(2, 25, 2), *stops}


@pytest.mark.parametrize("step", [4, 6])
def test_killed_it_ends_with_the_same_weights(grown, images, tmp_path, step):
    process = start(command(tmp_path, images, **GROW, train__save_minutes=1e-6), tmp_path / "output.txt")
    wait_for(lambda: saved_step(tmp_path) >= step, process)
    kill(process)
    assert train(tmp_path, images, **GROW).returncode == 0
    assert_identical(last_state(grown[0]), last_state(tmp_path))


def test_two_ranks_change_the_stage_together_and_resume_at_its_edge(images, tmp_path):
    once, again = tmp_path / "once", tmp_path / "again"
    assert train_on_ranks(once, images, 2, **GROW).returncode == 0
    for steps in (6, 24):
        assert train_on_ranks(again, images, 2, **GROW, train__max_steps=steps).returncode == 0
    assert_identical(last_state(once), last_state(again))


def test_ranks_together_have_the_crops_of_one(images, tmp_path):
    made = config.load(None, [word for word in command(tmp_path, images, **GROW) if "=" in word])
    world = {ranks: [World(rank, ranks, rank, torch.device("cpu")) for rank in range(ranks)] for ranks in (1, 2)}
    loaders = {
        ranks: [training_loader(made, rank, tmp_path / "quarantine.txt", torch.float32) for rank in all_ranks]
        for ranks, all_ranks in world.items()
    }
    for stage in made.crops.stages:
        for epoch_loaders in loaders.values():
            for loader in epoch_loaders:
                loader.set_position(stage.epoch, 0)
        for whole, *parts in zip(*loaders[1], *loaders[2], strict=True):
            assert tuple(view.shape[-1] for view in whole.views) == stage.sides
            for v, view in enumerate(whole.views):
                assert torch.equal(view, torch.cat([part.views[v] for part in parts]))
    for loader in loaders[1] + loaders[2]:
        loader.close()


def test_a_run_of_before_the_key_goes_on(finished, images, tmp_path):
    folder = shutil.copytree(finished / "run", tmp_path / "run")
    for path in (folder / "checkpoints").iterdir():
        state = torch.load(path, weights_only=True)
        assert "  grow: []\n" in state["config"]
        torch.save(state | {"config": state["config"].replace("  grow: []\n", "")}, path)
    result = train(tmp_path, images, train__epochs=4, eval__baselines="true")
    assert result.returncode == 0 and "24 steps" in result.stdout, result.stderr
    assert_identical(last_state(finished), last_state(tmp_path))
    result = train(tmp_path, images, crops__grow="[0.6,2]")
    assert result.returncode != 0 and "holds a run with another crops.grow" in result.stderr


def test_print_config_shows_it_and_off_leaves_the_recipe_as_it_was():
    printed = warm_python.run(
        [sys.executable, "-m", "fastintl.train", "--print-config", "crops.grow=[0.625,70]"], cwd=ROOT
    ).stdout
    assert "  grow: [0.625, 70.0]\n" in printed and config.from_yaml(printed).crops.growth.epoch == 70
    assert multi_crop(Config().crops).growth is None


@pytest.mark.skipif(not shutil.which("c++"), reason="torch.compile needs a C++ compiler")
def test_the_graphs_of_all_stages_of_a_compiled_network_are_within_the_limit():
    limits = torch._dynamo.config
    with limits.patch(cache_size_limit=8, accumulated_cache_size_limit=8):
        compiled_regions(torch.device("cpu"), False, stages=4)
        assert limits.cache_size_limit >= 4 * 64 and limits.accumulated_cache_size_limit >= 4 * 64
