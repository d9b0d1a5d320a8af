"""Checkpoints, metrics and clock: what a run keeps of itself."""

import json

import pytest
import torch

from fastintl import config as configuration
from fastintl.config.options import differences
from fastintl.runs.checkpoint import Checkpoints
from fastintl.runs.clock import Clock
from fastintl.runs.metrics_file import MetricsFile, parse_metrics, read_metrics
from fastintl.runs.summary import summarise


def test_the_last_two_checkpoints_are_kept_and_those_kept_for_good(tmp_path):
    checkpoints = Checkpoints(tmp_path / "checkpoints", keep_every=2)
    assert checkpoints.load_latest() is None
    for epoch in range(1, 6):
        checkpoints.save({"step": 10 * epoch, "w": torch.full((3,), float(epoch))}, 10 * epoch, epoch)
    names = sorted(path.name for path in checkpoints.folder.iterdir())
    assert names == ["epoch_0002.pt", "epoch_0004.pt", "step_00000040.pt", "step_00000050.pt"]
    assert torch.equal(checkpoints.load_latest()["w"], torch.full((3,), 5.0))
    assert torch.load(checkpoints.folder / "epoch_0002.pt", weights_only=True)["step"] == 20


def test_a_save_that_fails_leaves_the_older_checkpoint_whole(tmp_path):
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save({"step": 1}, 1)

    class Unwritable:
        def __reduce__(self):
            raise RuntimeError("cannot be written")

    with pytest.raises(RuntimeError):
        checkpoints.save({"step": 2, "x": Unwritable()}, 2)
    assert checkpoints.load_latest() == {"step": 1}


def test_resuming_drops_what_will_be_written_again_and_a_line_cut_short(tmp_path):
    path = tmp_path / "metrics.jsonl"
    rows = [{"step": step, "loss": 1.0} for step in (0, 2, 4, 6)]
    lines = [json.dumps(row) for row in rows]
    path.write_text("\n".join([*lines[:1], "not a row", "[1]", *lines[1:], '{"step": 8, "lo']))
    assert parse_metrics(path) == (rows, [2, 3, 7])
    metrics = MetricsFile(path, step=4, warn=pytest.fail)
    metrics.write(step=6, loss=2.0)
    assert read_metrics(path) == [*rows[:3], {"step": 6, "loss": 2.0}]


def test_the_clock_runs_inside_with_only(monkeypatch):
    now = 0.0
    monkeypatch.setattr("fastintl.runs.clock.time.perf_counter", lambda: now)
    clock = Clock()
    with clock:
        now = 2.0
        clock.count(10, waited=0.5)
    now = 100.0  # an evaluation
    with clock:
        now = 102.0
        clock.count(10, waited=0.5)
        assert clock.read() == {"images_per_second": 5.0, "data_wait": 0.25}
        now = 103.0
        clock.count(10, waited=0.0)
    assert clock.total == 5.0
    with clock:
        assert clock.read() == {"images_per_second": 10.0, "data_wait": 0.0}


def test_the_clock_stands_still_where_it_is_paused(monkeypatch):
    now = 0.0
    monkeypatch.setattr("fastintl.runs.clock.time.perf_counter", lambda: now)
    clock = Clock()
    with clock:
        now = 2.0
        with clock.paused():
            now = 50.0
        now = 51.0
        clock.count(30, waited=0.0)
        assert clock.read() == {"images_per_second": 10.0, "data_wait": 0.0}
    assert clock.total == 3.0


def test_the_first_step_counts_apart_also_after_a_restart(monkeypatch):
    now = 0.0
    monkeypatch.setattr("fastintl.runs.clock.time.perf_counter", lambda: now)
    clock = Clock()
    for start in (0.0, 100.0):
        now = start
        with clock:
            clock.count(10, waited=0.5)
            now += 30.0
            assert clock.first_step() == 30.0
            assert clock.read() == {}
            for _ in range(2):
                clock.count(10, waited=0.0)
                now += 1.0
            assert clock.read() == {"images_per_second": 10.0, "data_wait": 0.0}
        state = clock.state_dict()
        clock = Clock()
        clock.load_state_dict(state)
    assert clock.total == 64.0 and clock.images_per_second == 10.0
    assert Clock().images_per_second is None


def test_only_settings_that_change_the_result_are_refused():
    def changed(*words: str) -> list[str]:
        return differences(configuration.load(None, words), saved, "result")

    saved = configuration.load(None, ["data.train=a", "log.every=3"])
    assert changed("data.train=b", "data.train_labelled=c", "train.max_steps=5", "out=c", "eval.k=9", "name=d") == []
    assert changed("seed=1", "train.batch_size=128", "data.name=cifar10") == ["seed", "data.name", "train.batch_size"]


def test_the_summary_takes_the_last_of_each_figure():
    rows = [
        {"step": 0, "knn_top1_chance": 0.1, "knn_top1_untrained": 0.2},
        {"step": 5, "loss": 3.0},
        {"step": 5, "knn_top1": 0.4},
        {"step": 10, "loss": 2.0},
        {"step": 10, "knn_top1": 0.5},
    ]
    clock = Clock()
    clock.load_state_dict({"total": 5.0, "seconds": 4.0, "pictures": 80})
    summary = summarise(rows, configuration.load(None, ["train.batch_size=8"]), step=10, clock=clock)
    assert summary["train_seconds"] == 5.0
    assert summary["knn_top1"] == {"chance": 0.1, "untrained": 0.2, "trained": 0.5}
    assert summary["loss"] == 2.0 and summary["images_per_second"] == 20.0
