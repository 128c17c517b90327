"""What training is expected to take: floating-point operations over this machine's measured speed.

An estimate for `--plan`, good to a factor of about two; measured times stand in the run's ledger.
"""

from __future__ import annotations

import functools
import time

import torch
from torch.utils.flop_counter import FlopCounterMode

from moeseg.config import AdversarialConfig, ArchitectureConfig
from moeseg.models import Expert, build_expert
from moeseg.types import Size

TRAIN_FACTOR = 3.0  # forward, and backward by input and by weight
ATTACK_FACTOR = 2.0  # forward, and backward by input alone


def attack_factor(config: AdversarialConfig | None) -> float:
    """Return what an attack adds to a training frame, in forward passes; 0 without one."""
    return ATTACK_FACTOR * config.steps * config.share if config is not None else 0.0


@functools.cache
def planned_flops(architecture: str, num_classes: int, size: Size) -> float:
    """Return `forward_flops` of an architecture's JSON; networks of a study often share one."""
    return forward_flops(
        planned_expert(ArchitectureConfig.model_validate_json(architecture), num_classes), size
    )


def forward_flops(expert: Expert, size: Size) -> float:
    """Return the floating-point operations of one image's forward pass (2 a multiply-add)."""
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        expert.eval()(torch.zeros(1, 3, *size, device=next(expert.parameters()).device))
    return float(counter.get_total_flops())


def planned_expert(architecture: ArchitectureConfig, num_classes: int) -> Expert:
    """Return a network without storage: only shapes, so that it costs no memory and no time."""
    arguments = architecture.build_arguments(num_classes)
    if "weights" in arguments:
        arguments["weights"] = None
    with torch.device("meta"):
        return build_expert(arguments).eval()


@functools.cache
def flops_per_second(device: torch.device) -> float:
    """Measure this device's speed on 3x3 convolutions like those of an encoder."""
    convolution = torch.nn.Conv2d(128, 128, 3, padding=1).to(device)
    images = torch.randn(4, 128, 32, 48, device=device)
    seconds: list[float] = []
    with torch.no_grad():
        for _ in range(6):
            began = time.perf_counter()
            convolution(images).sum().item()
            seconds.append(time.perf_counter() - began)
    operations = 2 * 4 * 32 * 48 * 128 * 128 * 9
    return operations / min(seconds)  # what else the machine does must not count


def parameter_bytes(expert: Expert) -> int:
    """Return what a network's weights take on disk."""
    return sum(p.numel() * p.element_size() for p in expert.state_dict().values())


def expected_seconds(flops: float, device: torch.device) -> float:
    """Return the time for so many operations; networks reach about half of a lone convolution."""
    return flops / (0.5 * flops_per_second(device))
