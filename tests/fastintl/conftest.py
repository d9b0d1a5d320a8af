from pathlib import Path

import pytest
import training


@pytest.fixture(scope="session")
def pictures(tmp_path_factory) -> Path:
    return training.write_pictures(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="session")
def finished(tmp_path_factory, pictures) -> Path:
    """The output folder of a run that nothing interrupted."""
    out = tmp_path_factory.mktemp("finished")
    result = training.train(out, pictures, eval__baselines="true")
    assert result.returncode == 0, result.stderr
    return out


@pytest.fixture(scope="session")
def finished_by_two(tmp_path_factory, pictures) -> Path:
    """The same on two ranks, without the baselines."""
    out = tmp_path_factory.mktemp("finished_by_two")
    result = training.train(out, pictures, 2)
    assert result.returncode == 0, result.stderr
    return out
