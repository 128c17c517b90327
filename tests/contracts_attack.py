"""What every attack keeps: a test class that names an attack inherits these checks."""

from __future__ import annotations

from typing import ClassVar

import pytest
import torch
from torch import Tensor

from attackable import scenes, trained_expert
from moeseg.models import Model
from moeseg.robustness.attacks import Attack, Perturbed, perturb
from moeseg.robustness.ball import generators_of

IMAGES, LABEL = (part[:3] for part in scenes(False))
KEYS = ("a", "b", "c")


class AttackContract:
    """Override `attack`, and `target` where it needs a mixture."""

    attack: ClassVar[Attack]

    def target(self) -> Model:
        return trained_expert()

    def run(
        self,
        epsilon: float = 8 / 255,
        seed: int = 0,
        images: Tensor = IMAGES,
        label: Tensor = LABEL,
        keys: tuple[str, ...] = KEYS,
    ) -> Perturbed:
        generators = generators_of(seed, keys)
        return perturb(
            self.target(), images, label, generators, epsilon=epsilon, attack=self.attack
        )

    @pytest.mark.parametrize("epsilon", [1 / 255, 8 / 255, 0.2])
    def test_stays_in_the_ball_and_in_range(self, epsilon: float) -> None:
        found = self.run(epsilon).images
        assert found.shape == IMAGES.shape
        assert found.dtype == torch.float32
        assert (found - IMAGES).abs().max() <= epsilon + 1e-6
        assert found.min() >= 0
        assert found.max() <= 1
        assert not torch.equal(found, IMAGES)

    def test_epsilon_zero_is_the_identity(self) -> None:
        assert torch.equal(self.run(0.0).images, IMAGES)

    def test_same_generators_same_result(self) -> None:
        first, again = self.run(), self.run()
        assert torch.equal(first.images, again.images)
        assert torch.equal(first.losses, again.losses)

    def test_an_image_does_not_hang_on_its_batch(self) -> None:
        together = self.run().images
        for place in range(3):
            one = slice(place, place + 1)
            alone = self.run(images=IMAGES[one], label=LABEL[one], keys=(KEYS[place],)).images
            same = (alone[0] - together[place]).abs() < 1e-4
            assert same.float().mean() > 0.98  # a gradient of about 0 may have either sign

    def test_what_was_given_is_untouched(self) -> None:
        model = self.target()
        model.train()
        modes = [part.training for part in model.modules()]
        wanted = [parameter.requires_grad for parameter in model.parameters()]
        state = {name: value.clone() for name, value in model.state_dict().items()}
        images, label = IMAGES.clone(), LABEL.clone()
        try:
            self.run(images=images, label=label)
            assert [part.training for part in model.modules()] == modes
        finally:
            model.eval()
        assert torch.equal(images, IMAGES)
        assert torch.equal(label, LABEL)
        assert [parameter.requires_grad for parameter in model.parameters()] == wanted
        assert all(parameter.grad is None for parameter in model.parameters())
        assert all(torch.equal(value, state[k]) for k, value in model.state_dict().items())

    def test_works_inside_inference_mode(self) -> None:
        with torch.inference_mode():
            images, label = IMAGES.clone(), LABEL.clone()
            inside = self.run(images=images, label=label).images
        assert torch.equal(inside, self.run().images)
