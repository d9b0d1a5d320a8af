"""Many linear classifiers (heads) of the same features, trained at once.

All heads see the same batches, so their products are one: the weights are stacked as one (H C, d) matrix, and a batch
of features is read once for all of them.

Shapes: H heads, B samples, d channels of a feature, C classes. Scores are (H, C, B): a softmax over the middle
dimension works on whole vectors of samples, on a CPU twenty times faster than one over ten neighbouring numbers.
"""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor

_CACHE = 1 << 20  # bytes of scores that a CPU works on at a time


class LinearHeads:
    """H classifiers ``W_h x + b_h``, in float32.

    Attributes:
        weight: (H, C, d).
        bias: (H, C).
    """

    def __init__(self, weight: Tensor, bias: Tensor) -> None:
        self.weight, self.bias = weight.float().contiguous(), bias.float().contiguous()
        self._gradients = [torch.empty_like(self.weight), torch.empty_like(self.bias)]

    @classmethod
    def start(
        cls,
        heads: int,
        classes: int,
        dim: int,
        init: Literal["normal", "uniform"],
        seed: int = 0,
        device: torch.device | str = "cpu",
    ) -> LinearHeads:
        """New heads that all start at the same point, a function of ``seed`` alone.

        Args:
            init: "normal": weights N(0, 0.01), biases zero, as the ImageNet protocols have it; "uniform": both
                uniform in ``1 / sqrt(d)``, as ``torch.nn.Linear`` starts.
        """
        generator = torch.Generator().manual_seed(seed)  # on the CPU: the same start on every device
        if init == "normal":
            weight, bias = 0.01 * torch.randn(classes, dim, generator=generator), torch.zeros(classes)
        else:
            drawn = torch.rand(classes, dim + 1, generator=generator).mul_(2).sub_(1) / math.sqrt(dim)
            weight, bias = drawn[:, :dim], drawn[:, dim]
        return cls(weight.expand(heads, -1, -1).to(device), bias.expand(heads, -1).to(device))

    def __len__(self) -> int:
        return len(self.weight)

    @property
    def parameters(self) -> list[Tensor]:
        return [self.weight, self.bias]

    def scores(self, x_Bd: Tensor) -> Tensor:
        """The logits of every head, (H, C, B), computed in float32."""
        with torch.autocast(x_Bd.device.type, enabled=False):
            return _scores(self.weight, self.bias, x_Bd.float())

    def gradients(self, x_Bd: Tensor, label_B: Tensor, batch_size: int) -> tuple[list[Tensor], Tensor]:
        """The gradients of the cross-entropy ``-1 / batch_size sum_B log softmax(scores)[label]`` of every head.

        Args:
            batch_size: samples of all ranks, so that the ranks' gradients only have to be added up.

        Returns:
            The gradients, shaped like ``parameters`` and valid until the next call, and the losses (H,), not
            synchronised between ranks.
        """
        x_Bd = x_Bd.float()
        loss_H = torch.empty(len(self), device=x_Bd.device)
        for block in self._blocks(x_Bd):
            weight, bias = self.weight[block], self.bias[block]
            log_HCB = _scores(weight, bias, x_Bd).log_softmax(1)
            at_label = label_B.expand(len(weight), 1, -1)
            torch.sum(log_HCB.gather(1, at_label), (1, 2), out=loss_H[block])
            error_HCB = log_HCB.exp_()
            error_HCB.scatter_add_(1, at_label, error_HCB.new_full((), -1).expand(at_label.shape))
            error_HCB /= batch_size
            torch.mm(error_HCB.flatten(0, 1), x_Bd, out=self._gradients[0][block].flatten(0, 1))
            torch.sum(error_HCB, 2, out=self._gradients[1][block])
        return self._gradients, loss_H / -batch_size

    def _blocks(self, x_Bd: Tensor) -> list[slice]:
        """Heads that are taken together: on a CPU as many as have their scores in its cache, on a GPU all."""
        scores_bytes = 4 * self.bias.shape[1] * len(x_Bd)
        size = max(1, _CACHE // scores_bytes) if x_Bd.device.type == "cpu" else len(self)
        return [slice(start, start + size) for start in range(0, len(self), size)]


def _scores(weight_HCd: Tensor, bias_HC: Tensor, x_Bd: Tensor) -> Tensor:
    scores = torch.addmm(bias_HC.reshape(-1, 1), weight_HCd.flatten(0, 1), x_Bd.T)
    return scores.view(*bias_HC.shape, -1)
