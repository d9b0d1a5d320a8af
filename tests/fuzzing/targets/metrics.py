"""What a run folder keeps in JSON lines and YAML, damaged: the page of the run, or one sentence."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path

from hypothesis import strategies as st

from fastintl import config as configuration
from fastintl.report.page_file import write_page
from fastintl.runs.clock import Clock
from fastintl.runs.metrics_file import MetricsFile, read_metrics
from fastintl.runs.summary import print_table, summarise
from tests.fuzzing import refusals
from tests.fuzzing.targets.beton import changed

_KEYS = [
    "step", "epoch", "loss", "lr", "images_per_second", "data_wait", "knn_top1", "knn_top1_chance", "linear_top1",
    "knn_top1_untrained", "last_step", "date", "device", "gradient_norm", "skipped_steps", "first_step_seconds",
]  # fmt: skip
_leaf = st.one_of(
    st.none(), st.booleans(), st.integers(-5, 50), st.integers(), st.floats(), st.text(max_size=10),
    st.just("<script>alert(1)</script>"),
)  # fmt: skip
_value = st.one_of(_leaf, st.lists(_leaf, max_size=3), st.dictionaries(st.text(max_size=5), _leaf, max_size=2))
_row = st.dictionaries(st.sampled_from(_KEYS), _value, max_size=6)
_sound = st.builds(
    lambda step, loss: {"step": step, "epoch": step / 4, "loss": loss}, st.integers(0, 20), st.floats(0, 9)
)
_line = st.one_of(
    st.builds(json.dumps, st.one_of(_sound, _row)), st.text(max_size=20), st.sampled_from(["[" * 5000, "1" * 5000])
)
_lines = st.lists(_line, max_size=6)
_changes = st.lists(st.tuples(st.sampled_from(["set", "cut"]), st.integers(0, 3000), st.integers(0, 255)), max_size=2)
examples = st.fixed_dictionaries({"metrics": _lines, "starts": _lines, "summary": _line, "config": _changes})
CONFIG = configuration.load(None)


def check(example: dict) -> None:
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place) / "run"
        folder.mkdir()
        for name, lines in (("metrics.jsonl", example["metrics"]), ("starts.jsonl", example["starts"])):
            (folder / name).write_text("\n".join(lines), errors="surrogatepass")
        (folder / "summary.json").write_text(example["summary"], errors="surrogatepass")
        (folder / "config.yaml").write_bytes(changed(configuration.to_yaml(CONFIG).encode(), example["config"]))
        with refusals():
            page = write_page([folder]).read_text()
            assert page.startswith("<!doctype html>") and "<script>alert" not in page
        with refusals():
            write_page([folder, folder], Path(place) / "two.html")
        warnings: list[str] = []
        file = MetricsFile(folder / "metrics.jsonl", 10, warnings.append)
        file.write(step=11, loss=0.5)
        rows = read_metrics(folder / "metrics.jsonl")
        assert rows[-1] == {"step": 11, "loss": 0.5} and all(row["step"] <= 11 for row in rows)
        print_table(summarise(rows, CONFIG, 11, Clock()), CONFIG, folder)
