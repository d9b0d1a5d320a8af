"""The losses: mathematics only, no knowledge of data, models or ranks.

``LOSSES`` names them for the configuration, without importing torch. A new loss is a module with a subclass of
``fastintl.losses.base.Loss`` and one line here: its class, and which keys of ``loss.`` its constructor takes.
"""

from __future__ import annotations

from typing import NamedTuple


class Entry(NamedTuple):
    """``cls``: module and class under ``fastintl.losses``; ``keys``: the constructor's arguments, which are the
    configuration's keys of the same names; ``target``: whether ``forward`` takes the embedding of an EMA target."""

    cls: str
    keys: tuple[str, ...]
    target: bool = False


LOSSES = {
    "intl": Entry("intl.INTLLoss", ("iterations", "axis", "trade_off"), target=True),
    "cw_rgp": Entry("cw_rgp.CWRGPLoss", ("groups", "w_size", "w_iter", "cov_w", "cov_stop", "scope")),
    "barlow_twins": Entry("barlow_twins.BarlowTwinsLoss", ("lambd",)),
    "spectral": Entry("spectral.SpectralLoss", ("transform", "power", "axis", "trade_off"), target=True),
}
