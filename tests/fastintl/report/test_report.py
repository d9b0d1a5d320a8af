"""The pages of runs: what they say is in the run folder, and they need nothing from elsewhere."""

import json
import logging
import re
import shutil
from html.parser import HTMLParser

import pytest

from fastintl.report import chart, comparison, numbers, panels, run_page
from fastintl.report.chart import Level, Line, Scale
from fastintl.report.record import RunRecord
from loaders.errors import UserError

_VOID = {"meta", "link", "img", "br"}


class Page(HTMLParser):
    """Reads a page: its text, and whether every tag is closed."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.open, self.text, self.links = [], "", []
        self.feed(html)
        self.close()
        assert not self.open

    def handle_starttag(self, tag, attributes):
        if tag not in _VOID:
            self.open.append(tag)
        self.links += [value for name, value in attributes if name in ("href", "src", "xlink:href")]

    def handle_startendtag(self, tag, attributes):
        pass

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open[-1:] != ["style"]:
            self.text += data + " "


def needs_nothing(html: str) -> bool:
    return all(link.startswith("data:") for link in Page(html).links) and not re.search(r"url\(|@import|<script", html)


@pytest.fixture
def folder(finished, tmp_path):
    """A copy of a finished run, free to be changed."""
    for path in (finished / "run").iterdir():
        if path.is_file():
            (tmp_path / "run").mkdir(exist_ok=True)
            shutil.copy(path, tmp_path / "run")
    return tmp_path / "run"


def test_the_page_of_a_run_tells_what_its_folder_holds(folder):
    html = run_page.draw(RunRecord(folder))
    assert needs_nothing(html)
    text = Page(html).text
    summary = json.loads((folder / "summary.json").read_text())
    assert numbers.percent(summary["knn_top1"]["trained"]) in text
    assert f"untrained {numbers.percent(summary['knn_top1']['untrained'])}" in text
    for words in ("finished", "24 of 24", "model.arch", "resnet8", "torch", "after whitening", "-m fastintl"):
        assert words in text
    assert html.count("<svg viewBox") >= 8 and 'src="data:image/png;base64,' in html
    assert "nothing measured yet" not in text


def test_a_run_under_way_has_a_page_from_the_first(folder):
    for name in ("summary.json", "crops.png", "report.html", "metrics.jsonl", "starts.jsonl"):
        (folder / name).unlink()
    text = Page(run_page.draw(RunRecord(folder))).text
    assert "under way, or stopped" in text and text.count("nothing measured yet") == 8
    (folder / "metrics.jsonl").write_text('{"step": 4, "epoch": 0.5, "loss": NaN, "lr": 0.1}\n{"step": 6, "ep')
    text = Page(run_page.draw(RunRecord(folder))).text
    assert "at step 4" in text and "lines 2 of metrics.jsonl" in text


def test_names_and_settings_are_text_and_no_markup(folder):
    config = (folder / "config.yaml").read_text().replace("name: imagenet", "name: <b>&")
    (folder / "config.yaml").write_text(config)
    html = run_page.draw(RunRecord(folder, label="<script>alert(1)</script>"))
    assert needs_nothing(html) and "<script>alert(1)</script>" in Page(html).text


def test_a_page_that_cannot_be_written_is_a_warning(folder, caplog):
    (folder / "report.html").unlink()
    (folder / "report.html").mkdir()
    with caplog.at_level(logging.WARNING):
        run_page.refresh_report(folder)
    assert "report.html cannot be written now" in caplog.text


def test_the_page_of_a_run_under_way_takes_one_percent_of_its_time(folder, monkeypatch):
    now, drawn = [0.0], []

    def draw_in(seconds):
        drawn.append(now[0])
        now[0] += seconds

    monkeypatch.setattr(run_page.time, "monotonic", lambda: now[0])
    monkeypatch.setattr(run_page, "refresh_report", lambda folder: draw_in(2 + len(drawn)))
    under_way = run_page.PageOfARun(folder)
    for _ in range(2000):  # epochs of ten seconds
        under_way.refresh_if_due()
        now[0] += 10
    assert drawn[:3] == [0.0, 202.0, 505.0]  # after 200 s for a drawing of 2 s, after 300 s for one of 3 s
    spent = sum(2 + i for i in range(len(drawn)))
    assert spent <= 0.011 * now[0]


def test_a_collapse_is_said_on_the_page(folder):
    with open(folder / "metrics.jsonl", "a") as file:
        row = {"step": 24, "epoch": 4, "effective_rank_whitened": 1.5, "possible_rank": 8, "collapse_limit": 2}
        file.write(json.dumps(row) + "\n")
    assert "The embedding has collapsed" in Page(run_page.draw(RunRecord(folder))).text


def test_runs_are_compared_by_results_and_differing_settings(folder, tmp_path):
    shutil.copytree(folder, tmp_path / "other")
    config = (folder / "config.yaml").read_text()
    (tmp_path / "other" / "config.yaml").write_text(config.replace("lr: 0.5", "lr: 0.25") + "new_key: 1\n")
    runs = [RunRecord(folder), RunRecord(tmp_path / "other")]
    assert comparison.differing_settings(runs) == [("optim.lr", ["0.5", "0.25"]), ("new_key", ["–", "1"])]
    assert dict(comparison.results(runs))["steps"] == ["24", "24"]
    html = comparison.draw(runs)
    assert needs_nothing(html)
    charts = len(re.findall("<svg viewBox[^>]*role", html))
    assert charts == 6
    for i, run in enumerate(runs):  # a line in every chart, a name in every legend and above both tables
        assert html.count(f'class="line s{i} ') == 2 * charts and html.count(f">{run.label}<") == charts + 2
    same = comparison.draw([runs[0], RunRecord(folder, "twin")])
    assert "the runs have the same settings" in same


def test_a_folder_without_a_run_is_named(tmp_path):
    with pytest.raises(UserError, match="is no run: there is no .*config.yaml"):
        RunRecord(tmp_path)


def test_a_line_goes_through_its_values():
    x, y = [0.0, 1.0, 2.0, 4.0], [1.0, 100.0, 10.0, 1000.0]
    for log in (False, True):
        svg = chart.draw([Line("a", x, y)], name="a", log=log, low=1.0, high=1000.0)
        path = re.search(r'class="line s0" d="M([^"]+)"', svg)[1]
        points = [tuple(map(float, pair.split())) for pair in path.split("L")]
        share = [(point[1] - points[0][1]) / (points[3][1] - points[0][1]) for point in points]
        expected = [0, 2 / 3, 1 / 3, 1] if log else [0, 99 / 999, 9 / 999, 1]
        assert share == pytest.approx(expected, abs=1e-3)
        assert [(p[0] - points[0][0]) / (points[3][0] - points[0][0]) for p in points] == pytest.approx(
            [0, 0.25, 0.5, 1], abs=1e-3
        )


def test_a_long_line_is_thinned_to_means_between_least_and_most():
    x, y = list(range(10_000)), [float(i % 2) for i in range(10_000)]
    svg = chart.draw([Line("a", x, y)], [Level("b", 0.5)], name="a")
    assert len(svg) < 20_000 and 'class="band s0"' in svg
    heights = {pair.split()[1] for pair in re.search(r'class="line s0" d="M([^"]+)"', svg)[1].split("L")}
    assert len(heights) <= 3  # near the mean everywhere


@pytest.mark.parametrize("values", [[], [3.0], [2.0, 2.0], [0.0, 1e-9], [-5.0, 1e6]])
@pytest.mark.parametrize("log", [False, True])
def test_a_scale_holds_its_values_and_some_ticks(values, log):
    scale = Scale.around(values, log)
    assert scale.low < scale.high
    for value in values:
        assert (0 < scale(value) < 1) or (log and value <= 0)
    assert all(scale.low <= tick <= scale.high for tick in scale.ticks()) and 1 <= len(scale.ticks()) <= 12


@pytest.mark.parametrize(
    "text, shown",
    [
        (numbers.compact(0), "0"),
        (numbers.compact(2.9278), "2.93"),
        (numbers.compact(1234.5), "1,234"),
        (numbers.compact(56_000), "56k"),
        (numbers.compact(7_100_000), "7.1M"),
        (numbers.compact(1e-4), "10⁻⁴"),
        (numbers.compact(1.6e-5), "1.6×10⁻⁵"),
        (numbers.percent(0.926), "92.6 %"),
        (numbers.short_percent(0.025), "2.5 %"),
        (numbers.duration(0.033), "33 ms"),
        (numbers.duration(3.21), "3.2 s"),
        (numbers.duration(45), "45 s"),
        (numbers.duration(59.8), "1 min"),
        (numbers.duration(163), "2 min 43 s"),
        (numbers.duration(3599.9), "1 h"),
        (numbers.duration(5 * 3600 + 181), "5 h 3 min"),
        (numbers.duration(52 * 3600), "2 d 4 h"),
        (numbers.memory(13.2 * 2**30), "13.2 GiB"),
    ],
)
def test_numbers_read_well(text, shown):
    assert text == shown


def test_eigenvalues_before_whitening_are_drawn_with_mean_one(folder):
    row = next(row for row in RunRecord(folder).rows if "spectrum" in row)
    every = [panels._eigenvalue(row, "before", i) for i in range(len(row["spectrum"]["ranks"]))]
    assert len(every) == row["possible_rank"] == 8  # so few that all are listed
    assert sum(every) / len(every) == pytest.approx(1, rel=1e-3)


def test_a_run_of_intl_has_its_loss_in_parts(folder):
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    told = [row for row in rows if "loss_trace" in row]
    assert told and all(row["loss_alignment"] + row["loss_trace"] == pytest.approx(row["loss"], 1e-4) for row in told)
    text = Page(run_page.draw(RunRecord(folder))).text
    assert "Parts of the loss" in text and "Gradient norm" in text


def test_a_line_tells_its_values_under_the_pointer():
    svg = chart.draw([Line("a<b", [float(i) for i in range(1000)], [2.0 * i for i in range(1000)])], name="a")
    told = re.findall(r'class="hit"[^>]*><title>a&lt;b: ([\d.,k]+), epoch ([\d.,k]+)</title>', svg)
    assert 24 <= len(told) <= 48 and told[0] == ("1,995", "998")  # means of 996 to 999
    few = chart.draw([Line("a", [0.0, 1.0], [0.5, 0.25])], name="a", number=numbers.percent)
    assert re.findall(r"<title>(.*?)</title>", few) == ["a: 25.0 %, epoch 1", "a: 50.0 %, epoch 0"]
