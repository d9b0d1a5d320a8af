"""The losses: mathematics only, no knowledge of data, models or ranks."""

from fastintl.losses.intl import INTLLoss

__all__ = ["INTLLoss"]
