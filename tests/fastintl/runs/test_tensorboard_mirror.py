"""TensorBoard as a mirror: its own reader finds in it what the run wrote to metrics.jsonl."""

import json
import logging
import shutil
import sys

import pytest

from fastintl import config
from fastintl.runs.folder import RunFolder
from fastintl.runs.tensorboard_mirror import TensorboardMirror
from loaders.errors import UserError
from tests.helpers import training


@pytest.mark.slow
def test_tensorboard_has_the_numbers_and_the_crops(images, tmp_path):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    ended = training.train(tmp_path, images, log__tensorboard="true", train__max_steps=6, eval__every=0)
    assert ended.returncode == 0, ended.stderr
    events = EventAccumulator(str(tmp_path / "run" / "tensorboard")).Reload()
    rows = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    for key in ("loss", "lr", "gradient_norm"):
        mirrored = [(event.step, event.value) for event in events.Scalars(key)]
        assert mirrored == [(row["step"], pytest.approx(row[key], rel=1e-6)) for row in rows if key in row]
    assert events.Images("crops")[0].encoded_image_string.startswith(b"\x89PNG")


def test_without_the_package_it_is_one_sentence(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)  # as where it is not installed
    TensorboardMirror(config.load(None), RunFolder(tmp_path), 0).log({"loss": 1.0}, 1)  # off: nothing is asked for
    with pytest.raises(UserError, match="log.tensorboard=true needs a package: pip install tensorboard"):
        TensorboardMirror(config.load(None, ["log.tensorboard=true"]), RunFolder(tmp_path), 0)


def test_what_fails_there_is_told_once_and_the_run_goes_on(tmp_path, caplog):
    pytest.importorskip("tensorboard")
    mirror = TensorboardMirror(config.load(None, ["log.tensorboard=true"]), RunFolder(tmp_path), 0)
    shutil.rmtree(tmp_path / "tensorboard")
    with caplog.at_level(logging.WARNING):
        mirror.show("crops", tmp_path / "gone.png", 0)
        mirror.log({"loss": 1.0}, 1)
        mirror.close()
    assert caplog.text.count("tensorboard mirrors nothing from here on") == 1
