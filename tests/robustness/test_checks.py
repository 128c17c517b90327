from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from attackable import scenes, trained_expert
from moeseg.config import load_study, parse_epsilon
from moeseg.evaluation.collectors import SegmentationCollector
from moeseg.evaluation.intervals import Blocks
from moeseg.robustness.attacks import Attack, gradient_of, perturb
from moeseg.robustness.ball import generators_of
from moeseg.robustness.checks import CHECKS, LARGE, Checked, Climb, check_all
from moeseg.robustness.losses import Pixels, cross_entropy
from moeseg.types import Frame

FRAMES = [Frame(f"drive{i % 10}", f"{i:03d}", Path("x"), None, "town", "test") for i in range(20)]
BASE = {
    "split": "test",
    "dataset": "d",
    "size": [4, 4],
    "architecture": "a",
    "seed": 0,
    "settings": {},
    "fingerprint": "f",
}


def checked(
    right: float,
    name: str = "pgd-10",
    epsilon: float = 4 / 255,
    source: str = "m",
    losses: Tensor | None = None,
    clean: Tensor | None = None,
) -> Checked:
    """An attack that leaves a share of 100 pixels of each of two classes right in every frame."""
    hits = round(100 * right)
    counts = torch.tensor([[hits, 100 - hits], [100 - hits, hits]]).repeat(len(FRAMES), 1, 1)
    # frames differ a little, so that intervals have a width
    counts[::2, 0] += torch.tensor([0, 3])
    collector = SegmentationCollector("m", ("a", "b"), Blocks.of(FRAMES), ("town",), BASE)
    collector.count_confusions(counts, [frame.key for frame in FRAMES])
    climb = None
    if losses is not None:
        before = losses[:, 0] if clean is None else clean
        climb = Climb(losses, before, (losses > 0).any(1).numpy())
    return Checked(source, "m", Attack.parse(name), epsilon, collector, climb)


def verdict(one: Checked, *others: Checked) -> dict[str, bool | None]:
    frames = len(FRAMES) if one.climb is None else len(one.climb.losses)
    return check_all(one, [one, *others], "town", np.ones(frames, dtype=bool))


@pytest.mark.parametrize(
    ("check", "good", "bad"),
    [
        ("budget", checked(0.5, "pgd-5"), checked(0.2, "pgd-5")),
        ("budget", checked(0.3, "pgd-10"), checked(0.2, "pgd-5")),
        ("radius", checked(0.5, "pgd-10", 2 / 255), checked(0.2, "pgd-10", 2 / 255)),
        ("white-box", checked(0.5, "square-100"), checked(0.2, "square-100")),
        ("white-box", checked(0.5, source="other"), checked(0.2, source="other")),
    ],
)
def test_a_weaker_rival_passes_and_a_stronger_one_fails(
    check: str, good: Checked, bad: Checked
) -> None:
    one = checked(0.3)
    assert verdict(one, good)[check] is True
    assert verdict(one, bad)[check] is False
    assert verdict(one, good, bad)[check] is False
    assert verdict(one)[check] is None


def test_a_difference_within_the_interval_does_not_fail() -> None:
    assert verdict(checked(0.30), checked(0.30, "pgd-5"))["budget"] is True


def test_other_radii_kinds_and_larger_budgets_are_no_rivals() -> None:
    one = checked(0.3)
    for other in (
        checked(0.1, "pgd-20"),  # has more steps: its own check, not this one's
        checked(0.1, "segpgd-5"),
        checked(0.1, "pgd-5", 8 / 255),
        checked(0.1, "pgd-5:weights"),
    ):
        assert verdict(one, other)["budget"] is None


def test_a_network_must_collapse_at_a_large_radius() -> None:
    assert verdict(checked(0.0, "sea-30", 32 / 255))["collapse"] is True
    assert verdict(checked(0.3, "sea-30", 32 / 255))["collapse"] is False
    assert verdict(checked(0.3, "sea-30", 16 / 255))["collapse"] is None
    # one that breaks nothing at a large radius is not believed at a small one
    small = checked(0.3, "sea-30", 4 / 255)
    assert verdict(small, checked(0.3, "sea-30", 32 / 255))["collapse"] is False
    assert verdict(small, checked(0.0, "sea-30", 32 / 255))["collapse"] is True
    assert verdict(small, checked(0.3, "sea-20", 32 / 255))["collapse"] is None
    # an attack that may not use everything need not
    assert verdict(checked(0.3, "pgd-10:weights", 32 / 255))["collapse"] is None
    assert verdict(checked(0.3, "universal-5", 32 / 255))["collapse"] is None
    assert verdict(checked(0.3, "square-9", 32 / 255))["collapse"] is None


@pytest.mark.parametrize("name", ["demo_attacks", "camvid_drives"])
def test_the_shipped_studies_try_their_published_attacks_at_a_large_radius(name: str) -> None:
    study = load_study(Path(__file__).resolve().parents[2] / "configs" / f"{name}.yaml")
    radii = study.robustness.sweeps["published"].epsilons
    assert max(map(parse_epsilon, radii)) >= LARGE


@pytest.mark.parametrize(("part", "source"), [("", "other"), (":weights", "m")])
def test_transfer_and_parts_owe_no_strength_to_their_budget(part: str, source: str) -> None:
    one = checked(0.3, f"pgd-10{part}", source=source)
    assert verdict(one, checked(0.1, f"pgd-5{part}", source=source))["budget"] is None
    assert verdict(one, checked(0.1, f"pgd-10{part}", 1 / 255, source))["radius"] is None


def test_losses_must_rise() -> None:
    rising = torch.tensor([[1.0, 0.5, 2.0], [1.0, 1.5, 1.2]])
    assert verdict(checked(0.3, losses=rising))["progress"] is True
    one_lucky = torch.tensor([[1.0, 0.9, 0.8], [1.0, 0.9, 0.8], [1.0, 9.0, 0.5]])
    assert verdict(checked(0.3, losses=one_lucky))["progress"] is False
    assert verdict(checked(0.3, losses=torch.tensor([[2.0, 1.0, 0.5]])))["progress"] is False
    assert verdict(checked(0.3))["progress"] is None


def test_frames_without_a_labelled_pixel_do_not_count_against_progress() -> None:
    one_of_three = torch.tensor([[1.0, 2.0], [0.0, 0.0], [0.0, 0.0]])
    assert verdict(checked(0.3, losses=one_of_three))["progress"] is True
    assert verdict(checked(0.3, losses=torch.zeros(3, 2)))["progress"] is None


@pytest.mark.parametrize("name", ["sea-6", "apgd-masked-6"])
def test_in_a_shrinking_ball_the_last_stage_must_beat_the_clean_image(name: str) -> None:
    # starts and ends of 1, 1 and 4 steps; the last stage starts at its best
    losses = torch.tensor([[3.0, 9.0, 8.0, 9.0, 7.0, 6.0, 6.0, 5.0, 6.0]])

    def progress(clean: float) -> bool | None:
        return verdict(checked(0.3, name, losses=losses, clean=torch.tensor([clean])))["progress"]

    assert progress(1.0) is True
    assert progress(7.0) is False  # only points out of the last ball are above it


@pytest.mark.parametrize("name", ["pgd-6", "apgd-6", "apgd-js-10", "apgd-masked-10"])
@pytest.mark.parametrize("sign", [1, -1])
def test_an_attack_that_goes_downhill_is_seen(
    name: str, sign: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    def gradient(value: Tensor, at: Tensor) -> Tensor:
        return sign * gradient_of(value, at)

    # a small ball: in a large one any step off a learned scene raises the loss
    monkeypatch.setattr("moeseg.robustness.attacks.gradient_of", gradient)
    model, (images, label) = trained_expert(), scenes(False)
    attack, seeds = Attack.parse(name), generators_of(0, [str(n) for n in range(len(images))])
    found = perturb(model, images, label, seeds, epsilon=2 / 255, attack=attack)
    with torch.no_grad():
        clean = cross_entropy(Pixels.of(model(images).logits, label), 0.0)
    one = checked(0.3, name, losses=found.losses.T, clean=clean)
    assert verdict(one)["progress"] is (sign == 1)


@pytest.mark.parametrize("part", ["weights", "logits"])
def test_half_a_mixture_need_not_raise_the_loss_of_the_whole(part: str) -> None:
    falling = torch.tensor([[2.0, 1.0]])
    assert verdict(checked(0.3, f"pgd-1:{part}", losses=falling))["progress"] is None
    assert verdict(checked(0.3, "pgd-1:expert-1", losses=falling))["progress"] is False


def test_failed_checks_are_named() -> None:
    found = verdict(checked(0.3, epsilon=32 / 255), checked(0.1, "pgd-5", 32 / 255))
    assert list(found) == list(CHECKS)
    assert [name for name, holds in found.items() if holds is False] == ["budget", "collapse"]
