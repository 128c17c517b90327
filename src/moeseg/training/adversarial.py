"""Adversarial training: a model learns from frames that an attack has changed against it.

Weights are sought that make small the greatest loss within epsilon of each frame (Madry et al.,
ICLR 2018, equation 2.1). The attack is handed in as a function: attacks stand above training.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor, nn

from moeseg.config import AdversarialConfig
from moeseg.data.dataset import seeded
from moeseg.errors import UsageError
from moeseg.types import Prediction

_STREAM = 9
"""Sets the attack's random streams apart from those of augmentation."""


class Perturb(Protocol):
    """An attack as training calls it; a function of a module, since processes hand it on."""

    def __call__(
        self,
        model: Callable[[Tensor], Prediction],
        images: Tensor,
        label: Tensor,
        generators: Sequence[torch.Generator],
        *,
        epsilon: float,
        steps: int,
    ) -> Tensor:
        """Change images so that the model errs on them.

        The model is in eval mode and its parameters may ask for gradients: the attack takes those
        of the images alone, and leaves `.grad`, `requires_grad` and the mode as they were. It may
        run under 16-bit autocast, where the gradient of a mean over pixels can vanish and that of a
        sum does not.

        Args:
            model: from images to a `Prediction`.
            images: (B, 3, H, W) in [0, 1].
            label: (B, H, W) uint8, 255 = ignore; an image may have no labelled pixel.
            generators: one for each image, on the CPU: the only source of randomness.
            epsilon: greatest change of a value, in (0, 1].
            steps: of the ascent, >= 1.

        Returns:
            (B, 3, H, W) in [0, 1], nowhere further than epsilon from `images`.
        """
        ...


@dataclass(frozen=True, slots=True)
class Adversary:
    """An attack with the settings and the seed that one training uses it with.

    Attributes:
        perturb: the attack.
        epsilon: greatest change of a value.
        steps: of the attack.
        share: part of each batch that is changed, in (0, 1].
        seed: of the training.
    """

    perturb: Perturb
    epsilon: float
    steps: int
    share: float
    seed: int

    def change(
        self, model: nn.Module, images: Tensor, label: Tensor, keys: Sequence[str], epoch: int
    ) -> Tensor:
        """Return a batch of which a share, at least one frame, is changed against the model.

        Attacked is the model in eval mode: BatchNorm statistics hold still and dropout is off. The
        caller takes its training step on the result in whatever mode the model had before, to which
        it returns. What is drawn for a frame is a function of seed, epoch and the frame's key, so
        neither a resumed run nor the number of processes changes it.

        Args:
            model: to be attacked; the module itself, not a wrapper for several processes.
            images: (B, 3, H, W) in [0, 1].
            label: (B, H, W) class ids, 255 = ignore.
            keys: of the B frames.
            epoch: the training's, from 0.

        Returns:
            (B, 3, H, W) in [0, 1], without a gradient.
        """
        streams = [seeded(self.seed, epoch, zlib.crc32(k.encode()), _STREAM) for k in keys]
        # drawn for every frame, so that an attack's own draws do not hang on the share
        draws = torch.stack([torch.rand((), generator=stream) for stream in streams])
        count = max(1, round(self.share * len(images)))
        chosen = draws.argsort()[:count].sort().values
        places = chosen.to(images.device)
        with _held(model):
            changed = self.perturb(
                model,
                images[places],
                label[places],
                [streams[place] for place in chosen.tolist()],
                epsilon=self.epsilon,
                steps=self.steps,
            )
        return images.index_copy(0, places, changed.detach().to(images.dtype))


def adversary(
    config: AdversarialConfig | None, perturb: Perturb | None, setting: str, *, seed: int = 0
) -> Adversary | None:
    """Return the attack that settings ask for, or None where they ask for none.

    Args:
        config: the settings.
        perturb: the attack; None where the caller has none.
        setting: where the settings stand, for the message.
        seed: of the training.

    Raises:
        UsageError: an attack is asked for and there is none.
    """
    if config is None:
        return None
    if perturb is None:
        raise UsageError(
            f"{setting}: expected an attack to train against, got none: set {setting}: null, or "
            "hand one in as `perturb`"
        )
    return Adversary(perturb, config.epsilon, config.steps, config.share, seed)


@contextmanager
def _held(model: nn.Module) -> Iterator[None]:
    """Put all parts of a model in eval mode for a while, then each back in its own mode."""
    modes = [(part, part.training) for part in model.modules()]
    try:
        model.eval()
        yield
    finally:
        for part, mode in modes:
            part.training = mode
        # older PyTorch keeps a weight's cast from a pass without gradients, and the training step
        # would then give that weight none (pytorch/pytorch, issue 142234)
        torch.clear_autocast_cache()
