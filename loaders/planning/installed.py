"""Which decoders can run here and what the missing ones need; which other packages are there."""

from __future__ import annotations

import shutil
import subprocess
import sys
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path

import torch

from loaders.compiler import headers_package, require_c_compiler
from loaders.environment import package_version
from loaders.errors import UserError
from loaders.multicrop.device import choose_implementation
from loaders.sources.choice import import_ffcv_source

_ROOT = Path(__file__).resolve().parents[2]
# Debian's packages of the libraries that FFCV is built with, by pkg-config's names.
_LIBRARIES = {"libturbojpeg": "libturbojpeg0-dev", "opencv4": "libopencv-dev"}
# DALI's builds by the CUDA that they bring.
_DALI_BUILDS = {11: "nvidia-dali-cuda110", 12: "nvidia-dali-cuda120", 13: "nvidia-dali-cuda130"}


@dataclass(frozen=True)
class Status:
    """Whether a source or package can be used here.

    Attributes:
        name: name of the source or package.
        usable: whether it loads.
        about: its version, or why it cannot be used.
        cure: the command or words that help; empty where nothing is wrong.
    """

    name: str
    usable: bool
    about: str
    cure: str = ""


def sources() -> list[Status]:
    """The sources of ``loaders.sources.choice``, in the order of its list."""
    folder = _folder()
    memory = Status("memory", folder.usable, "nothing to install" if folder.usable else folder.about, folder.cure)
    return [_ffcv(), _dali(), memory, folder]


def packages() -> list[Status]:
    """Packages besides the decoders: PyTorch, and Triton and wandb, without which training runs too."""
    cuda = f"CUDA {torch.version.cuda}" if torch.version.cuda else "without CUDA"
    return [
        Status("PyTorch", True, f"{torch.__version__} ({cuda})"),
        _triton(),
        _optional("wandb", "wandb", "optional, mirrors the metrics"),
    ]


def build_lacks() -> list[str]:
    """The Debian packages that building FFCV still lacks; the same checks as in ``tools/setup.sh``."""
    lacks = [] if shutil.which("c++") else ["build-essential"]
    if not shutil.which("pkg-config"):
        lacks.append("pkg-config")
    lacks += [package for library, package in _LIBRARIES.items() if not _pkg_config_knows(library)]
    return lacks + list(filter(None, [headers_package()]))


def dali_build(cuda: str | None) -> str:
    """DALI's package for a PyTorch built for this CUDA version (None: a PyTorch without CUDA)."""
    major = int(cuda.split(".")[0]) if cuda else max(_DALI_BUILDS)
    return _DALI_BUILDS[min(max(major, min(_DALI_BUILDS)), max(_DALI_BUILDS))]


def _ffcv() -> Status:
    version = package_version("ffcv")
    try:
        import_ffcv_source()
        return Status("ffcv", True, f"FFCV {version}")
    except ImportError as error:
        reason = f"FFCV {version} is installed but does not load ({error})" if version else "FFCV is not installed"
    lacks = build_lacks()
    install = "pip install --no-build-isolation -c constraints.txt -e '.[ffcv]'"
    if version:  # built against libraries that have gone or changed: build it again
        install = "pip install --no-build-isolation --no-deps --no-cache-dir --force-reinstall -c constraints.txt ffcv"
    elif Path(sys.prefix) == _ROOT / ".venv":
        install = "make setup"
    if not lacks:
        return Status("ffcv", False, f"{reason}; all that its build needs is here", install)
    system = f"sudo apt-get update && sudo apt-get install -y {' '.join(lacks)}"
    return Status("ffcv", False, f"{reason}; its build lacks {', '.join(lacks)}", f"{system} && {install}")


def _dali() -> Status:
    wanted = dali_build(torch.version.cuda)
    found = next((build for build in _DALI_BUILDS.values() if package_version(build)), None)
    fits = f"PyTorch is built for CUDA {torch.version.cuda}" if torch.version.cuda else "any build will do on the CPU"
    try:
        import_module("loaders.sources.dali")
        other = "" if not torch.version.cuda or found in (None, wanted) else f"; {fits}: {wanted} fits better"
        return Status("dali", True, f"DALI {package_version(found)}, {found}{other}" if found else "DALI")
    except ImportError as error:
        broken = f"{found} is installed but does not load ({error})"
        reason = broken if found else "DALI is not installed"
    if wanted == _DALI_BUILDS[11]:
        return Status("dali", False, f"{reason}; {fits}", f"{wanted} up to 1.50, see the notes in environment.yml")
    extra = wanted.removeprefix("nvidia-").removesuffix("0")
    return Status("dali", False, f"{reason}; {fits}", f"pip install -c constraints.txt -e '.[{extra}]'")


def _folder() -> Status:
    try:
        import_module("loaders.sources.folder")
        return Status("folder", True, f"simplejpeg {package_version('simplejpeg')}, Pillow {package_version('pillow')}")
    except ImportError as error:
        return Status("folder", False, f"a package is missing ({error})", "pip install -c constraints.txt -e .")


def _triton() -> Status:
    if not torch.cuda.is_available():
        return _optional("Triton", "triton", "not used without a GPU")
    runs = choose_implementation(torch.device("cuda")) == "triton"
    about = "its kernels cut the crops on this GPU" if runs else "not for this GPU: torch operations cut the crops"
    found = _optional("Triton", "triton", about)
    try:
        require_c_compiler()
    except UserError as error:
        return Status("Triton", False, f"{found.about}; it lacks what it builds with", str(error))
    return found


def _optional(name: str, package: str, about: str) -> Status:
    version = package_version(package)
    if version:
        return Status(name, True, f"{version}; {about}")
    return Status(name, False, f"not installed; {about}", f"pip install -c constraints.txt {package}")


def _pkg_config_knows(library: str) -> bool:
    command = ["pkg-config", "--exists", library]
    return bool(shutil.which("pkg-config")) and subprocess.run(command, capture_output=True).returncode == 0
