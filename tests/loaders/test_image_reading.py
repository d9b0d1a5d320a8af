"""One rule for sizes and pixels of images, whoever reads them: folder, memory, DALI, converter, detection."""

import io
import struct

import numpy as np
import pytest
from PIL import Image, ImageFile

from fastintl.detection.annotations import AnnotatedImage
from fastintl.detection.augment import read_pixels
from loaders.beton.encoding import Storage, encode_image
from loaders.errors import UserError
from loaders.image_reading import LARGEST_PIXELS, BadImage, image_size
from loaders.sources.decode import decode_image
from loaders.sources.jpeg_header import plain_jpeg_size
from tests.helpers.images import png16


def saved(image: Image.Image, kind: str, **words) -> bytes:
    stream = io.BytesIO()
    image.save(stream, kind, **words)
    return stream.getvalue()


def photograph(height: int = 64, width: int = 64) -> Image.Image:
    coarse = np.random.default_rng(0).integers(0, 256, (5, 5, 3), np.uint8)
    return Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)


def detected(data: bytes, path, height: int, width: int) -> np.ndarray:
    path.write_bytes(data)
    nothing = np.zeros(0)
    return read_pixels(AnnotatedImage("x", path, height, width, nothing, nothing, nothing)).permute(1, 2, 0).numpy()


def jpeg_of_441() -> bytes:
    """What a lossless turn makes of 4:1:1: a quarter of the colour's lines. simplejpeg knows no such thing."""
    data = bytearray(saved(photograph(), "JPEG", subsampling="4:2:0"))
    frame = data.index(b"\xff\xc0")
    assert data[frame + 11] == 0x22  # as many blocks of brightness to one of colour
    data[frame + 11] = 0x14
    return bytes(data)


def readable() -> dict[str, bytes]:
    """Files that all readers must take, of 64 x 64 pixels."""
    rgb = photograph()
    return {
        "4:4:1": jpeg_of_441(),
        "CMYK": saved(rgb.convert("CMYK"), "JPEG"),
        "grey": saved(rgb.convert("L"), "JPEG"),
        "turned by EXIF": saved(rgb, "JPEG", exif=orientation(6)),
        "1 bit": saved(rgb.convert("1"), "PNG"),
        "alpha": saved(rgb.convert("RGBA"), "PNG"),
        "palette": saved(rgb.quantize(16), "PNG", transparency=3),
        "animated": saved(rgb, "WEBP", lossless=True, save_all=True, append_images=[photograph().convert("L")]),
        "gif": saved(rgb.quantize(16), "GIF", save_all=True, append_images=[rgb.convert("L")]),
        "turned tiff": saved(rgb, "TIFF", exif=orientation(6)),
        "LAB": saved(Image.frombytes("LAB", (64, 64), rgb.tobytes()), "TIFF"),
    }


def orientation(number: int) -> Image.Exif:
    exif = Image.Exif()
    exif[274] = number
    return exif


@pytest.mark.parametrize("name", readable())
def test_all_readers_find_the_pixels_that_pillow_finds(tmp_path, name):
    data = readable()[name]
    expected = np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))
    stored = encode_image(data, Storage(raw=True))
    for found in (
        decode_image(data).numpy(),
        np.frombuffer(stored.data, np.uint8).reshape(stored.height, stored.width, 3),
        detected(data, tmp_path / "x.jpg", 64, 64),
    ):
        assert np.abs(found.astype(int) - expected).max() <= 2


@pytest.mark.parametrize("name", ["photograph.tif", "photograph.webp"])
def test_an_orientation_is_the_same_for_all(tmp_path, name):
    """A TIFF's own is part of its format, EXIF's is not looked at: Pillow's and so torchvision's rule."""
    (path := tmp_path / name).write_bytes(b"")
    photograph(40, 60).save(path, exif=orientation(6))
    data, shape = path.read_bytes(), (60, 40) if name.endswith("tif") else (40, 60)
    stored = encode_image(data, Storage(longest_side=30))
    assert decode_image(data).shape[:2] == shape == image_size(path)
    assert (stored.height, stored.width) == (shape[0] // 2, shape[1] // 2)
    assert detected(data, path, *shape).shape[:2] == shape


def lying(kind: str, height: int, width: int) -> bytes:
    data = bytearray(saved(photograph(), kind))
    if kind == "JPEG":
        frame = data.index(b"\xff\xc0")
        data[frame + 5 : frame + 9] = struct.pack(">HH", height, width)
    elif kind == "GIF":
        data[6:10] = struct.pack("<HH", width, height)
    else:
        data[18:26] = struct.pack("<ii", width, height)
    return bytes(data)


def tiff_of_12_bits() -> bytes:
    data = saved(Image.new("I;16", (8, 8)), "TIFF")
    with Image.open(io.BytesIO(data)) as image:
        assert image.tag_v2[258] == (16,)
    entry = struct.pack("<HHI", 258, 3, 1)
    return data.replace(entry + struct.pack("<I", 16), entry + struct.pack("<I", 12))


def tall_tiff(**options) -> bytes:
    data = saved(Image.new("L", (8, 8)), "TIFF", **options)
    for kind in (3, 4):  # of 16 bits, of 32
        data = data.replace(struct.pack("<HHII", 257, kind, 1, 8), struct.pack("<HHII", 257, 4, 1, 20_000_000))
    return data


REFUSED = {
    "65500 x 65500": (lying("JPEG", 65500, 65500), "pixels, and 178,956,970 are read at most"),
    "9000 x 9000": (lying("JPEG", 9000, 9000), "9000 x 9000 pixels, which its [0-9,]+ bytes cannot hold"),
    "gif": (lying("GIF", 13000, 13000), "13000 x 13000 pixels, which its"),
    "tiff": (tall_tiff(), "8 x 20000000 pixels, which its"),
    "deflated tiff": (tall_tiff(compression="tiff_deflate"), "8 x 20000000 pixels, which its"),
    "bmp": (lying("BMP", 60000, 60000), "."),
    "no pixels": (b"P5 0 7 255\n", "."),
    "int32": (saved(Image.fromarray(np.arange(64, dtype=np.int32).reshape(8, 8)), "TIFF"), "whole-number pixels of 32"),
    "float": (saved(Image.fromarray(np.ones((8, 8), np.float32)), "TIFF"), "floating-point pixels"),
    "12 bits": (tiff_of_12_bits(), "grey of .12,. bits"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_all_readers_refuse_it_alike_and_decode_nothing(tmp_path, monkeypatch, name):
    data, says = REFUSED[name]
    monkeypatch.setattr(ImageFile.ImageFile, "load", lambda image: pytest.fail("decoded"))
    with pytest.raises(BadImage, match=says) as caught:
        decode_image(data, lambda size: pytest.fail(f"{size} bytes are taken"))
    assert "\n" not in str(caught.value)
    with pytest.raises(BadImage, match=says):
        encode_image(data, Storage())
    with pytest.raises(UserError, match=f"x.jpg cannot be read: .*{says}"):
        detected(data, tmp_path / "x.jpg", 8, 8)
    with pytest.raises(BadImage, match=says):
        image_size(tmp_path / "x.jpg")
    assert plain_jpeg_size(memoryview(data)) is None


def test_16_bits_are_scaled_whatever_the_format(tmp_path):
    grey = np.linspace(0, 65535, 64).astype(np.uint16).reshape(8, 8)
    little = Image.frombytes("I;16", (8, 8), grey.astype("<u2").tobytes())
    big = Image.frombytes("I;16B", (8, 8), grey.astype(">u2").tobytes())
    for data in (saved(little, "TIFF"), saved(big, "TIFF"), saved(little, "PNG"), saved(little, "PPM")):
        assert (decode_image(data).numpy() == (grey >> 8)[..., None]).all()
    assert decode_image(png16(40, 30)).float().std() > 60


def test_the_largest_size_is_pillows():
    assert LARGEST_PIXELS == 2 * Image.MAX_IMAGE_PIXELS


@pytest.mark.parametrize("mode", ["L", "RGB"])
def test_no_sound_jpeg_is_taken_for_a_lie(mode):
    """The smallest there are: of one colour, progressive, with Huffman tables of its own."""
    data = saved(Image.new(mode, (3000, 3000)), "JPEG", progressive=True, optimize=True, quality=1, subsampling="4:2:0")
    assert decode_image(data).shape == (3000, 3000, 3)
    flat = saved(Image.new("1", (9000, 9000)), "PNG", compress_level=9)
    assert decode_image(flat).shape == (9000, 9000, 3)
