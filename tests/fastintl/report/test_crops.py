"""The image of a run's crops against the views that the loader cuts."""

import numpy as np
import torch
from PIL import Image

from fastintl.report import crops
from loaders import CropSpec, MultiCrop, make_loader


def test_each_view_stands_in_its_row_and_epoch_on_nothing(image_folder, tmp_path):
    recipe = MultiCrop((CropSpec(crops._TILE, blur=0), CropSpec(crops._TILE // 3)))
    loader = make_loader(image_folder, recipe, batch_size=4, seed=2, source="folder", threads=1)
    crops.draw_crops(loader, recipe, tmp_path / "crops.png")
    sheet = np.array(Image.open(tmp_path / "crops.png"))
    shown = sheet[..., 3] > 0
    assert not shown[-1].any() and not shown[:, -1].any()
    for epoch in range(crops._EPOCHS):
        _, views = loader.crops(0, epoch)
        left, top = crops._COLUMN + epoch * (crops._TILE + crops._GAP), crops._TITLE
        for view in views:  # as large as it is shown, so nothing is resized
            side = view.shape[-1]
            at = left + (crops._TILE - side) // 2
            found = sheet[top : top + side, at : at + side, :3] / 255
            std, mean = (torch.tensor(values)[:, None, None] for values in (recipe.std, recipe.mean))
            expected = (view * std + mean).clip(0, 1).permute(1, 2, 0).numpy()
            # Cubic interpolation at no change of size is the identity.
            assert abs(found - expected).max() <= 0.5 / 255 + 1e-6
            top += side + crops._GAP
    loader.close()
