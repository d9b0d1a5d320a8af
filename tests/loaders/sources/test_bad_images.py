"""Images that cannot be decoded: named, listed, replaced alike by every source, and too many of them."""

import logging

import numpy as np
import pytest
import torch
from PIL import Image

from loaders.errors import UserError
from loaders.image_reading import BadImage
from loaders.sources import open_images
from loaders.sources.decode import decode_image
from loaders.sources.nvjpeg import NvjpegSource
from loaders.sources.quarantine import Quarantine
from tests.helpers.decoding import decode_all
from tests.helpers.images import png16, write_image


@pytest.fixture
def damaged_folder(tmp_path):
    for i in range(100):
        write_image(tmp_path / "data" / f"class{i % 2}" / f"{i:03}.jpg", 30, 40, seed=i)
    bad = tmp_path / "data" / "class0" / "010.jpg"
    bad.write_bytes(bad.read_bytes()[:300])
    return tmp_path / "data"


@pytest.mark.parametrize("damage", ["empty", "text", "html", "truncated", "header only"])
def test_damage_is_named(image_folder, damage):
    whole = next(image_folder.rglob("*.jpg")).read_bytes()
    data = {
        "empty": b"",
        "text": b"not an image",
        "html": b"<html>404</html>",
        "truncated": whole[: len(whole) // 2],
        "header only": whole[:20],
    }[damage]
    with pytest.raises(BadImage) as caught:
        decode_image(data)
    assert str(caught.value)


def test_a_bad_image_is_listed_once_and_replaced_by_the_same_neighbour(damaged_folder, tmp_path, caplog):
    listed = tmp_path / "quarantine.txt"
    bad = open_images(damaged_folder).names.index("class0/010.jpg")
    batches = [np.array([bad, 1]), np.array([2, bad])]
    with caplog.at_level(logging.WARNING, logger="loaders"):
        first, second = decode_all(damaged_folder, "folder", batches, listed=listed)
    assert first[4][0] == second[4][1] != bad
    lines = listed.read_text().splitlines()
    assert len(lines) == 1 and "class0/010.jpg" in lines[0] and f"\t{bad}\t" in lines[0]
    assert caplog.text.count("cannot decode image") == 1
    again = decode_all(damaged_folder, "folder", batches, listed=listed)  # a restart lists nothing twice
    assert again[0][4] == first[4] and listed.read_text().splitlines() == lines


def test_an_image_damaged_inside_a_beton_is_replaced(image_beton, tmp_path):
    pytest.importorskip("ffcv")
    damaged = tmp_path / "damaged.beton"
    data = bytearray(image_beton.read_bytes())
    images = open_images(image_beton)
    start, size = int(images.pointers[7]), int(images.sizes[7])
    data[start + size // 2 : start + size] = bytes(size - size // 2)
    damaged.write_bytes(data)
    listed = tmp_path / "quarantine.txt"
    ffcv = decode_all(damaged, "ffcv", listed=listed)
    folder = decode_all(damaged, "folder")
    assert [batch[1:] for batch in decode_all(damaged, "memory")] == [batch[1:] for batch in folder]
    assert ffcv[0][4] == folder[0][4] and ffcv[0][4][3] != 7
    assert images.names[7] in listed.read_text()
    assert [batch[1:] for batch in ffcv] == [batch[1:] for batch in folder]


def test_every_source_sees_the_same_in_a_folder_of_odd_files(tmp_path):
    pytest.importorskip("nvidia.dali")
    root = tmp_path / "data"
    for i in range(400):
        write_image(root / f"class{i % 2}" / f"{i:03}.jpg", 30, 40, seed=i)
    whole = (root / "class0" / "000.jpg").read_bytes()
    bad = {"010": whole[: len(whole) // 2], "020": b"", "030": b"not an image", "040": b"<html>404</html>"}
    for name, data in bad.items():
        (root / "class0" / f"{name}.jpg").write_bytes(data)
    noise = np.random.default_rng(0).integers(0, 256, (20, 30, 4), dtype=np.uint8)
    Image.fromarray(noise, "CMYK").save(root / "class0" / "050.jpg")
    (root / "class0" / "060.jpg").write_bytes(png16(40, 30))
    Image.fromarray(noise[:1, :1, :3]).save(root / "class0" / "070.jpg")
    Image.new("RGB", (20000, 10), "red").save(root / "class0" / "080.jpg")

    found, lists = {}, {}
    for source in ("folder", "memory", "dali"):
        listed = tmp_path / f"{source}.txt"
        twice = [np.arange(400)[start : start + 40] for start in range(0, 400, 40)] * 2
        found[source] = decode_all(root, source, twice, listed=listed)
        lists[source] = sorted(listed.read_text().splitlines())
    assert len(lists["folder"]) == 4 and all(f"{name}.jpg" in " ".join(lists["folder"]) for name in bad)
    images = open_images(root)
    source = NvjpegSource(images, 2, Quarantine(images.path, 400, 0.05), torch.device("cpu"))
    nvjpeg = [batch.ids.tolist() for batch in source.batches([np.arange(400)])]
    assert nvjpeg[0] == [i for batch in found["folder"][:10] for i in batch[4]]
    assert lists["memory"] == lists["dali"] == lists["folder"]
    for batches in zip(*found.values(), strict=True):
        for other in batches[1:]:
            assert other[1:] == batches[0][1:]
            errors = [(a.int() - b.int()).abs().float().mean() for a, b in zip(other[0], batches[0][0], strict=True)]
            assert max(errors) < 1


def test_memory_takes_the_same_stand_in_and_refuses_what_does_not_fit(damaged_folder, monkeypatch):
    ids = [np.arange(100)]
    assert decode_all(damaged_folder, "memory", ids)[0][4] == decode_all(damaged_folder, "folder", ids)[0][4]
    monkeypatch.setattr("loaders.sources.memory.free_bytes", lambda device: 1000)
    with pytest.raises(UserError, match="choose another source"):
        decode_all(damaged_folder, "memory", ids)


@pytest.mark.parametrize("source", ["ffcv", "dali", "memory", "folder"])
def test_half_of_a_beton_damaged_stops_with_the_list(image_beton, tmp_path, source):
    pytest.importorskip({"ffcv": "ffcv", "dali": "nvidia.dali"}.get(source, "torch"))
    data, images = bytearray(image_beton.read_bytes()), open_images(image_beton)
    for i in range(0, 60, 2):
        start, size = int(images.pointers[i]), int(images.sizes[i])
        data[start : start + size] = bytes(size)
    (tmp_path / "half.beton").write_bytes(data)
    with pytest.raises(UserError, match=r"of the 60 images in .* cannot be decoded.*listed\.txt"):
        decode_all(tmp_path / "half.beton", source, [np.arange(60)], listed=tmp_path / "listed.txt")
    assert len((tmp_path / "listed.txt").read_text().splitlines()) >= 4


def test_too_many_bad_images_stop_with_the_list(damaged_folder, tmp_path):
    names = open_images(damaged_folder).names
    for name in names[:50]:
        (damaged_folder / name).write_bytes(b"")
    listed = tmp_path / "quarantine.txt"
    with pytest.raises(UserError, match=r"of the 100 images in .* cannot be decoded.*quarantine\.txt"):
        decode_all(damaged_folder, "folder", [np.arange(100)], listed=listed)
    assert len(listed.read_text().splitlines()) >= 6


def test_nothing_readable_stops_whatever_is_allowed(damaged_folder):
    for name in open_images(damaged_folder).names:
        (damaged_folder / name).write_bytes(b"no image")
    with pytest.raises(UserError, match="100 of the 100 images"):
        decode_all(damaged_folder, "folder", [np.arange(100)], max_bad=1.0)
