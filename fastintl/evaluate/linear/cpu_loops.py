"""The compiled loops of a CPU's step: the errors of scores, and Adam, each in one pass over what torch's operations
read and write many times."""

from __future__ import annotations

import numpy as np

from loaders.numba_options import compiled_with_nan, kept

_CHUNK = 256  # samples whose scores stay in the first-level cache from one pass to the next
_LOWEST = np.float32(-87)  # e to this power is next to the smallest float32


@compiled_with_nan
def errors(score, label, bias_gradient):
    """Turns scores into the gradient of the summed cross-entropy by them: the softmax, less one at the label.

    Args:
        score: (H, C, B) float32, overwritten.
        label: (B,) int64.
        bias_gradient: (H, C) float32, overwritten by the sums of the errors over the samples.
    """
    samples = score.shape[2]
    top, total = np.empty(_CHUNK, np.float32), np.empty(_CHUNK, np.float32)
    bias_gradient[:] = 0
    for h in range(len(score)):
        for start in range(0, samples, _CHUNK):
            at = label[start : start + _CHUNK]
            _softmax(score[h], start, top[: len(at)], total[: len(at)], bias_gradient[h])
            for j in range(len(at)):
                score[h, at[j], start + j] -= np.float32(1)
                bias_gradient[h, at[j]] -= np.float32(1)


@compiled_with_nan
def _softmax(score, start, top, total, added):
    """The softmax over the first dimension of (C, B), in place, of as many samples as ``top`` and ``total`` have room
    for; ``added`` (C,) grows by its sums over them."""
    end = start + len(top)
    for j in range(len(top)):  # an assignment of slices would have numba compile its error, with strings, for seconds
        top[j], total[j] = score[0, start + j], 0
    for c in range(1, len(score)):
        _take_larger(top, score[c, start:end])
    for c in range(len(score)):
        _exponentiate(score[c, start:end], top, total)
    for j in range(len(total)):
        total[j] = np.float32(1) / total[j]
    for c in range(len(score)):
        added[c] += _scale(score[c, start:end], total)


# Each of these is vectorised: what lies side by side are samples.


@compiled_with_nan
def _take_larger(top, row):
    for j in range(len(row)):
        top[j] = row[j] if row[j] > top[j] else top[j]


@compiled_with_nan
def _exponentiate(row, top, total):
    for j in range(len(row)):
        row[j] = _exp(row[j] - top[j])
        total[j] += row[j]


@compiled_with_nan
def _scale(row, factor):
    total = np.float32(0)
    for j in range(len(row)):
        row[j] *= factor[j]
        total += row[j]
    return total


@compiled_with_nan
def _exp(x):
    """e to the power of ``x <= 0``, to two units in the last place, in operations that are vectorised, which a call of
    ``np.exp`` is not. As Cephes' expf: ``x = n log 2 + r``, a polynomial of r, and n into the exponent."""
    x = _LOWEST if x < _LOWEST else x  # NaN stays NaN
    n = np.floor(x * np.float32(1.44269504) + np.float32(0.5))
    r = x - n * np.float32(0.693359375) - n * np.float32(-2.12194440e-4)  # log 2 in two parts, the first without error
    p = np.float32(1.9875691500e-4)
    p = p * r + np.float32(1.3981999507e-3)
    p = p * r + np.float32(8.3334519073e-3)
    p = p * r + np.float32(4.1665795894e-2)
    p = p * r + np.float32(1.6666665459e-1)
    p = p * r + np.float32(5.0000001201e-1)
    p = p * r * r + r + np.float32(1)
    return p * np.int32((np.int32(n) + np.int32(127)) << np.int32(23)).view(np.float32)


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
