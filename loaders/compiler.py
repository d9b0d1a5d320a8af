"""The compiler and Python's headers: Triton and torch.compile build with them what launches their kernels.

They do so when a kernel first runs, and without them they fail there, in the middle of a traceback.
"""

from __future__ import annotations

import os
import shutil
import sys
import sysconfig
from pathlib import Path

from loaders.errors import UserError


def require_c_compiler() -> None:
    """For kernels on a GPU.

    Raises:
        UserError: a C compiler or Python's headers are missing.
    """
    if not (os.environ.get("CC") or shutil.which("gcc") or shutil.which("clang")):
        raise UserError("Triton needs a C compiler and finds none: install gcc (Debian: build-essential) or set CC")
    _require_headers()


def require_cxx_compiler() -> None:
    """For torch.compile on a CPU.

    Raises:
        UserError: a C++ compiler or Python's headers are missing.
    """
    if not shutil.which(os.environ.get("CXX") or "g++"):
        raise UserError(
            "torch.compile needs a C++ compiler on a CPU and finds none: install g++ (Debian: build-essential) or set "
            "CXX to one"
        )
    _require_headers()


def headers_package() -> str | None:
    """The Debian package of this Python's headers if they are not here; None if they are."""
    places = [sysconfig.get_path("include"), sysconfig.get_path("include", "posix_prefix")]
    for variable in ("CPATH", "C_INCLUDE_PATH"):  # where compilers look, too
        places += filter(None, os.environ.get(variable, "").split(os.pathsep))
    if any((Path(place) / "Python.h").exists() for place in places):
        return None
    return f"python{sys.version_info.major}.{sys.version_info.minor}-dev"


def _require_headers() -> None:
    package = headers_package()
    if package:
        raise UserError(
            "Triton and torch.compile need Python's headers, and there is no Python.h in "
            f"{sysconfig.get_path('include')}: install them (Debian: sudo apt-get install {package})"
        )
