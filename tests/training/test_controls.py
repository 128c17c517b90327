from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from moeseg.data import SegmentationDataset, Taxonomy, read_manifest
from moeseg.errors import UsageError
from moeseg.models import ConstantGate, build_expert, build_mixture, load, save
from moeseg.training.cache import LiveOutputs
from moeseg.training.controls import mean_gate, merge_experts, reestimate_batchnorm
from tiny import SIZE, tiny_expert, write_data


@pytest.fixture
def frames(tmp_path: Path) -> SegmentationDataset:
    csv = write_data(tmp_path / "data", frames=3)
    catalogue = read_manifest(csv, Taxonomy.load(csv.parent / "taxonomy.yaml"))
    return SegmentationDataset(catalogue.select("day+dusk", "train"), catalogue.read_label, SIZE)


def test_merged_weights_are_the_mean_and_the_experts_stay() -> None:
    experts = [tiny_expert(seed) for seed in (1, 2, 3)]
    before = [expert.state_dict()["first.0.weight"].clone() for expert in experts]
    merged = merge_experts(experts).state_dict()
    for name, value in merged.items():
        if value.is_floating_point():
            mean = sum(expert.state_dict()[name] for expert in experts) / 3
            assert torch.allclose(value, mean, atol=1e-6), name
    for expert, weight in zip(experts, before, strict=True):
        assert torch.equal(expert.state_dict()["first.0.weight"], weight)


def test_experts_of_other_architectures_cannot_be_merged() -> None:
    other = build_expert({"name": "tiny:TinyExpert", "width": 8})
    with pytest.raises(UsageError, match="needs experts of one architecture"):
        merge_experts([tiny_expert(1), other])


def test_statistics_are_the_means_over_all_frames(frames: SegmentationDataset) -> None:
    expert = tiny_expert(1)
    norm = expert.get_submodule("first")[1]  # type: ignore[index]
    assert isinstance(norm, nn.BatchNorm2d)
    momentum = norm.momentum
    reestimate_batchnorm(expert, frames, batch_size=len(frames))
    images = torch.stack([frames[i][0] for i in range(len(frames))])
    with torch.no_grad():
        seen = expert.get_submodule("first")[0](images)  # type: ignore[index]
    assert norm.running_mean is not None
    assert norm.running_var is not None
    assert torch.allclose(norm.running_mean, seen.mean((0, 2, 3)), atol=1e-5)
    assert torch.allclose(norm.running_var, seen.var((0, 2, 3)), rtol=1e-4)
    assert norm.momentum == momentum
    assert not any(part.training for part in expert.modules())


def test_statistics_of_several_batches_weigh_every_frame_alike(
    frames: SegmentationDataset,
) -> None:
    """12 frames in batches of at most 5 are 3 batches of 4, not of 5, 5 and 2."""
    expert = tiny_expert(1)
    norm = expert.get_submodule("first")[1]  # type: ignore[index]
    reestimate_batchnorm(expert, frames, batch_size=5)
    images = torch.stack([frames[i][0] for i in range(len(frames))])
    with torch.no_grad():
        seen = expert.get_submodule("first")[0](images)  # type: ignore[index]
    assert len(frames) == 12
    assert norm.num_batches_tracked == 3
    assert torch.allclose(norm.running_mean, seen.mean((0, 2, 3)), atol=1e-6)
    within = norm.running_var.clone()
    reestimate_batchnorm(expert, frames, batch_size=5)
    assert torch.equal(norm.running_var, within)  # the same each time, and from nothing
    assert torch.allclose(within, seen.var((0, 2, 3)), rtol=0.5)


def test_a_mean_gate_has_the_mean_weights_of_all_frames(
    frames: SegmentationDataset, tmp_path: Path
) -> None:
    experts = [tiny_expert(1), tiny_expert(2)]
    mixture = build_mixture(experts, "classwise", True, size=SIZE)
    for parameter in mixture.gate.parameters():
        parameter.data.mul_(3)  # weights that move from frame to frame
    source = LiveOutputs(experts, frames, batch_size=5, training=False)
    fixed = mean_gate(mixture, source)
    images = torch.stack([frames[i][0] for i in range(len(frames))])
    with torch.no_grad():
        weights, constant = mixture(images).weights, fixed(images).weights
    assert weights is not None
    assert constant is not None
    assert weights.std(0).max() > 1e-3
    assert torch.allclose(constant, weights.mean(0).expand_as(constant), atol=1e-6)
    assert fixed.head is mixture.head
    save(fixed, tmp_path / "fixed")
    again = load(tmp_path / "fixed")
    assert isinstance(again.gate, ConstantGate)
    with torch.no_grad():
        assert torch.equal(again(images).logits, fixed(images).logits)
