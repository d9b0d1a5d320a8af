"""A small dataset of photographs-like images, as a folder and as the same JPEG bytes in a ``.beton``."""

import importlib
import os
import signal
from pathlib import Path
from types import ModuleType

# Threads that wait for work must not spin: two processes of tests share the cores. Read when torch is imported.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")

# What a shell starts in the background ignores Ctrl-C, and so would whatever the tests start to interrupt it.
if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

import pytest

from loaders.startup import late_imports

SIZES = [(48, 64), (64, 48), (40, 40), (90, 30)]


@pytest.fixture(scope="session")
def image_folder(tmp_path_factory) -> Path:
    from tests.helpers.images import write_image

    root = tmp_path_factory.mktemp("images") / "tree"
    for i in range(60):
        write_image(root / f"class{i % 3}" / f"{i:03}.jpg", *SIZES[i % 4], seed=i)
    return root


@pytest.fixture(scope="session")
def image_beton(image_folder) -> Path:
    from loaders.beton.convert import convert
    from loaders.datasets.folder import class_tree

    target = image_folder.parent / "images.beton"
    convert(class_tree(image_folder), target)
    return target


@pytest.fixture
def ffcv_loader() -> ModuleType:
    """FFCV's module ``loader``, mended by ours of what it does to numba's types for the rest of the process."""
    loader = pytest.importorskip("ffcv.loader")
    importlib.import_module("loaders.sources.beton")
    return loader


@pytest.hookimpl(wrapper=True)
def pytest_collection(session: pytest.Session):
    """Imports the tests. What that brings stays, and garbage is looked for among newer objects alone."""
    if session.config.getoption("dist", "no") != "no":  # this process only hands tests to others, and needs no torch
        return (yield)
    with late_imports():
        import torch

        if not torch.cuda.is_available():  # Triton's kernels run in its interpreter; read when triton is first imported
            os.environ.setdefault("TRITON_INTERPRET", "1")
        return (yield)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item, call):
    """File names that are no UTF-8 are printed by some tests; xdist cannot send them between its processes."""
    report = yield
    report.sections = [(title, text.encode("utf-8", "backslashreplace").decode()) for title, text in report.sections]
    return report
