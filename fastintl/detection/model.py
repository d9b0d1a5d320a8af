"""Faster and Mask R-CNN on a ResNet without its last stage ("C4"), of torchvision's parts.

He et al., arXiv 1703.06870, section 4.4; Ren et al., arXiv 1506.01497. The stages of the backbone but the last see the
image, the last sees the regions of interest. MoCo (arXiv 1911.05722, appendix) puts one more BatchNorm behind it,
and trains and synchronises all of them. Numbers are those of detectron2's R50-C4; docs/detection.md lists where
torchvision's parts compute something else.

Shapes: B images, R regions, K classes with the background, C channels.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.faster_rcnn import FastRCNNPredictor
from torchvision.models.detection.generalized_rcnn import GeneralizedRCNN
from torchvision.models.detection.mask_rcnn import MaskRCNNPredictor
from torchvision.models.detection.rpn import RegionProposalNetwork, RPNHead
from torchvision.models.resnet import ResNet
from torchvision.ops import RoIAlign

from fastintl.detection.config import Model, Views
from fastintl.detection.preprocessing import Preprocessing
from fastintl.detection.roi_heads import SharedRoIHeads

_RATIOS = (0.5, 1.0, 2.0)
_MASK_CHANNELS = 256
_DETECTIONS = 100  # of an image, as COCO counts them


def build_detector(backbone: ResNet, classes: int, model: Model, views: Views) -> GeneralizedRCNN:
    """The detector with the weights of ``backbone``, all of which it takes over, and new layers beside them.

    Args:
        backbone: as ``fastintl.load_backbone`` makes it.
        classes: without the background.

    Returns:
        In training: (list of (3, H, W) uint8, list of targets) -> losses by name. In evaluation: list of images ->
        list of boxes (n, 4), labels (n,), scores (n,), and masks (n, 1, H, W) as probabilities, in the images'
        own pixels. State-dict keys: torchvision's names of the backbone after ``backbone.`` or
        ``roi_heads.box_head.``.
    """
    *_, last = _stages(backbone)
    trunk, head = Trunk(backbone), RegionHead(backbone, last)
    anchors = AnchorGenerator((model.anchor_sizes,), (_RATIOS,))
    rpn = RegionProposalNetwork(
        anchors,
        FloatRPNHead(trunk.out_channels, anchors.num_anchors_per_location()[0]),
        fg_iou_thresh=0.7,
        bg_iou_thresh=0.3,
        batch_size_per_image=256,
        positive_fraction=0.5,
        pre_nms_top_n={"training": model.proposals_train[0], "testing": model.proposals_test[0]},
        post_nms_top_n={"training": model.proposals_train[1], "testing": model.proposals_test[1]},
        nms_thresh=0.7,
    )
    roi_heads = SharedRoIHeads(
        RoIAlign(model.roi_size, 1 / trunk.stride, sampling_ratio=0, aligned=True),
        head,
        _box_predictor(backbone.feature_dim, classes + 1),
        fg_iou_thresh=0.5,
        bg_iou_thresh=0.5,
        batch_size_per_image=model.rois,
        positive_fraction=0.25,
        bbox_reg_weights=(10.0, 10.0, 5.0, 5.0),
        score_thresh=0.05,
        nms_thresh=0.5,
        detections_per_img=_DETECTIONS,
        mask_predictor=MaskRCNNPredictor(backbone.feature_dim, _MASK_CHANNELS, classes + 1) if model.masks else None,
    )
    return GeneralizedRCNN(trunk, rpn, roi_heads, Preprocessing(views))


class Trunk(nn.Module):
    """A ResNet without its last stage: (B, 3, H, W) -> (B, C, H / stride, W / stride) float32."""

    def __init__(self, backbone: ResNet) -> None:
        super().__init__()
        *names, last = _stages(backbone)
        for name in ("conv1", "bn1", "relu", "maxpool", *names):
            self.add_module(name, getattr(backbone, name))
        self.out_channels = getattr(backbone, last)[0].conv1.in_channels
        steps = [self.conv1.stride[0], getattr(self.maxpool, "stride", 1)]
        self.stride = math.prod([*steps, *(getattr(self, name)[0].stride for name in names)])

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.children():
            x = layer(x)
        # Under autocast the anchors would take the features' format, whose eight bits are too few for a coordinate.
        return x.float()


class RegionHead(nn.Sequential):
    """The last stage of a ResNet, and one more BatchNorm: (R, C, s, s) -> (R, feature_dim, s / 2, s / 2)."""

    def __init__(self, backbone: ResNet, stage: str) -> None:
        super().__init__()
        self.add_module(stage, getattr(backbone, stage))
        self.norm = nn.BatchNorm2d(backbone.feature_dim)


class FloatRPNHead(RPNHead):
    """torchvision's, with float32 results under autocast: boxes are made of them."""

    def forward(self, x: list[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        logits, deltas = super().forward(x)
        return [level.float() for level in logits], [level.float() for level in deltas]


def _stages(backbone: ResNet) -> list[str]:
    """Names of the residual stages; resnet8 has three of them."""
    return [f"layer{i}" for i in (1, 2, 3, 4) if isinstance(getattr(backbone, f"layer{i}"), nn.Sequential)]


def _box_predictor(channels: int, classes: int) -> FastRCNNPredictor:
    """As Fast R-CNN initialises it (arXiv 1504.08083, section 4.1)."""
    predictor = FastRCNNPredictor(channels, classes)
    nn.init.normal_(predictor.cls_score.weight, std=0.01)
    nn.init.normal_(predictor.bbox_pred.weight, std=0.001)
    for layer in (predictor.cls_score, predictor.bbox_pred):
        nn.init.zeros_(layer.bias)
    return predictor


def backbone_state(detector: GeneralizedRCNN) -> dict[str, Tensor]:
    """The weights of the backbone in a detector, under torchvision's names."""
    found = {}
    for name, value in detector.state_dict().items():
        for prefix in ("backbone.", "roi_heads.box_head.layer"):
            if name.startswith(prefix):
                found[name.removeprefix(prefix.removesuffix("layer"))] = value
    return found


def autocast(device: torch.device, dtype: torch.dtype) -> torch.autocast:
    """The context of a forward pass; none for float32."""
    return torch.autocast(device.type, dtype, enabled=dtype != torch.float32)
