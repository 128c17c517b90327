from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy.spatial.distance import jensenshannon
from torch import Tensor
from torch.nn import functional as F

from moeseg.robustness.losses import LOSSES, LossName, Pixels, loss_of

GENERATOR = torch.Generator().manual_seed(0)
LOGITS = torch.randn(2, 4, 5, 6, generator=GENERATOR) * 2
LABEL = torch.randint(0, 4, (2, 5, 6), generator=GENERATOR, dtype=torch.uint8)
LABEL[0, :2] = 255


def slow(logits: Tensor, label: Tensor, name: LossName, progress: float) -> list[float]:
    """Every loss pixel by pixel, from its formula, in float64."""
    means = []
    for image, ids in zip(logits.double().numpy(), label.numpy(), strict=True):
        total, count = 0.0, 0
        classes = [int(c) for c in np.unique(ids) if c != 255]
        for row, column in zip(*np.nonzero(ids != 255), strict=True):
            z, true = image[:, row, column], int(ids[row, column])
            p = np.exp(z - z.max()) / np.exp(z - z.max()).sum()
            one_hot = np.eye(len(z))[true]
            entropy, right = -math.log(p[true]), z.argmax() == true
            total += {
                "cross-entropy": entropy,
                "jensen-shannon": jensenshannon(p, one_hot) ** 2,
                "masked": entropy * right,
                # mean over classes of means over their pixels; the mean below divides again
                "masked-balanced": entropy
                * right
                * (ids != 255).sum()
                / (len(classes) * (ids == true).sum()),
                "segpgd": entropy * ((1 - progress / 2) if right else progress / 2),
                "cospgd": entropy * p @ one_hot / np.linalg.norm(p),
            }[name]
            count += 1
        means.append(total / count)
    return means


@pytest.mark.parametrize("progress", [0.0, 0.4, 1.0])
@pytest.mark.parametrize("name", LOSSES)
def test_each_loss_is_its_formula_pixel_by_pixel(name: LossName, progress: float) -> None:
    found = loss_of(name)(Pixels.of(LOGITS, LABEL), progress)
    assert found.tolist() == pytest.approx(slow(LOGITS, LABEL, name, progress), rel=1e-5)


def test_by_hand_one_pixel_of_two_classes() -> None:
    """Logits 0 and ln 3: p = 1/4 of class 0, 3/4 of class 1; the label says 0, which is wrong."""
    logits = torch.tensor([0.0, math.log(3)]).view(1, 2, 1, 1)
    pixels = Pixels.of(logits, torch.zeros(1, 1, 1, dtype=torch.uint8))
    assert pixels.wrong().tolist() == [1]
    values = {name: float(loss_of(name)(pixels, 0.5)) for name in LOSSES}
    assert values["cross-entropy"] == pytest.approx(math.log(4))
    assert values["masked"] == values["masked-balanced"] == 0.0
    assert values["segpgd"] == pytest.approx(math.log(4) / 4)
    assert values["cospgd"] == pytest.approx(math.log(4) * 0.25 / math.hypot(0.25, 0.75))
    # m = (5/8, 3/8); (KL(p, m) + KL(one-hot, m)) / 2
    of_p = 0.25 * math.log(0.25 / 0.625) + 0.75 * math.log(0.75 / 0.375)
    assert values["jensen-shannon"] == pytest.approx((of_p + math.log(1 / 0.625)) / 2)


@pytest.mark.parametrize("name", LOSSES)
def test_ignored_pixels_give_no_gradient_and_no_value(name: LossName) -> None:
    logits = LOGITS.clone().requires_grad_()
    loss_of(name)(Pixels.of(logits, LABEL), 0.5).sum().backward()  # type: ignore[no-untyped-call]
    assert logits.grad is not None
    assert logits.grad[0, :, :2].abs().max() == 0
    assert logits.grad[:, :, 2:].abs().max() > 0
    other = LOGITS.clone()
    other[0, :, :2] += 5
    before, after = (loss_of(name)(Pixels.of(one, LABEL), 0.5) for one in (LOGITS, other))
    assert torch.equal(before, after)


@pytest.mark.parametrize("name", LOSSES)
def test_an_image_without_labels_is_zero_not_nan(name: LossName) -> None:
    label = LABEL.clone()
    label[0] = 255
    logits = LOGITS.clone().requires_grad_()
    found = loss_of(name)(Pixels.of(logits, label), 0.5)
    found.sum().backward()  # type: ignore[no-untyped-call]
    assert found[0] == 0
    assert logits.grad is not None
    assert logits.grad.isfinite().all()
    assert logits.grad[0].abs().max() == 0


@pytest.mark.parametrize("name", LOSSES)
def test_lost_pixels_keep_gradients_finite(name: LossName) -> None:
    """A true class of probability exp(-200) is 0 in float32; no loss may turn that into NaN."""
    logits = torch.tensor([0.0, 200.0]).view(1, 2, 1, 1).requires_grad_()
    loss = loss_of(name)(Pixels.of(logits, torch.zeros(1, 1, 1, dtype=torch.uint8)), 0.5)
    loss.sum().backward()  # type: ignore[no-untyped-call]
    assert loss.isfinite().all()
    assert logits.grad is not None
    assert logits.grad.isfinite().all()


def test_cross_entropy_agrees_with_torch() -> None:
    found = loss_of("cross-entropy")(Pixels.of(LOGITS, LABEL), 0.0)
    wanted = [
        F.cross_entropy(LOGITS[i : i + 1], LABEL[i : i + 1].long(), ignore_index=255)
        for i in range(2)
    ]
    torch.testing.assert_close(found, torch.stack(wanted))
