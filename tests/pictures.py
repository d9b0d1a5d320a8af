"""Pictures for tests."""

from pathlib import Path

import numpy as np
from PIL import Image


def write_picture(path: Path, height: int, width: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    coarse = Image.fromarray(rng.integers(0, 256, (5, 5, 3), dtype=np.uint8)).resize((width, height), Image.BICUBIC)
    path.parent.mkdir(parents=True, exist_ok=True)
    coarse.save(path, quality=95)
