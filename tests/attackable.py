"""Small networks that have learned something, so that an attack has something to break."""

from __future__ import annotations

import functools

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from moeseg.models import Expert, Mixture, build_mixture
from tiny import CLASSES, SIZE, draw_scene, tiny_expert


@functools.cache
def scenes(dusk: bool, count: int = 12) -> tuple[Tensor, Tensor]:
    """Return photos (B, 3, H, W) in [0, 1] and labels (B, H, W) uint8, the top row ignored."""
    rng = np.random.default_rng(int(dusk))
    colours = np.array([[int(c[i : i + 2], 16) for i in (1, 3, 5)] for c in CLASSES.values()])
    photos, labels = [], []
    for _ in range(count):
        photo, painted = draw_scene(rng, dusk)
        ids = (painted[:, :, None] == colours).all(-1).argmax(-1).astype(np.uint8)
        ids[0] = 255
        photos.append(torch.from_numpy(photo).permute(2, 0, 1).float() / 255)
        labels.append(torch.from_numpy(ids))
    return torch.stack(photos), torch.stack(labels)


@functools.cache
def trained_expert(dusk: bool = False, steps: int = 60) -> Expert:
    """Return a tiny expert that knows its scenes nearly by heart; do not change it."""
    expert = tiny_expert(seed=int(dusk)).train()
    images, label = scenes(dusk)
    optimizer = torch.optim.Adam(expert.parameters(), lr=0.02)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        for _ in range(steps):
            optimizer.zero_grad()
            logits = expert(images).logits
            loss = F.cross_entropy(logits, label.long(), ignore_index=255)
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
    optimizer.zero_grad()
    return expert.eval()


@functools.cache
def trained_mixture() -> Mixture:
    """Return a mixture of a day and a dusk expert whose gate has learned which is which."""
    experts = [trained_expert(False), trained_expert(True)]
    generator = torch.Generator().manual_seed(0)
    mixture = build_mixture(experts, "simple", size=SIZE, generator=generator)
    parts = [scenes(False), scenes(True)]
    images, label = (torch.cat([part[i] for part in parts]) for i in (0, 1))
    optimizer = torch.optim.Adam(mixture.gate.parameters(), lr=0.01)
    for _ in range(40):
        optimizer.zero_grad()
        loss = F.cross_entropy(mixture(images).logits, label.long(), ignore_index=255)
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    optimizer.zero_grad()
    return mixture.eval()
