"""The names of the backbones and of their first layers; importing this needs no torch."""

ARCHITECTURES = (
    "resnet8",
    "resnet18",
    "resnet34",
    "resnet50",
    "resnet101",
    "resnet152",
    "wide_resnet50_2",
    "wide_resnet101_2",
)
STEMS = ("imagenet", "cifar", "cifar_padded", "small")
