"""What an attack costs over its bound: n passes forward and back to the image, and one forward.

A mixture of two DeepLabv3+ ResNet-101, 38 classes, a small frame. 10 to 18 minutes on two cores.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Literal

import torch
from torch import Tensor, nn

from measure import figure, interleaved, parse, parser, peak_memory, ratios, report, scaled
from moeseg.models import Model, build_mixture
from moeseg.robustness.attacks import Attack, perturb
from moeseg.robustness.ball import generators_of
from moeseg.types import Size
from subjects import random_experts

ATTACKS = ("fgsm", "pgd", "segpgd", "cospgd", "apgd", "apgd-masked")


@dataclass(frozen=True)
class Setup:
    """What is attacked."""

    backbone: Literal["mobilenet_v2", "resnet101"] = "resnet101"
    channels: int = 256
    classes: int = 38
    size: Size = (304, 304)
    batch: int = 1
    steps: int = 10
    repeats: int = 4


SMOKE = Setup("mobilenet_v2", 16, 5, (32, 32), 2, 2, 2)


def main(argv: Sequence[str] | None = None) -> None:
    options = parse(parser("attacks", __doc__), argv)
    at = SMOKE if options.smoke else Setup()
    experts = random_experts(2, at.backbone, at.channels, at.classes)
    mixture = build_mixture(experts, "classwise", True, size=at.size).eval()
    mixture.requires_grad_(False)
    generator = torch.Generator().manual_seed(0)
    images = torch.rand(at.batch, 3, *at.size, generator=generator)
    label = torch.randint(at.classes, (at.batch, *at.size), generator=generator, dtype=torch.uint8)
    variants: dict[str, Callable[[], object]] = {
        "bound, 1 step": lambda: bound(mixture, images, label, 1),
        f"bound, {at.steps} steps": lambda: bound(mixture, images, label, at.steps),
    }
    many = Attack.parse(f"pgd-{at.steps}")
    for kind in ATTACKS:
        steps = 1 if kind == "fgsm" else at.steps
        name = Attack.parse(f"{kind}-{steps}")
        variants[kind] = lambda name=name: attacked(mixture, images, label, name)  # type: ignore[misc]
    rough = replace(many, precision="bf16-mixed")
    variants["pgd in bfloat16"] = lambda: attacked(mixture, images, label, rough)
    seconds = interleaved(variants, at.repeats)
    _, peak = peak_memory(lambda: attacked(mixture, images, label, many))
    limits = {
        kind: "bound, 1 step" if kind == "fgsm" else f"bound, {at.steps} steps" for kind in ATTACKS
    }
    report(
        "attacks",
        f"Attacks on a class-wise mixture of two {at.backbone}, {at.size[0]}x{at.size[1]}",
        options,
        asdict(at),
        [
            figure(
                f"bound, {at.steps} steps, an image and step",
                scaled(seconds[f"bound, {at.steps} steps"], 1e3 / at.batch / at.steps),
                "ms",
            ),
            *(
                figure(
                    f"{kind} over its bound",
                    ratios(seconds[kind], seconds[limits[kind]]),
                    "x",
                    at_most=1.1,
                )
                for kind in ATTACKS
            ),
            figure(
                "pgd over pgd in bfloat16", ratios(seconds["pgd"], seconds["pgd in bfloat16"]), "x"
            ),
            figure(f"pgd-{at.steps}, peak memory", [peak], "MiB"),
        ],
        [
            "The bound: as many forward passes of the same model with the gradient of the mean "
            "cross-entropy by the images alone, and one forward pass without.",
            "apgd-masked, a part of SEA, shrinks its ball in three stages, and each ends with a "
            "forward pass: two more than the bound has, however many steps.",
            "In bfloat16 (`robustness.precision: bf16-mixed`): the passes that the attack follows.",
        ],
    )


def bound(model: Model, images: Tensor, label: Tensor, steps: int) -> None:
    """Run what no attack of so many steps can do without."""
    ids = label.long()
    for _ in range(steps):
        at = images.clone().requires_grad_()
        loss = nn.functional.cross_entropy(model(at).logits, ids)
        torch.autograd.grad(loss, at)
    with torch.no_grad():
        model(images)


def attacked(model: Model, images: Tensor, label: Tensor, attack: Attack) -> None:
    """Run an attack as a sweep does."""
    generators = generators_of(0, [str(number) for number in range(len(images))])
    perturb(model, images, label, generators, epsilon=4 / 255, attack=attack)


if __name__ == "__main__":
    main()
