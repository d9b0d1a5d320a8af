"""What lies at a path: the same images in every layout, and what is refused."""

import gzip
import os
import shutil
import tarfile
import time

import numpy as np
import pytest
import torch

from loaders import CropSpec, MultiCrop, UserError, make_loader
from loaders.beton.dataset import convert_dataset
from loaders.beton.encoding import Storage
from loaders.beton.file import BetonFile
from loaders.content import content_digest
from loaders.datasets.folder import unlabelled_tree
from loaders.datasets.places import named_files, open_place
from loaders.sources import open_images
from loaders.sources.quarantine import Quarantine, decode_or_substitute
from tests.helpers.images import write_image
from tests.helpers.layouts import (
    class_folders,
    files_of,
    write_devkit,
    write_parquet,
    write_shards,
    write_tar,
    write_tar_of_tars,
)

RECIPE = MultiCrop((CropSpec(32), CropSpec(24)))
JPEG = b"\xff\xd8 no image, but nobody looks"


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture(scope="module")
def layouts(tmp_path_factory) -> dict:
    root = tmp_path_factory.mktemp("layouts")
    folder = class_folders(root / "folder")
    files = files_of(folder)
    return {
        "folder": folder,
        "shards": write_shards(root / "shards", files),
        "json": write_shards(root / "json", files, labels="json"),
        "pattern": root / "shards" / "shard-{000000..000002}.tar",
        "glob": root / "shards" / "shard-*.tar",
        "tar of tars": write_tar_of_tars(root / "whole.tar", files),
        "tar": write_tar(root / "tree.tar", {f"./around/{name}": files[name] for name in reversed(files)}),
        "parquet": write_parquet(root / "parquet" / "train-00000-of-00001.parquet", files).parent,
    }


def test_all_layouts_hold_the_same_images_and_give_the_same_crops(layouts):
    folder = open_images(layouts["folder"])
    crops = list(make_loader(layouts["folder"], RECIPE, 8, seed=5, source="folder"))
    for name, path in layouts.items():
        images = open_images(path)
        assert list(images.names) == list(folder.names) and images.classes == folder.classes, name
        assert np.array_equal(images.labels, folder.labels) and images.labels.dtype == np.int64
        assert content_digest(images) == content_digest(folder)
        for ours, expected in zip(make_loader(path, RECIPE, 8, seed=5, source="folder"), crops, strict=True):
            assert torch.equal(ours.ids, expected.ids) and torch.equal(ours.labels, expected.labels)
            assert all(map(torch.equal, ours.views, expected.views))


def test_all_layouts_are_converted_to_the_same_file(layouts, tmp_path):
    found, crops = {}, {}
    for name, dataset in {"folder": "folder", "shards": "tars", "tar of tars": "tars", "parquet": "parquet"}.items():
        reports = convert_dataset(dataset, layouts[name], tmp_path / name, Storage(), threads=2, val_share=0.2)
        found[name] = [BetonFile(report.file) for report in reports]
        crops[name] = next(iter(make_loader(reports[0].file, RECIPE, 8, source="folder"))).views
    for name, files in found.items():
        for file, expected in zip(files, found["folder"], strict=True):
            assert file.names == expected.names and file.classes == expected.classes, name
            assert np.array_equal(file.labels, expected.labels)
            assert all(np.array_equal(file.read(i), expected.read(i)) for i in range(len(expected)))
        assert all(map(torch.equal, crops[name], crops["folder"]))
    assert [len(files) for files in found.values()] == [2] * 4


def test_splits_are_told_by_the_names_of_files_and_folders(layouts, tmp_path):
    files = files_of(layouts["folder"])
    some = {name: files[name] for name in list(files)[::5]}
    write_tar(tmp_path / "a" / "mine-train-000.tar", files)
    write_tar(tmp_path / "a" / "mine-validation-000.tar", some)
    shutil.copytree(layouts["parquet"], tmp_path / "b" / "data")
    write_parquet(tmp_path / "b" / "data" / "test-00000-of-00001.parquet", some)
    write_shards(tmp_path / "c" / "train", files)
    write_shards(tmp_path / "c" / "val", some, shards=1)
    for root, name in (("a", "tars"), ("b", "parquet"), ("c", "tars")):
        counts = [
            len(images) for images in (open_images(f"{name}:{part}@{tmp_path / root}") for part in ("train", "val"))
        ]
        assert counts == [40, 8]
    write_tar(tmp_path / "a" / "more.tar", some)
    with pytest.raises(UserError, match="its part cannot be told"):
        open_images(f"tars:train@{tmp_path / 'a'}")


# Without labels


def test_an_image_beside_the_folders_leaves_all_without_labels(tmp_path):
    for name in ("b/deep/2.png", "a.jpg", "a/1.webp", ".hidden/x.jpg", "b/.y.jpg"):
        write_image(tmp_path / name, 30, 30, 0)
    (tmp_path / "b" / "list.txt").write_text("no image")
    images = open_images(tmp_path)
    assert images.names == ["a/1.webp", "a.jpg", "b/deep/2.png"] and images.classes == []
    assert images.labels.tolist() == [-1, -1, -1]
    (tmp_path / "a.jpg").unlink()
    assert open_images(tmp_path).classes == ["a", "b"]
    assert unlabelled_tree(tmp_path).labels.tolist() == [-1, -1]
    assert open_images(f"unlabelled:train@{tmp_path}").labels.tolist() == [-1, -1]


def test_a_file_that_is_no_image_beside_class_folders_changes_nothing(tmp_path):
    write_image(tmp_path / "a" / "1.jpg", 30, 30, 0)
    (tmp_path / "README.txt").write_text("about")
    assert open_images(tmp_path).labels.tolist() == [0]


def test_folder_without_images(tmp_path):
    (tmp_path / "list.txt").write_text("x")
    with pytest.raises(UserError, match="holds no class folders"):
        open_images(tmp_path)
    with pytest.raises(UserError, match="holds no image; unlabelled expects"):
        unlabelled_tree(tmp_path)


def test_flat_tars_and_shards_without_labels(layouts, tmp_path):
    files = files_of(layouts["folder"])
    flat = write_tar(tmp_path / "flat.tar", {name.replace("/", "_"): data for name, data in files.items()})
    assert set(open_images(flat).labels.tolist()) == {-1}
    shards = write_shards(tmp_path / "shards", files, labels="")
    images = open_images(shards)
    assert set(images.labels.tolist()) == {-1} and list(images.names) == sorted(files) and images.classes == []
    folder = open_images(layouts["folder"])
    assert content_digest(images) == content_digest(folder)


# Tars


@pytest.mark.parametrize("format", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_every_form_of_tar_is_read_as_tarfile_reads_it(tmp_path, format):
    long = "c/" + "d" * 90 + "/" + ("e" * 60 if format == tarfile.USTAR_FORMAT else "e" * 120 + "é") + ".jpg"
    files = {"b/2.jpg": b"two", "a/1.jpg": b"one", long: b"x" * 1300, "a/empty.jpg": b"", "._a/x.jpg": b"mac"}
    path = write_tar(tmp_path / "one.tar", files, format)
    with tarfile.open(path) as tar:
        expected = {member.name: tar.extractfile(member).read() for member in tar}
    images = open_images(path)
    assert list(images.names) == ["a/1.jpg", "a/empty.jpg", "b/2.jpg", long]
    assert all(images._read(i) == expected[name] for i, name in enumerate(images.names))
    quarantine = Quarantine(path, len(images), 1.0)
    with pytest.raises(UserError):  # none of them is an image
        decode_or_substitute(images, 1, quarantine)


def test_folders_and_litter_in_a_tar_do_not_count(tmp_path):
    write_image(tmp_path / "in" / "a" / "1.jpg", 30, 30, 0)
    (tmp_path / "in" / "__MACOSX").mkdir()
    (tmp_path / "in" / "__MACOSX" / "x.jpg").write_bytes(JPEG)
    (tmp_path / "in" / "b").mkdir()
    (tmp_path / "in" / "b" / "._2.jpg").write_bytes(JPEG)
    shutil.copy(tmp_path / "in" / "a" / "1.jpg", tmp_path / "in" / "b" / "2.jpg")
    with tarfile.open(tmp_path / "x.tar", "w") as tar:
        tar.add(tmp_path / "in", ".")
    assert list(open_images(tmp_path / "x.tar").names) == ["a/1.jpg", "b/2.jpg"]


def _long_name(name: str) -> bytes:
    """GNU's header and block for the name of the member behind it."""
    member = tarfile.TarInfo("././@LongLink")
    member.type, member.size = tarfile.GNUTYPE_LONGNAME, len(name) + 1
    return member.tobuf() + name.encode().ljust(512, b"\0")


def _described(records: dict) -> bytes:
    member = tarfile.TarInfo("a.jpg")
    member.pax_headers = records
    return member.tobuf(tarfile.PAX_FORMAT) + bytes(1024)


def _of_size(field: bytes) -> bytes:
    header = bytearray(tarfile.TarInfo("a.jpg").tobuf())
    header[124:136], header[148:156] = field, b" " * 8
    header[148:156] = b"%06o\0 " % sum(header)
    return bytes(header) + bytes(1024)


def damaged_tars(tmp_path) -> dict:
    whole = write_tar(tmp_path / "whole.tar", {"a/1.jpg": b"x" * 2000, "b/2.jpg": b"y" * 2000}).read_bytes()
    link, sparse = tarfile.TarInfo("a/link.jpg"), tarfile.TarInfo("a/sparse.jpg")
    link.type, link.linkname, sparse.type = tarfile.SYMTYPE, "/etc/passwd", tarfile.GNUTYPE_SPARSE
    outside = tarfile.TarInfo("../../etc/x.jpg")
    folder = tarfile.TarInfo("a")
    folder.type, folder.size = tarfile.DIRTYPE, 3
    nested = write_tar(tmp_path / "inner.tar", {"0.jpg": JPEG, "b.tar": whole}).read_bytes()
    return {
        "is cut off: its last member": whole[:3500],
        "is cut off: it ends without": whole[: 512 + 2048],
        "is damaged at byte 2,560": whole[:2700] + b"?" + whole[2701:],
        "is compressed .gzip.": gzip.compress(whole),
        "goes on behind a tar's mark": whole + whole,
        "is a link": link.tobuf() + bytes(1024),
        "is a sparse file": sparse.tobuf() + bytes(1024),
        "is damaged at byte 0: a folder with bytes": folder.tobuf() + b"abc".ljust(512, b"\0") + bytes(1024),
        "is outside of it": outside.tobuf() + bytes(1024),
        "holds no image": write_tar(tmp_path / "no.tar", {"a.txt": b"x"}).read_bytes(),
        "two names for one member": _long_name("a.jpg") * 2 + tarfile.TarInfo("b.jpg").tobuf() + bytes(1024),
        "is damaged at byte 1,024": _long_name("a.jpg") + bytes(1024),
        "PAX header cannot be read": _described({"size": "x"}),
        "a member's size is b'-0000001": _of_size(b"-0000001\0\0\0\0"),
        "holds the tar b.tar: unpack": write_tar(tmp_path / "n.tar", {"a.tar": nested, "c.tar": nested}).read_bytes(),
        "holds a.jpg twice": tarfile.TarInfo("a.jpg").tobuf() * 2 + bytes(1024),
    }


def test_tars_that_cannot_be_read_in_place_are_refused_in_one_sentence(tmp_path):
    for words, data in damaged_tars(tmp_path).items():
        (tmp_path / "bad.tar").write_bytes(data)
        with pytest.raises(UserError, match=words) as caught:
            open_images(tmp_path / "bad.tar")
        assert "bad.tar" in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("members", "words"),
    [
        ({"1.jpg": JPEG, "1.cls": b"0", "2.jpg": JPEG}, "2.jpg without a label"),
        ({"1.jpg": JPEG, "1.cls": b"0", "2.cls": b"1"}, "a label for 2, but no image"),
        ({"1.jpg": JPEG, "1.cls": b"cat"}, "1.cls, in which no label can be read"),
        ({"1.jpg": JPEG, "1.json": b'{"label": true}'}, "no label can be read"),
        ({"1.jpg": JPEG, "1.json": b"{"}, "no label can be read"),
        ({"1.jpg": JPEG, "1.cls": b"0", "1.json": b'{"label": 1}'}, "two labels for 1"),
        ({"1.jpg": JPEG, "1.png": JPEG, "1.cls": b"0"}, "key ends at a name's first dot"),
        ({"1.b.jpg": JPEG, "1.cls": b"0"}, "key ends at a name's first dot"),
        ({"a.tar": b"", "1.jpg": JPEG}, "1.jpg beside tars"),
    ],
)
def test_shards_whose_labels_cannot_be_told_are_refused(tmp_path, members, words):
    path = write_tar(tmp_path / "shard.tar", members)
    with pytest.raises(UserError, match=words):
        open_images(path)


def test_shards_that_each_count_from_zero_are_told_apart(tmp_path):
    for shard in range(2):
        write_tar(tmp_path / f"s{shard}.tar", {"0.jpg": b"%d" % shard, "0.cls": b"7", "1.jpg": b"1", "1.cls": b"7"})
    images = open_images(tmp_path)
    assert list(images.names) == ["s0.tar/0.jpg", "s0.tar/1.jpg", "s1.tar/0.jpg", "s1.tar/1.jpg"]
    assert images.labels.tolist() == [7] * 4 and images._read(2) == b"1"


def test_an_index_is_kept_and_a_changed_tar_is_read_anew(tmp_path, cache, monkeypatch):
    from loaders.datasets import tars

    path = write_tar(tmp_path / "one.tar", {"a/1.jpg": b"one", "b/2.jpg": b"two"})
    open_images(path)
    built, build = [], tars._build
    monkeypatch.setattr(tars, "_build", lambda *words: built.append(1) or build(*words))
    images, times = open_images(path), os.stat(path)
    assert not built and list(images.names) == ["a/1.jpg", "b/2.jpg"]
    write_tar(path, {"a/3.jpg": b"one", "c/2.jpg": b"two"})
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))  # of the same size and time
    changed = open_images(path)
    assert built and list(changed.names) == ["a/3.jpg", "c/2.jpg"]
    for number, damage in enumerate((lambda data: data[:-3], lambda data: data.replace(b"a/3", b"a/4")), 2):
        for kept in (cache / "fastintl" / "tar_indexes").glob("*/names.npy"):
            kept.write_bytes(damage(kept.read_bytes()))
        assert list(open_images(path).names) == ["a/3.jpg", "c/2.jpg"] and len(built) == number
    os.utime(path)
    with pytest.raises(UserError, match="was changed while it was read"):
        changed._read(0)


def test_an_index_that_nobody_asks_for_is_removed(tmp_path, cache):
    paths = [write_tar(tmp_path / f"{name}.tar", {f"a/{name}.jpg": b"x"}) for name in "abc"]
    for path in paths[:2]:
        open_images(path)
    place, long_ago = cache / "fastintl" / "tar_indexes", time.time() - 100 * 86_400
    for path in place.iterdir():
        os.utime(path, (long_ago, long_ago))
    open_images(paths[0])  # asked for again
    open_images(paths[2])
    assert len([path for path in place.iterdir() if path.is_dir()]) == 2
    assert [list(open_images(path).names) for path in paths] == [["a.jpg"], ["b.jpg"], ["c.jpg"]]


def test_where_nothing_can_be_kept_a_tar_is_read_all_the_same(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    assert len(open_images(write_tar(tmp_path / "one.tar", {"a/1.jpg": b"one", "b/2.jpg": b"two"}))) == 2


# Patterns and mixtures


def test_patterns(tmp_path):
    for i in (1, 2, 3):
        write_tar(tmp_path / f"s-{i:03d}.tar", {f"{i}.jpg": JPEG})
    assert [path.name for path in named_files(tmp_path / "s-{001..003}.tar")] == ["s-001.tar", "s-002.tar", "s-003.tar"]
    assert [path.name for path in named_files(tmp_path / "s-{001,003}.tar")] == ["s-001.tar", "s-003.tar"]
    assert len(named_files(tmp_path / "s-*.tar")) == 3 and named_files(tmp_path / "none-{1..2}.tar") == []
    for pattern, words in (("s-{001..004}.tar", "1 do not exist, such as .*s-004.tar"), ("s-{3..1}.tar", "no range")):
        with pytest.raises(UserError, match=words):
            open_images(tmp_path / pattern)


def test_tars_beside_images_or_folders_are_refused(tmp_path):
    write_tar(tmp_path / "s.tar", {"1.jpg": JPEG})
    write_image(tmp_path / "2.jpg", 30, 30, 0)
    with pytest.raises(UserError, match="s.tar and 2.jpg beside it"):
        open_images(tmp_path)
    (tmp_path / "2.jpg").unlink()
    (tmp_path / "class").mkdir()
    with pytest.raises(UserError, match="s.tar and class beside it"):
        open_images(tmp_path)


# Parquet


def test_parquet_that_is_none_or_of_another_layout(layouts, tmp_path):
    import pyarrow
    import pyarrow.parquet

    (tmp_path / "cut.parquet").write_bytes(next(layouts["parquet"].iterdir()).read_bytes()[:-20])
    with pytest.raises(UserError, match="cut.parquet cannot be read as parquet"):
        open_images(tmp_path / "cut.parquet")
    pyarrow.parquet.write_table(pyarrow.table({"x": [1]}), tmp_path / "other.parquet")
    with pytest.raises(UserError, match=r"0 columns of images among x \(int64\)"):
        open_images(tmp_path / "other.parquet")


def test_a_damaged_page_of_parquet_gives_no_fewer_images_in_silence(tmp_path):
    import pyarrow
    import pyarrow.parquet

    image = pyarrow.struct([("bytes", pyarrow.binary()), ("path", pyarrow.string())])
    table = pyarrow.table({"image": pyarrow.array([{"bytes": b"", "path": None}], image), "label": [0]})
    file = tmp_path / "one.parquet"
    pyarrow.parquet.write_table(table, file)
    whole, found = file.read_bytes(), []
    for place in range(4, 120):  # the pages stand first, behind the mark of such files
        changed = bytearray(whole)
        changed[place] = (changed[place] + 1) % 256
        file.write_bytes(changed)
        try:
            split = open_place(file)
            assert len(split.sizes()) == len(split) == 1
        except UserError as error:
            found.append(str(error))
    assert any(
        "is damaged: its group 0 of rows has 0 where the file's end tells of 1: copy it again" in e for e in found
    )


def test_parquet_with_labels_that_are_none(tmp_path):
    import pyarrow
    import pyarrow.parquet

    image = pyarrow.struct([("bytes", pyarrow.binary()), ("path", pyarrow.string())])
    rows = pyarrow.array([{"bytes": b"1", "path": "x"}], image)
    for label in (-2, 1 << 40):
        pyarrow.parquet.write_table(pyarrow.table({"image": rows, "label": [label]}), tmp_path / "p.parquet")
        with pytest.raises(UserError, match=f"labels that are no class indices, such as {label}"):
            open_images(tmp_path / "p.parquet")


def test_parquet_with_names_that_are_no_utf8(tmp_path):
    import pyarrow
    import pyarrow.parquet

    paths = pyarrow.array([b"\xff.jpg"]).view(pyarrow.string())
    rows = pyarrow.StructArray.from_arrays([pyarrow.array([b"1"]), paths], ["bytes", "path"])
    pyarrow.parquet.write_table(pyarrow.table({"image": rows}), tmp_path / "p.parquet")
    assert list(open_images(tmp_path / "p.parquet").names) == ["\udcff.jpg"]


def test_parquet_without_labels_or_paths(tmp_path):
    import pyarrow
    import pyarrow.parquet

    image = pyarrow.struct([("bytes", pyarrow.binary()), ("path", pyarrow.string())])
    rows = pyarrow.array([{"bytes": b"1", "path": None}, {"bytes": None, "path": "x"}], image)
    pyarrow.parquet.write_table(pyarrow.table({"image": rows}), tmp_path / "p.parquet")
    images = open_images(tmp_path / "p.parquet")
    assert images.labels.tolist() == [-1, -1] and list(images.names) == ["p/00000000", "p/00000001"]
    assert images.stored_sizes().tolist() == [1, -1]
    with pytest.raises(UserError, match="max_bad"):
        decode_or_substitute(images, 1, Quarantine(tmp_path, 2, 0.0))


# One's own


def test_lists_and_objects_of_ones_own(layouts):
    folder = open_images(layouts["folder"])
    files = [layouts["folder"] / name for name in folder.names]

    class Own:
        labels, names = folder.labels.tolist(), list(folder.names)

        def __len__(self):
            return len(files)

        def encoded(self, index):
            return files[index].read_bytes()

    expected = next(iter(make_loader(layouts["folder"], RECIPE, 8)))
    for data in (list(zip(files, folder.labels.tolist(), strict=True)), Own(), [str(file) for file in files]):
        loader = make_loader(data, RECIPE, 8)
        batch = next(iter(loader))
        assert all(map(torch.equal, batch.views, expected.views))
        unlabelled = isinstance(data, list) and isinstance(data[0], str)
        assert torch.equal(batch.labels, torch.full((8,), -1) if unlabelled else expected.labels)
        assert content_digest(loader.images) == content_digest(folder)


def test_what_is_no_list_of_images(tmp_path):
    class Own:
        labels = (1, 2)

        def __len__(self):
            return 1

        def encoded(self, index):
            return b""

    for data, words in (
        ([], "is empty"),
        ([("a.jpg", 1, 2)], "neither a file nor"),
        ([("a.jpg", 1.5)], "whole numbers"),
        (Own(), "must be 1 whole numbers"),
    ):
        with pytest.raises(UserError, match=words):
            make_loader(data, RECIPE, 1)


# ImageNet's own tars


def test_imagenet_from_its_own_tars(layouts, tmp_path):
    pytest.importorskip("scipy")
    files = files_of(layouts["folder"])
    write_tar_of_tars(tmp_path / "ILSVRC2012_img_train.tar", files)
    held_out = {f"ILSVRC2012_val_{i:08d}.JPEG": data for i, data in enumerate(list(files.values())[:3], start=1)}
    write_tar(tmp_path / "ILSVRC2012_img_val.tar", held_out)
    with pytest.raises(UserError, match="nothing says the images' classes"):
        open_images(f"imagenet:val@{tmp_path}")
    write_devkit(tmp_path, {"ant": 2, "bee": 3, "cat": 1}, of_images=[1, 3, 2])
    train, val = (open_images(f"imagenet:{part}@{tmp_path}") for part in ("train", "val"))
    assert list(train.names) == list(files) and train.classes == val.classes == ["ant", "bee", "cat"]
    numbers = {name: int(label) for name, label in zip(val.names, val.labels, strict=True)}
    assert numbers == dict(zip(held_out, [2, 1, 0], strict=True)) and val.labels.tolist() == [0, 1, 2]
    assert all(val._read(i) == held_out[name] for i, name in enumerate(val.names))
