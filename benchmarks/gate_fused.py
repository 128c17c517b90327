"""The class-wise gate as one fused module against C one-column gates in a loop.

Both get the same weights and must give the same result. Features are not differentiated, as in
training over frozen experts. Takes about a minute on two cores.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass

import torch
from torch import Tensor, nn

from measure import Figure, figure, interleaved, parse, parser, ratios, report, scaled
from moeseg.models import Gate
from moeseg.types import Size


@dataclass(frozen=True)
class Settings:
    """What is measured."""

    channels: int = 256
    experts: int = 2
    classes: int = 38
    grids: tuple[Size, ...] = ((15, 15), (57, 57))
    batch: int = 4
    repeats: int = 15


SMOKE = Settings(8, 2, 3, ((3, 3), (4, 5)), 2, 2)


def main(argv: Sequence[str] | None = None) -> None:
    options = parse(parser("gate_fused", __doc__), argv)
    at = SMOKE if options.smoke else Settings()
    figures = [one for grid in at.grids for one in measure_grid(at, grid)]
    report(
        "gate_fused",
        f"Class-wise gate of {at.classes} columns: one module against a loop of {at.classes}",
        options,
        asdict(at),
        figures,
        [f"Feature maps of {at.experts} experts with {at.channels} channels, batch {at.batch}."],
    )


def measure_grid(at: Settings, grid: Size) -> list[Figure]:
    """Time both at one size of feature map."""
    generator = torch.Generator().manual_seed(0)
    features = [
        torch.rand(at.batch, at.channels, *grid, generator=generator) for _ in range(at.experts)
    ]
    channels = [at.channels] * at.experts
    fused = Gate(channels, at.classes, grid=grid, generator=generator)
    columns = [column_of(fused, channels, grid, k) for k in range(at.classes)]
    single = nn.ModuleList(columns)

    def loop() -> Tensor:
        return torch.cat([gate(features) for gate in columns], dim=2)  # (B, E, K)

    with torch.no_grad():
        torch.testing.assert_close(fused(features), loop())
    forward = interleaved(
        {
            "fused": lambda: without_graph(lambda: fused(features)),
            "loop": lambda: without_graph(loop),
        },
        at.repeats,
    )
    both = interleaved(
        {
            "fused": lambda: step(fused, lambda: fused(features)),
            "loop": lambda: step(single, loop),
        },
        at.repeats,
    )
    where = f"{grid[0]}x{grid[1]}"
    found = []
    for what, seconds in (("forward", forward), ("forward and backward", both)):
        found += [
            figure(f"{where} {what}, fused", scaled(seconds["fused"], 1e3), "ms"),
            figure(f"{where} {what}, loop", scaled(seconds["loop"], 1e3), "ms"),
            figure(
                f"{where} {what}, loop over fused",
                ratios(seconds["loop"], seconds["fused"]),
                "x faster",
            ),
        ]
    return found


def column_of(gate: Gate, channels: Sequence[int], grid: Size, column: int) -> Gate:
    """Return one column of a class-wise gate as a gate of its own."""
    single = Gate(channels, 1, grid=grid)
    single.load_state_dict({k: v[column : column + 1] for k, v in gate.state_dict().items()})
    return single


def without_graph(weigh: Callable[[], Tensor]) -> None:
    """Weigh as in evaluation."""
    with torch.inference_mode():
        weigh()


def step(module: nn.Module, weigh: Callable[[], Tensor]) -> None:
    """Weigh and differentiate by every parameter."""
    module.zero_grad()
    torch.autograd.backward(weigh().square().sum())


if __name__ == "__main__":
    main()
