"""Transfer of a backbone to object detection and instance segmentation, by MoCo's protocol (arXiv 1911.05722)."""
