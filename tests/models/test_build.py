from __future__ import annotations

from collections import OrderedDict
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from moeseg.errors import CheckpointError, MoesegError, UsageError
from moeseg.models import (
    Expert,
    Gate,
    backbones,
    build_ensemble,
    build_expert,
    build_gate,
    build_mixture,
    build_model,
    describe,
)
from moeseg.types import Features

SMALL: dict[str, Any] = {
    "name": "deeplabv3plus",
    "backbone": "mobilenet_v2",
    "channels": 8,
    "num_classes": 5,
}


def test_defaults_are_filled_in() -> None:
    assert build_expert(SMALL).description == {
        **SMALL,
        "output_stride": 16,
        "low_level_channels": 48,
        "normalisation": "imagenet",
        "weights": None,
    }


def test_published_numbers() -> None:
    expert: Any = build_expert({"name": "deeplabv3plus", "num_classes": 38})
    assert (expert.gate_channels, expert.stride, expert.num_classes) == (256, 16, 38)
    assert expert.classifier.project[0].out_channels == 48
    assert [branch[0].dilation[0] for branch in expert.classifier.aspp.convs[1:4]] == [6, 12, 18]
    assert expert.classifier.aspp.project[3].p == 0.1
    # 912 x 912 at stride 16: 57 * 57 cells
    gate = build_gate("classwise", [expert, expert], (912, 912))
    assert isinstance(gate, Gate)
    assert gate.conv1.weight.shape == (38, 512, 3, 3)
    assert gate.fc1.weight.shape == (38, 128, 57 * 57)
    assert gate.fc2.weight.shape == (38, 2, 128)


def test_description_asks_for_no_download(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[object] = []
    plain = backbones.build_backbone

    def offline(name: str, *, stride: Any, weights: Any) -> backbones.Backbone:  # noqa: ANN401
        asked.append(weights)
        return plain(name, stride=stride, weights=None)

    monkeypatch.setattr("moeseg.models.build.build_backbone", offline)
    expert = build_expert({**SMALL, "weights": "imagenet"})
    build_expert(expert.description)
    assert asked == ["imagenet", None]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"name": "deeplab"}, "unknown architecture 'deeplab'. Did you mean 'deeplabv3plus'"),
        ({"name": "frrn"}, "frrn-a, frrn-a-original, frrn-b"),
        ({"backbone": "resnet19"}, "unknown backbone 'resnet19'. Did you mean 'resnet1"),
        ({"output_stride": 4}, "unknown output_stride '4'"),
        ({"output_stride": "16"}, "unknown output_stride '16'"),
        ({"normalisation": "imagent"}, "Did you mean 'imagenet'"),
        ({"weights": "coco"}, "Choose from: None, imagenet"),
        ({"chanels": 3, "bakbone": "x"}, "Did you mean 'channels'"),
        ({"chanels": 3, "bakbone": "x"}, "Did you mean 'backbone'"),
        ({"channels": 0}, "`channels` a whole number > 0, got 0"),
        ({"num_classes": None}, "`num_classes` a whole number > 0, got None"),
        ({"name": "frrn-a", "backbone": "resnet18"}, "unknown key of frrn-a 'backbone'"),
    ],
)
def test_mistakes_in_an_architecture(change: dict[str, Any], said: str) -> None:
    with pytest.raises(UsageError) as caught:
        build_expert(SMALL | change)
    assert said in str(caught.value)


def test_class_count_has_no_default() -> None:
    with pytest.raises(UsageError, match="expected `num_classes`"):
        build_expert({"name": "frrn-a"})
    with pytest.raises(UsageError, match="multiple of 3"):
        build_expert({"name": "frrn-a", "num_classes": 2, "channels": 8})


class OwnExpert(Expert):
    def __init__(self, num_classes: int, width: int = 2) -> None:
        super().__init__(num_classes=num_classes, gate_channels=width, stride=4)
        self.conv = nn.Conv2d(3, width, 1)

    def features(self, images: Tensor) -> Features:
        return Features(self.conv(images), (), (int(images.shape[2]), int(images.shape[3])))

    def decode(self, features: Features) -> Tensor:
        return features.gate


def test_own_class_by_name() -> None:
    name = f"{__name__}:OwnExpert"
    expert = build_expert({"name": name, "num_classes": 3, "width": 7})
    assert type(expert).__name__ == "OwnExpert"
    assert expert.gate_channels == 7
    assert expert.description == {"name": name, "num_classes": 3, "width": 7}


@pytest.mark.parametrize(
    ("architecture", "said"),
    [
        ({"name": "no_such_module:Net"}, "expected an importable module"),
        ({"name": "collections:Nothing"}, "derived from torch.nn.Module, got None"),
        ({"name": "subprocess:Popen", "args": ["true"]}, "derived from torch.nn.Module"),
        ({"name": f"{__name__}:OwnExpert", "num_classes": 3, "wdth": 1}, "wdth"),
        ({"name": f"{__name__}:OwnExpert"}, "num_classes"),
        ({"name": "torch.nn:Identity"}, "cannot be an expert"),
    ],
)
def test_mistakes_in_an_own_class(architecture: dict[str, Any], said: str) -> None:
    with pytest.raises(UsageError) as caught:
        build_expert(architecture)
    assert said in str(caught.value)


def test_gate_grid_follows_the_coarsest_stride() -> None:
    torch.manual_seed(0)
    experts = [
        build_expert(SMALL),
        build_expert({"name": "frrn-b", "channels": 3, "num_classes": 5}),
    ]
    gate = build_gate("simple", experts, (65, 97))
    assert gate.grid == (3, 4)
    assert gate.channels == (8, 24)
    assert build_gate("simple", experts, (65, 97), (2, 2)).grid is None
    with pytest.raises(UsageError, match="got neither"):
        build_gate("simple", experts)
    kind: Any = "classwize"
    with pytest.raises(UsageError, match="Did you mean 'classwise'"):
        build_gate(kind, experts, (65, 97))


def test_describe_and_build_model_are_inverse() -> None:
    torch.manual_seed(0)
    experts = [build_expert(SMALL), build_expert({**SMALL, "output_stride": 8})]
    for model in (
        experts[0],
        build_ensemble(experts, "max"),
        build_mixture(experts, "simple", size=(64, 96)),
        build_mixture(experts, "classwise", True, (2, 3)),
    ):
        again = build_model(describe(model))
        assert type(again) is type(model)
        assert describe(again) == describe(model)
        assert OrderedDict((k, v.shape) for k, v in again.state_dict().items()) == OrderedDict(
            (k, v.shape) for k, v in model.state_dict().items()
        )


def test_expert_built_by_hand_cannot_be_described() -> None:
    with pytest.raises(CheckpointError, match="OwnExpert without description"):
        describe(OwnExpert(3))
    assert issubclass(CheckpointError, MoesegError)
