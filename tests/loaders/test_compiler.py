"""What Triton and torch.compile build with: asked for before the first step, and named where it is missing."""

import sys
import sysconfig

import pytest
import torch

from loaders.compiler import headers_package, require_c_compiler, require_cxx_compiler
from loaders.errors import UserError
from loaders.multicrop.triton_crops import TritonCrops

PACKAGE = f"python{sys.version_info.major}.{sys.version_info.minor}-dev"


@pytest.fixture
def no_headers(tmp_path, monkeypatch):
    """As on a machine with Debian's Python and without its package of headers."""
    monkeypatch.setattr(sysconfig, "get_path", lambda *_: str(tmp_path / "include"))
    for variable in ("CPATH", "C_INCLUDE_PATH"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setenv("CC", "cc")
    monkeypatch.setenv("CXX", sys.executable)  # is there


@pytest.mark.parametrize("require", [require_c_compiler, require_cxx_compiler])
def test_missing_headers_are_named_with_their_package(no_headers, require):
    with pytest.raises(UserError, match=f"there is no Python.h in .*include: install them .*apt-get install {PACKAGE}"):
        require()


def test_the_crops_on_a_gpu_ask_before_anything_runs(no_headers):
    with pytest.raises(UserError, match="need Python's headers"):
        TritonCrops([32], "bicubic", (0.5,) * 3, (0.5,) * 3, torch.device("cuda"), torch.float32)


def test_headers_elsewhere_are_found(no_headers, tmp_path, monkeypatch):
    assert headers_package() == PACKAGE
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "Python.h").touch()
    monkeypatch.setenv("CPATH", f"/nowhere:{tmp_path / 'elsewhere'}")
    assert headers_package() is None
    require_c_compiler()


def test_a_missing_compiler_is_named(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    for variable in ("CC", "CXX"):
        monkeypatch.delenv(variable, raising=False)
    with pytest.raises(UserError, match="Triton needs a C compiler and finds none"):
        require_c_compiler()
    with pytest.raises(UserError, match=r"needs a C\+\+ compiler on a CPU and finds none: install g\+\+"):
        require_cxx_compiler()
