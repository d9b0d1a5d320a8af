"""The networks and the loss that a configuration describes."""

from __future__ import annotations

import importlib
from collections.abc import Sequence

from fastintl.config import Loss as LossSettings
from fastintl.config import Model
from fastintl.losses import LOSSES
from fastintl.losses.base import Loss
from fastintl.network import lockstep
from fastintl.network.batchnorm import convert_batchnorm
from fastintl.network.model import Encoder, JointEmbedding, build_backbone, build_projector
from fastintl.weights.backbone import load_into
from fastintl.weights.files import read_weights


def build_model(settings: Model, sizes: Sequence[int] = ()) -> JointEmbedding:
    """The networks of a configuration, freshly initialised, for images of these ``sizes`` (see ``build_backbone``)."""
    backbone = build_backbone(settings.arch, settings.stem, settings.zero_init_residual, sizes)
    if not lockstep.can_run(backbone):
        backbone = convert_batchnorm(backbone)
    projector = build_projector(backbone.feature_dim, settings.projector, settings.projector_bias)
    encoder = Encoder(backbone, projector)
    return JointEmbedding(encoder, settings.ema, settings.projector_views == "together")


def start_from(model: JointEmbedding, weights: str) -> None:
    """Loads ``model.weights`` into the backbone, and into that of the target; the projectors stay as they are drawn.

    Raises:
        UserError: see ``load_into``.
    """
    backbone = model.encoder.backbone
    load_into(backbone, read_weights(weights))
    if model.target is not None:
        model.target.backbone.load_state_dict(backbone.state_dict())


def build_loss(settings: LossSettings) -> Loss:
    """The loss of a configuration."""
    entry = LOSSES[settings.name]
    module, _, name = entry.cls.rpartition(".")
    cls = getattr(importlib.import_module(f"fastintl.losses.{module}"), name)
    return cls(**{key: getattr(settings, key) for key in entry.keys})
