"""A gate without a hidden layer, for images of any size; explained in docs/add_a_gate.md."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn


class PooledGate(nn.Module):
    """Mean of each feature channel over the image, one linear layer, softmax over the experts.

    Args:
        channels: F of each expert's map, in the experts' order.
        columns: K, 1 or the number of classes.
        generator: source of the initial weights; None is torch's global one.
    """

    pool = (1, 1)  # takes every image size

    def __init__(
        self,
        channels: Sequence[int],
        columns: int = 1,
        *,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        self.channels = tuple(channels)
        self.columns = columns
        self.linear = nn.Linear(sum(channels), len(channels) * columns)
        self.reset_parameters(generator)

    def reset_parameters(self, generator: torch.Generator | None = None) -> None:
        """Draw all weights anew."""
        bound = self.linear.in_features**-0.5
        for parameter in self.linear.parameters():
            nn.init.uniform_(parameter, -bound, bound, generator=generator)

    def forward(self, features: Sequence[Tensor]) -> Tensor:
        """Weight the experts by their maps (B, F, h, w): (B, E, K), >= 0, summing to 1 over E."""
        means = torch.cat([one.mean(dim=(2, 3)) for one in features], dim=1)  # (B, sum of F)
        scores = self.linear(means).unflatten(1, (len(self.channels), self.columns))  # (B, E, K)
        weights: Tensor = scores.softmax(dim=1)
        return weights
