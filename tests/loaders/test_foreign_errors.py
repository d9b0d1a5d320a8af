"""What other libraries and the system say at an image, a link, a folder or a cache ends in a list or a sentence."""

import os
import shutil
import subprocess
import sys

import numpy as np
import pytest

from loaders.beton.convert import convert
from loaders.datasets.folder import class_folders, class_tree
from loaders.datasets.imagenet import imagenet_splits
from loaders.errors import UserError
from loaders.sources import open_images
from tests.helpers.decoding import decode_all
from tests.helpers.documents import ROOT
from tests.helpers.images import write_image

# As another user, who may read everything and write nothing that is not his.
NOBODY = ("setpriv", "--reuid=65534", "--regid=65534", "--clear-groups")
READS_ALL = ("--inh-caps=+dac_read_search", "--ambient-caps=+dac_read_search")


def needs_nobody() -> None:
    if os.getuid() or shutil.which("setpriv") is None:
        pytest.skip("needs root and setpriv")


@pytest.fixture
def odd_folder(tmp_path):
    """40 images, four names that cannot be read, and things that are none of the dataset's."""
    root = tmp_path / "data"
    for i in range(40):
        write_image(root / f"class{i % 2}" / f"{i:03}.jpg", 30, 40, seed=i)
    os.symlink("loop.jpg", root / "class0" / "loop.jpg")
    os.symlink("nowhere.jpg", root / "class0" / "broken.jpg")
    whole = (root / "class0" / "000.jpg").read_bytes()
    for name in (b"caf\xe9.jpg", b"two\nlines.jpg"):
        with open(os.fsencode(root / "class0") + b"/" + name, "wb") as file:
            file.write(whole[: len(whole) // 2])
    for name in ("._000.jpg", ".DS_Store", "Thumbs.db", "desktop.ini"):
        (root / "class1" / name).write_text("x")
    for name in ("__MACOSX", ".thumbnails", "class1/.thumbnails"):
        (root / name).mkdir()
        (root / name / "000.jpg").write_bytes(whole)
    return root


def test_what_cannot_be_read_is_listed_and_replaced_and_what_is_hidden_left_out(odd_folder, tmp_path):
    images = open_images(odd_folder)
    assert len(images) == 44 and images.classes == ["class0", "class1"]
    for source in ("folder", "memory"):
        listed = tmp_path / f"{source}.txt"
        decode_all(odd_folder, source, [np.arange(44)], max_bad=0.2, listed=listed)
        lines = listed.read_bytes().splitlines()
        assert sorted(line.split(b"\t")[2] for line in lines) == [
            b"class0/broken.jpg", b"class0/caf\xe9.jpg", b"class0/loop.jpg", b"class0/two lines.jpg",
        ]  # fmt: skip
        decode_all(odd_folder, source, [np.arange(44)], max_bad=0.2, listed=listed)
        assert listed.read_bytes().splitlines() == lines  # listed once
    report = convert(class_tree(odd_folder), tmp_path / "x.beton")
    assert (report.images, report.skipped) == (40, 4)
    assert b"caf\xe9.jpg" in (tmp_path / "x.quarantine.txt").read_bytes()


def test_hidden_files_are_no_images_of_a_flat_validation_folder(tmp_path):
    write_image(tmp_path / "train/n01/a.JPEG", 30, 40, seed=0)
    write_image(tmp_path / "val/ILSVRC2012_val_00000001.JPEG", 30, 40, seed=0)
    (tmp_path / "val/.DS_Store").write_text("x")
    (tmp_path / "imagenet_2012_validation_synset_labels.txt").write_text("n01\n")
    assert len(imagenet_splits(tmp_path)["val"]) == 1


def test_a_closed_folder_is_a_sentence(odd_folder):
    needs_nobody()
    (odd_folder / "class0").chmod(0)
    program = "import sys; from loaders.sources import open_images; open_images(sys.argv[1])"
    assert class_folders(odd_folder) == ["class0", "class1"]
    with pytest.raises(UserError, match="class2 cannot be listed: No such file"):
        class_folders(odd_folder / "class2")
    words = ["setpriv", "--inh-caps=-all", "--bounding-set=-all", sys.executable, "-c", program, odd_folder]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True)
    assert "UserError" in done.stderr and "class0 cannot be listed: Permission denied" in done.stderr


def test_loops_are_compiled_where_no_cache_can_be_written(tmp_path):
    needs_nobody()
    (tmp_path / "module.py").write_text(
        "from loaders.numba_options import compiled\n\n\n@compiled\ndef twice(value):\n    return 2 * value\n"
    )
    program = "import module; print(module.twice(4), module.twice.stats.cache_path)"
    command = [*NOBODY, *READS_ALL, "env", "HOME=/nonexistent", f"PYTHONPATH={tmp_path}:{ROOT}"]
    command += [sys.executable, "-B", "-c", program]
    done = subprocess.run(command, cwd="/", capture_output=True, text=True)
    assert done.stdout.split()[0] == "8", done.stderr
