"""The .beton format against FFCV's own reader, loader and writer, and against damage of every kind."""

from __future__ import annotations

import io
import os

import numpy as np
import pytest
from PIL import Image

from loaders.beton.file import HEADER, JPEG, RAW, BetonFile
from loaders.beton.writer import PAGE_SIZE, BetonWriter
from loaders.errors import UserError


def draw_image(seed: int, height: int = 40, width: int = 48) -> np.ndarray:
    """Smooth, and of little colour, so that a JPEG of it is nearly the same."""
    rng = np.random.default_rng(seed)
    coarse = (rng.integers(30, 200, (4, 4, 1)) + rng.integers(0, 40, (4, 4, 3))).astype(np.uint8)
    return np.asarray(Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC))


def jpeg(pixels: np.ndarray, mode: str = "RGB", **options) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(pixels).convert(mode).save(stream, "JPEG", **{"quality": 90, **options})
    return stream.getvalue()


def decoded(data: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(bytes(data))).convert("RGB"))


def write(path, images, skip=(), **texts):
    """Writes ``(bytes, height, width, mode)`` images with labels 100, 101, …"""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_TRUNC)
    writer = BetonWriter(descriptor, len(images))
    for i, item in enumerate(images):
        writer.skip() if i in skip else writer.add(*item)
    names = texts.get("names", [f"p/{i}.jpg" for i in range(len(images))])
    writer.finish(np.arange(len(images)) + 100, names, texts.get("classes", ["p"]), texts.get("source", ""))
    os.close(descriptor)
    return path


@pytest.fixture
def mixed(tmp_path):
    """Every way an image can be stored, all of one size, one skipped; the file and the images in it."""
    stored = [
        (jpeg(draw_image(0)), JPEG),
        (jpeg(draw_image(1), mode="L"), JPEG),
        (draw_image(2), RAW),
        (b"", JPEG),
        (jpeg(draw_image(4), progressive=True), JPEG),
        (jpeg(draw_image(5), subsampling=0), JPEG),
        (draw_image(6), RAW),
    ]
    path = write(tmp_path / "mixed.beton", [(data, 40, 48, mode) for data, mode in stored], skip=[3])
    kept = [stored[i] for i in (0, 1, 2, 4, 5, 6)]
    return path, [data if mode == RAW else decoded(data) for data, mode in kept], kept


def test_reads_what_was_written(mixed):
    path, _, stored = mixed
    file = BetonFile(path)
    assert len(file) == 6 and file.path == path
    assert file.labels.tolist() == [100, 101, 102, 104, 105, 106] and file.labels.dtype == np.int64
    assert file.heights.tolist() == [40] * 6 and file.widths.tolist() == [48] * 6
    assert file.heights.dtype == file.widths.dtype == np.int32
    assert file.modes.tolist() == [0, 0, 1, 0, 0, 1] and file.modes.dtype == np.uint8
    assert list(file.names) == [f"p/{i}.jpg" for i in (0, 1, 2, 4, 5, 6)]
    assert file.classes == ["p"]
    for i, (data, mode) in enumerate(stored):
        assert file.read(i).tobytes() == (data.tobytes() if mode == RAW else data)
    with pytest.raises(ValueError):
        file.read(0)[0] = 1


def test_ffcv_reader_agrees(mixed):
    path, _, _ = mixed
    reader = pytest.importorskip("ffcv.reader").Reader(str(path))
    file = BetonFile(path)
    assert reader.field_names == ["image", "label"] and reader.num_samples == 6
    image, label = reader.metadata["f0"], reader.metadata["f1"]
    assert label.tolist() == file.labels.tolist()
    for key, mine in (("height", file.heights), ("width", file.widths), ("mode", file.modes)):
        assert image[key].tolist() == mine.tolist()
    assert image["data_ptr"].tolist() == reader.alloc_table["ptr"].tolist() == file.pointers.tolist()
    assert reader.alloc_table["size"].tolist() == file.sizes.tolist()
    assert reader.alloc_table["sample_id"].tolist() == list(range(6))
    assert file.pointers[0] == PAGE_SIZE == reader.page_size


@pytest.mark.parametrize("os_cache", [True, False])
def test_ffcv_loader_decodes_our_files(mixed, os_cache, ffcv_loader):
    from ffcv.fields.decoders import IntDecoder, SimpleRGBImageDecoder

    path, pixels, _ = mixed
    pipelines = {"image": [SimpleRGBImageDecoder()], "label": [IntDecoder()]}
    order = ffcv_loader.OrderOption.SEQUENTIAL
    batches = ffcv_loader.Loader(
        str(path), 4, num_workers=1, order=order, os_cache=os_cache, drop_last=False, pipelines=pipelines
    )
    images, labels = zip(*[(image.copy(), label.copy()) for image, label in batches], strict=True)
    assert np.concatenate(labels).ravel().tolist() == [100, 101, 102, 104, 105, 106]
    for got, expected in zip(np.concatenate(images), pixels, strict=True):
        # FFCV asks for libjpeg's fast DCT and Pillow for the exact one.
        assert np.abs(got.astype(int) - expected).mean() < 1.5
    assert np.array_equal(np.concatenate(images)[2], pixels[2])


@pytest.mark.parametrize("workers", [1, 2])
def test_reads_files_of_ffcv_writer(tmp_path, workers):
    writer = pytest.importorskip("ffcv.writer")
    from ffcv.fields import BytesField, FloatField, IntField, RGBImageField

    images = [draw_image(i, 20 + i, 30 + 2 * i) for i in range(12)]

    class Images:
        def __len__(self):
            return len(images)

        def __getitem__(self, i):
            return i / 2, np.frombuffer(b"x" * (i + 1), np.uint8), images[i], i * 7

    path = tmp_path / "theirs.beton"
    image = RGBImageField(write_mode="proportion", compress_probability=0.5)
    fields = {"weight": FloatField(), "note": BytesField(), "image": image, "label": IntField()}
    writer.DatasetWriter(str(path), fields, num_workers=workers).from_indexed_dataset(Images(), chunksize=4)
    file = BetonFile(path)
    assert file.labels.tolist() == [7 * i for i in range(12)]
    assert list(file.names) == [""] * 12 and file.classes == [] and file.source == ""
    for i, pixels in enumerate(images):
        assert (file.heights[i], file.widths[i]) == pixels.shape[:2]
        if file.modes[i] == RAW:
            assert file.read(i).tobytes() == pixels.tobytes()
        else:
            assert np.abs(decoded(file.read(i)).astype(int) - pixels).mean() < 4


def test_texts_of_any_kind_survive(tmp_path):
    names = ["a b/ü\n\t\\.jpg", os.fsdecode(b"\xff\xfe.jpg"), ""]
    classes = ["gnu, wildebeest", "雪"]
    images = [(jpeg(draw_image(i)), 40, 48, JPEG) for i in range(3)]
    path = write(tmp_path / "a.beton", images, names=names, classes=classes, source="f" * 64)
    file = BetonFile(path)
    assert list(file.names) == names and file.classes == classes and file.source == "f" * 64


def test_an_image_bigger_than_a_page_grows_the_page(tmp_path):
    big = np.random.default_rng(0).integers(0, 256, (1700, 1700, 3), np.uint8)  # 8.7 MB
    small = (draw_image(1), 40, 48, RAW)
    path = write(tmp_path / "big.beton", [small, (big, 1700, 1700, RAW), small])
    file = BetonFile(path)
    header = np.fromfile(path, HEADER, 1)[0]
    page = int(header["page_size"])
    assert page == 2 * PAGE_SIZE
    assert np.array_equal(file.pointers // page, (file.pointers + file.sizes - 1) // page)
    assert file.read(1).tobytes() == big.tobytes() and file.read(2).tobytes() == small[0].tobytes()


def test_no_image_straddles_a_page(tmp_path):
    pixels = np.zeros((1000, 1000, 3), np.uint8)  # 3 MB: two in a page of 8 MiB
    path = write(tmp_path / "a.beton", [(pixels, 1000, 1000, RAW)] * 5)
    file = BetonFile(path)
    assert (file.pointers // PAGE_SIZE).tolist() == [1, 1, 2, 2, 3]
    assert ((file.pointers + file.sizes - 1) // PAGE_SIZE).tolist() == [1, 1, 2, 2, 3]


def test_a_file_cut_anywhere_is_truncated(mixed):
    path, size = mixed[0], mixed[0].stat().st_size
    ends = {size - lost for lost in range(1, 500, 7)} | {size - 24 * i for i in range(1, 8)} | {1, 23, 24, 2000}
    for end in sorted(ends | {PAGE_SIZE - 1, PAGE_SIZE, PAGE_SIZE + 1}, reverse=True):
        os.truncate(path, end)
        with pytest.raises(UserError, match="truncated|not a .beton file"):
            BetonFile(path)


def test_damaged_bytes_never_end_in_a_traceback(mixed):
    path = mixed[0]
    rng = np.random.default_rng(0)
    size = path.stat().st_size
    places = [
        *range(24),
        *rng.integers(24, 2300, 200),
        *rng.integers(PAGE_SIZE, size, 200),
        *range(size - 400, size),
    ]
    for place in places:
        for value in (0x00, 0x7F, 0xFF):
            with open(path, "r+b") as file:
                file.seek(place)
                old = file.read(1)
                file.seek(place)
                file.write(bytes([value]))
            try:
                damaged = BetonFile(path)
                [damaged.read(i) for i in range(len(damaged))]
                assert len(damaged.names) == len(damaged) and damaged.classes is not None
            except UserError as error:
                assert str(path) in str(error)
            with open(path, "r+b") as file:
                file.seek(place)
                file.write(old)
    assert len(BetonFile(path)) == 6


def test_each_wrong_file_gets_its_sentence(mixed, tmp_path):
    def sentence(path):
        with pytest.raises(UserError) as caught:
            BetonFile(path)
        assert str(path) in str(caught.value) and "\n" not in str(caught.value)
        return str(caught.value)

    assert "does not exist" in sentence(tmp_path / "none.beton")
    assert "cannot be read" in sentence(tmp_path)
    text = tmp_path / "text.beton"
    text.write_text("These are not images.\n" * 100)
    assert "not a .beton file" in sentence(text)
    text.write_text("short")
    assert "not a .beton file" in sentence(text)
    text.write_bytes(b"")
    assert "empty" in sentence(text)
    version = bytearray(mixed[0].read_bytes())
    version[0] = 1
    text.write_bytes(version)
    assert "version 2" in sentence(text)
    renamed = mixed[0].read_bytes().replace(b"label\0", b"class\0", 1)
    text.write_bytes(renamed)
    assert "image, class" in sentence(text)


def test_empty_file_of_ffcv_is_refused(tmp_path):
    path = write(tmp_path / "none.beton", [(b"", 1, 1, JPEG)], skip=[0])
    with pytest.raises(UserError, match="no images"):
        BetonFile(path)
