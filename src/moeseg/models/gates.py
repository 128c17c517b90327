"""The gate: a small network that weights experts by their features.

One class is both gates of the papers: one column weights experts for the whole image (simple), C
columns for each class (class-wise), computed as one fused module.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from moeseg.errors import UsageError
from moeseg.models.expert import image_size, resize
from moeseg.types import Size


class Gate(nn.Module):
    """Concat of the experts' maps, 3x3 conv to K columns, ReLU, FC, ReLU, FC, softmax over E.

    Column k computes exactly what a gate of its own would: `conv1.weight` (K, sum F, 3, 3) and
    `conv1.bias` (K) are K one-channel convolutions concatenated, `fc1` (K, hidden, cells) and `fc2`
    (K, E, hidden) K linear layers stacked. Maps of other strides are resized to the coarsest.

    Args:
        channels: F of each expert's map, in the experts' order.
        columns: K, 1 for the simple gate, C for the class-wise one.
        shared: all columns read one convolution and one hidden layer, and differ in the last layer
            only: a control that tells what a gate of its own for each class is worth.
        pool: (h, w) to which the map after conv and ReLU is averaged; the gate then takes images of
            every size. None fixes it to one size, given by `grid`.
        grid: (h, w) of the coarsest map, or only its number of cells h * w; needed when `pool` is
            None and not used otherwise.
        hidden: units of the first linear layer.
        generator: source of the initial weights; None is torch's global one.

    Raises:
        UsageError: neither `pool` nor `grid` is given.
    """

    def __init__(
        self,
        channels: Sequence[int],
        columns: int = 1,
        *,
        shared: bool = False,
        pool: Size | None = None,
        grid: Size | int | None = None,
        hidden: int = 128,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        if pool is None and grid is None:
            raise UsageError(
                "gate: expected `pool: [h, w]` or the image size it is fixed to, got neither. "
                "Set `pool` to make the gate independent of the image size."
            )
        self.channels = tuple(channels)
        self.columns = columns
        self.shared = shared
        self.pool = pool
        self.grid = None if pool is not None else grid
        self.hidden = hidden
        extent = pool if pool is not None else grid
        cells = extent[0] * extent[1] if isinstance(extent, tuple) else int(extent or 0)
        # not yet drawn, so that torch's global generator is left alone
        trunks = 1 if shared else columns
        self.conv1 = nn.Conv2d(sum(channels), trunks, 3, padding=1, device="meta")
        self.conv1.to_empty(device="cpu")
        self.fc1 = StackedLinear(trunks, cells, hidden)
        self.fc2 = StackedLinear(trunks, hidden, len(self.channels) * columns // trunks)
        self.reset_parameters(generator)

    def reset_parameters(self, generator: torch.Generator | None = None) -> None:
        """Draw all weights anew, distributed as those of K gates of nn.Conv2d and nn.Linear."""
        for layer, fan_in in (
            (self.conv1, self.conv1.weight[0].numel()),
            (self.fc1, self.fc1.weight.shape[2]),
            (self.fc2, self.fc2.weight.shape[2]),
        ):
            bound = 1 / math.sqrt(fan_in)
            for parameter in layer.parameters():
                nn.init.uniform_(parameter, -bound, bound, generator=generator)

    def forward(self, features: Sequence[Tensor]) -> Tensor:
        """Weight the experts.

        Args:
            features: one map (B, F, h, w) for each expert.

        Returns:
            (B, E, K), >= 0, summing to 1 over E.

        Raises:
            UsageError: the gate is fixed to another grid than these maps'.
        """
        coarsest = min(map(image_size, features), key=math.prod)
        if self.pool is None:
            self._check(coarsest)
        maps = [resize(one, coarsest) for one in features]
        x = F.relu(self.conv1(torch.cat(maps, dim=1)))  # E x (B, F, h, w) -> (B, K, h, w)
        if self.pool is not None:
            x = F.adaptive_avg_pool2d(x, self.pool)
        x = x.flatten(2)  # (B, K, h, w) -> (B, K, h * w)
        x = self.fc2(F.relu(self.fc1(x)))  # (B, K, E), or (B, 1, K * E) from a shared trunk
        x = x.reshape(len(x), self.columns, len(self.channels))
        weights: Tensor = x.transpose(1, 2).softmax(dim=1)  # (B, E, K)
        return weights

    def _check(self, got: Size) -> None:
        if isinstance(self.grid, tuple):
            expected, fits = f"{self.grid[0]}x{self.grid[1]}", got == self.grid
        else:
            expected, fits = f"{self.grid} cells", math.prod(got) == self.grid
        if not fits:
            raise UsageError(
                f"gate: expected a feature map of {expected}, got {got[0]}x{got[1]}. This gate is "
                "fixed to the image size it was built for: give it images of that size, or build "
                "it with `pool: [h, w]`, which makes it independent of the size."
            )


class ConstantGate(nn.Module):
    """One learned weight of each expert, or each expert and class, whatever the image: a control.

    A gate that is no better than this one has found nothing in its input.

    Attributes:
        SCALE: of the parameter to the logits of the weights. A step of Adam then moves a constant
            gate as far as it moves the output of a gate with many weights; without it, the control
            would be far from its optimum when the others are near theirs. For SGD
            `training.gate.gate_optimizer` takes it out.

    Args:
        channels: F of each expert's map; not used, kept to tell the experts' number and kind.
        columns: K, 1 or C.
        weights: (E, K) > 0 to begin with, summing to 1 over E; None begins with equal ones.
    """

    SCALE: ClassVar[float] = 30.0

    def __init__(
        self, channels: Sequence[int], columns: int = 1, *, weights: Tensor | None = None
    ) -> None:
        super().__init__()
        self.channels = tuple(channels)
        self.columns = columns
        if weights is None:
            weights = torch.ones(len(self.channels), columns)
        self.logits = nn.Parameter(weights.clamp(min=1e-30).log() / self.SCALE)

    def forward(self, features: Sequence[Tensor]) -> Tensor:
        """Return the weights (B, E, K) for maps (B, F, h, w), of which only B counts."""
        weights: Tensor = (self.logits * self.SCALE).softmax(dim=0)
        return weights.expand(len(features[0]), -1, -1)  # (E, K) -> (B, E, K)


class StackedLinear(nn.Module):
    """K linear layers side by side: column k of the input goes through layer k.

    Args:
        columns: K.
        inputs: values of a column that go in.
        outputs: values of a column that come out.
    """

    def __init__(self, columns: int, inputs: int, outputs: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(columns, outputs, inputs))
        self.bias = nn.Parameter(torch.empty(columns, outputs))

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, K, inputs) to (B, K, outputs)."""
        by_column = x.transpose(0, 1)  # (K, B, inputs)
        y = torch.baddbmm(self.bias.unsqueeze(1), by_column, self.weight.transpose(1, 2))
        return y.transpose(0, 1)
