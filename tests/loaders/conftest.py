from pathlib import Path

import pytest

from loaders.beton.convert import convert
from loaders.datasets.folder import class_tree
from tests.helpers.images import write_mixed_images


@pytest.fixture(scope="session")
def mixed_folder(tmp_path_factory) -> Path:
    return write_mixed_images(tmp_path_factory.mktemp("mixed"))


@pytest.fixture(scope="session")
def converted(mixed_folder, tmp_path_factory) -> Path:
    """The folder in which an undisturbed conversion left ``p.beton`` and the list of unreadable images."""
    folder = tmp_path_factory.mktemp("converted")
    convert(class_tree(mixed_folder), folder / "p.beton", threads=1)
    return folder
