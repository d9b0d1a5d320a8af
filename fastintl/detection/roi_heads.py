"""The heads of a C4 detector: boxes and masks are predicted from the same features of a region.

torchvision's ``RoIHeads`` computes the masks' features anew, which would show its BatchNorm other regions, too.

Shapes: R regions of all images, K classes with the background, C channels.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torchvision.models.detection.roi_heads import RoIHeads, fastrcnn_loss, maskrcnn_inference, maskrcnn_loss


class SharedRoIHeads(RoIHeads):
    """torchvision's matching, sampling, losses and post-processing around one shared head.

    ``box_roi_pool`` and ``box_head`` make the features (R, C, s, s), ``box_predictor`` sees their mean,
    ``mask_predictor`` (or None) the features of regions with an object.
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
        found = [
            {"boxes": b, "scores": s, "labels": c} for b, s, c in zip(boxes, scores, labels, strict=True)
        ]
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

