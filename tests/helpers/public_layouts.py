"""Tiny copies of datasets in their public layouts."""

import pickle
from pathlib import Path

import numpy as np
from PIL import Image


def cifar_table(count: int, label_key: str, classes: int, seed: int = 0) -> dict:
    """A pickled file of CIFAR; classes come in turn, and each has a colour of its own."""
    rng = np.random.default_rng(seed)
    labels = np.arange(count) % classes
    pixels = rng.integers(0, 100, (count, 3, 1024)) + (labels[:, None, None] * np.array([[[40], [90], [140]]])) % 156
    return {
        "data": pixels.reshape(count, 3072).astype(np.uint8),
        label_key: labels.tolist(),
        "filenames": [f"thing_s_{seed}_{i:06d}.png" for i in range(count)],
    }


def dump(path: Path, table: dict) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(pickle.dumps(table, protocol=2))


def write_cifar10(root: Path, per_batch: int = 4, held_out: int = 6, classes: int = 10) -> dict[str, dict]:
    """``root/cifar-10-batches-py``; returns its tables by file name."""
    batches = {f"data_batch_{i}": cifar_table(per_batch, "labels", classes, i) for i in range(1, 6)}
    tables = {**batches, "test_batch": cifar_table(held_out, "labels", classes, 6)}
    tables["batches.meta"] = {"label_names": [f"class{i}" for i in range(classes)], "num_vis": 3072}
    for name, table in tables.items():
        dump(root / "cifar-10-batches-py" / name, table)
    return tables


def write_cifar100(root: Path, train: int = 7, held_out: int = 5) -> dict[str, dict]:
    """``root/cifar-100-python``; returns its tables by file name."""
    tables = {"train": cifar_table(train, "fine_labels", 100), "test": cifar_table(held_out, "fine_labels", 100)}
    for table in tables.values():
        table["coarse_labels"] = [0] * len(table["fine_labels"])
    tables["meta"] = {"fine_label_names": [f"fine{i}" for i in range(100)], "coarse_label_names": ["coarse"] * 20}
    for name, table in tables.items():
        dump(root / "cifar-100-python" / name, table)
    return tables


def write_stl10(root: Path, train: int = 3, unlabelled: int = 4, held_out: int = 2) -> dict[str, np.ndarray]:
    """``root/stl10_binary``; returns the images of its parts, (n, 96, 96, 3). Labels count down from the last."""
    folder, rng, images = root / "stl10_binary", np.random.default_rng(0), {}
    folder.mkdir(parents=True)
    for part, count in (("train", train), ("unlabeled", unlabelled), ("test", held_out)):
        images[part] = rng.integers(0, 256, (count, 96, 96, 3), np.uint8)
        images[part].transpose(0, 3, 2, 1).tofile(folder / f"{part}_X.bin")
        if part != "unlabeled":
            (10 - np.arange(count) % 10).astype(np.uint8).tofile(folder / f"{part}_y.bin")
    (folder / "class_names.txt").write_text("\n".join(f"thing{i}" for i in range(10)))
    return images


def write_tiny_imagenet(root: Path, per_class: int = 1) -> Path:
    """``root/tiny-imagenet-200`` with two classes and one held-out image of each; returns it."""
    root, rng = root / "tiny-imagenet-200", np.random.default_rng(0)
    names = [f"train/{wnid}/images/{wnid}_{i}" for wnid in ("n02", "n01") for i in range(per_class)]
    names += ["val/images/val_0", "val/images/val_1"]
    for path in (root / f"{name}.JPEG" for name in names):
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (64, 64, 3), np.uint8)).save(path)
    (root / "train" / "n01" / "n01_boxes.txt").write_text("n01_0.JPEG\t0\t0\t62\t62\n")
    (root / "val" / "val_annotations.txt").write_text("val_0.JPEG\tn02\t0\t0\t9\t9\nval_1.JPEG\tn01\t0\t0\t9\t9\n")
    return root
