"""Features in memory and in folders: every sample once and in order, at any world size and after any interruption."""

import json
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import torch
from torch import nn

from fastintl.distributed import World
from fastintl.evaluate.backbone import Reading, open_backbone
from fastintl.evaluate.features import (
    Features,
    _on_a_line,
    extract,
    features_of,
    labels_of_all_ranks,
    load_features,
    of_all_ranks,
)
from fastintl.evaluate.nearest.knn import MEMORY
from fastintl.evaluate.nearest.protocol import evaluate, knn_settings
from loaders import CenterCrop, make_loader
from loaders.errors import UserError
from loaders.sources import open_images
from tests.helpers.ddp import run_ranks
from tests.helpers.training import ROOT
from tools import features as tool

CPU = torch.device("cpu")
ALONE = World(0, 1, 0, CPU)


def small_network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 4, 5), nn.BatchNorm2d(4), nn.AdaptiveAvgPool2d(2)).train()


def extract_share(path: str, world: World, batch_size: int = 7) -> Features:
    loader = make_loader(path, CenterCrop(24, 20), batch_size, rank=world.rank, world_size=world.world_size, threads=1)
    found = extract(small_network(), loader, CPU)
    loader.close()
    return found


def columns(found: Features):
    return found.features, found.labels, found.ids


def on_a_rank(path: str):
    rank = torch.distributed.get_rank()
    world = World(rank, torch.distributed.get_world_size(), rank, CPU)
    share = extract_share(path, world)
    labels, mine = labels_of_all_ranks(share, world)
    torch.testing.assert_close(labels[mine], share.labels)
    assert len(share.ids) < len(labels) and (of_all_ranks(share, world, everywhere=False) is None) == (rank > 0)
    one = of_all_ranks(extract_share(path, world, 14), world)  # the last batch has one image, and rank 1 none of it
    assert one.ids.tolist() == list(range(15))
    return columns(of_all_ranks(share, world))


@pytest.fixture(scope="module")
def alone_in_memory(images):
    return columns(extract_share(str(images / "val"), ALONE))


def test_every_sample_once_and_in_order(alone_in_memory):
    features, labels, ids = alone_in_memory
    assert features.shape == (15, 16) and features.dtype == torch.float32
    assert ids.tolist() == list(range(15))
    assert labels.tolist() == [i // 5 for i in range(15)]


def test_features_are_those_of_a_plain_forward(images, alone_in_memory):
    batches = make_loader(images / "val", CenterCrop(24, 20), 15)
    views = next(iter(batches)).views[0]
    with torch.no_grad():
        expected = small_network().eval()(views).flatten(1)
    torch.testing.assert_close(alone_in_memory[0], expected)


def test_two_ranks_give_what_one_gives(images, alone_in_memory):
    for rank in run_ranks(on_a_rank, str(images / "val")):
        for mine, theirs in zip(rank, alone_in_memory, strict=True):
            torch.testing.assert_close(mine, theirs)


def test_the_network_is_left_as_it_was(images):
    net = small_network()
    before = {key: value.clone() for key, value in net.state_dict().items()}
    extract(net, make_loader(images / "val", CenterCrop(24, 20), 7), CPU)
    assert net.training and all(torch.equal(value, before[key]) for key, value in net.state_dict().items())


# In a folder


@pytest.fixture(scope="module")
def run(finished):
    return str(finished / "run")


def write(run, data, folder, world=ALONE, batch_size=7, **options):
    return features_of(open_backbone(run), data, folder, world, Reading("folder", batch_size, 1), **options)


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
    expected = extract(open_backbone(run).network, loader, torch.device("cpu"))
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
        "import sys, time; from fastintl.evaluate import features; from tools import features as tool;"
        "features._FLUSH_SECONDS = 0; old = features._Marks.add;"
        "features._Marks.add = lambda *a: (old(*a), time.sleep(0.5)); tool.main(sys.argv[1:])"
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
    network = open_backbone(run).network
    with torch.no_grad():
        expected = (network(views) + network(views.flip(3))) / 2
    stored = write(run, images / "val", tmp_path / "features", flip_average=True)
    np.testing.assert_allclose(stored.features, expected.numpy(), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    "change, says",
    [
        ({"flip_average": True}, "another flip_average"),
        ({"data": "train"}, "another count, pictures_sha256"),
        ({"target": True}, "another target"),
    ],
)
def test_features_of_something_else_are_refused(alone, run, images, tmp_path, change, says):
    folder = tmp_path / "features"
    write(run, images / "val", folder)
    with pytest.raises(UserError, match=says.replace("another", "of another")):
        features_of(
            open_backbone(run, target=change.get("target", False)),
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
    return accuracy(load_features(train), load_features(val), world)


def accuracy(train, val, world):
    return evaluate(train, val, {}, [1, 5], knn_settings("euclidean", "majority", 0.07), MEMORY, world).metrics


def test_two_ranks_classify_every_query_once(run, images, tmp_path):
    train, val = (write(run, images / split, tmp_path / split) for split in ("train", "val"))
    expected = accuracy(train, val, ALONE)
    assert run_ranks(accuracy_as_rank, tmp_path / "train", tmp_path / "val") == [expected, expected]


def zeros_at_the_end(path):
    data = path.read_bytes()
    path.write_bytes(data[:-200] + bytes(200))


@pytest.mark.parametrize(
    "name, damage, says",
    [
        ("features.npy", lambda path: os.truncate(path, 2176), "features.npy is missing or cut off"),
        ("features.npy", zeros_at_the_end, "features.npy has changed"),  # a copy that stopped half-way
        ("labels.npy", lambda path: path.unlink(), "labels.npy is missing"),
        ("ids.npy", lambda path: np.save(path, np.arange(14)), "ids.npy does not hold what meta.json says"),
        ("done.npy", lambda path: os.truncate(path, 0), "done.npy is missing or cut off"),
        ("meta.json", lambda path: os.truncate(path, 50), "meta.json cannot be read"),
        ("meta.json", lambda path: path.write_text("{}"), "meta.json cannot be read"),
        ("complete.json", lambda path: path.write_text("[]"), "complete.json cannot be read"),
    ],
)
def test_what_is_damaged_is_one_sentence_and_made_anew(alone, run, images, tmp_path, capsys, name, damage, says):
    folder = tmp_path / "features"
    write(run, images / "val", folder)
    damage(folder / name)
    with pytest.raises(UserError, match=f"are damaged, {says}.*: copy them again, or write them again"):
        load_features(folder)
    again = write(run, images / "val", folder)
    assert f"{folder} are made anew: {says}" in capsys.readouterr().err
    np.testing.assert_allclose(again.features, alone.features, rtol=1e-5, atol=1e-6)
    assert again.labels.tolist() == alone.labels.tolist() and again.ids.tolist() == list(range(15))


def test_features_that_an_older_version_kept_are_made_anew(alone, run, images, tmp_path, capsys):
    folder = tmp_path / "features"
    write(run, images / "val", folder)
    meta = json.loads((folder / "meta.json").read_text())
    del meta["stored_blake2b"], meta["classes"]
    (folder / "meta.json").write_text(json.dumps(meta))
    (folder / "complete.json").unlink()
    assert load_features(folder).meta == meta  # as a set of features of its own
    write(run, images / "val", folder)
    assert "an older version wrote them" in capsys.readouterr().err
    assert "stored_blake2b" in load_features(folder).meta


def test_names_are_one_line_a_row(alone, run, images, tmp_path):
    write(run, images / "val", tmp_path / "features")
    names = (tmp_path / "features" / "names.txt").read_text().splitlines()
    assert names == list(open_images(images / "val").names) and len(names) == 15
    assert _on_a_line("a\\b\nc\u2028\udcff") == r"a\\b\nc\u2028\xff"
