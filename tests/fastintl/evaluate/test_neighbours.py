"""What a run learnt, to look at: against scikit-learn's neighbours and components, and in a real browser."""

import html
import json
import re
import shutil
import subprocess
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from sklearn.decomposition import PCA
from sklearn.neighbors import NearestNeighbors

from fastintl.evaluate.features import load_features
from fastintl.evaluate.nearest import knn
from fastintl.evaluate.neighbours import principal_components
from fastintl.report import neighbours, run_page
from fastintl.report.record import RunRecord
from tools import neighbours as tool

BROWSER = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


@pytest.fixture(scope="module")
def run(finished, tmp_path_factory) -> Path:
    """A finished run, free to be added to, with its neighbours."""
    folder = tmp_path_factory.mktemp("neighbours") / "run"
    shutil.copytree(finished / "run", folder)
    look(folder)
    return folder


def look(folder: Path, *words: str) -> None:
    tool.main.__wrapped__([str(folder), "--features", str(folder / "features"), "--device", "cpu", *words])


def features(folder: Path, count: int):
    every = [load_features(path) for path in (folder / "features").iterdir()]
    return next(stored for stored in every if len(stored.labels) == count)


def test_the_nearest_are_those_of_scikit_learn():
    rng = np.random.default_rng(0)
    bank, queries = rng.normal(size=(60, 7)).astype(np.float32), rng.normal(size=(9, 7)).astype(np.float32)
    square, index = knn.nearest(bank, queries, 4)
    distance, expected = NearestNeighbors(n_neighbors=4).fit(bank).kneighbors(queries)
    assert (index.numpy() == expected).all() and np.allclose(square.numpy() ** 0.5, distance, rtol=1e-5)


def test_accuracy_classes_and_pairs_are_counted_again(run):
    found = neighbours.read(run / "neighbours.json")
    bank, queries = features(run, 48), features(run, 15)
    nearest = NearestNeighbors(n_neighbors=5, algorithm="brute").fit(bank.features)
    index = nearest.kneighbors(queries.features)[1]
    voted = [np.bincount(bank.labels[row]).argmax() for row in index]  # of equal votes the smallest class
    pairs = list(zip(queries.labels.tolist(), np.array(voted).tolist(), strict=True))
    right = Counter(label for label, vote in pairs if label == vote)
    assert found.accuracy == pytest.approx(sum(right.values()) / 15)
    assert [tuple(row) for row in found.classes] == [(f"class{c}", right[c], 5) for c in range(3)]
    wrong = Counter((f"class{a}", f"class{b}") for a, b in pairs if a != b)
    assert {(a, b): count for a, b, count in found.confused} == wrong
    last = json.loads((run / "summary.json").read_text())["knn_top1"]["trained"]
    assert found.accuracy == pytest.approx(last)  # what the run itself measured


def test_what_is_marked_right_is_right(run):
    found = neighbours.read(run / "neighbours.json")
    some, wrong = found.galleries
    assert {tile.text for row in some.rows for tile in row[:1]} == {"class0", "class1", "class2"}
    for gallery in found.galleries:
        for query, *others in gallery.rows:
            assert len(others) == 5 and all(tile.right == (tile.text == query.text) for tile in others)
    assert not any(row[0].right for row in wrong.rows)
    assert len(wrong.rows) == round((1 - found.accuracy) * 15)


def test_the_map_is_that_of_scikit_learn():
    points = np.random.default_rng(1).normal(size=(30, 6)) * [5, 1, 3, 1, 1, 1]
    found, shares = principal_components(points - points.mean(0))
    model = PCA(2).fit(points)
    expected = model.transform(points)
    for n in range(2):
        sign = np.sign(found[:, n] @ expected[:, n])
        assert np.allclose(found[:, n], sign * expected[:, n])
    assert shares == pytest.approx(tuple(model.explained_variance_ratio_))
    assert (principal_components(np.zeros((5, 3)))[0] == 0).all()  # an embedding that collapsed to a point


def test_without_labels_nothing_is_claimed(run, monkeypatch, capsys):
    from fastintl.evaluate import neighbours as module

    original = module.cached_features

    def unlabelled(*arguments):
        stored = original(*arguments)
        labels = np.full_like(stored.labels, -1)
        return type(stored)(stored.features, labels, stored.ids, stored.meta)

    monkeypatch.setattr(module, "cached_features", unlabelled)
    out = run / "unlabelled.html"
    look(run, "--out", str(out), "--map", "pca")
    page = out.read_text()
    assert "accuracy" not in page.split("<main>")[1].split("<script")[0] and "✓" not in page and "✗" not in page
    assert "without labels nothing is right or wrong" in page and capsys.readouterr().out == f"page: {out}\n"


def test_an_image_is_no_neighbour_of_its_own(run):
    out = run / "alone.html"
    look(run, "--train", str(data_of(run) / "train"), "--out", str(out), "--map", "pca")
    page = out.read_text()
    assert "training images, each among the others" in page and "distance 0<" not in page
    square, index = knn.nearest(features(run, 48).features, features(run, 48).features, 3)
    assert (index[:, 0] == np.arange(48)).all()  # the search itself finds it


def data_of(run: Path) -> Path:
    return Path(re.search(r"root: (.*)", (run / "config.yaml").read_text())[1])


def test_the_report_holds_the_same_and_needs_nothing(run):
    for page in ((run / "report.html").read_text(), (run / "neighbours.html").read_text()):
        assert "Map of the embedding" in page and page.count('<svg class="map"') == 2  # t-SNE's by scikit-learn
        assert not re.search(r"""(src|href)=["'](?!data:)""", page) and "@import" not in page
    (run / "neighbours.json").write_text('{"title": 1}')
    assert "cannot be read (KeyError): write it again by tools/neighbours.py" in run_page.draw(RunRecord(run))
    look(run)


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["nowhere.pt"], "say by --out where the page goes"),
        (["nowhere.pt", "--out", "a.html"], "name the images by --train and --val, and --out"),
        (["nowhere.pt", "--val", "b", "--out", "a.html"], "name the images to search by --train, too"),
        (["RUN", "--k", "48"], "k-NN: k is 48"),
        (["RUN", "--map", "umap"], "--map umap needs a package: pip install umap-learn"),
    ],
)
def test_what_a_user_gets_wrong_is_one_sentence(run, words, says, capsys, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    if "umap" in words:
        pytest.importorskip("sklearn")
        monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    if "48" in words:
        words = [*words, "--train", str(data_of(run) / "train")]
    with pytest.raises(SystemExit):
        tool.main([str(run) if word == "RUN" else word for word in words])
    error = capsys.readouterr().err
    assert error.startswith("error: ") and says in error and error.count("\n") == 1


PROBE = """
const frame = document.querySelector("iframe"), inside = frame.contentDocument;
const root = inside.documentElement, map = inside.querySelector("svg.map"), tip = inside.querySelector(".tip");
map.scrollIntoView();
const box = map.children[3].getBoundingClientRect();
const at = {clientX: box.x + box.width / 2, clientY: box.y + box.height / 2, bubbles: true, pointerType: "mouse"};
map.dispatchEvent(new frame.contentWindow.PointerEvent("pointermove", at));
document.body.textContent = JSON.stringify({
  overflow: root.scrollWidth - root.clientWidth, shown: !tip.hidden, text: tip.innerText, on: inside.querySelectorAll(
  "svg.map .on").length, picture: tip.querySelector("img").naturalWidth, page: inside.defaultView.getComputedStyle(
  inside.body).backgroundColor, shots: inside.querySelectorAll("figure img").length});
"""


@pytest.mark.slow
@pytest.mark.skipif(BROWSER is None, reason="no chromium")
@pytest.mark.parametrize("page", ["report.html", "neighbours.html"])
@pytest.mark.parametrize(("width", "dark"), [(1280, False), (390, False), (390, True)])
def test_in_a_browser_it_fits_and_the_map_answers(run, tmp_path, page, width, dark):
    """At a desktop's and at a phone's width, within a frame, since windows are not so narrow."""
    source = html.escape((run / page).read_text())
    frame = f'<iframe style="width:{width}px;height:900px;border:0" srcdoc="{source}"></iframe>'
    wrapper = tmp_path / "frame.html"
    wrapper.write_text(
        f"<!doctype html><body>{frame}<script>onload = () => setTimeout(() => {{{PROBE}}}, 300)</script>"
    )
    scheme = ["--blink-settings=preferredColorScheme=0"] if dark else []
    options = ["--headless=new", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path / 'profile'}", *scheme]
    command = [BROWSER, *options, "--window-size=1400,1000", "--virtual-time-budget=4000", "--dump-dom"]
    ended = subprocess.run([*command, wrapper.as_uri()], capture_output=True, text=True, timeout=120)
    seen = json.loads(html.unescape(re.search(r"<body>(\{.*?\})</body>", ended.stdout, re.S)[1]))
    assert seen["overflow"] == 0, seen
    assert seen["shown"] and "class" in seen["text"] and seen["on"] == 2 and seen["picture"] > 0
    assert seen["shots"] > 36
    assert (seen["page"] == "rgb(16, 18, 20)") == dark
