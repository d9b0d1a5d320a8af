"""Faster and Mask R-CNN on a ResNet without its last stage ("C4"), made of torchvision's parts.

He et al., arXiv 1703.06870, section 4.4; Ren et al., arXiv 1506.01497. All stages of the backbone but the last see the
image, the last sees the regions of interest; boxes and masks are predicted from the same features of a region. MoCo
(arXiv 1911.05722, appendix) puts one more BatchNorm behind it, and trains and synchronises all of them. Numbers are
those of detectron2's R50-C4; docs/detection.md lists where torchvision's parts compute something else.

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
from torchvision.models.detection.roi_heads import RoIHeads, fastrcnn_loss, maskrcnn_inference, maskrcnn_loss
from torchvision.models.detection.rpn import RegionProposalNetwork, RPNHead
from torchvision.models.detection.transform import GeneralizedRCNNTransform
from torchvision.models.resnet import ResNet
from torchvision.ops import RoIAlign
from torchvision.transforms.v2 import functional

from fastintl.detection.augment import fitted
from fastintl.detection.config import Model, Views

_RATIOS = (0.5, 1.0, 2.0)
_MASK_CHANNELS = 256
_DETECTIONS = 100  # of an image, as COCO counts them


def build_detector(backbone: ResNet, classes: int, model: Model, views: Views) -> GeneralizedRCNN:
    """A detector of all modules of ``backbone``, whose weights it shares, and new layers.

    Args:
        backbone: as ``fastintl.load_backbone`` makes it.
        classes: the number of classes without the background.

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
    """torchvision's head, with float32 results under autocast: boxes are computed from them."""

    def forward(self, x: list[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        logits, deltas = super().forward(x)
        return [level.float() for level in logits], [level.float() for level in deltas]


class SharedRoIHeads(RoIHeads):
    """torchvision's matching, sampling, losses and post-processing around one head that boxes and masks share.

    ``box_roi_pool`` and ``box_head`` make the features (R, C, s, s), ``box_predictor`` sees their mean,
    ``mask_predictor`` (or None) the features of regions with an object. torchvision's ``RoIHeads`` would compute the
    masks' features anew, which would show its BatchNorm other regions, too.
    """

    def forward(
        self,
        features: dict[str, Tensor],
        proposals: list[Tensor],
        image_shapes: list[tuple[int, int]],
        targets: list[dict[str, Tensor]] | None = None,
    ) -> tuple[list[dict[str, Tensor]], dict[str, Tensor]]:
        """Detections of each image and no losses in evaluation, no detections and the losses in training."""
        (feature,) = features.values()
        if self.training:
            return [], self._losses(feature, proposals, targets)
        logits, deltas = self._predict(self._region_features(feature, proposals))
        boxes, scores, labels = self.postprocess_detections(logits, deltas, proposals, image_shapes)
        found = [{"boxes": b, "scores": s, "labels": c} for b, s, c in zip(boxes, scores, labels, strict=True)]
        if self.mask_predictor is not None:
            mask_logits = self.mask_predictor(self._region_features(feature, boxes)).float()
            for detections, masks in zip(found, maskrcnn_inference(mask_logits, labels), strict=True):
                detections["masks"] = masks
        return found, {}

    def has_mask(self) -> bool:
        return self.mask_predictor is not None

    def _losses(
        self, feature: Tensor, proposals: list[Tensor], targets: list[dict[str, Tensor]] | None
    ) -> dict[str, Tensor]:
        proposals, matched, labels, regression_targets = self.select_training_samples(proposals, targets)
        region_features = self._region_features(feature, proposals)
        logits, deltas = self._predict(region_features)
        loss_classifier, loss_box_reg = fastrcnn_loss(logits, deltas, labels, regression_targets)
        losses = {"loss_classifier": loss_classifier, "loss_box_reg": loss_box_reg}
        if self.mask_predictor is not None:
            with_object = [image_labels > 0 for image_labels in labels]
            mask_logits = self.mask_predictor(region_features[torch.cat(with_object)]).float()
            losses["loss_mask"] = maskrcnn_loss(
                mask_logits,
                [boxes[mine] for boxes, mine in zip(proposals, with_object, strict=True)],
                [target["masks"] for target in targets],
                [target["labels"] for target in targets],
                [indices[mine] for indices, mine in zip(matched, with_object, strict=True)],
            )
        return losses

    def _region_features(self, feature: Tensor, boxes: list[Tensor]) -> Tensor:
        return self.box_head(self.box_roi_pool(feature, boxes))

    def _predict(self, region_features: Tensor) -> tuple[Tensor, Tensor]:
        """Logits (R, K) and box deltas (R, 4 K), float32."""
        logits, deltas = self.box_predictor(nn.functional.adaptive_avg_pool2d(region_features, 1))
        return logits.float(), deltas.float()


class Preprocessing(GeneralizedRCNNTransform):
    """Makes one normalised batch of images of several sizes, and brings detections back to the images' own pixels.

    It is torchvision's, with two differences: images come as uint8, and are resized as in training, with antialiasing.
    In training they come in their final size, see ``augment.py``; in the test they are resized here.
    """

    def __init__(self, views: Views) -> None:
        super().__init__(views.test_size, views.max_size, views.mean, views.std)

    def normalize(self, image: Tensor) -> Tensor:
        return super().normalize(functional.to_dtype(image, torch.float32, scale=True))

    def resize(self, image: Tensor, target: dict[str, Tensor] | None = None):
        if self.training:
            return image, target
        height, width = image.shape[-2:]
        return functional.resize(image, fitted(height, width, self.min_size[0], self.max_size), antialias=True), target


def _stages(backbone: ResNet) -> list[str]:
    """Names of the residual stages; resnet8 has three of them."""
    return [f"layer{i}" for i in (1, 2, 3, 4) if isinstance(getattr(backbone, f"layer{i}"), nn.Sequential)]


def _box_predictor(channels: int, classes: int) -> FastRCNNPredictor:
    """The layer that predicts classes and boxes, initialised as in Fast R-CNN (arXiv 1504.08083, section 4.1)."""
    predictor = FastRCNNPredictor(channels, classes)
    nn.init.normal_(predictor.cls_score.weight, std=0.01)
    nn.init.normal_(predictor.bbox_pred.weight, std=0.001)
    for layer in (predictor.cls_score, predictor.bbox_pred):
        nn.init.zeros_(layer.bias)
    return predictor
