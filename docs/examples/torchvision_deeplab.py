"""torchvision's DeepLabv3 (not the "+" one) as an expert; explained in docs/add_an_expert.md."""

from __future__ import annotations

from torch import Tensor, nn
from torchvision.models.segmentation import deeplabv3_resnet50

from moeseg.models import Expert, Normalize, image_size
from moeseg.types import Features


class TorchvisionDeepLab(Expert):
    """DeepLabv3 over a ResNet-50 at output stride 8, with random weights.

    Args:
        num_classes: C; a study fills it in from its taxonomy.
        mean: of each RGB channel in [0, 1], taken off the images.
        std: of each RGB channel, by which they are then divided.
    """

    def __init__(
        self,
        num_classes: int,
        mean: tuple[float, float, float] = (0.485, 0.456, 0.406),
        std: tuple[float, float, float] = (0.229, 0.224, 0.225),
    ) -> None:
        # what the gate will see: 256 channels at an eighth of the image size, rounded up
        super().__init__(num_classes=num_classes, gate_channels=256, stride=8)
        network = deeplabv3_resnet50(weights=None, weights_backbone=None, num_classes=num_classes)
        self.normalize = Normalize(mean, std)
        self.backbone: nn.Module = network.backbone
        aspp, *head = network.classifier
        self.aspp: nn.Module = aspp
        self.head = nn.Sequential(*head)

    def features(self, images: Tensor) -> Features:
        """Encode images (B, 3, H, W) in [0, 1]."""
        deep = self.backbone(self.normalize(images))["out"]  # (B, 2048, h, w)
        joined: Tensor = self.aspp(deep)  # (B, 256, h, w)
        return Features(gate=joined, decoder=(), size=image_size(images))

    def decode(self, features: Features) -> Tensor:
        """Return logits (B, C, h, w); what asks for them resizes them to the image."""
        logits: Tensor = self.head(features.gate)  # (B, C, h, w)
        return logits
