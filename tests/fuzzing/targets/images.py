"""Image files of every form and damage: the pixels that Pillow has, or a sentence; the same from folder and converter.

Pillow, with its own conversion to RGB, is the independent reader of what has 8 bits a channel; NumPy of the rest.
"""

from __future__ import annotations

import functools
import io
import struct
import warnings
import zlib
from typing import Any

import numpy as np
import torch
from hypothesis import strategies as st
from PIL import Image

from loaders.beton.encoding import Storage, encode_image
from loaders.image_reading import BadImage, open_image
from loaders.sources.decode import decode_image
from loaders.sources.jpeg_header import plain_jpeg_size
from tests.fuzzing import check_sentence
from tests.fuzzing.targets.beton import changed

MEMORY = 2 << 30  # an image may have LARGEST_PIXELS, which Pillow keeps in 4 bytes each and we in 3
IN_SUITE = 60

_FORMS = {
    "JPEG": ("L", "RGB", "CMYK"),
    "PNG": ("1", "L", "LA", "P", "P transparent", "RGB", "RGBA", "I;16"),
    "TIFF": ("1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "YCbCr", "LAB", "I;16", "I;16B", "I", "F"),
    "WEBP": ("RGB", "RGBA"),
    "GIF": ("1", "L", "P", "P transparent", "RGB"),
    "BMP": ("1", "L", "P", "RGB", "RGBA"),
    "PPM": ("1", "L", "RGB", "I;16", "F"),
}
_form = st.sampled_from([(kind, mode) for kind, modes in _FORMS.items() for mode in modes])
_options = st.fixed_dictionaries(
    {},
    optional={
        "frames": st.integers(2, 3), "orientation": st.integers(0, 9), "progressive": st.booleans(),
        "subsampling": st.sampled_from(["4:4:4", "4:2:2", "4:2:0", "4:1:1", "4:4:1"]), "lossless": st.booleans(),
        "lie": st.tuples(*[st.sampled_from([0, 1, 41, 500, 5000, 40_000, 65_500])] * 2),
        "compression": st.sampled_from(["tiff_lzw", "tiff_deflate", "jpeg", "group4", "packbits"]),
    },
)  # fmt: skip
_place = st.one_of(st.integers(0, 120), st.integers(0, 5000), st.integers(-60, -1))
_change = st.one_of(
    st.tuples(st.just("set"), _place, st.one_of(st.integers(0, 255), st.sampled_from([0, 1, 255]))),
    st.tuples(st.sampled_from(["cut", "add"]), _place, st.just(1)),
    st.tuples(st.sampled_from(["put in", "take out"]), _place, st.integers(1, 9)),
)
_side = st.one_of(st.integers(1, 40), st.sampled_from([1, 8, 17, 32, 32]))
_bytes = st.one_of(st.binary(max_size=60), st.sampled_from([b"", b"<html>", b"\xff\xd8", b"GIF89a", b"II*\0", b"P7\n"]))
examples = st.one_of(
    st.tuples(_form, _side, _side, st.integers(0, 99), _options, st.lists(_change, max_size=4)),
    _bytes,
)


def check(example: Any) -> None:
    if isinstance(example, bytes):
        agree(example)
        return
    (kind, mode), height, width, seed, options, changes = example
    data = encoded(kind, mode, height, width, seed, tuple(sorted(options.items())))
    if data is None:
        return
    if "lie" in options:
        data = with_size(data, kind, *options["lie"])
    pixels = agree(changed(data, changes))
    if not changes and "lie" not in options:
        assert pixels is not None or mode in ("I", "F"), f"{kind} {mode} is refused"


def agree(data: bytes) -> np.ndarray | None:
    """The pixels that all readers find in a file, (H, W, 3); None where all refuse it."""
    plain = plain_jpeg_size(memoryview(data))
    try:
        decoded = decode_image(data)
    except BadImage as error:
        check_sentence(str(error))
        decoded = None
    else:
        assert decoded.dtype == torch.uint8 and decoded.shape[2] == 3 and decoded.is_contiguous()
        assert plain in (None, tuple(decoded.shape[:2]))
        assert header_size(data) == decoded.shape[:2]
        check_pixels(decoded.numpy(), independent(data))
    check_conversion(data, None if decoded is None else decoded.numpy())
    return None if decoded is None else decoded.numpy()


def check_conversion(data: bytes, decoded: np.ndarray | None) -> None:
    """The converter stores the same pixels, or refuses as well."""
    try:
        stored = encode_image(data, Storage(raw=True))
    except BadImage as error:
        check_sentence(str(error))
        assert decoded is None, f"only the converter refuses it: {error}"
        return
    assert decoded is not None, "the converter alone reads it"
    pixels = np.frombuffer(stored.data, np.uint8).reshape(stored.height, stored.width, 3)
    if max(decoded.shape) <= Storage().longest_side:
        check_pixels(pixels, decoded)
    small = encode_image(data, Storage(longest_side=7))
    assert max(small.height, small.width) == min(7, max(decoded.shape[:2]))
    kept = encode_image(data, Storage())
    if max(decoded.shape) <= Storage().longest_side:
        assert decode_image(kept.data).shape == decoded.shape


def check_pixels(found: np.ndarray, expected: np.ndarray | None) -> None:
    if expected is None:
        return
    assert found.shape == expected.shape
    # Two decoders of a JPEG may round differently.
    # In two bytes: of a header that promises forty million pixels eight would take longer than all readers.
    error = np.abs(found.astype(np.int16) - expected)
    assert error.mean() <= 1 and error.max() <= 8, f"pixels differ by {error.mean():.1f}, at most by {error.max()}"


def with_size(data: bytes, kind: str, height: int, width: int) -> bytes:
    """The file with another size in its header, where that is easily found."""
    found = bytearray(data)
    if kind == "JPEG":
        frame = max(data.find(b"\xff\xc0"), data.find(b"\xff\xc2"))
        found[frame + 5 : frame + 9] = struct.pack(">HH", height, width)
    elif kind == "PNG":
        found[16:24] = struct.pack(">II", width, height)
        found[29:33] = struct.pack(">I", zlib.crc32(found[12:29]))
    elif kind == "GIF":
        found[6:10] = struct.pack("<HH", width, height)
    elif kind == "BMP":
        found[18:26] = struct.pack("<ii", width, height)
    return bytes(found)


def header_size(data: bytes) -> tuple[int, int]:
    with open_image(data) as image:
        return image.height, image.width


def independent(data: bytes) -> np.ndarray | None:
    """What torchvision's ``ImageFolder`` makes of a file; of 16-bit grey, its upper byte. None where Pillow fails."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with Image.open(io.BytesIO(data)) as image:
            if image.mode.startswith("I"):
                values = np.asarray(image).astype(np.int64)
                assert values.min() >= 0 and values.max() < 65536
                return np.repeat((values // 256).astype(np.uint8)[..., None], 3, axis=2)
            return np.asarray(image.convert("RGB"))


@functools.lru_cache(2000)
def encoded(kind: str, mode: str, height: int, width: int, seed: int, options: tuple) -> bytes | None:
    """A file of smooth random pixels; None where there is no such file."""
    given = dict(options)
    rng = np.random.default_rng(seed)
    frames = [_drawn(mode, height, width, rng) for _ in range(given.get("frames", 1))]
    words: dict[str, Any] = {}
    if kind in ("GIF", "WEBP", "TIFF", "PNG") and len(frames) > 1:
        words |= {"save_all": True, "append_images": frames[1:]}
    if "orientation" in given and kind in ("JPEG", "PNG", "WEBP", "TIFF"):
        exif = Image.Exif()
        exif[274] = given["orientation"]
        words["exif"] = exif
    if mode.endswith("transparent"):
        words["transparency"] = 0
    words |= {"progressive": True} if kind == "JPEG" and given.get("progressive") else {}
    subsampling = given.get("subsampling") if kind == "JPEG" else None
    words |= {"subsampling": "4:2:0" if subsampling in ("4:1:1", "4:4:1") else subsampling} if subsampling else {}
    words |= {"lossless": True} if kind == "WEBP" and given.get("lossless") else {}
    words |= {"compression": given["compression"]} if kind == "TIFF" and "compression" in given else {}
    stream = io.BytesIO()
    try:
        frames[0].save(stream, kind, **words)
    except (OSError, ValueError, KeyError, RuntimeError, TypeError):
        return None
    if subsampling in ("4:1:1", "4:4:1") and mode == "RGB" and not (height % 32 or width % 32):
        return _resampled(stream.getvalue(), 0x41 if subsampling == "4:1:1" else 0x14)
    return stream.getvalue()


def _resampled(data: bytes, factors: int) -> bytes:
    """A JPEG of 4:2:0 whose blocks of brightness are taken for four side by side, or below each other."""
    found = bytearray(data)
    frame = max(data.find(b"\xff\xc0"), data.find(b"\xff\xc2"))
    assert found[frame + 11] == 0x22
    found[frame + 11] = factors
    return bytes(found)


def _drawn(mode: str, height: int, width: int, rng: np.random.Generator) -> Image.Image:
    coarse = Image.fromarray(rng.integers(0, 256, (3, 3, 3), np.uint8)).resize((width, height), Image.BICUBIC)
    if mode in ("I;16", "I;16B", "I", "F"):
        grey = np.asarray(coarse.convert("L")).astype(np.int32) * 257
        kinds = {"I;16": "<u2", "I;16B": ">u2", "I": "<i4", "F": "<f4"}
        return Image.frombytes(mode, (width, height), grey.astype(kinds[mode]).tobytes())
    if mode.startswith("P"):
        return coarse.quantize(16)
    if mode == "LAB":
        return Image.frombytes("LAB", (width, height), coarse.tobytes())
    if mode in ("LA", "RGBA"):
        image = coarse.convert(mode)
        image.putalpha(Image.fromarray(rng.integers(0, 256, (height, width), np.uint8)))
        return image
    return coarse.convert(mode)
