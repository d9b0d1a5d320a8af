from pathlib import Path

import pytest
import torch

from tests.detection_sets import write_coco
from tests.helpers import probing, training
from tests.helpers.detecting import SIDE


@pytest.fixture(scope="session")
def images(tmp_path_factory) -> Path:
    return training.write_images(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="session")
def finished(tmp_path_factory, images) -> Path:
    """The output folder of a run that nothing interrupted."""
    out = tmp_path_factory.mktemp("finished")
    result = training.train(out, images, eval__baselines="true")
    assert result.returncode == 0, result.stderr
    return out


@pytest.fixture(scope="session")
def finished_by_two(tmp_path_factory, images) -> Path:
    """The same on two ranks, without the baselines."""
    out = tmp_path_factory.mktemp("finished_by_two")
    result = training.train_on_ranks(out, images, 2)
    assert result.returncode == 0, result.stderr
    return out


@pytest.fixture(scope="session")
def few_shapes(tmp_path_factory) -> Path:
    """For detectors trained for a few steps, which find a hundred things in every image of the test."""
    root = tmp_path_factory.mktemp("few_shapes")
    write_coco(root / "coco", 40, 6, SIDE)
    return root


@pytest.fixture(scope="session")
def probe_weights(tmp_path_factory) -> Path:
    """The file of a backbone that nothing trained, see ``probing.tool``."""
    path = tmp_path_factory.mktemp("weights") / "resnet8.pt"
    torch.save(probing.backbone().state_dict(), path)
    return path


@pytest.fixture
def one_thread():
    """The order of summation of the ranks and processes that a test starts."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
