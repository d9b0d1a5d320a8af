"""The sheet of crops, and what is said about it."""

import sys

import numpy as np
import pytest
import torch
from PIL import Image

from fastintl.config import load
from fastintl.data import multi_crop
from fastintl.report import crop_sheet
from loaders import make_loader
from loaders.sources import open_images
from tools import show_crops

SMALL = ["crops.sizes=[32,24]", "crops.scales=[[0.3,1],[0.1,0.5]]", "crops.blur=[0.5,0.5]", "crops.solarize=[0.1,0.1]"]


@pytest.fixture(autouse=True)
def all_sources():
    pytest.importorskip("ffcv")
    pytest.importorskip("nvidia.dali")


def draw(capsys, path, *arguments) -> str:
    show_crops.main(["--out", str(path), *map(str, arguments), *SMALL])
    return capsys.readouterr().out


def test_every_source_that_can_run_has_a_row(image_beton, image_folder, tmp_path, capsys):
    said = draw(capsys, tmp_path / "deep" / "beton.png", "--data", image_beton, "--samples", 2)
    assert "2 images through ffcv, dali, memory, folder" in said and said.count("grey levels of mean") == 3
    beton = Image.open(tmp_path / "deep" / "beton.png")
    said = draw(capsys, tmp_path / "folder.png", "--data", image_folder, "--samples", 2)
    assert "2 images through dali, memory, folder" in said and "without ffcv: FFCV reads .beton files" in said
    folder = Image.open(tmp_path / "folder.png")
    assert beton.width == folder.width and beton.height > folder.height
    one = draw(capsys, tmp_path / "one.png", "--data", image_beton, "--ids", "7")
    assert "1 images through" in one and Image.open(tmp_path / "one.png").height < beton.height


def test_the_rows_are_the_crops_that_the_loader_makes(image_beton):
    recipe, samples = multi_crop(load(None, SMALL).crops), [9, 4, 31]
    rows, left_out = crop_sheet.through_every_source(open_images(image_beton), recipe, samples, 5, 2)
    assert [row.label for row in rows] == ["ffcv", "dali", "memory", "folder"] and left_out == []
    for row in rows:
        assert row.ids == samples
        loader = make_loader(image_beton, recipe, 3, source=row.label, seed=5, epoch=2, samples=samples)
        batch = next(iter(loader))
        loader.close()
        for place, sample in enumerate(batch.ids.tolist()):
            i = samples.index(sample)
            assert row.images[i].shape == rows[0].images[i].shape
            assert np.array_equal(row.draws[i], rows[0].draws[i])
            for view, levels in zip(batch.views, row.views[i], strict=True):
                expected = view[place] * torch.tensor(recipe.std)[:, None, None]
                expected = (expected + torch.tensor(recipe.mean)[:, None, None]).clamp(0, 1) * 255
                np.testing.assert_allclose(levels, expected.permute(1, 2, 0), atol=0.01)
            assert np.mean(row.differences(rows[0], i)) < 2


def test_boxes_tiles_and_frames_lie_where_they_should(image_beton, tmp_path, capsys):
    draw(capsys, tmp_path / "x.png", "--data", image_beton, "--ids", "3", "--seed", "4")
    sheet = np.asarray(Image.open(tmp_path / "x.png").convert("RGB")).astype(int)
    for v in (0, 1):
        colour = [int(crop_sheet.colour_of(v)[i : i + 2], 16) for i in (1, 3, 5)]
        rows, columns = np.nonzero((sheet == colour).all(axis=2))
        left = crop_sheet.view_left(v)
        framed = rows[columns == left]
        assert len(framed) == 4 * crop_sheet._TILE  # one tile a source, as high as it should be
        boxed = columns < crop_sheet.view_left(0) - crop_sheet._GAP
        assert boxed.any() and columns[boxed].min() >= crop_sheet._GAP + crop_sheet._LABEL


def test_a_missing_decoder_is_named_on_the_sheet_and_below(image_beton, tmp_path, capsys, monkeypatch):
    all_rows = draw(capsys, tmp_path / "all.png", "--data", image_beton, "--samples", 1)
    assert "without" not in all_rows
    monkeypatch.setitem(sys.modules, "ffcv", None)
    monkeypatch.setitem(sys.modules, "ffcv.loader", None)
    monkeypatch.delitem(sys.modules, "loaders.sources.beton", raising=False)
    said = draw(capsys, tmp_path / "x.png", "--data", image_beton, "--samples", 1)
    assert "through dali, memory, folder" in said and "without ffcv: FFCV does not load" in said


def test_a_large_data_set_is_not_decoded_for_the_memory_row(image_beton, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(crop_sheet, "_MOST_IN_MEMORY", 10)
    said = draw(capsys, tmp_path / "x.png", "--data", image_beton, "--samples", 1)
    assert "without memory: it would decode all 60 images first" in said


@pytest.mark.parametrize(
    "arguments, words",
    [
        (["--ids", "60"], "--ids 60: the dataset's images have the numbers 0 to 59"),
        (["--ids", "1,two"], "--ids 1,two: give whole numbers"),
        (["--samples", "0"], "--samples 0: the dataset has 60 images"),
        (["--data", "nowhere"], "nowhere does not exist"),
        (["--data", ""], "data.root"),
        (["--rcfg", "nowhere.yaml"], "nowhere.yaml: cannot be read"),
        (["crops.size=3"], "unknown key crops.size"),
        (["--out", "/"], "/ cannot be written"),
    ],
)
def test_mistakes_get_one_sentence(arguments, words, image_beton, capsys):
    given = [] if arguments == ["--data", ""] else ["--data", str(image_beton), *arguments]
    with pytest.raises(SystemExit) as exit_:
        show_crops.main(given)
    error = capsys.readouterr().err
    assert exit_.value.code == 2 and error.startswith("error: ") and error.count("\n") == 1 and words in error
