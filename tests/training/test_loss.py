from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F

from moeseg.config import OptimizerConfig
from moeseg.models import Mixture, build_mixture
from moeseg.training.loss import (
    cross_entropy,
    draw_points,
    mix_points,
    points_loss,
    rate,
    sample_logits,
)
from moeseg.types import ExpertOutput
from tiny import SIZE, tiny_expert


def some_label(seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    label = torch.randint(0, 3, (3, *SIZE), generator=generator, dtype=torch.uint8)
    label[0, :, 5:] = 255  # few labelled pixels
    label[2] = 255  # none
    return label


def some_mixture(*, conv: bool, kind: str = "classwise") -> Mixture:
    mixture = build_mixture(
        [tiny_expert(1), tiny_expert(2)],
        kind,  # type: ignore[arg-type]
        conv,
        size=SIZE,
        generator=torch.Generator().manual_seed(3),
    )
    if mixture.head is not None:
        torch.nn.init.normal_(mixture.head.weight, generator=torch.Generator().manual_seed(4))
    return mixture


def test_cross_entropy_by_hand() -> None:
    logits = torch.tensor([[[[0.0, 2.0, 0.0]], [[0.0, 0.0, 9.0]]]])  # (1, 2, 1, 3)
    label = torch.tensor([[[0, 0, 255]]], dtype=torch.uint8)
    expected = (math.log(2) + math.log(1 + math.exp(-2))) / 2
    assert cross_entropy(logits, label).item() == pytest.approx(expected, rel=1e-6)
    weighted = cross_entropy(logits, label, torch.tensor([3.0, 1.0]))
    assert weighted.item() == pytest.approx(3 * expected, rel=1e-6)


def test_cross_entropy_without_a_labelled_pixel_is_zero() -> None:
    label = torch.full((1, 2, 2), 255, dtype=torch.uint8)
    assert cross_entropy(torch.randn(1, 3, 2, 2), label).item() == 0.0


def test_points_are_labelled_pixels_and_shares_count_them() -> None:
    label = some_label()
    points = draw_points(label, 200, torch.Generator().manual_seed(0))
    assert (points.label[:2] != 255).all()
    assert (points.label[2] == 255).all()
    assert torch.equal(points.label, label.flatten(1).gather(1, points.index))
    few, many = 5 * SIZE[0], SIZE[0] * SIZE[1]
    assert points.share.tolist() == pytest.approx([few / (few + many), many / (few + many), 0.0])


def test_points_reach_every_labelled_pixel_equally() -> None:
    label = torch.full((1, 4, 4), 255, dtype=torch.uint8)
    label[0, 1, 1:3], label[0, 3, 3] = 0, 1
    points = draw_points(label, 30_000, torch.Generator().manual_seed(0))
    counts = torch.bincount(points.index[0], minlength=16).float() / 30_000
    expected = torch.zeros(16)
    expected[[5, 6, 15]] = 1 / 3
    assert torch.allclose(counts, expected, atol=0.01)


@pytest.mark.parametrize("grid", [(6, 8), (5, 7), SIZE, (1, 1), (30, 40)])
def test_sampled_logits_equal_the_resized_map(grid: tuple[int, int]) -> None:
    logits = torch.randn(2, 3, *grid, generator=torch.Generator().manual_seed(0))
    label = torch.zeros(2, *SIZE, dtype=torch.uint8)
    points = draw_points(label, 500, torch.Generator().manual_seed(1))
    output = ExpertOutput(torch.zeros(2, 1, 1, 1), logits)
    sampled = sample_logits([output], points, neighbours=True)  # (B, 1, 9, N, C)
    full = F.interpolate(logits, SIZE, mode="bilinear", align_corners=False)
    patches = F.unfold(full, 3, padding=1).view(2, 3, 9, -1)  # (B, C, 9, H W), zero outside
    index = points.index[:, None, None].expand(-1, 3, 9, -1)
    expected = patches.gather(3, index).permute(0, 2, 3, 1)  # (B, 9, N, C)
    assert torch.allclose(sampled[:, 0], expected, atol=1e-5)
    alone = sample_logits([output], points, neighbours=False)
    assert torch.allclose(alone[:, 0, 0], expected[:, 4], atol=1e-5)


@pytest.mark.parametrize("conv", [False, True])
@pytest.mark.parametrize("kind", ["simple", "classwise"])
def test_mixed_points_equal_the_mixtures_own_pixels(conv: bool, kind: str) -> None:
    mixture = some_mixture(conv=conv, kind=kind)
    images = torch.rand(3, 3, *SIZE, generator=torch.Generator().manual_seed(0))
    outputs = [expert.output(images) for expert in mixture.experts]
    points = draw_points(some_label(), 300, torch.Generator().manual_seed(1))
    weights = mixture.gate([output.gate for output in outputs])
    mixed = mix_points(mixture, weights, sample_logits(outputs, points, neighbours=conv))
    full = mixture(images).logits.flatten(2)  # (B, C, H W)
    expected = full.gather(2, points.index[:, None].expand(-1, 3, -1)).transpose(1, 2)
    assert torch.allclose(mixed, expected, atol=1e-4)


def test_sampled_loss_is_an_unbiased_estimate() -> None:
    logits = torch.randn(3, 3, *SIZE, generator=torch.Generator().manual_seed(0))
    label = some_label()
    weights = torch.tensor([0.5, 1.0, 4.0])
    exact = cross_entropy(logits, label, weights).item()
    estimates = []
    for seed in range(200):
        points = draw_points(label, 50, torch.Generator().manual_seed(seed))
        picked = logits.flatten(2).gather(2, points.index[:, None].expand(-1, 3, -1))
        estimates.append(points_loss(picked.transpose(1, 2), points, weights).item())
    spread = torch.tensor(estimates).std().item() / math.sqrt(len(estimates))
    assert abs(sum(estimates) / len(estimates) - exact) < 4 * spread


@pytest.mark.parametrize(
    ("schedule", "step", "expected"),
    [("constant", 7, 1.0), ("poly", 5, 0.5**0.9), ("cosine", 5, 0.5), ("poly", 10, 0.0)],
)
def test_learning_rate_course(schedule: str, step: int, expected: float) -> None:
    config = OptimizerConfig.model_validate({"schedule": schedule})
    assert rate(config, step, 10) == pytest.approx(expected)


def test_warmup_rises_from_zero() -> None:
    config = OptimizerConfig(warmup=4)
    assert [rate(config, step, 10) for step in range(3)] == [0.25, 0.5, 0.75]
