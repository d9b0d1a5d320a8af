"""Images for tests."""

import struct
import zlib
from pathlib import Path

import numpy as np
from PIL import Image

UNREADABLE = {"a/empty.JPEG": b"", "b/page.JPEG": b"<html>not found</html>", "b/words.jpg": b"just words"}


def write_image(path: Path, height: int, width: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    coarse = Image.fromarray(rng.integers(0, 256, (5, 5, 3), dtype=np.uint8)).resize((width, height), Image.BICUBIC)
    path.parent.mkdir(parents=True, exist_ok=True)
    coarse.save(path, quality=95)


def write_mixed_images(root: Path) -> Path:
    """120 images of several sizes and forms in three classes, three of them ``UNREADABLE``."""
    rng = np.random.default_rng(0)
    for name in ("a", "b", "c/deep"):
        (root / name).mkdir(parents=True)
        for i in range(39):
            image = Image.fromarray(rng.integers(0, 256, (8, 8, 3), np.uint8))
            image = image.resize(tuple(rng.integers(40, 160, 2).tolist()), Image.Resampling.BICUBIC)
            image.save(root / name / f"{i}.JPEG", "PNG" if i % 3 == 0 else "JPEG")
    for name, data in UNREADABLE.items():
        (root / name).write_bytes(data)
    return root


def png16(width: int, height: int) -> bytes:
    """A 16-bit grey PNG, written by hand: Pillow cannot."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    rows = b"".join(b"\0" + struct.pack(f">{width}H", *range(0, 65536, -(-65536 // width))) for _ in range(height))
    header = struct.pack(">IIBBBBB", width, height, 16, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


def same_files(folder: Path, other: Path) -> bool:
    """Whether two folders hold files of the same names and bytes."""
    files = {path.name: path.read_bytes() for path in folder.iterdir()}
    return files == {path.name: path.read_bytes() for path in other.iterdir()}
