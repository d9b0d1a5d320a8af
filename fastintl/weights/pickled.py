"""Opens what ``torch.save`` wrote, without running what is in it, and not before it is seen to be whole."""

from __future__ import annotations

import argparse
import pickle
import re
import warnings
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import torch


class Damaged(Exception):
    """A file that is not what ``torch.save`` wrote; its text is the reason."""


class Unsafe(Damaged):
    """A pickle that is damaged or asks for more than values."""


class _NumberFormat:
    """In place of ``numpy.dtype``, which a number of NumPy is pickled with."""

    def __init__(self, code: str, *_: Any) -> None:
        self.code = code

    def __setstate__(self, state: tuple) -> None:
        self.code = f"{state[1]}{self.code}" if state[1] in ("<", ">") else self.code


def _number(form: _NumberFormat, content: bytes) -> int | float | bool | complex:
    """In place of NumPy's reader of a number: it gives a plain one, and nothing else."""
    kind = np.dtype(form.code)
    if kind.kind not in "biufc" or not isinstance(content, bytes):
        raise pickle.UnpicklingError("a value of NumPy that is no number")
    return np.frombuffer(content, kind, 1)[0].item()


def _bytes(text: str, encoding: str) -> bytes:
    """In place of ``_codecs.encode``, by which pickles of old protocols hold bytes."""
    if encoding != "latin1":
        raise pickle.UnpicklingError(f"bytes encoded as {encoding}")
    return text.encode("latin1")


# Old checkpoints keep their command line in a Namespace, which is a bag of values and runs nothing. Accuracies and
# learning rates beside the weights are often numbers of NumPy.
_HARMLESS = [
    argparse.Namespace,
    (_NumberFormat, "numpy.dtype"),
    (_number, "numpy.core.multiarray.scalar"),
    (_number, "numpy._core.multiarray.scalar"),
    (_bytes, "_codecs.encode"),
]


def load_values(path: Path) -> Any:
    """Tensors, on the CPU, and plain values.

    ``torch.load`` finds a file that was cut off, but compares no checksum: a block that was lost or changed on the way
    would be read as weights. The archive has one of every tensor; files of before PyTorch 1.6 have none.

    Raises:
        Damaged: it cannot be read, or (``Unsafe``) not safely.
    """
    try:
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as archive:
                if (wrong := archive.testzip()) is not None:
                    raise Damaged(f"its part {wrong} has changed since it was written")
        with torch.serialization.safe_globals(_HARMLESS), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # on protocols; what cannot be read raises
            return torch.load(path, map_location="cpu", weights_only=True)
    except Damaged:
        raise
    except pickle.UnpicklingError as error:
        asks = re.search(r"GLOBAL ([\w.]+)|(Unsupported operand \d+)", str(error))
        more = "more than weights and values" + (f" ({asks[1] or asks[2]})" if asks else "")
        raise Unsafe(f"it is damaged, or holds {more}, which could run a program") from error
    except Exception as error:  # torch and zipfile raise several types on damaged files
        first = (str(error).strip().splitlines() or ["no reason given"])[0]
        raise Damaged(f"{type(error).__name__}: {first}") from error
