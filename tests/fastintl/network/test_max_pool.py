"""The stem's max-pool against torch's, eagerly and compiled."""

import shutil

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from fastintl.network import max_pool

STEM = nn.MaxPool2d(kernel_size=3, stride=2, padding=1)


def output_and_gradient(function, x):
    x = x.detach().clone(memory_format=torch.preserve_format).requires_grad_()
    y = function(x)
    y.backward(torch.randn(y.shape, generator=torch.Generator().manual_seed(2)).to(y))
    return y, x.grad


def images(size, dtype):
    """Values with many ties, and one that is no number."""
    x = torch.randn(3, 4, *size, generator=torch.Generator().manual_seed(1)).round(decimals=1).to(dtype)
    x[1, 2, 3, 3] = torch.nan
    return x.to(memory_format=torch.channels_last)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("size", [(8, 8), (7, 9), (12, 5)])
def test_value_and_gradient_are_torchs(size, dtype):
    x = images(size, dtype)
    expected, expected_gradient = output_and_gradient(lambda x: STEM(F.relu(x)), x)
    found, gradient = output_and_gradient(max_pool._ReluMaxPool.apply, x)
    assert torch.equal(found.nan_to_num(7), expected.nan_to_num(7)) and found.stride() == expected.stride()
    assert torch.isnan(found).sum() == torch.isnan(expected).sum() > 0
    good = ~x.isnan()  # below a value that is no number torch's own rules differ from version to version
    assert torch.equal(gradient[good], expected_gradient[good]) and gradient.stride() == expected_gradient.stride()


@pytest.mark.skipif(not shutil.which("c++"), reason="torch.compile needs a C++ compiler")
def test_compiled_it_gathers_and_is_the_same():
    compiled = torch.compile(lambda x: max_pool.relu_pool(STEM, x), fullgraph=True, dynamic=False)
    x = images((10, 12), torch.float32).nan_to_num(0)
    expected, expected_gradient = output_and_gradient(lambda x: STEM(F.relu(x)), x)
    found, gradient = output_and_gradient(compiled, x)
    assert torch.equal(found, expected) and torch.equal(gradient, expected_gradient)


@pytest.mark.parametrize("layer", [nn.Identity(), nn.MaxPool2d(2)])
def test_other_layers_are_called_as_they_are(layer):
    x = images((8, 8), torch.float32)
    assert torch.equal(max_pool.relu_pool(layer, x.clone()).nan_to_num(7), layer(F.relu(x)).nan_to_num(7))
