"""Images drawn for the demo: twelve classes of pattern, each image a patchwork of one of them.

A class is a pattern (stripes, dots, bricks, …). Every patch of an image draws its own rotation, size, phase,
proportions and two colours, and the image its light and noise. So any crop shows the class, two crops of an image share
nothing else, and pixel values say next to nothing about it.

Patterns are signed distances: given coordinates ``u, v`` in periods, positive inside the ink, in periods too, so that
ink edges can be drawn one pixel soft without supersampling.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from loaders.datasets.split import Split

SIDE = 64
TRAIN_IMAGES, VAL_IMAGES = 4800, 1200
# Part of the images' fingerprint, to be changed when they come out otherwise: a hash of the code that first drew them.
_DRAWING = "8955f400a3504e779e7d2574675ee785b595e2c429b24e908097ebf3c03be6f1"
_ROOT3 = np.float32(3**0.5)


def demo_splits(seed: int = 0, train: int = TRAIN_IMAGES, val: int = VAL_IMAGES) -> dict[str, Split]:
    """The demo's training and held-out images; nothing is drawn until an image is asked for.

    Args:
        seed: another seed gives other images of the same classes.
        train, val: how many images; classes take turns.
    """
    return {
        part: _split(part, (seed, number), count, f"demo {seed} {_DRAWING}")
        for number, (part, count) in enumerate((("train", train), ("val", val)))
    }


def draw_image(label: int, rng: np.random.Generator) -> np.ndarray:
    """Draws one image of class ``label``, uint8 ``(SIDE, SIDE, 3)``."""
    y, x = np.mgrid[:SIDE, :SIDE].astype(np.float32)
    patches = int(rng.integers(2, 5))
    patch = _patches(x, y, patches, rng)
    period = rng.uniform(9, 15, patches).astype(np.float32)
    cover = _cover(PATTERNS[CLASSES[label]], x, y, patch, period, rng)
    ink, paper = _colours(patches, rng)
    image = paper[patch] + (ink - paper)[patch] * cover[..., None]
    image *= _light(x, y, rng)[..., None]
    image += rng.normal(0, rng.uniform(0.01, 0.05), image.shape).astype(np.float32)
    return (image.clip(0, 1) * 255 + 0.5).astype(np.uint8)


def _split(part: str, key: tuple[int, int], count: int, source: str) -> Split:
    labels = np.arange(count) % len(CLASSES)
    names = [f"{part}/{CLASSES[label]}/{i:05d}.jpg" for i, label in enumerate(labels)]

    def load(index: int) -> np.ndarray:
        return draw_image(int(labels[index]), np.random.default_rng((*key, index)))

    return Split(names, labels, list(CLASSES), load, source)


def _patches(x: np.ndarray, y: np.ndarray, count: int, rng: np.random.Generator) -> np.ndarray:
    """Number of the patch each pixel lies in, ``(SIDE, SIDE)``: the nearest of a few random points."""
    centres = rng.uniform(0, SIDE, (count, 2)).astype(np.float32)
    return ((x - centres[:, :1, None]) ** 2 + (y - centres[:, 1:, None]) ** 2).argmin(axis=0)


def _cover(
    pattern: Callable, x: np.ndarray, y: np.ndarray, patch: np.ndarray, period: np.ndarray, rng: np.random.Generator
) -> np.ndarray:
    """Share of each pixel that is ink, float32 ``(SIDE, SIDE)`` in [0, 1]."""
    count = len(period)
    angle = rng.uniform(0, 2 * np.pi, count)
    stretch = rng.uniform(0.85, 1.18, count)
    across = np.stack([np.cos(angle) * stretch, np.sin(angle) * stretch], 1) / period[:, None]
    along = np.stack([-np.sin(angle), np.cos(angle)], 1) / period[:, None]
    phase = rng.uniform(0, 8, (count, 2))
    across, along, phase = (values.astype(np.float32)[patch] for values in (across, along, phase))
    u = across[..., 0] * x + across[..., 1] * y + phase[..., 0]
    v = along[..., 0] * x + along[..., 1] * y + phase[..., 1]
    weight = rng.uniform(-1, 1, count).astype(np.float32)[patch]  # thin to bold
    return (0.5 + pattern(u, v, weight) * period[patch]).clip(0, 1)


def _colours(count: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Ink and paper of each patch, float32 ``(count, 3)``: any two hues, one of them clearly lighter."""
    tint = rng.uniform(0, 1, (2, count, 3))
    dark = rng.uniform(0.02, 0.35, (count, 1))
    light = dark + rng.uniform(0.35, 0.6, (count, 1))
    pair = np.stack([dark, light]) + 0.45 * (tint - tint.mean(axis=2, keepdims=True))
    swap = rng.integers(0, 2, count)
    ink, paper = pair[swap, np.arange(count)], pair[1 - swap, np.arange(count)]
    return ink.astype(np.float32), paper.astype(np.float32)


def _light(x: np.ndarray, y: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Uneven light: a plane of random slope around a random level."""
    angle, slope = rng.uniform(0, 2 * np.pi), rng.uniform(0, 0.35)
    plane = (np.cos(angle) * x + np.sin(angle) * y) / SIDE
    return np.float32(rng.uniform(0.85, 1.1)) + np.float32(slope) * (plane - plane.mean()).astype(np.float32)


def _off(x: np.ndarray) -> np.ndarray:
    """Signed distance to the nearest whole number, in [-1/2, 1/2]."""
    return x - np.round(x)


def _near(x: np.ndarray) -> np.ndarray:
    return np.abs(_off(x))


def _stripes(u, v, weight):
    return (0.25 + 0.1 * weight - _near(u * 1.3)) / 1.3


def _checks(u, v, weight):
    a, b = 0.25 - _near(u * 0.8), 0.25 - _near(v * 0.8)
    return np.sign(a * b) * np.minimum(np.abs(a), np.abs(b)) / 0.8 + 0.03 * weight


def _dots(u, v, weight):
    return 0.31 + 0.07 * weight - np.hypot(_off(u), _off(v))


def _rings(u, v, weight):
    return 0.1 + 0.03 * weight - np.abs(np.hypot(_off(u * 0.85), _off(v * 0.85)) - 0.32)


def _grid(u, v, weight):
    return 0.13 + 0.04 * weight - np.minimum(_near(u), _near(v))


def _zigzag(u, v, weight):
    return (0.25 + 0.08 * weight - _near(v * 1.2 + 1.1 * _near(u * 0.8))) / 1.6


def _bricks(u, v, weight):
    row = np.floor(v * 1.3)
    joint = 2 * _near(u / 2 + row / 2)
    return 0.1 + 0.03 * weight - np.minimum(_near(v * 1.3) / 1.3, joint)


def _honeycomb(u, v, weight):
    a = np.abs(_off(u)), np.abs(_ROOT3 * _off(v / _ROOT3))
    b = np.abs(_off(u + 0.5)), np.abs(_ROOT3 * _off(v / _ROOT3 + 0.5))
    cell = np.minimum(*(np.maximum(x, x / 2 + y * _ROOT3 / 2) for x, y in (a, b)))
    return 0.1 + 0.03 * weight - (0.5 - cell)


def _triangles(u, v, weight):
    a, b = (u - v / _ROOT3) * 0.8, v * 2 / _ROOT3 * 0.8
    a, b = a - np.floor(a), b - np.floor(b)
    up = np.minimum(np.minimum(a, b), 1 - a - b)
    down = np.minimum(np.minimum(1 - a, 1 - b), a + b - 1)
    return np.where(a + b < 1, up, -down) * np.float32(0.866 / 0.8) + 0.03 * weight


def _scales(u, v, weight):
    # Discs of radius 1/2 in rows 1/4 apart, every other row moved by half a disc, lower rows in front.
    size = 0.65
    row = np.floor(4 * size * v)
    height = size * v - row / 4
    front = np.hypot(_off(size * u + (row - 1) / 2), height + np.float32(0.25))
    back = np.hypot(_off(size * u + row / 2), height)
    radius = np.where(front < 0.5, front, back)
    return (0.09 + 0.03 * weight - (0.5 - radius)) / size


def _plusses(u, v, weight):
    a, b = _near(u * 0.9), _near(v * 0.9)
    arm, half = 0.37, 0.13 + 0.03 * weight
    return np.maximum(np.minimum(arm - a, half - b), np.minimum(half - a, arm - b))


def _weave(u, v, weight):
    u, v = u * 0.6, v * 0.6
    turned = (np.floor(u) + np.floor(v)) % 2 == 0
    lines = np.where(turned, u, v) * 3
    return (0.25 + 0.06 * weight - np.abs(lines - np.floor(lines) - 0.5)) / 1.8


PATTERNS: dict[str, Callable[[np.ndarray, np.ndarray, np.ndarray], np.ndarray]] = {
    "bricks": _bricks,
    "checks": _checks,
    "dots": _dots,
    "grid": _grid,
    "honeycomb": _honeycomb,
    "plusses": _plusses,
    "rings": _rings,
    "scales": _scales,
    "stripes": _stripes,
    "triangles": _triangles,
    "weave": _weave,
    "zigzag": _zigzag,
}
CLASSES = tuple(PATTERNS)
