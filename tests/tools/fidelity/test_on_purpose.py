"""How much it changes what is done otherwise than by the authors, measured another way."""

import numpy as np
import pytest
import torch
import torchvision.transforms.functional as functional
from PIL import Image, ImageFilter

from tools.fidelity import on_purpose


def test_the_blurs_are_torchvisions_and_pillows():
    image = torch.randint(256, (224, 224, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    apart, most, changed = (row["size"] for row in on_purpose.gaussian_blur([Image.fromarray(image.numpy())]))
    sigma = np.random.default_rng(0).uniform(0.1, 2.0)
    taps = 2 * int(np.ceil(3 * sigma)) + 1
    ours = functional.gaussian_blur(image.permute(2, 0, 1).double(), [taps, taps], [sigma, sigma])
    sharp = image.permute(2, 0, 1).double()
    theirs = np.asarray(Image.fromarray(image.numpy()).filter(ImageFilter.GaussianBlur(sigma)), float)
    theirs = torch.from_numpy(theirs).permute(2, 0, 1)
    assert apart == pytest.approx((theirs - ours).abs().mean().item(), rel=1e-6)
    assert most == pytest.approx((theirs - ours).abs().max().item(), rel=1e-6)
    assert changed == pytest.approx((theirs - sharp).abs().mean().item(), rel=1e-6)
    assert apart < most and apart < changed
