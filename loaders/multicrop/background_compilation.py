"""The crops' loops, compiled by a process of its own, while the command imports torch and opens its images.

They are two thirds of what a first run compiles. A thread would not do: it holds the interpreter's lock meanwhile.
"""

from __future__ import annotations

import multiprocessing
import signal
import sys
from contextlib import suppress
from multiprocessing.context import ForkProcess

import numpy as np

from loaders.multicrop.colour import colour_crop
from loaders.multicrop.draws import COLUMNS
from loaders.numba_options import is_yet_to_be_kept

_process: ForkProcess | None = None


def begin() -> None:
    """Starts it where no code is kept yet; for a command that will crop on the CPU, before it imports torch.

    Once torch is there, and with it threads, which a fork would lack, nothing is started.
    """
    global _process
    if "torch" not in sys.modules and is_yet_to_be_kept(colour_crop):
        _process = multiprocessing.get_context("fork").Process(target=_compile_alone, daemon=True)
        _process.start()


def wait() -> None:
    """Returns once nothing is being compiled."""
    global _process
    if _process is not None:
        _process.join()
        _process = None


def _compile_alone() -> None:
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    with suppress(Exception):  # whoever waits meets it, too, and says it
        crop_a_pixel()


def crop_a_pixel() -> None:
    """Calls the loops with arrays of the types that crops are cut from and into."""
    pixels, draw = np.zeros((3, 1), np.uint8), np.zeros(COLUMNS, np.float32)
    mean = std = np.ones(3, np.float32)
    colour_crop(pixels, 1, draw, mean, std, *(np.empty(3, np.float32) for _ in range(3)))
