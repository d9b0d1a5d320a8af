"""The stem's max-pool (3 x 3, stride 2, padding 1) with a backward pass that gathers, for compiled or repeatable code.

Left to itself Inductor makes the backward pass a scatter of atomic additions in float32, which moves twice the bytes
and adds up in another order each time. Here each pixel of the gradient reads the windows that it lies in, one to four.

Shapes: n samples, C channels, H x W pixels in, h x w out, h = ceil(H / 2), w = ceil(W / 2).
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def relu_pool(layer: nn.Module, x_nCHW: Tensor) -> Tensor:
    """``layer(relu(x))``, bit for bit. The backward pass gathers where it is compiled, and where it is to repeat its
    bits (``torch.use_deterministic_algorithms``), which torch's own on a GPU does not."""
    ours = isinstance(layer, nn.MaxPool2d) and _sizes(layer) == (3, 2, 1, 1, False)
    if ours and (torch.compiler.is_compiling() or torch.are_deterministic_algorithms_enabled()):
        return _ReluMaxPool.apply(x_nCHW)
    return layer(F.relu(x_nCHW, inplace=True))


def _sizes(layer: nn.MaxPool2d) -> tuple:
    return (layer.kernel_size, layer.stride, layer.padding, layer.dilation, layer.ceil_mode)


class _ReluMaxPool(torch.autograd.Function):
    """x (n, C, H, W) -> the largest value of each window, or 0, (n, C, h, w)."""

    @staticmethod
    def forward(ctx, x_nCHW: Tensor) -> Tensor:
        x = x_nCHW.permute(0, 2, 3, 1)
        _, height, width, _ = x.shape
        h, w = (height + 1) // 2, (width + 1) // 2
        padded = F.pad(x, (0, 0, 1, 2 * w - width, 1, 2 * h - height), value=-torch.inf)
        best, place = padded[:, : 2 * h : 2, : 2 * w : 2], torch.zeros((), dtype=torch.int8, device=x.device)
        for tap in range(1, 9):
            row, column = divmod(tap, 3)
            value = padded[:, row : row + 2 * h : 2, column : column + 2 * w : 2]
            larger = (value > best) | value.isnan()  # of equal values the first one counts, as in torch
            best = torch.where(larger, value, best)
            place = torch.where(larger, torch.full((), tap, dtype=torch.int8, device=x.device), place)
        ctx.save_for_backward(torch.where(best > 0, place, -1))
        ctx.size = height, width
        return F.relu(best).permute(0, 3, 1, 2)

    @staticmethod
    def backward(ctx, dy_nChw: Tensor) -> Tensor:
        (place,) = ctx.saved_tensors
        dy = dy_nChw.permute(0, 2, 3, 1)
        (height, width), (h, w) = ctx.size, dy.shape[1:3]
        dx = 0
        for row_window, row, in_row in _windows(height, h, dy.device):
            for column_window, column, in_column in _windows(width, w, dy.device):
                # Indexed together: one load each, whose address is computed from the pixel's.
                at = (slice(None), row_window[:, None], column_window[None, :])
                chosen = place[at] == (3 * row[:, None] + column[None, :])[..., None]
                here = chosen & (in_row[:, None] & in_column[None, :])[..., None]
                dx = dx + torch.where(here, dy[at], 0)
        return dx.permute(0, 3, 1, 2)


def _windows(pixels: int, windows: int, device: torch.device) -> list[tuple[Tensor, Tensor, Tensor]]:
    """The windows that the pixels of a line lie in, one or two each; window i begins at pixel 2 i - 1.

    Returns:
        Twice three tensors (pixels,): of each pixel's first and of its second window the index, the pixel's place in
        it, and whether there is one.
    """
    pixel = torch.arange(pixels, device=device)
    first, second = pixel // 2, (pixel + 1) // 2
    there = (second > first) & (second < windows)
    second = second.clamp(max=windows - 1)
    return [(first, pixel - 2 * first + 1, pixel >= 0), (second, pixel - 2 * second + 1, there)]
