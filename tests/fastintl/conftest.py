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
