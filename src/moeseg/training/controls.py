"""Control models: what a mixture must beat for its gate, or for being one, to be worth having.

Those made from trained models are here; `constant`, `constant-classwise` and `shared-trunk` are
gates like others (`models.gates`) and are fitted with them.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.data import DataLoader

from moeseg.data import EpochBatches, SegmentationDataset
from moeseg.errors import UsageError
from moeseg.models import ConstantGate, Expert, Mixture, describe
from moeseg.progress import track
from moeseg.training.cache import GateSource


def merge_experts(experts: Sequence[Expert]) -> Expert:
    """Return an expert whose weights are the mean of the experts' weights.

    Its BatchNorm statistics fit none of its features: `reestimate_batchnorm` comes next.

    Raises:
        UsageError: the experts differ in architecture.
    """
    kinds = [describe(expert) for expert in experts]
    if any(kind != kinds[0] for kind in kinds):
        raise UsageError(
            "the control `merged` averages weights and needs experts of one architecture, got "
            f"{', '.join(str(kind['architecture']) for kind in kinds)}; take it off `controls`"
        )
    merged = copy.deepcopy(experts[0])
    states = [expert.state_dict() for expert in experts]
    mean: dict[str, Tensor] = {}
    for name, first in states[0].items():
        stacked = torch.stack([state[name] for state in states])  # (E, ...)
        mean[name] = stacked.mean(0) if first.is_floating_point() else first
    merged.load_state_dict(mean)
    return merged


@torch.no_grad()
def reestimate_batchnorm(
    expert: Expert, frames: SegmentationDataset, *, batch_size: int, workers: int = 0
) -> None:
    """Set an expert's BatchNorm statistics to their mean over all batches of frames.

    Frames are taken in an order that is random and always the same, so that batches mix subsets;
    these are of nearly equal size, so that no frame counts much more than another. Dropout stays
    off. The step that weight averaging needs before its network can be used (Izmailov et al., UAI
    2018, section 3.2).
    """
    device = next(expert.parameters()).device
    batches = EpochBatches(len(frames), batch_size, seed=0)
    loader = DataLoader(frames, batch_sampler=batches, num_workers=workers)
    with _averaging([part for part in expert.modules() if isinstance(part, _BatchNorm)]):
        for images, _, _ in track(loader, "statistics of the merged expert", len(loader)):
            expert(images.to(device))
    expert.eval()


@torch.no_grad()
def mean_gate(mixture: Mixture, frames: GateSource) -> Mixture:
    """Return the mixture with its gate's weights replaced by their mean over all frames.

    Args:
        mixture: fitted; its experts and head are shared with the result.
        frames: each frame once.
    """
    total, count = torch.zeros(()), 0
    for batch in frames.epoch(0):
        weights = mixture.gate(batch.features)  # (B, E, K)
        total = total + weights.double().sum(0).cpu()
        count += len(weights)
    gate = ConstantGate(
        mixture.gate.channels, mixture.gate.columns, weights=(total / count).float()
    )
    return Mixture(mixture.experts, gate, mixture.head).eval()


@contextmanager
def _averaging(norms: Sequence[nn.Module]) -> Iterator[None]:
    """Let BatchNorms gather plain means over the batches that pass, from nothing."""
    momenta = [norm.momentum for norm in norms]
    try:
        for norm in norms:
            norm.reset_running_stats()  # type: ignore[operator]
            norm.momentum = None  # type: ignore[assignment]
            norm.train()
        yield
    finally:
        for norm, momentum in zip(norms, momenta, strict=True):
            norm.momentum = momentum
            norm.eval()
