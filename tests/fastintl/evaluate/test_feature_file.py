"""Stored features: every sample once at any world size and after any interruption, of one backbone and one dataset."""

import json
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import torch

from fastintl.distributed import World
from fastintl.evaluate.backbone import Reading, features_of, open_subject
from fastintl.evaluate.feature_file import load_features
from fastintl.evaluate.features import extract
from fastintl.evaluate.nearest.protocol import compare
from loaders import CenterCrop, make_loader
from loaders.errors import UserError
from tests.helpers.ddp import run_ranks
from tests.helpers.training import ROOT
from tools import features as tool

ALONE = World(0, 1, 0, torch.device("cpu"))


@pytest.fixture(scope="module")
def run(finished):
    return str(finished / "run")


def write(run, data, folder, world=ALONE, batch_size=7, **options):
    return features_of(open_subject(run), data, folder, world, Reading("folder", batch_size, 1), **options)


def write_as_rank(run, data, folder):
    rank, world_size = torch.distributed.get_rank(), torch.distributed.get_world_size()
    world = World(rank, world_size, rank, torch.device("cpu"))
    os.environ["LOCAL_WORLD_SIZE"] = "1"  # as torchrun sets it on each of two machines
    with pytest.raises(UserError, match="write the features on one machine"):
        write(run, data, folder, world)
    os.environ["LOCAL_WORLD_SIZE"] = "2"
    stored = write(run, data, folder, world)
    return np.array(stored.features), stored.ids.tolist()


@pytest.fixture(scope="module")
def alone(run, images, tmp_path_factory):
    return write(run, images / "val", tmp_path_factory.mktemp("alone") / "features")


def test_features_are_those_of_the_run_s_own_evaluation(alone, run, images):
    loader = make_loader(images / "val", CenterCrop(24, 24), 15, threads=1)
    expected = extract(open_subject(run).network, loader, torch.device("cpu"))
    loader.close()
    np.testing.assert_allclose(alone.features, expected.features.numpy(), rtol=1e-5, atol=1e-6)
    assert alone.ids.tolist() == list(range(15)) and alone.labels.tolist() == expected.labels.tolist()
    assert alone.meta["arch"] == "resnet8" and alone.meta["count"] == 15 and len(alone.meta["sha256"]) == 64


def test_two_ranks_write_what_one_writes(alone, run, images, tmp_path):
    for features, ids in run_ranks(write_as_rank, run, images / "val", tmp_path / "features"):
        np.testing.assert_allclose(features, alone.features, rtol=1e-5, atol=1e-6)
        assert ids == list(range(15))


def test_what_is_done_is_not_done_again(alone, run, images, tmp_path):
    folder = tmp_path / "features"
    write(run, images / "val", folder)
    done, features = np.load(folder / "done.npy"), np.load(folder / "features.npy")
    done[[2, 3, 11]] = False
    features[[2, 3, 11]], features[5] = 0, 7
    np.save(folder / "done.npy", done)
    np.save(folder / "features.npy", features)
    with pytest.raises(UserError, match="3 features are missing"):
        load_features(folder)
    again = write(run, images / "val", folder, batch_size=2)
    assert (again.features[5] == 7).all()
    rest = np.arange(15) != 5
    np.testing.assert_allclose(again.features[rest], alone.features[rest], rtol=1e-5, atol=1e-6)


def test_a_killed_process_goes_on(alone, run, images, tmp_path):
    """Slowed down after each image and killed by SIGKILL; what it marked as done by then is there."""
    folder = tmp_path / "features"
    slow = (
        "import sys, time; from fastintl.evaluate import feature_file, features; from tools import features as tool;"
        "feature_file._FLUSH_SECONDS = 0; old = feature_file._Marks.add;"
        "feature_file._Marks.add = lambda *a: (old(*a), time.sleep(0.5)); tool.main(sys.argv[1:])"
    )
    words = [run, "--data", images / "val", "--out", folder, "--batch-size", 1, "--source", "folder"]
    words += ["--device", "cpu"]
    process = subprocess.Popen([sys.executable, "-c", slow, *map(str, words)], cwd=ROOT, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 60
    while not (folder / "meta.json").exists() or np.load(folder / "done.npy").sum() < 2:
        assert time.monotonic() < deadline and process.poll() is None
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    process.wait()
    done = np.load(folder / "done.npy")
    assert 2 <= done.sum() < 15
    np.testing.assert_allclose(np.load(folder / "features.npy")[done], alone.features[done], rtol=1e-5, atol=1e-6)
    tool.main([str(word) for word in words])
    np.testing.assert_allclose(load_features(folder).features, alone.features, rtol=1e-5, atol=1e-6)


def test_flip_average_is_the_mean_of_both_sides(run, images, tmp_path):
    loader = make_loader(images / "val", CenterCrop(24, 24), 15, threads=1)
    views = next(iter(loader)).views[0]
    network = open_subject(run).network
    with torch.no_grad():
        expected = (network(views) + network(views.flip(3))) / 2
    stored = write(run, images / "val", tmp_path / "features", flip_average=True)
    np.testing.assert_allclose(stored.features, expected.numpy(), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    "change, says",
    [
        ({"flip_average": True}, "another flip_average"),
        ({"data": "train"}, "another count, images_sha256"),
        ({"target": True}, "another target"),
    ],
)
def test_features_of_something_else_are_refused(alone, run, images, tmp_path, change, says):
    folder = tmp_path / "features"
    write(run, images / "val", folder)
    with pytest.raises(UserError, match=says.replace("another", "of another")):
        features_of(
            open_subject(run, target=change.get("target", False)),
            images / change.get("data", "val"),
            folder,
            ALONE,
            Reading("folder", 7, 1),
            change.get("flip_average", False),
        )
    assert json.loads((folder / "meta.json").read_text()) == load_features(folder).meta


def test_a_folder_without_features_is_one_sentence(tmp_path):
    with pytest.raises(UserError, match="meta.json"):
        load_features(tmp_path)


def accuracy_as_rank(train, val):
    rank, world_size = torch.distributed.get_rank(), torch.distributed.get_world_size()
    world = World(rank, world_size, rank, torch.device("cpu"))
    return compare(load_features(train), load_features(val), [1, 5], world)


def test_two_ranks_classify_every_query_once(run, images, tmp_path):
    train, val = (write(run, images / split, tmp_path / split) for split in ("train", "val"))
    expected = compare(train, val, [1, 5], ALONE)
    assert run_ranks(accuracy_as_rank, tmp_path / "train", tmp_path / "val") == [expected, expected]
