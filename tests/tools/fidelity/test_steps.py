"""What our side of the first steps does otherwise than a training, so that both sides round alike."""

import copy

import torch

from fastintl.network.model import Encoder, JointEmbedding, build_backbone, build_projector
from tools.fidelity.steps import update_target_as_theirs


def test_the_ema_of_the_comparison_is_that_of_the_training_but_for_rounding():
    torch.manual_seed(0)
    encoder = Encoder(build_backbone("resnet8", "small"), build_projector(128, (16, 8)))
    model = JointEmbedding(encoder, with_target=True)
    for p in model.target.parameters():
        p.data += 0.1 * torch.randn_like(p)
    trained, start = copy.deepcopy(model), copy.deepcopy(model)
    update_target_as_theirs(model, 0.996)
    trained.update_target(0.996)
    for ours, theirs, k, q in zip(
        trained.target.parameters(),
        model.target.parameters(),
        start.target.parameters(),
        encoder.parameters(),
        strict=True,
    ):
        exact = 0.996 * k.double() + (1 - 0.996) * q.double()
        torch.testing.assert_close(theirs.double(), exact, rtol=2e-7, atol=1e-8)
        torch.testing.assert_close(ours.double(), exact, rtol=2e-7, atol=1e-8)
    without = JointEmbedding(encoder, with_target=False)
    update_target_as_theirs(without, 0.996)  # does nothing
