"""What a classifier's training is resumed by: the identities that the first version wrote, value by value."""

import errno
import os
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from fastintl.evaluate.backbone import EvaluatedBackbone, Reading
from fastintl.evaluate.epoch_loop import CONTENT
from fastintl.evaluate.features import cached_features
from fastintl.evaluate.finetune import FineTuneProtocol, finetune
from fastintl.evaluate.linear.probes import probe_on_crops
from fastintl.evaluate.linear.protocols import IMAGENET
from fastintl.evaluate.supervised import SupervisedTraining
from loaders import CenterCrop
from loaders.errors import UserError
from tests.helpers.probing import ALONE, backbone

READING = Reading("folder", threads=1)
VIEW = {"resize": 24, "size": 20, "mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225]}
TRAINED = {"sha256": "0" * 64, "arch": "resnet8", "stem": "small", "target": False, **VIEW}
LINEAR = {
    "protocol": "imagenet",
    "epochs": 1,
    "batch_size": 20,
    "optimizer": "sgd",
    "lr": [0.4],
    "weight_decay": [0.0],
    "schedule": "steps",
    "init": "normal",
    "crop_area": 0.08,
    "seed": 3,
    "pictures": "896e6fee43ee6c2dbca6d332bb1e4d559d158bae3e692eb63ed9997091109869",
    "steps an epoch": 2,
}
TUNED = {
    "epochs": 1,
    "batch_size": 20,
    "lr_backbone": 0.004,
    "lr_classifier": 0.2,
    "weight_decay": 0.0,
    "momentum": 0.9,
    "schedule": "cosine",
    "frozen": False,
    "crop_area": 0.08,
    "labels": 24,
    "subset": "50 %",
    "seed": 3,
    "pictures": "a1c5c7087c359d0003bc7ca1dccf4a8c55a16ddb6cf07f6ce8ca5d22a970c37f",
    "steps an epoch": 1,
}


def evaluated(trained: bool = True) -> EvaluatedBackbone:
    origin = {"path": Path("backbone.pt"), "sha256": "0" * 64} if trained else {}
    return EvaluatedBackbone(backbone(), CenterCrop(24, 20), **origin)


def kept_in(folder: Path) -> dict:
    """The identity in the only checkpoint below the folder."""
    (checkpoint,) = folder.rglob("step_*.pt")
    return torch.load(checkpoint, weights_only=True)["settings"]


def as_the_first_version_left_it(folder: Path, older: Path) -> None:
    """Renames a training's folder, and takes what the images hold out of its checkpoint."""
    folder.rename(older)
    (checkpoint,) = older.rglob("step_*.pt")
    state = torch.load(checkpoint, weights_only=True)
    del state["settings"][CONTENT]
    torch.save(state, checkpoint)


def test_a_linear_probe_has_the_identity_and_the_folder_of_the_first_version(images, tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    training = SupervisedTraining(images / "train", images / "val", READING, seed=3, crop_interpolation="bicubic")

    def probe():
        return probe_on_crops(evaluated(), "imagenet", replace(IMAGENET, epochs=1, batch_size=20), training, ALONE)

    result = probe()
    (folder,) = (tmp_path / "runs").iterdir()
    identity = kept_in(folder)
    assert len(identity.pop(CONTENT)) == 64 and identity == LINEAR | TRAINED
    as_the_first_version_left_it(folder, tmp_path / "runs/linear-70205c651a")
    assert "an older version" not in capfd.readouterr().err
    assert probe().metrics == result.metrics and not folder.exists()
    assert "an older version began the training in runs/linear-70205c651a" in capfd.readouterr().err
    assert kept_in(tmp_path / "runs/linear-70205c651a") == LINEAR | TRAINED
    shown = result.as_json()
    assert shown["sha256"] == "0" * 64 and shown["backbone"] == "backbone.pt" and shown["metrics"]["top5"] == 1
    assert shown["settings"].items() < (LINEAR | TRAINED).items() and "sha256" not in shown["settings"]


def test_a_fine_tuning_has_the_identity_and_the_folder_of_the_first_version(images, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    training = SupervisedTraining(images / "train", images / "val", READING, seed=3, crop_interpolation="bicubic")
    protocol, known = FineTuneProtocol(epochs=1, batch_size=20, schedule="cosine"), set()
    for trained, folder in ((True, "runs/finetune-0af318c018"), (False, "runs/finetune-bdfb7d014b")):
        finetune(evaluated(trained), protocol, training, 50, None, ALONE)
        start = TRAINED if trained else {"from_scratch": True, "arch": "resnet8", "stem": "small", **VIEW}
        (new,) = set((tmp_path / "runs").iterdir()) - known
        as_the_first_version_left_it(new, tmp_path / folder)
        finetune(evaluated(trained), protocol, training, 50, None, ALONE)
        assert kept_in(tmp_path / folder) == TUNED | start and not new.exists()
        known.add(tmp_path / folder)
        tuned = torch.load(tmp_path / folder / "finetuned.pt", weights_only=True)
        assert tuned["fc.weight"].shape == (3, 128)


def test_a_batch_of_one_small_image_has_no_variance(images, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    training = SupervisedTraining(images / "train", images / "val", READING, seed=3)
    small = EvaluatedBackbone(backbone(), CenterCrop(6, 4))
    with pytest.raises(UserError, match="--batch-size 1: of an image of 4 px alone a BatchNorm of this network has"):
        finetune(small, FineTuneProtocol(epochs=1, batch_size=1), training, 50, None, ALONE)
    # At the sizes that a network is made for, its feature maps have values enough.
    finetune(evaluated(), FineTuneProtocol(epochs=1, batch_size=1), training, 5, None, ALONE)


def test_kept_features_are_known_by_what_the_first_version_knew_and_by_what_the_images_hold(images, tmp_path):
    stored = cached_features(evaluated(), images / "val", tmp_path, ALONE, READING, flip_average=True)
    assert [len(folder.name) for folder in tmp_path.iterdir()] == [16]
    assert stored.meta["classes"] == ["class0", "class1", "class2"] and len(stored.meta["stored_blake2b"]) == 64
    others = ("backbone", "data", "versions", "classes", "stored_blake2b")
    known = {key: stored.meta[key] for key in stored.meta if key not in others}
    digest = "d5f59b12be7de1b2405a2787bf1989a0ef509d713817d5b73a29f4503ca1f051"
    assert known == {**TRAINED, "flip_average": True, "count": 15, "pictures_sha256": digest}


def test_what_the_first_version_did_not_have_is_in_the_identity(images, tmp_path):
    training = SupervisedTraining(images / "train", images / "val", READING, seed=3, out=tmp_path)
    wide = replace(evaluated(), crop=CenterCrop(24, 20, interpolation="bicubic"))
    probe_on_crops(wide, "imagenet", replace(IMAGENET, epochs=1, batch_size=20), training, ALONE)
    other = {"crop_interpolation": "bilinear", "interpolation": "bicubic"}
    identity = kept_in(tmp_path)
    assert identity.pop(CONTENT) and identity == LINEAR | TRAINED | other


def test_a_disk_full_at_the_end_of_a_fine_tuning_is_a_sentence_and_it_ends_later(images, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    training = SupervisedTraining(images / "train", images / "val", READING, seed=3)
    protocol = FineTuneProtocol(epochs=1, batch_size=20)

    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))  # as torch.save raises it, without a name

    with monkeypatch.context() as there:
        there.setattr("fastintl.evaluate.finetune.write_atomically", full)
        with pytest.raises(UserError, match="finetuned.pt cannot be written: No space left on device"):
            finetune(evaluated(), protocol, training, 50, None, ALONE)
    finetune(evaluated(), protocol, training, 50, None, ALONE)
    assert next((tmp_path / "runs").glob("finetune-*/finetuned.pt")).stat().st_size
