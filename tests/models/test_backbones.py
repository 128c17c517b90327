from __future__ import annotations

import copy
from pathlib import Path
from typing import Any
from urllib.error import URLError

import pytest
import torch
from torch import nn
from torchvision import models as tv

from moeseg.errors import MoesegError
from moeseg.models import backbones
from moeseg.models.backbones import NAMES, OutputStride, build_backbone


def _random_statistics(network: nn.Module) -> None:
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            assert module.running_mean is not None
            assert module.running_var is not None
            module.running_mean.normal_(0, 0.1)
            module.running_var.uniform_(0.5, 1.5)


@pytest.mark.parametrize("stride", [8, 16])
@pytest.mark.parametrize("name", NAMES)
def test_strides_are_real_and_equal_the_strided_network(name: str, stride: OutputStride) -> None:
    """On every n-th cell the dilated network holds exactly what torchvision's strided one gives."""
    torch.manual_seed(0)
    backbone = build_backbone(name, stride=stride, weights=None).eval()
    _random_statistics(backbone)
    with torch.device("meta"):  # no weights are drawn only to be replaced
        strided = getattr(tv, name)(weights=None)
    missing = strided.load_state_dict(backbone.state_dict(), strict=False, assign=True)
    assert missing.unexpected_keys == []
    trunk = (
        strided.features[:18]
        if name == "mobilenet_v2"
        else nn.Sequential(*list(strided.children())[:-2])
    ).eval()

    images = torch.randn(1, 3, 65, 99)
    with torch.no_grad():
        low, high = backbone(images)
        coarse = trunk(images)
    assert low.shape == (1, backbone.low_channels, 17, 25)
    grid = {8: (9, 13), 16: (5, 7)}[stride]
    assert high.shape == (1, backbone.channels, *grid)
    assert backbone.stride == stride
    step = 32 // stride
    assert coarse.shape[-2:] == (3, 4)
    scale = coarse.abs().max()
    torch.testing.assert_close(high[..., ::step, ::step] / scale, coarse / scale)


@pytest.mark.parametrize(("stride", "replaced"), [(16, (0, 0, 1)), (8, (0, 1, 1))])
@pytest.mark.parametrize("name", ["resnet50", pytest.param("resnet101", marks=pytest.mark.slow)])
def test_equals_torchvisions_own_dilation(
    name: str, stride: OutputStride, replaced: tuple[bool, ...]
) -> None:
    own = build_backbone(name, stride=stride, weights=None).eval()
    with torch.device("meta"):
        network = getattr(tv, name)(replace_stride_with_dilation=[bool(one) for one in replaced])
    network.load_state_dict(own.state_dict(), strict=False, assign=True)
    network.eval()
    trunk = nn.Sequential(*list(network.children())[:-2])
    images = torch.randn(1, 3, 33, 47)
    with torch.no_grad():
        assert torch.equal(own(images)[1], trunk(images))


def test_resnet_keeps_torchvisions_names() -> None:
    own = set(build_backbone("resnet18", stride=16, weights=None).state_dict())
    theirs = set(tv.resnet18(weights=None).state_dict())
    assert theirs - own == {"fc.weight", "fc.bias"}
    assert own < theirs


def test_imagenet_weights_come_from_torchvisions_cache(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.manual_seed(4)
    stored = tv.resnet18(weights=None).state_dict()
    folder = tmp_path / "checkpoints"
    folder.mkdir()
    torch.save(stored, folder / Path(tv.ResNet18_Weights.IMAGENET1K_V1.url).name)
    monkeypatch.setattr(torch.hub, "_hub_dir", str(tmp_path))
    backbone = build_backbone("resnet18", stride=16, weights="imagenet")
    assert all(torch.equal(stored[key], value) for key, value in backbone.state_dict().items())


def test_failed_download_says_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def offline(*_: object, **__: object) -> None:
        raise URLError("no route to host")

    monkeypatch.setattr(torch.hub, "_hub_dir", str(tmp_path))
    monkeypatch.setattr(torch.hub, "download_url_to_file", offline)
    with pytest.raises(MoesegError) as caught:
        build_backbone("mobilenet_v2", stride=16, weights="imagenet")
    said = str(caught.value)
    assert tv.MobileNet_V2_Weights.IMAGENET1K_V1.url in said
    assert "no route to host" in said
    assert f"{tmp_path}/checkpoints/" in said


def test_other_strides_are_refused() -> None:
    stride: Any = 4
    with pytest.raises(ValueError, match="output stride 8 or 16, got 4"):
        build_backbone("resnet18", stride=stride, weights=None)


def test_wrapping_leaves_no_stage_behind() -> None:
    network = tv.mobilenet_v2(weights=None)
    whole = copy.deepcopy(network.features[:18]).eval()
    wrapped = backbones.MobileNetV2(network, 16).eval()
    assert sum(p.numel() for p in wrapped.parameters()) == sum(
        p.numel() for p in whole.parameters()
    )
