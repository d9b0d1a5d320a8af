"""The notebook of the demo: what a kernel would run of it, on few images and for an epoch."""

import json

import torch

from loaders.beton.convert import convert
from loaders.datasets.folder import class_tree
from tests.helpers import named_data
from tests.helpers.documents import ROOT

NOTEBOOK = json.loads((ROOT / "examples/demo.ipynb").read_text())
SHORTER = {
    "from IPython.display import display\n": "",
    "train.epochs=8": "train.epochs=1",
    "optim.warmup_epochs=1": "optim.warmup_epochs=0",
}


def test_it_holds_no_output_and_every_cell_has_a_name():
    cells = NOTEBOOK["cells"]
    assert NOTEBOOK["nbformat"] == 4 and len({cell["id"] for cell in cells}) == len(cells)
    assert not [cell for cell in cells if cell.get("outputs") or cell.get("execution_count")]


def test_its_cells_run_in_turn(tmp_path, monkeypatch, capsys):
    named_data.write_images(tmp_path / "images")
    for part in ("train", "val"):  # in the place of those that the notebook draws
        (tmp_path / "data/demo").mkdir(parents=True, exist_ok=True)
        convert(class_tree(tmp_path / "images"), tmp_path / f"data/demo/demo_{part}.beton")
    monkeypatch.chdir(tmp_path)
    shown: list = []
    names: dict = {"display": shown.append}  # there is no IPython
    for cell in NOTEBOOK["cells"]:
        if cell["cell_type"] == "code":
            text = "".join(cell["source"])
            for long, short in SHORTER.items():
                text = text.replace(long, short)
            exec(compile(text, f"cell {cell['id']}", "exec"), names)
    assert [picture.size for picture in shown] == [(400, 600), (480, 480)]
    assert "trained" in capsys.readouterr().out and set(names["accuracy"]) == {"untrained", "trained"}
    assert (tmp_path / "runs/notebook/report.html").is_file()
    assert torch.isfinite(names["bank"].features).all()
