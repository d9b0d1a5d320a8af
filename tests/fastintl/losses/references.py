"""The losses again, in float64 and in loops, view by view and group by group, from other factorisations."""

import torch


def mse(a, b):
    return 2 - 2 * torch.stack([x @ y / x.norm() / y.norm() for x, y in zip(a, b, strict=True)]).mean()


def polar(x):
    """``(x x^T)^-1/2 x``, from the singular vectors."""
    u, _, vt = torch.linalg.svd(x, full_matrices=False)
    return u @ vt


def cw_rgp(views, groups, samples, channels, cov_w=0.0):
    """Args:
    samples: for each cut its sub-batches, lists of sample numbers.
    channels: ``channels[view][cut][sub-batch]``, an order of the channels.
    """
    views = [z.double() for z in views]
    n, d = views[0].shape
    k = d // groups
    centred = [z - z.mean(1, keepdim=True) for z in views]
    losses = []
    for t, cut in enumerate(samples):
        whitened = []
        for v, xc in enumerate(centred):
            rows = []
            for s, members in enumerate(cut):
                parts = {}
                for g in range(groups):
                    places = channels[v][t][s][g * k : (g + 1) * k]
                    part = (k - 1) ** 0.5 * polar(xc[members][:, places])
                    parts |= {int(place): part[:, i] for i, place in enumerate(places)}
                rows.append(torch.stack([parts[channel] for channel in range(d)], dim=1))
            whitened.append(torch.cat(rows))
        pairs = [(i, j) for j in range(len(views)) for i in range(j)]
        losses.append(sum(mse(whitened[i], whitened[j]) for i, j in pairs) / len(pairs))
    covariance = 0
    for xc in centred:
        c = xc @ xc.T / (d - 1)
        covariance = covariance + sum(c[i, j] ** 2 for i in range(n) for j in range(n) if i != j) / n
    return sum(losses) / len(losses) + cov_w * covariance


def barlow_twins(views, lambd):
    views = [z.double() for z in views]
    n, d = views[0].shape
    standard = [(z - z.mean(0)) / z.std(0, correction=0) for z in views]
    losses = []
    for j in range(len(views)):
        for i in range(j):
            c = standard[i].T @ standard[j] / n
            on = sum((1 - c[m, m]) ** 2 for m in range(d))
            losses.append(on + lambd * sum(c[m, p] ** 2 for m in range(d) for p in range(d) if m != p))
    return sum(losses) / len(losses)


def spectral(views, target, power, axis, beta=0.0):
    """Of singular vectors: with ``xc = U S V^T`` the covariance's eigenvalues are ``S^2 / freedom``."""

    def transformed(z):
        dim = 1 if axis == "channel" else 0
        xc = z.double() - z.double().mean(dim, keepdim=True)
        free = min(z.shape[0] - (axis == "batch"), z.shape[1] - (axis == "channel"))  # the others are zero
        u, s, vt = torch.linalg.svd(xc, full_matrices=False)
        u, s, vt = u[:, :free], s[:free], vt[:free]
        return u * (s * (s**2 / (z.shape[dim] - 1)) ** -power) @ vt

    def trace(w):
        return ((w.var(1 if axis == "channel" else 0) - 1) ** 2).sum()

    w = [transformed(z) for z in views]
    if target is not None:
        anchor = transformed(target)
        return sum(mse(x, anchor) + beta * trace(x) for x in w) / len(w)
    return sum(mse(x, w[0]) + beta * (trace(x) + trace(w[0])) for x in w[1:]) / (len(w) - 1)
