"""The compiled loop of Adam on a CPU: one pass over what torch's operations read and write nine times."""

from __future__ import annotations

import numpy as np

from loaders.numba_options import kept


@kept()
def adam(weight, gradient, mean, square, lr, weight_decay, beta1, beta2, eps, steps, factor):
    """One step of Adam for each head, as ``torch.optim.Adam`` with weight decay added to the gradient.

    Args:
        weight, mean, square: (H, n) float32, updated in place.
        gradient: (H, n) float32.
        lr, weight_decay: each head's, (H,) float32.
        beta1, beta2, eps: Adam's constants.
        steps: which step this is, from 1 on.
        factor: what the learning rates are multiplied by.
    """
    root = np.float32(np.sqrt(1 - beta2**steps))
    new1, keep2, new2, eps = np.float32(1 - beta1), np.float32(beta2), np.float32(1 - beta2), np.float32(eps)
    for h in range(len(weight)):
        w, g, m, s = weight[h], gradient[h], mean[h], square[h]
        rate, decay = np.float32(lr[h] * factor / (1 - beta1**steps)), weight_decay[h]
        for i in range(len(w)):
            slope = g[i] + decay * w[i]
            m[i] += new1 * (slope - m[i])
            s[i] = keep2 * s[i] + new2 * slope * slope
            w[i] -= rate * (m[i] / (np.sqrt(s[i]) / root + eps))
