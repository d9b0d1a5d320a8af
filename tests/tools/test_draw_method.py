"""tools/draw_method.py draws the spectra of runs, the same file for the same numbers."""

import json
import sys
import xml.etree.ElementTree as ElementTree

from fastintl import config as configuration
from tests.helpers import training, warm_python

TOOL = training.ROOT / "tools" / "draw_method.py"


def write_run(folder, spectra=3):
    folder.mkdir(parents=True)
    (folder / "config.yaml").write_text(configuration.to_yaml(configuration.load(None)))
    listed = {"ranks": [1, 2, 4], "before": [4.0, 1.0, 0.0], "after": [1.0, 0.9, 0.0]}
    ranks = {"effective_rank": 1.8, "effective_rank_whitened": 2.0}
    rows = [{"step": i, "epoch": i / 2, "loss": 1.0} for i in range(1, 4)]
    for row in rows[:spectra]:
        row |= {**ranks, "spectrum": listed}
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def draw(*words):
    return warm_python.run([sys.executable, TOOL, *words])


def test_runs_are_drawn_side_by_side_and_alike_every_time(tmp_path):
    runs = [write_run(tmp_path / name) for name in ("first", "second")]
    files = []
    for out in (tmp_path / "a", tmp_path / "b"):
        result = draw(*runs, "--out", out)
        assert result.returncode == 0, result.stderr
        files.append({path.name: path.read_text() for path in out.iterdir()})
    assert files[0] == files[1] and set(files[0]) == {"map.svg", "spectra.svg", "rank.svg"}
    for text in files[0].values():  # readable on white and on black: see-through, in a grey between the two
        assert "#ffffff" not in text and "#000000" not in text
    for name in ("spectra.svg", "rank.svg"):
        text = "".join(ElementTree.fromstring(files[0][name]).itertext())
        assert "first" in text and "second" in text


def test_a_run_without_spectra_is_named(tmp_path):
    result = draw(write_run(tmp_path / "bare", spectra=0), "--out", tmp_path / "figures")
    assert result.returncode != 0 and "Traceback" not in result.stderr
    assert "bare has no spectrum" in result.stderr and "log.spectrum_every" in result.stderr
