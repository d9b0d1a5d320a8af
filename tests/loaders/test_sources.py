"""Decoders: the same pixels from every source, and what happens to pictures that cannot be decoded."""

import logging
import struct
import sys
import zlib

import numpy as np
import pytest
import torch
from pictures import write_picture
from PIL import Image

from loaders.errors import UserError
from loaders.picture_reading import BadPicture
from loaders.quarantine import Quarantine
from loaders.sources import open_pictures
from loaders.sources.decode import decode_picture
from loaders.sources.nvjpeg import NvjpegSource
from loaders.sources.opening import open_source

needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
IDS = [np.array([3, 1, 59, 7]), np.array([0, 2, 4, 6]), np.array([58, 9])]


def decode_all(path, source: str, id_batches=IDS, threads: int = 2, max_bad: float = 0.05, listed=None):
    pictures = open_pictures(path)
    opened, _ = open_source(pictures, source, threads, Quarantine(pictures.path, len(pictures), max_bad, listed))
    found = []
    for batch in opened.batches(id_batches):
        copies = [picture.clone() for picture in batch.pictures]  # a batch is valid until the next
        found.append((copies, batch.heights.tolist(), batch.widths.tolist(), batch.labels.tolist(), batch.ids.tolist()))
    opened.close()
    return found


def test_folder_decodes_what_pillow_decodes(picture_folder):
    names = open_pictures(picture_folder).names
    for (pictures, heights, widths, labels, ids), wanted in zip(decode_all(picture_folder, "folder"), IDS, strict=True):
        assert ids == wanted.tolist()
        for picture, height, width, label, i in zip(pictures, heights, widths, labels, ids, strict=True):
            pillow = np.asarray(Image.open(picture_folder / names[i]).convert("RGB"))
            assert picture.shape == (height, width, 3) == pillow.shape
            assert names[i].startswith(f"class{label}/")
            assert np.abs(picture.numpy().astype(int) - pillow).max() <= 2


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=[pytest.mark.gpu, needs_gpu])])
def test_nvjpegs_source(picture_folder, device):
    pictures = open_pictures(picture_folder)
    source = NvjpegSource(pictures, 2, Quarantine(pictures.path, 60, 0.05), torch.device(device))
    for batch, folder in zip(source.batches(IDS), decode_all(picture_folder, "folder"), strict=True):
        assert (batch.ids.tolist(), batch.labels.tolist()) == (folder[4], folder[3])
        for a, b in zip(batch.pictures, folder[0], strict=True):
            assert a.shape == b.shape and (a.cpu().int() - b.int()).abs().float().mean() < 2
    source.close()


@pytest.mark.parametrize("data", ["picture_folder", "picture_beton"])
@pytest.mark.parametrize("threads", [1, 2])
def test_dali_decodes_the_same_pictures(request, data, threads):
    pytest.importorskip("nvidia.dali")
    path = request.getfixturevalue(data)
    for dali, folder in zip(decode_all(path, "dali", threads=threads), decode_all(path, "folder"), strict=True):
        assert dali[1:] == folder[1:]
        for a, b in zip(dali[0], folder[0], strict=True):
            assert (a.int() - b.int()).abs().float().mean() < 1


@pytest.mark.parametrize("threads", [1, 2])
def test_ffcv_decodes_the_same_pictures(picture_folder, picture_beton, threads):
    pytest.importorskip("ffcv")
    torch_threads = torch.get_num_threads()
    ffcv, folder = decode_all(picture_beton, "ffcv", threads=threads), decode_all(picture_folder, "folder")
    beton_without_ffcv = decode_all(picture_beton, "folder")
    assert torch.get_num_threads() == torch_threads
    for batches in zip(ffcv, folder, beton_without_ffcv, strict=True):
        first, *others = batches
        for other in others:
            assert first[1:] == other[1:]
            for a, b in zip(first[0], other[0], strict=True):
                error = (a.int() - b.int()).abs().float()
                assert error.mean() < 2  # FFCV asks libjpeg for its fast, rougher transform


@pytest.mark.parametrize("data", ["picture_folder", "picture_beton"])
def test_memory_holds_what_the_folder_source_decodes(request, data):
    path = request.getfixturevalue(data)
    for kept, decoded in zip(decode_all(path, "memory"), decode_all(path, "folder"), strict=True):
        assert kept[1:] == decoded[1:]
        assert all(torch.equal(a, b) for a, b in zip(kept[0], decoded[0], strict=True))


def test_memory_takes_the_same_stand_in_and_refuses_what_does_not_fit(damaged_folder, monkeypatch):
    ids = [np.arange(100)]
    assert decode_all(damaged_folder, "memory", ids)[0][4] == decode_all(damaged_folder, "folder", ids)[0][4]
    monkeypatch.setattr("loaders.sources.memory.free_bytes", lambda device: 1000)
    with pytest.raises(UserError, match="choose another source"):
        decode_all(damaged_folder, "memory", ids)


@pytest.mark.parametrize("source", ["ffcv", "folder", "memory"])
def test_raw_pixels_come_back_exactly(picture_folder, tmp_path, source):
    if source == "ffcv":
        pytest.importorskip("ffcv")
    from loaders.convert import convert
    from loaders.datasets.folder import class_tree
    from loaders.picture_encoding import Storage

    convert(class_tree(picture_folder), tmp_path / "raw.beton", Storage(raw=True))
    for (raw, *facts), (jpeg, *expected) in zip(
        decode_all(tmp_path / "raw.beton", source), decode_all(picture_folder, "folder"), strict=True
    ):
        assert facts == expected
        assert all((a.int() - b.int()).abs().max() <= 2 for a, b in zip(raw, jpeg, strict=True))


def png16(width: int, height: int) -> bytes:
    """A 16-bit grey PNG, written by hand: Pillow cannot."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    rows = b"".join(b"\0" + struct.pack(f">{width}H", *range(0, 65536, -(-65536 // width))) for _ in range(height))
    header = struct.pack(">IIBBBBB", width, height, 16, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


@pytest.mark.parametrize("mode", ["L", "P", "RGBA", "CMYK", "1"])
def test_every_mode_becomes_rgb(tmp_path, mode):
    picture = Image.effect_mandelbrot((30, 20), (-2, -1, 1, 1), 50).convert("RGB").convert(mode)
    path = tmp_path / ("x.jpg" if mode in ("L", "CMYK") else "x.png")
    picture.save(path)
    pixels = decode_picture(path.read_bytes())
    assert pixels.shape == (20, 30, 3) and pixels.dtype == torch.uint8 and pixels.is_contiguous()
    expected = np.asarray(Image.open(path).convert("RGB")).astype(int)
    assert np.abs(pixels.numpy() - expected).mean() < 2


def test_sixteen_bit_grey_keeps_its_range():
    pixels = decode_picture(png16(64, 4))
    assert pixels.shape == (4, 64, 3) and pixels.min() == 0 and pixels.max() > 250


@pytest.mark.parametrize("damage", ["empty", "text", "html", "truncated", "header only"])
def test_damage_is_named(picture_folder, damage):
    whole = next(picture_folder.rglob("*.jpg")).read_bytes()
    data = {
        "empty": b"",
        "text": b"not a picture",
        "html": b"<html>404</html>",
        "truncated": whole[: len(whole) // 2],
        "header only": whole[:20],
    }[damage]
    with pytest.raises(BadPicture) as caught:
        decode_picture(data)
    assert str(caught.value)


@pytest.fixture
def damaged_folder(tmp_path):
    for i in range(100):
        write_picture(tmp_path / "data" / f"class{i % 2}" / f"{i:03}.jpg", 30, 40, seed=i)
    bad = tmp_path / "data" / "class0" / "010.jpg"
    bad.write_bytes(bad.read_bytes()[:300])
    return tmp_path / "data"


def test_a_bad_picture_is_listed_once_and_replaced_by_the_same_neighbour(damaged_folder, tmp_path, caplog):
    listed = tmp_path / "quarantine.txt"
    bad = open_pictures(damaged_folder).names.index("class0/010.jpg")
    batches = [np.array([bad, 1]), np.array([2, bad])]
    with caplog.at_level(logging.WARNING, logger="loaders"):
        first, second = decode_all(damaged_folder, "folder", batches, listed=listed)
    assert first[4][0] == second[4][1] != bad
    lines = listed.read_text().splitlines()
    assert len(lines) == 1 and "class0/010.jpg" in lines[0] and f"\t{bad}\t" in lines[0]
    assert caplog.text.count("cannot decode picture") == 1
    again = decode_all(damaged_folder, "folder", batches, listed=listed)  # a restart lists nothing twice
    assert again[0][4] == first[4] and listed.read_text().splitlines() == lines


def test_a_picture_damaged_inside_a_beton_is_replaced(picture_beton, tmp_path):
    pytest.importorskip("ffcv")
    damaged = tmp_path / "damaged.beton"
    data = bytearray(picture_beton.read_bytes())
    pictures = open_pictures(picture_beton)
    start, size = int(pictures.pointers[7]), int(pictures.sizes[7])
    data[start + size // 2 : start + size] = bytes(size - size // 2)
    damaged.write_bytes(data)
    listed = tmp_path / "quarantine.txt"
    ffcv = decode_all(damaged, "ffcv", listed=listed)
    folder = decode_all(damaged, "folder")
    assert [batch[1:] for batch in decode_all(damaged, "memory")] == [batch[1:] for batch in folder]
    assert ffcv[0][4] == folder[0][4] and ffcv[0][4][3] != 7
    assert pictures.names[7] in listed.read_text()
    assert [batch[1:] for batch in ffcv] == [batch[1:] for batch in folder]


def test_every_source_sees_the_same_in_a_folder_of_odd_files(tmp_path):
    pytest.importorskip("nvidia.dali")
    root = tmp_path / "data"
    for i in range(400):
        write_picture(root / f"class{i % 2}" / f"{i:03}.jpg", 30, 40, seed=i)
    whole = (root / "class0" / "000.jpg").read_bytes()
    bad = {"010": whole[: len(whole) // 2], "020": b"", "030": b"not a picture", "040": b"<html>404</html>"}
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
    pictures = open_pictures(root)
    source = NvjpegSource(pictures, 2, Quarantine(pictures.path, 400, 0.05), torch.device("cpu"))
    nvjpeg = [batch.ids.tolist() for batch in source.batches([np.arange(400)])]
    assert nvjpeg[0] == [i for batch in found["folder"][:10] for i in batch[4]]
    assert lists["memory"] == lists["dali"] == lists["folder"]
    for batches in zip(*found.values(), strict=True):
        for other in batches[1:]:
            assert other[1:] == batches[0][1:]
            errors = [(a.int() - b.int()).abs().float().mean() for a, b in zip(other[0], batches[0][0], strict=True)]
            assert max(errors) < 1


@pytest.mark.parametrize("source", ["ffcv", "dali", "memory", "folder"])
def test_half_of_a_beton_damaged_stops_with_the_list(picture_beton, tmp_path, source):
    pytest.importorskip({"ffcv": "ffcv", "dali": "nvidia.dali"}.get(source, "torch"))
    data, pictures = bytearray(picture_beton.read_bytes()), open_pictures(picture_beton)
    for i in range(0, 60, 2):
        start, size = int(pictures.pointers[i]), int(pictures.sizes[i])
        data[start : start + size] = bytes(size)
    (tmp_path / "half.beton").write_bytes(data)
    with pytest.raises(UserError, match=r"of the 60 pictures in .* cannot be decoded.*listed\.txt"):
        decode_all(tmp_path / "half.beton", source, [np.arange(60)], listed=tmp_path / "listed.txt")
    assert len((tmp_path / "listed.txt").read_text().splitlines()) >= 4


def test_an_exception_in_ffcvs_thread_reaches_the_caller(picture_beton, monkeypatch):
    pytest.importorskip("ffcv")
    from loaders.sources import beton

    def fail(*_):
        raise MemoryError("no memory for the next batch")

    monkeypatch.setattr(beton.EpochIterator, "run_pipeline", fail)
    with pytest.raises(MemoryError, match="next batch"):
        decode_all(picture_beton, "ffcv")


def test_too_many_bad_pictures_stop_with_the_list(damaged_folder, tmp_path):
    names = open_pictures(damaged_folder).names
    for name in names[:50]:
        (damaged_folder / name).write_bytes(b"")
    listed = tmp_path / "quarantine.txt"
    with pytest.raises(UserError, match=r"of the 100 pictures in .* cannot be decoded.*quarantine\.txt"):
        decode_all(damaged_folder, "folder", [np.arange(100)], listed=listed)
    assert len(listed.read_text().splitlines()) >= 6


def test_nothing_readable_stops_whatever_is_allowed(damaged_folder):
    for name in open_pictures(damaged_folder).names:
        (damaged_folder / name).write_bytes(b"no picture")
    with pytest.raises(UserError, match="100 of the 100 pictures"):
        decode_all(damaged_folder, "folder", [np.arange(100)], max_bad=1.0)


def test_places_without_pictures_are_named(tmp_path, picture_folder):
    (tmp_path / "empty" / "class").mkdir(parents=True)
    with pytest.raises(UserError, match="no file in any of the 1 class folders"):
        open_pictures(tmp_path / "empty")
    with pytest.raises(UserError, match="does not exist"):
        open_pictures(tmp_path / "missing")
    (tmp_path / "list.txt").write_text("x")
    with pytest.raises(UserError, match="holds no pictures that can be read here: give a .beton file"):
        open_pictures(tmp_path / "list.txt")
    pictures = open_pictures(picture_folder)
    quarantine = Quarantine(pictures.path, len(pictures), 0.1)
    with pytest.raises(UserError, match="convert it with tools/write_ffcv.py"):
        open_source(pictures, "ffcv", 1, quarantine)
    with pytest.raises(UserError, match="choose one of auto, ffcv, dali, memory, folder"):
        open_source(pictures, "webdataset", 1, quarantine)


def test_without_ffcv_a_beton_is_read_in_threads_and_this_is_said(picture_beton, monkeypatch):
    monkeypatch.setitem(sys.modules, "ffcv", None)  # what Python does for a package that is not there
    monkeypatch.delitem(sys.modules, "loaders.sources.beton", raising=False)
    monkeypatch.setitem(sys.modules, "ffcv.loader", None)
    pictures = open_pictures(picture_beton)
    quarantine = Quarantine(pictures.path, len(pictures), 0.1)
    source, explanation = open_source(pictures, "auto", 1, quarantine)
    assert explanation.startswith("Python threads, since FFCV does not load")
    assert [batch.ids.tolist() for batch in source.batches(IDS)] == [ids.tolist() for ids in IDS]
    with pytest.raises(UserError, match="make setup"):
        open_source(pictures, "ffcv", 1, quarantine)
