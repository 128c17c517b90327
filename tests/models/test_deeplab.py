from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from contracts import ExpertContract
from moeseg.models import Expert, build_expert


def _small(backbone: str, stride: int, **more: object) -> Expert:
    torch.manual_seed(0)
    return build_expert(
        {
            "name": "deeplabv3plus",
            "backbone": backbone,
            "output_stride": stride,
            "channels": 8,
            "low_level_channels": 6,
            "num_classes": 5,
            **more,
        }
    )


class TestDeepLab(ExpertContract):
    @pytest.fixture(params=[("resnet18", 16), ("resnet18", 8), ("mobilenet_v2", 16)])
    def expert(self, request: pytest.FixtureRequest) -> Expert:
        return _small(*request.param)


def test_logits_leave_at_stride_four() -> None:
    expert = _small("resnet18", 16).eval()
    with torch.no_grad():
        output = expert.output(torch.rand(1, 3, 65, 99))
    assert output.logits.shape == (1, 5, 17, 25)
    assert output.gate.shape == (1, 8, 5, 7)


@pytest.mark.parametrize(("stride", "rates"), [(16, (6, 12, 18)), (8, (12, 24, 36))])
def test_head_against_plain_functions(stride: int, rates: tuple[int, ...]) -> None:
    """Pyramid and decoder from their state dict alone, without the modules."""
    expert: Any = _small("mobilenet_v2", stride)
    for module in expert.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.running_mean, 0, 0.1)  # type: ignore[arg-type]
            nn.init.uniform_(module.running_var, 0.5, 1.5)  # type: ignore[arg-type]
    expert.eval()
    state = {k.removeprefix("classifier."): v for k, v in expert.state_dict().items()}

    def block(x: Tensor, conv: str, norm: str, dilation: int = 1) -> Tensor:
        weight = state[f"{conv}.weight"]
        x = F.conv2d(x, weight, padding=dilation * (weight.shape[-1] // 2), dilation=dilation)
        mean, var = state[f"{norm}.running_mean"], state[f"{norm}.running_var"]
        shape = (1, -1, 1, 1)
        x = (x - mean.view(shape)) / (var.view(shape) + 1e-5).sqrt()
        return F.relu(x * state[f"{norm}.weight"].view(shape) + state[f"{norm}.bias"].view(shape))

    images = torch.rand(2, 3, 64, 96)
    with torch.no_grad():
        low, high = expert.backbone(expert.normalize(images))
        branches = [block(high, "aspp.convs.0.0", "aspp.convs.0.1")]
        for number, rate in enumerate(rates, start=1):
            name = f"aspp.convs.{number}"
            branches.append(block(high, f"{name}.0", f"{name}.1", rate))
        mean = high.mean(dim=(2, 3), keepdim=True)
        mean = block(mean, "aspp.convs.4.1", "aspp.convs.4.2")
        branches.append(mean * torch.ones_like(branches[0]))
        gate = block(torch.cat(branches, dim=1), "aspp.project.0", "aspp.project.1")
        fine = F.interpolate(gate, size=low.shape[-2:], mode="bilinear", align_corners=False)
        joined = torch.cat([block(low, "project.0", "project.1"), fine], dim=1)
        hidden = block(joined, "classifier.0", "classifier.1")
        logits = F.conv2d(hidden, state["classifier.3.weight"], state["classifier.3.bias"])
        output = expert.output(images)
    torch.testing.assert_close(output.gate, gate, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(output.logits, logits, rtol=1e-4, atol=1e-5)


def test_image_pooling_of_a_single_image_uses_running_statistics() -> None:
    expert: Any = _small("mobilenet_v2", 16)
    branch = expert.classifier.aspp.convs[4]
    norm = branch[2]
    norm.running_mean.normal_()
    before = norm.running_mean.clone()
    one = torch.rand(1, 320, 3, 4)
    branch.train()
    single = branch(one)
    assert torch.equal(norm.running_mean, before)
    branch.eval()
    torch.testing.assert_close(single, branch(one))
    branch.train()
    branch(torch.rand(2, 320, 3, 4))
    assert not torch.equal(norm.running_mean, before)


def test_normalisation_is_inside() -> None:
    plain, normal = (
        _small("mobilenet_v2", 16, normalisation=name).eval() for name in ("none", "imagenet")
    )
    normal.load_state_dict(plain.state_dict())
    mean = torch.tensor([0.485, 0.456, 0.406]).view(1, 3, 1, 1)
    std = torch.tensor([0.229, 0.224, 0.225]).view(1, 3, 1, 1)
    images = torch.rand(1, 3, 32, 48)
    with torch.no_grad():
        torch.testing.assert_close(
            normal(images).logits, plain((images - mean) / std).logits, rtol=1e-4, atol=1e-5
        )
