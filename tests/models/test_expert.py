from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from contracts import ExpertContract
from moeseg.errors import UsageError
from moeseg.models import AdaptedExpert, Expert, Normalize, Segmenter, build_expert, resize
from moeseg.types import Features


class Foreign(nn.Module):
    """A user's network that knows nothing of moeseg but its value types."""

    def __init__(self, num_classes: int, width: int = 4) -> None:
        super().__init__()
        self.num_classes, self.gate_channels, self.stride = num_classes, width, 8
        self.encoder = nn.Conv2d(3, width, 8, stride=8)
        self.decoder = nn.Conv2d(width, num_classes, 1)

    def features(self, images: Tensor) -> Features:
        height, width = images.shape[-2:]
        padded = F.pad(images, (0, -width % 8, 0, -height % 8), mode="replicate")
        return Features(self.encoder(padded), (), (height, width))

    def decode(self, features: Features) -> Tensor:
        logits: Tensor = self.decoder(features.gate)
        return logits


class TestForeignExpert(ExpertContract):
    @pytest.fixture
    def expert(self) -> Expert:
        torch.manual_seed(0)
        return build_expert({"name": f"{__name__}:Foreign", "num_classes": 5})


def test_adapted_expert_names_what_is_absent() -> None:
    with pytest.raises(UsageError, match="got no features, decode"):
        AdaptedExpert(nn.Conv2d(3, 3, 1))


def test_expert_is_a_segmenter() -> None:
    model: Segmenter = AdaptedExpert(Foreign(5))
    assert model.num_classes == 5
    assert len(model.experts) == 1


def test_normalize_by_hand() -> None:
    images = torch.full((1, 3, 1, 1), 0.5)
    normal = Normalize((0.5, 0.25, 0.0), (1.0, 0.5, 0.25))(images)
    assert normal.flatten().tolist() == [0.0, 0.5, 2.0]
    assert Normalize((0.0, 0.0, 0.0), (1.0, 1.0, 1.0))(images) is images


@pytest.mark.parametrize(
    "images", [torch.zeros(3, 8, 8), torch.zeros(1, 4, 8, 8), torch.zeros(1, 3, 8, 8).byte()]
)
def test_normalize_refuses_what_is_no_image_batch(images: Tensor) -> None:
    with pytest.raises(ValueError, match=r"float images \(B, 3, H, W\)"):
        Normalize((0.5, 0.5, 0.5), (1.0, 1.0, 1.0))(images)


def test_resize_against_a_slow_loop() -> None:
    logits = torch.randn(1, 2, 3, 5)
    height, width = 7, 4
    slow = torch.zeros(1, 2, height, width)
    for y in range(height):
        for x in range(width):
            # pixel centres, border replicated
            v = min(max((y + 0.5) * 3 / height - 0.5, 0), 2)
            u = min(max((x + 0.5) * 5 / width - 0.5, 0), 4)
            top, left = int(v), int(u)
            bottom, right = min(top + 1, 2), min(left + 1, 4)
            upper = logits[..., top, left] * (1 - u + left) + logits[..., top, right] * (u - left)
            lower = logits[..., bottom, left] * (1 - u + left) + logits[..., bottom, right] * (
                u - left
            )
            slow[..., y, x] = upper * (1 - v + top) + lower * (v - top)
    torch.testing.assert_close(resize(logits, (height, width)), slow)
    assert resize(logits, (3, 5)) is logits


def test_base_expert_leaves_both_methods_to_its_subclass() -> None:
    class Half(Expert):
        def features(self, images: Tensor) -> Features:
            return Features(images, (), (1, 1))

    for unfinished in (Expert, Half):
        with pytest.raises(TypeError, match="decode"):
            unfinished(num_classes=2, gate_channels=1, stride=4)  # type: ignore[abstract]
