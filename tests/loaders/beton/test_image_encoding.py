"""What is stored of an image, against Pillow, and what is refused."""

from __future__ import annotations

import io
import struct
import warnings
import zlib

import numpy as np
import pytest
from PIL import Image

from loaders.beton.encoding import Storage, encode_image
from loaders.beton.file import JPEG, RAW
from loaders.errors import UserError
from loaders.image_reading import BadImage

RAW_AS_IS = Storage(longest_side=0, raw=True)


def photo(width: int = 60, height: int = 40, seed: int = 0) -> Image.Image:
    rng = np.random.default_rng(seed)
    coarse = (rng.integers(30, 200, (4, 5, 1)) + rng.integers(0, 50, (4, 5, 3))).astype(np.uint8)
    return Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)


def encoded(image: Image.Image, form: str, **options) -> bytes:
    stream = io.BytesIO()
    image.save(stream, form, **options)
    return stream.getvalue()


def pixels(stored) -> np.ndarray:
    if stored.mode == RAW:
        return np.frombuffer(stored.data, np.uint8).reshape(stored.height, stored.width, 3)
    return np.asarray(Image.open(io.BytesIO(stored.data)).convert("RGB"))


def png_header(width: int, height: int) -> bytes:
    """A PNG that claims a size and holds no pixels."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


EXIF = Image.Exif()
EXIF[0x0112] = 6  # shown turned by a quarter


@pytest.mark.parametrize(
    "data",
    [
        encoded(photo(), "JPEG", quality=60),
        encoded(photo(), "JPEG", quality=95, subsampling=0),
        encoded(photo(), "JPEG", progressive=True),
        encoded(photo().convert("L"), "JPEG"),
        encoded(photo(), "JPEG", exif=EXIF),
        encoded(photo(500, 20), "JPEG"),
        encoded(photo(1, 1), "JPEG"),
    ],
    ids=["rgb", "444", "progressive", "grey", "exif", "exactly-500", "one-pixel"],
)
def test_a_small_jpeg_keeps_its_bytes(data):
    stored = encode_image(data, Storage())
    assert stored.data == data and stored.mode == JPEG
    assert (stored.width, stored.height) == Image.open(io.BytesIO(data)).size


def sixteen_bit() -> Image.Image:
    return Image.fromarray(np.arange(40 * 60, dtype=np.uint16).reshape(40, 60) * 27)


@pytest.mark.parametrize(
    "image, form",
    [
        (photo(), "PNG"),
        (photo().convert("CMYK"), "JPEG"),
        (photo().convert("CMYK"), "TIFF"),
        (photo().convert("RGBA"), "PNG"),
        (photo().convert("LA"), "PNG"),
        (photo().convert("1"), "PNG"),
        (photo().quantize(16), "PNG"),
        (photo().quantize(16), "GIF"),
        (photo(), "BMP"),
        (photo(), "WEBP"),
        (photo(), "PPM"),
    ],
    ids=lambda value: value if isinstance(value, str) else value.mode,
)
def test_other_forms_become_rgb_as_in_torchvision(image, form):
    data = encoded(image, form)
    expected = np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))
    assert np.array_equal(pixels(encode_image(data, RAW_AS_IS)), expected)
    stored = encode_image(data, Storage())
    assert stored.mode == JPEG and stored.data != data
    reopened = Image.open(io.BytesIO(stored.data))
    assert reopened.mode == "RGB" and reopened.size == image.size == (stored.width, stored.height)


def test_palette_with_transparency_drops_it():
    data = encoded(photo().quantize(8), "PNG", transparency=bytes([0, 128] + [255] * 6))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        expected = np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))
        assert np.array_equal(pixels(encode_image(data, RAW_AS_IS)), expected)


@pytest.mark.parametrize("form", ["PNG", "TIFF", "PPM"])
def test_sixteen_bit_grey_is_scaled_not_clipped(form):
    image = sixteen_bit()
    got = pixels(encode_image(encoded(image, form), RAW_AS_IS))
    assert np.abs(got[..., 0].astype(int) - np.asarray(image).astype(int) // 256).max() <= 1
    assert np.array_equal(got[..., 0], got[..., 2])


def test_exif_orientation_is_ignored():
    data = encoded(photo(600, 400), "JPEG", exif=EXIF)
    stored = encode_image(data, Storage())
    assert (stored.width, stored.height) == (500, 333)
    assert not Image.open(io.BytesIO(stored.data)).getexif()


@pytest.mark.parametrize(
    "size, final",
    [
        ((1000, 400), (500, 200)),
        ((501, 500), (500, 499)),
        ((20000, 10), (500, 1)),
        ((1801, 2401), (375, 500)),  # decoded by libjpeg at half its size
    ],
)
@pytest.mark.parametrize("form", ["JPEG", "PNG"])
def test_big_images_are_shrunk_with_antialiasing(size, final, form):
    data = encoded(photo(*size), form)
    stored = encode_image(data, Storage(quality=95))
    assert (stored.width, stored.height) == final == Image.open(io.BytesIO(stored.data)).size
    expected = Image.open(io.BytesIO(data)).resize(final, Image.Resampling.BOX)
    assert np.abs(pixels(stored).astype(int) - np.asarray(expected)).mean() < 3


def test_shrinking_does_not_alias():
    board = ((np.indices((1200, 1200)).sum(0) % 2) * 255).astype(np.uint8)  # averages to grey
    stored = encode_image(encoded(Image.fromarray(board), "PNG"), Storage(longest_side=100))
    assert pixels(stored)[5:-5, 5:-5].std() < 3


def test_zero_never_shrinks_and_one_pixel_works():
    stored = encode_image(encoded(photo(700, 20), "PNG"), Storage(longest_side=0))
    assert (stored.width, stored.height) == (700, 20)
    for form in ("PNG", "GIF", "JPEG"):
        assert encode_image(encoded(photo(1, 1), form), Storage()).height == 1


def test_quality_and_raw():
    data = encoded(photo(300, 300), "PNG")
    sizes = [len(encode_image(data, Storage(quality=quality)).data) for quality in (20, 60, 95)]
    assert sizes == sorted(sizes) and sizes[0] < sizes[2]
    array = np.asarray(photo(33, 21))
    raw = encode_image(array, Storage(raw=True))
    assert raw.mode == RAW and np.array_equal(pixels(raw), array)
    as_jpeg = encode_image(array, Storage())
    assert as_jpeg.mode == JPEG and np.abs(pixels(as_jpeg).astype(int) - array).mean() < 3
    small = encode_image(array, Storage(longest_side=11, raw=True))
    assert (small.height, small.width, len(small.data)) == (7, 11, 7 * 11 * 3)


def test_comments_of_the_source_are_not_carried_over():
    data = encoded(photo(600, 20), "JPEG", comment=b"secret place")
    assert b"secret" in data and b"secret" not in encode_image(data, Storage()).data


JPEG_BYTES = encoded(photo(), "JPEG")
PNG_BYTES = encoded(photo(), "PNG")


@pytest.mark.parametrize(
    "data, reason",
    [
        (b"", "empty file"),
        (b"\0" * 5000, "not an image"),
        (b"just words", "not an image, begins with b'just words'"),
        (b"<!DOCTYPE html><html>404</html>", "not an image, begins with b'<!doctype html"),
        (JPEG_BYTES[: len(JPEG_BYTES) // 2], "truncated"),
        (JPEG_BYTES[:30], ""),
        (JPEG_BYTES[:2], ""),
        (PNG_BYTES[: len(PNG_BYTES) // 2], "truncated"),
        (PNG_BYTES[:40], ""),
        (png_header(60000, 60000), "too many pixels, and 178,956,970 are read at most"),
        (png_header(0, 5), ""),
        (encoded(Image.new("F", (5, 5)), "TIFF"), "floating-point"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 5 5\n", "not an image"),
    ],
)
def test_bad_images_get_a_reason_of_one_line(data, reason):
    for storage in (Storage(), RAW_AS_IS):
        with pytest.raises(BadImage) as caught:
            encode_image(data, storage)
        text = str(caught.value)
        assert reason in text.lower() and text and "\n" not in text and "0x7f" not in text


def test_a_side_beyond_16_bits_is_shrunk_or_refused():
    data = encoded(Image.new("RGB", (70000, 2), (9, 9, 9)), "PNG")
    assert encode_image(data, Storage()).width == 500
    for storage in (Storage(longest_side=0), RAW_AS_IS):
        with pytest.raises(BadImage, match="70000 x 2"):
            encode_image(data, storage)


@pytest.mark.filterwarnings("ignore")
def test_damaged_images_are_refused_or_decoded_but_never_crash():
    rng = np.random.default_rng(0)
    for data in (JPEG_BYTES, PNG_BYTES, encoded(photo(), "TIFF"), encoded(photo().quantize(9), "GIF")):
        for _ in range(150):
            damaged = bytearray(data)
            for place in rng.integers(0, len(data), 3):
                damaged[place] = rng.integers(256)
            try:
                stored = encode_image(bytes(damaged), Storage())
            except BadImage:
                continue
            assert Image.open(io.BytesIO(stored.data)).size == (stored.width, stored.height)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"subsampling": 0}, {"subsampling": 2}], ids=str)
def test_a_jpeg_is_kept_just_where_pillow_decodes_all_its_pixels(options):
    rng = np.random.default_rng(0)
    data, refused = encoded(photo(), "JPEG", **options), 0
    for number in range(200):
        damaged = bytearray(data[: rng.integers(2, len(data))] if number % 2 else data)
        for place in rng.integers(0, len(damaged), number % 4):
            damaged[place] = rng.integers(256)
        try:
            image = Image.open(io.BytesIO(bytes(damaged)))
            image.load()
        except Exception:
            refused += 1
            with pytest.raises(BadImage):
                encode_image(bytes(damaged), Storage())
        else:
            if image.format == "JPEG" and image.mode in ("RGB", "L") and max(image.size) <= 500:
                assert encode_image(bytes(damaged), Storage()).data == bytes(damaged)
    assert 50 < refused < 200


@pytest.mark.parametrize("options", [{"longest_side": -1}, {"longest_side": 70000}, {"quality": 0}, {"quality": 101}])
def test_impossible_options(options):
    with pytest.raises(UserError, match="is not between"):
        Storage(**options)
