"""A mixture's forward pass against the sum of its experts' own, and against what the machine can.

Two DeepLabv3+ ResNet-101 experts at 456x456 with 38 classes. Takes about 4 minutes on two cores.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Literal

import torch
from torch.nn import functional as F

from measure import Figure, figure, interleaved, parse, parser, peak_memory, ratios, report, scaled
from moeseg.config import ArchitectureConfig
from moeseg.models import Expert
from moeseg.training.cost import forward_flops, planned_expert
from moeseg.types import Size
from subjects import four_mixtures, random_experts


@dataclass(frozen=True)
class Settings:
    """What is measured."""

    backbone: Literal["resnet18", "resnet101"] = "resnet101"
    channels: int = 256
    experts: int = 2
    classes: int = 38
    size: Size = (456, 456)
    batches: tuple[int, ...] = (1, 2)
    repeats: int = 5
    matrix: int = 2048
    convolution: tuple[int, int, int] = (4, 256, 57)  # images, channels, height and width


SMOKE = Settings("resnet18", 16, 2, 5, (32, 48), (1,), 2, 64, (1, 8, 8))


def main(argv: Sequence[str] | None = None) -> None:
    options = parse(parser("mixture_forward", __doc__), argv)
    at = SMOKE if options.smoke else Settings()
    experts = random_experts(at.experts, at.backbone, at.channels, at.classes)
    with torch.inference_mode():
        speed = machine_speed(at)
        figures = [
            figure("speed of a float32 matrix product", scaled(speed["matrix"], 1e-9), "GFLOP/s"),
            figure("speed of a 3x3 convolution", scaled(speed["convolution"], 1e-9), "GFLOP/s"),
        ]
        peak = max(map(max, speed.values()))
        for batch in at.batches:
            figures += measure_batch(at, experts, batch, peak)
    where = f"{at.size[0]}x{at.size[1]}"
    report(
        "mixture_forward",
        f"Forward pass of a mixture of {at.experts} DeepLabv3+ {at.backbone} at {where}",
        options,
        asdict(at),
        figures,
        [
            "The experts' own forwards end with full-size logits of each; a mixture sums at "
            "decoder resolution and resizes once.",
            "The bound is the experts' floating-point operations over the machine's best measured "
            "speed.",
        ],
    )


def measure_batch(at: Settings, experts: Sequence[Expert], batch: int, peak: float) -> list[Figure]:
    """Time the experts and the four mixtures at one batch size."""
    images = torch.rand(batch, 3, *at.size, generator=torch.Generator().manual_seed(0))
    works: dict[str, Callable[[], object]] = {"experts": lambda: alone(experts, images)}
    for name, mixture in four_mixtures(experts, at.size).items():
        works[name] = lambda mixture=mixture: mixture.eval()(images)  # type: ignore[misc]
    seconds = interleaved(works, at.repeats)
    architecture = ArchitectureConfig(backbone=at.backbone, channels=at.channels)
    flops = forward_flops(planned_expert(architecture, at.classes), at.size) * at.experts * batch
    found = [
        figure(f"batch {batch}: experts' own forwards, summed", seconds["experts"], "s"),
        figure(f"batch {batch}: bound of the experts", [flops / peak], "s"),
        figure(f"batch {batch}: experts over bound", scaled(seconds["experts"], peak / flops), "x"),
    ]
    for name in list(works)[1:]:
        ratio = ratios(seconds[name], seconds["experts"])
        found += [
            figure(f"batch {batch}: {name}", seconds[name], "s"),
            figure(f"batch {batch}: {name} over experts", ratio, "x", at_most=1.03),
        ]
    for name, work in works.items():
        before, highest = peak_memory(work)
        found += [
            figure(f"batch {batch}: {name}, peak memory", [highest], "MiB"),
            figure(f"batch {batch}: {name}, memory above rest", [highest - before], "MiB"),
        ]
    return found


def alone(experts: Sequence[Expert], images: torch.Tensor) -> None:
    """Run each expert by itself and drop what it gives."""
    for expert in experts:
        expert(images)


def machine_speed(at: Settings) -> dict[str, list[float]]:
    """Return operations a second of a matrix product and of a convolution, round by round."""
    count, channels, extent = at.convolution
    square = torch.rand(at.matrix, at.matrix)
    images = torch.rand(count, channels, extent, extent)
    kernel = torch.rand(channels, channels, 3, 3)
    seconds = interleaved(
        {
            "matrix": lambda: square @ square,
            "convolution": lambda: F.conv2d(images, kernel, padding=1),
        },
        max(at.repeats, 5),
        warmups=2,
    )
    work = {
        "matrix": 2 * at.matrix**3,
        "convolution": 2 * count * extent**2 * channels**2 * 9,
    }
    return {name: [work[name] / one for one in several] for name, several in seconds.items()}


if __name__ == "__main__":
    main()
