"""The original's networks written a second time, as functions of a state dict alone.

The oracle of `moeseg.interop`: it goes by the original's keys and shares no code with the package.
Class-wise gates run one after the other, both experts are resized before they are summed.
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F
from torchvision import models as tv

State = Mapping[str, Tensor]


def draw(key: str, shape: tuple[int, ...]) -> Tensor:
    """Return the tensor that the rule of the reference outputs gives for a key."""
    generator = np.random.default_rng(zlib.crc32(key.encode()))
    leaf = key.rsplit(".", 1)[-1]
    if leaf == "num_batches_tracked":
        return torch.zeros(shape, dtype=torch.int64)
    if leaf == "running_var":
        values = generator.uniform(0.5, 1.5, shape)
    elif leaf in ("running_mean", "bias"):
        values = 0.1 * generator.standard_normal(shape)
    elif len(shape) == 1:
        values = generator.uniform(0.4, 0.8, shape)
    else:
        values = generator.standard_normal(shape) * np.sqrt(2 / np.prod(shape[1:]))
    return torch.from_numpy(values.astype(np.float32))


def draw_images(shape: tuple[int, ...]) -> Tensor:
    """Return the images (B, 3, H, W) of the same rule."""
    values = np.random.default_rng(7).uniform(0, 1, shape)
    return torch.from_numpy(values.astype(np.float32))


@torch.no_grad()
def slow_logits(state: State, images: Tensor, rule: str = "mean", dilate: bool = False) -> Tensor:
    """Return logits (B, C, H, W) of images (B, 3, H, W).

    Args:
        state: by the original's keys.
        images: RGB.
        rule: of an ensemble, mean or max.
        dilate: a DeepLabv3+ has output stride 8.
    """
    frrn = any("frrnlayer1" in key for key in state)
    network = _frrn if frrn else _deeplab8 if dilate else _deeplab16
    if "expert1.out_conv.weight" not in state and "expert1.backbone.conv1.weight" not in state:
        return network(state, images)[1]
    (map1, logits1), (map2, logits2) = (
        network(_part(state, prefix), images) for prefix in ("expert1.", "expert2.")
    )
    gate = _part(state, "gating." if frrn else "gate.")
    if not gate:
        return torch.maximum(logits1, logits2) if rule == "max" else (logits1 + logits2) / 2
    both = torch.cat([map1, map2], dim=1)
    total = torch.empty_like(logits1)
    for column in range(total.shape[1]):
        own = gate if "conv1.weight" in gate else _part(gate, f"gates.{column}.")
        weights = _gate(own, both)  # (B, 2)
        for image in range(len(total)):
            first, second = weights[image]
            total[image, column] = first * logits1[image, column] + second * logits2[image, column]
    head = state.get("conv3x3.weight" if frrn else "final_conv.weight")
    return total if head is None else F.conv2d(total, head, padding=1)


def _part(state: State, prefix: str) -> dict[str, Tensor]:
    return {k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)}


def _gate(state: State, maps: Tensor) -> Tensor:
    x = F.relu(F.conv2d(maps, state["conv1.weight"], state["conv1.bias"], padding=1))
    x = F.relu(F.linear(x.flatten(1), state["fc1.weight"], state["fc1.bias"]))
    return F.linear(x, state["fc2.weight"], state["fc2.bias"]).softmax(1)


def _norm(state: State, key: str, x: Tensor) -> Tensor:
    mean, var = state[f"{key}.running_mean"], state[f"{key}.running_var"]
    return F.batch_norm(x, mean, var, state[f"{key}.weight"], state[f"{key}.bias"])


def _conv(state: State, key: str, x: Tensor, dilation: int = 1) -> Tensor:
    weight = state[f"{key}.weight"]
    padding = dilation * (weight.shape[-1] // 2)
    return F.conv2d(x, weight, state.get(f"{key}.bias"), padding=padding, dilation=dilation)


# -- DeepLabv3+, the backbone from torchvision with its own option for dilation --------------------


def _deeplab16(state: State, images: Tensor) -> tuple[Tensor, Tensor]:
    return _deeplab(state, images, (6, 12, 18), [False, False, True])


def _deeplab8(state: State, images: Tensor) -> tuple[Tensor, Tensor]:
    return _deeplab(state, images, (12, 24, 36), [False, True, True])


def _deeplab(
    state: State, images: Tensor, rates: tuple[int, ...], dilate: list[bool]
) -> tuple[Tensor, Tensor]:
    backbone = _part(state, "backbone.")
    deep = "layer3.22.conv1.weight" in backbone
    with torch.device("meta"):  # no weights are drawn only to be replaced
        build = tv.resnet101 if deep else tv.resnet50
        resnet = build(replace_stride_with_dilation=dilate).eval()
    absent, unknown = resnet.load_state_dict(backbone, strict=False, assign=True)
    assert sorted(absent) == ["fc.bias", "fc.weight"]
    assert unknown == []
    x = resnet.maxpool(resnet.relu(resnet.bn1(resnet.conv1(images))))
    low = resnet.layer1(x)
    high = resnet.layer4(resnet.layer3(resnet.layer2(low)))

    def block(conv: str, norm: str, x: Tensor, dilation: int = 1) -> Tensor:
        return F.relu(_norm(state, norm, _conv(state, conv, x, dilation)))

    aspp = "classifier.aspp"
    parts = [
        block(f"{aspp}.convs.{n}.0", f"{aspp}.convs.{n}.1", high, rate)
        for n, rate in enumerate((1, *rates))
    ]
    mean = block(f"{aspp}.convs.4.1", f"{aspp}.convs.4.2", high.mean((2, 3), keepdim=True))
    parts.append(_resize(mean, high))
    pyramid = block(f"{aspp}.project.0", f"{aspp}.project.1", torch.cat(parts, 1))
    low = block("classifier.project.0", "classifier.project.1", low)
    joined = torch.cat([low, _resize(pyramid, low)], 1)
    joined = block("classifier.classifier.0", "classifier.classifier.1", joined)
    return pyramid, _resize(_conv(state, "classifier.classifier.3", joined), images)


def _resize(x: Tensor, like: Tensor) -> Tensor:
    size = (int(like.shape[2]), int(like.shape[3]))
    return F.interpolate(x, size=size, mode="bilinear", align_corners=False)


# -- FRRN-A ----------------------------------------------------------------------------------------


def _frrn(state: State, images: Tensor) -> tuple[Tensor, Tensor]:
    x = F.relu(_norm(state, "first.bn", _conv(state, "first.conv", images)))
    for number in range(3):
        x = _residual(state, f"reslayers_in.{number}", x)
    y, z = x, _conv(state, "divide", x)
    for name, units, factor in (
        ("frrnlayer1", 3, 2),
        ("frrnlayer2", 4, 4),
        ("frrnlayer3", 2, 8),
        ("frrnlayer4", 2, 16),
    ):
        y, z = _units(state, name, units, factor, F.max_pool2d(y, 3, 2, 1), z)
    features = y
    for name, factor in (("defrrnlayer1", 8), ("defrrnlayer2", 4), ("defrrnlayer3", 2)):
        y, z = _units(state, name, 2, factor, _larger(y, 2), z)
    x = _conv(state, "compress", torch.cat([_larger(y, 2), z], 1))
    for number in range(3):
        x = _residual(state, f"reslayers_out.{number}", x)
    return features, _conv(state, "out_conv", x)


def _residual(state: State, key: str, x: Tensor) -> Tensor:
    inner = F.relu(_norm(state, f"{key}.bn1", _conv(state, f"{key}.conv1", x)))
    return F.relu(x + _norm(state, f"{key}.bn2", _conv(state, f"{key}.conv2", inner)))


def _units(
    state: State, name: str, units: int, factor: int, y: Tensor, z: Tensor
) -> tuple[Tensor, Tensor]:
    for key in [f"{name}.frr1", *(f"{name}.nexts.{n}" for n in range(units - 1))]:
        y = torch.cat([y, F.max_pool2d(z, 3, factor, 1)], 1)
        for number in (1, 2):
            y = F.relu(_norm(state, f"{key}.bn{number}", _conv(state, f"{key}.conv{number}", y)))
        z = z + _larger(_conv(state, f"{key}.convz", y), factor)
    return y, z


def _larger(x: Tensor, factor: int) -> Tensor:
    return F.interpolate(x, scale_factor=factor, mode="bilinear", align_corners=True)
