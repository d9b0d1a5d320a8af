"""The benchmark's baseline computes the same thing as what it is compared with."""

import pytest
import torch

from fastintl import INTLLoss, config
from tools.benchmark.flops import step_flops
from tools.benchmark.options import TINY
from tools.benchmark.plain_step import PlainStep


@pytest.mark.parametrize("with_target", [True, False])
def test_the_plain_loss_is_intl(with_target):
    step = PlainStep(config.load(None, TINY), torch.device("cpu"), torch.float32)
    views = torch.randn(3, 16, 40, generator=torch.Generator().manual_seed(0))
    online, target = (views[1:], views[0]) if with_target else (views, None)
    torch.testing.assert_close(step.plain_loss(list(online), target), INTLLoss()(online, target), rtol=1e-4, atol=1e-5)


def test_the_operations_of_a_step_are_those_of_its_layers():
    linear = config.load(None, [*TINY, "model.projector=[256,256,256]"])
    more = config.load(None, [*TINY, "model.projector=[256,256,256,256]"])
    # One more layer: 16 images x 256 x 256 products, twice (multiply, add); the target's view forward, the other
    # two forward and twice backward.
    assert step_flops(more) - step_flops(linear) == 2 * 16 * 256 * 256 * (1 + 2 * 3)
