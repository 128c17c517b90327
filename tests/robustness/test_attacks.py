from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from attackable import scenes, trained_expert, trained_mixture
from contracts_attack import AttackContract
from moeseg.errors import DataError, UsageError
from moeseg.models import Ensemble, Expert, Mixture, build_ensemble
from moeseg.robustness.attacks import KINDS, Attack, Perturbed, perturb, staged
from moeseg.robustness.ball import generators_of
from moeseg.robustness.directions import checkpoints
from moeseg.robustness.losses import Pixels, cross_entropy
from moeseg.robustness.paths import forward_through, in_bfloat16, parts_of
from moeseg.robustness.universal import train_universal
from moeseg.types import Features, Prediction
from tiny import SIZE, write_data
from training.test_train_expert import frames

EPSILON = 12 / 255
KEYS = ("a", "b", "c")
IMAGES, LABEL = (part[:3] for part in scenes(False))
DUSK, DUSK_LABEL = (part[:3] for part in scenes(True))


def run(name: str, model: Any = None, epsilon: float = EPSILON, **given: Any) -> Perturbed:  # noqa: ANN401
    return perturb(
        model or trained_expert(),
        given.get("images", IMAGES),
        given.get("label", LABEL),
        generators_of(given.get("seed", 0), KEYS),
        epsilon=epsilon,
        attack=Attack.parse(name),
    )


def wrong(model: nn.Module, images: Tensor, label: Tensor = LABEL) -> int:
    with torch.no_grad():
        return int(Pixels.of(model(images).logits, label).wrong().sum())


class TestFgsm(AttackContract):
    attack = Attack.parse("fgsm")


class TestPgd(AttackContract):
    attack = Attack.parse("pgd-4")


class TestPgdInBfloat16(AttackContract):
    attack = Attack(kind="pgd", steps=4, precision="bf16-mixed")


class TestSquareInBfloat16(AttackContract):
    attack = Attack(kind="square", steps=4, precision="bf16-mixed")


class TestPgdWithMomentumAndRestarts(AttackContract):
    attack = Attack(kind="pgd", steps=3, restarts=2, momentum=0.9, step_size=0.5)


class TestSegPgd(AttackContract):
    attack = Attack.parse("segpgd-4")


class TestCosPgd(AttackContract):
    attack = Attack.parse("cospgd-4")


class TestApgd(AttackContract):
    attack = Attack.parse("apgd-6")


class TestSea(AttackContract):
    attack = Attack.parse("sea-5")


class TestSquare(AttackContract):
    attack = Attack.parse("square-6")


class TestPgdThroughTheWeights(AttackContract):
    attack = Attack.parse("pgd-4:weights")

    def target(self) -> Mixture:
        return trained_mixture()


def test_fgsm_is_the_sign_of_the_gradient_by_torch_alone() -> None:
    at = IMAGES.clone().requires_grad_()
    logits = trained_expert()(at).logits
    ids = LABEL.long()
    loss = nn.functional.cross_entropy(logits, ids, ignore_index=255)
    loss.backward()  # type: ignore[no-untyped-call]
    assert at.grad is not None
    wanted = (IMAGES + EPSILON * at.grad.sign()).clamp(0, 1)
    torch.testing.assert_close(run("fgsm").images, wanted, atol=1e-6, rtol=0)


def test_published_pgd_is_nine_updates_of_torchs_adam_on_signs() -> None:
    start = torch.stack([torch.rand((3, 24, 32), generator=g) for g in generators_of(0, KEYS)])
    delta = ((start * 2 - 1) * EPSILON).requires_grad_()
    delta.data = (IMAGES + delta.data).clamp(0, 1) - IMAGES
    optimizer = torch.optim.Adam([delta], lr=0.01)
    for _ in range(9):  # ten steps, of which the last is not scored
        optimizer.zero_grad()
        logits = trained_expert()(IMAGES + delta).logits
        loss = -nn.functional.cross_entropy(logits, LABEL.long(), ignore_index=255)
        loss.backward()  # type: ignore[no-untyped-call]
        assert delta.grad is not None
        delta.grad.sign_()
        optimizer.step()
        inside = (IMAGES + delta.data.clamp(-EPSILON, EPSILON)).clamp(0, 1)
        delta.data = inside - IMAGES
    found = run("pgd-published-10")
    different = (found.images - (IMAGES + delta.data)).abs() > 1e-4
    assert different.float().mean() < 0.01  # a sign of 0 may fall either way


def test_published_attacks_leave_the_range_only_when_told() -> None:
    loud = Attack(kind="fgsm-published", steps=1, clip=False)
    found = perturb(
        trained_expert(), IMAGES, LABEL, generators_of(0, KEYS), epsilon=0.3, attack=loud
    )
    assert found.images.min() < 0
    assert (found.images - IMAGES).abs().max() == pytest.approx(0.3)


def test_stronger_attacks_break_more_pixels() -> None:
    expert = trained_expert()
    clean, total = wrong(expert, IMAGES), int((LABEL != 255).sum())
    broken = {name: wrong(expert, run(name).images) for name in ("fgsm", "pgd-10", "sea-12")}
    assert clean < 0.15 * total
    assert clean < broken["fgsm"] <= broken["pgd-10"]
    assert broken["sea-12"] >= broken["pgd-10"] - 0.02 * total
    large = run("pgd-20", epsilon=64 / 255)
    assert wrong(expert, large.images) > 0.5 * total > 20 * clean


def test_black_box_breaks_less_than_white_box_and_more_than_noise() -> None:
    expert = trained_expert()
    noise = run("square-1")
    square, white = run("square-150"), run("pgd-10")
    assert noise.wrong.sum() <= square.wrong.sum() <= white.wrong.sum()
    assert square.losses[-1].mean() > square.losses[0].mean()
    assert (square.losses.diff(dim=0).mean(1) > -1e-2).all()
    assert wrong(expert, square.images) == int(square.wrong.sum())


def test_kept_images_are_those_whose_wrong_pixels_are_told() -> None:
    for name in ("pgd-6", "apgd-6", "sea-6", "segpgd-6x2"):
        found = run(name)
        assert wrong(trained_expert(), found.images) == int(found.wrong.sum())


def test_losses_begin_at_the_start_and_rise() -> None:
    found = run("apgd-10")
    assert found.losses.shape == (11, 3)
    best = found.losses.cummax(0).values.mean(1)
    assert best[-1] > best[0]


def test_losses_are_those_of_every_stage_and_of_the_run_that_an_image_keeps() -> None:
    assert run("apgd-masked-6").losses.shape == (2 + 2 + 5, 3)
    generators = generators_of(0, KEYS)
    once = partial(perturb, trained_expert(), IMAGES, LABEL, epsilon=EPSILON)
    runs = [once(generators, attack=Attack.parse("pgd-2")) for _ in range(3)]
    kept = once(generators_of(0, KEYS), attack=Attack.parse("pgd-2x3"))
    wrong_pixels = torch.stack([one.wrong for one in runs])  # (3, B)
    last = 2 - wrong_pixels.flip(0).argmax(0)  # the latest among equals
    expected = torch.stack([runs[k].losses[:, b] for b, k in enumerate(last.tolist())], 1)
    torch.testing.assert_close(kept.losses, expected)


def test_apgd_is_its_description_image_by_image() -> None:
    """A slow run of the paper's algorithm, one image, python numbers for its state."""
    images, label = IMAGES[:1], LABEL[:1]
    steps = 9
    seen: list[float] = []

    def look(x: Tensor) -> tuple[float, Tensor]:
        at = x.clone().requires_grad_()
        loss = cross_entropy(Pixels.of(trained_expert()(at).logits, label), 0.0)
        (gradient,) = torch.autograd.grad(loss.sum(), at)
        return loss.item(), gradient

    def inside(x: Tensor) -> Tensor:
        return torch.max(torch.min(x, images + EPSILON), images - EPSILON).clamp(0, 1)

    noise = torch.rand(images.shape[1:], generator=generators_of(0, KEYS)[0])
    x = inside(images + EPSILON * (noise * 2 - 1)[None])
    eta, before = 2 * EPSILON, x
    value, gradient = look(x)
    best, best_x, best_gradient = value, x, gradient
    rises, window, halved, best_then = 0, 0, True, value
    for k in range(steps):
        if k > 0:
            last = value
            value, gradient = look(x)
            rises += value > last
            window += 1
            if value > best:
                best, best_x, best_gradient = value, x, gradient
            if k in checkpoints(steps):
                stuck = not halved and best <= best_then
                halved, best_then = rises < 0.75 * window or stuck, best
                rises = window = 0
                if halved:
                    eta, x, gradient, before = eta / 2, best_x, best_gradient, best_x
        seen.append(value)
        z = inside(x + eta * gradient.sign())
        if k > 0:
            z = inside(x + 0.75 * (z - x) + 0.25 * (x - before))
        x, before = z, x
    seen.append(look(x)[0])
    found = perturb(
        trained_expert(),
        images,
        label,
        generators_of(0, KEYS[:1]),
        epsilon=EPSILON,
        attack=Attack.parse(f"apgd-{steps}"),
    )
    assert found.losses[:, 0].tolist() == pytest.approx(seen, rel=2e-3)


def test_checkpoints_of_a_hundred_steps_are_the_papers() -> None:
    assert checkpoints(100) == (22, 41, 57, 70, 80, 87, 93, 99)


def test_sea_shrinks_its_ball_in_three_stages() -> None:
    assert staged(10) == [(3, 2.0), (3, 1.5), (4, 1.0)]
    assert staged(1) == [(1, 1.0)]
    assert staged(300) == [(90, 2.0), (90, 1.5), (120, 1.0)]


@pytest.mark.parametrize("part", ["all", "weights", "logits", "expert-1", "expert-2"])
def test_paths_predict_as_their_part_does(part: str) -> None:
    mixture = trained_mixture()
    forward = forward_through(mixture, part)
    with torch.no_grad():
        found = forward(IMAGES).logits
        wanted = mixture(IMAGES, expert_logits=True)
    if part.startswith("expert-"):
        assert wanted.expert_logits is not None
        assert torch.equal(found, wanted.expert_logits[:, int(part[-1]) - 1])
    else:
        torch.testing.assert_close(found, wanted.logits)


def test_gradients_of_weights_and_logits_sum_to_that_of_all() -> None:
    """The chain rule: what passes the gate plus what passes the experts is everything."""
    gradients = {}
    for part in ("all", "weights", "logits"):
        at = DUSK.clone().requires_grad_()
        logits = forward_through(trained_mixture(), part)(at).logits
        loss = cross_entropy(Pixels.of(logits, DUSK_LABEL), 0.0)
        (gradients[part],) = torch.autograd.grad(loss.sum(), at)
    assert gradients["weights"].abs().max() > 0
    torch.testing.assert_close(gradients["weights"] + gradients["logits"], gradients["all"])


def test_an_attack_on_the_weights_moves_the_route_most() -> None:
    mixture = trained_mixture()
    moved = {}
    with torch.no_grad():
        before = mixture(DUSK).weights
        for part in ("weights", "expert-2"):
            found = run(f"pgd-10:{part}", mixture, images=DUSK, label=DUSK_LABEL)
            moved[part] = float((mixture(found.images).weights - before).abs().sum())
    assert moved["weights"] > 2 * moved["expert-2"]


def test_parts_of_every_kind_of_model() -> None:
    expert = trained_expert()
    ensemble = build_ensemble([expert, trained_expert(True)], "mean")
    assert isinstance(ensemble, Ensemble)
    assert list(parts_of(expert)) == ["all"]
    assert list(parts_of(ensemble)) == ["all", "expert-1", "expert-2"]
    assert "weights" in parts_of(trained_mixture())
    with pytest.raises(UsageError, match=r"part of this ensemble 'weights'.*Choose from: all, exp"):
        forward_through(ensemble, "weights")


@pytest.mark.parametrize("name", ["pgd-4", "apgd-4", "pgd-4:weights"])
def test_gradients_in_bfloat16_make_attacks_as_strong(name: str) -> None:
    model, full = trained_mixture(), Attack.parse(name)
    found = [
        perturb(model, IMAGES, LABEL, generators_of(0, KEYS), epsilon=EPSILON, attack=attack)
        for attack in (full, replace(full, precision="bf16-mixed"))
    ]
    exact, rough = (wrong(model, one.images) for one in found)
    assert not torch.equal(found[0].losses, found[1].losses)
    assert rough == pytest.approx(exact, rel=0.1)
    assert rough > wrong(model, IMAGES)


def test_only_layers_of_attacked_passes_are_in_bfloat16() -> None:
    with torch.no_grad():
        cast = in_bfloat16(trained_expert())(IMAGES).logits
        plain = trained_expert()(IMAGES).logits
    assert (cast.dtype, plain.dtype) == (torch.bfloat16, torch.float32)
    torch.testing.assert_close(cast.float(), plain, rtol=0.05, atol=0.05 * float(plain.std()))


@pytest.mark.parametrize("name", ["fgsm", "pgd-3", "apgd-4", "sea-4", "square-4"])
def test_padding_is_no_part_of_a_photo(name: str) -> None:
    extents = ((24, 32), (20, 32), (24, 10))
    found = perturb(
        trained_expert(),
        IMAGES,
        LABEL,
        generators_of(0, KEYS),
        epsilon=EPSILON,
        attack=Attack.parse(name),
        extents=extents,
    ).images
    assert torch.equal(found[1, :, 20:], IMAGES[1, :, 20:])
    assert torch.equal(found[2, :, :, 10:], IMAGES[2, :, :, 10:])
    for place, (height, width) in enumerate(extents):
        photo = (slice(None), slice(height), slice(width))
        assert not torch.equal(found[place][photo], IMAGES[place][photo])


class Exported(Expert):
    """A network whose output carries no gradient, as an exported one's."""

    def __init__(self) -> None:
        super().__init__(num_classes=3, gate_channels=6, stride=8)

    def features(self, images: Tensor) -> Features:
        return trained_expert().features(images.detach())

    def decode(self, features: Features) -> Tensor:
        return trained_expert().decode(features).detach()


def test_a_model_without_gradients_is_told_and_square_needs_none() -> None:
    with pytest.raises(UsageError, match=r"output has a gradient.*attack it with `square`"):
        run("pgd-2", Exported())
    assert run("square-3", Exported()).wrong.sum() > 0


class Small(Expert):
    """A network on a device whose memory holds two images."""

    def __init__(self, plain: Expert) -> None:
        super().__init__(num_classes=3, gate_channels=6, stride=8)
        self.plain = plain
        self.batches: list[int] = []

    def features(self, images: Tensor) -> Features:
        self.batches.append(len(images))
        if len(images) > 2:
            raise torch.OutOfMemoryError("no memory")
        return self.plain.features(images)

    def decode(self, features: Features) -> Tensor:
        return self.plain.decode(features)


def test_out_of_memory_halves_the_batch_and_changes_nothing(
    capsys: pytest.CaptureFixture[str],
) -> None:
    small = Small(trained_expert())
    found = run("pgd-3x2", small)
    assert "out of memory with 3 images at once; once more with 1" in capsys.readouterr().err
    torch.testing.assert_close(found.images, run("pgd-3x2").images)
    assert found.losses.shape == (4, 3)


def universal(model: Expert, data: Path, name: str, out: Path, batch_size: int = 8) -> Tensor:
    return train_universal(
        model,
        frames(data, "train"),
        epsilon=EPSILON,
        attack=Attack.parse(name),
        out=out,
        provenance={},
        batch_size=batch_size,
    )


def test_published_universal_changes_take_ten_steps_of_torchs_adam_on_signs(tmp_path: Path) -> None:
    data = write_data(tmp_path)
    shown = frames(data, "train")
    images = torch.stack([shown[i][0] for i in range(len(shown))])
    label = torch.stack([shown[i][1] for i in range(len(shown))])
    change = torch.zeros_like(images[:1]).requires_grad_()
    optimizer = torch.optim.Adam([change], lr=0.01)
    for _ in range(10):
        optimizer.zero_grad()
        logits = trained_expert()((images + change).clamp(0, 1)).logits
        loss = -nn.functional.cross_entropy(logits, label.long(), ignore_index=255)
        loss.backward()  # type: ignore[no-untyped-call]
        assert change.grad is not None
        change.grad.sign_()
        optimizer.step()
        change.data.clamp_(-EPSILON, EPSILON)
    found = universal(trained_expert(), data, "universal-published-1", tmp_path / "one.safetensors")
    assert ((found - change.data[0]).abs() > 1e-4).float().mean() < 0.01


def test_a_universal_change_of_other_settings_is_not_gone_on_with(tmp_path: Path) -> None:
    data = write_data(tmp_path)
    file, fresh = tmp_path / "one.safetensors", tmp_path / "two.safetensors"
    first = universal(trained_expert(), data, "universal-2", file)
    assert torch.equal(universal(trained_expert(), data, "universal-2", file), first)
    second = universal(trained_expert(), data, "universal-published-1", file)
    wanted = universal(trained_expert(), data, "universal-published-1", fresh)
    assert torch.equal(second, wanted)
    assert not torch.equal(second, first)


def test_a_universal_change_is_not_trained_without_labels(tmp_path: Path) -> None:
    shown = frames(write_data(tmp_path), "train")
    shown.read_label = lambda frame: np.full(SIZE, 255, np.uint8)
    with pytest.raises(DataError, match="expected labelled pixels to train on, got 8 frames"):
        train_universal(
            trained_expert(),
            shown,
            epsilon=EPSILON,
            attack=Attack.parse("universal-1"),
            out=tmp_path / "one.safetensors",
            provenance={},
        )
    assert not (tmp_path / "one.safetensors").exists()


def test_a_universal_change_is_trained_in_halves_where_memory_is_short(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = write_data(tmp_path)
    found = []
    for name, model in (("whole", trained_expert()), ("halves", Small(trained_expert()))):
        found.append(universal(model, data, "universal-2", tmp_path / f"{name}.safetensors", 4))
    assert "out of memory with 4 images at once; once more with 2" in capsys.readouterr().err
    # a pixel whose gradient is near 0 may step the other way
    assert (found[0] == found[1]).float().mean() > 0.99
    assert found[0].abs().max() > 0


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: run("pgd", epsilon=-0.1), r"epsilon: expected a radius in 0..1.*got -0.1"),
        (lambda: run("pgd", epsilon=8.0), r"got 8; write 4/255"),
        (lambda: run("pgd-0"), r"expected 1 step and 1 restart or more, got 0 and 1"),
        (lambda: run("pdg-10"), r"unknown attack 'pdg'. Did you mean 'pgd'"),
        (lambda: run("pgd-10:gate", trained_mixture()), r"unknown part of this mixture 'gate'"),
        (lambda: run("universal-3"), r"expected an attack on single images"),
        (lambda: Attack(kind="pgd", momentum=2.0), r"momentum in 0..1"),
        (lambda: Attack(kind="apgd", momentum=0.5), r"for pgd, segpgd or cospgd alone"),
        (lambda: run("fgsm-5"), r"expected 1 step and 1 restart, got 5 and 1"),
        (lambda: run("universal-3x4"), r"expected 1 restart, got 3 and 4"),
        (lambda: Attack(kind="nope"), r"unknown attack 'nope'"),  # type: ignore[arg-type]
        (lambda: Attack(kind="pgd", clip=False), r"expected images kept in \[0, 1\]"),
    ],
)
def test_wrong_arguments_are_told(call: Callable[[], object], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        call()


def test_an_image_without_labels_among_others_counts_nothing() -> None:
    label = LABEL.clone()
    label[1] = 255
    found = run("pgd-3", label=label)
    assert found.wrong[1] == 0
    assert found.losses[:, 1].abs().max() == 0


def test_names_of_attacks_are_read() -> None:
    assert Attack.parse("pgd-50x3") == Attack(kind="pgd", steps=50, restarts=3)
    assert Attack.parse("pgd-10:expert-1").through == "expert-1"
    assert Attack.parse("apgd-masked-20").kind == "apgd-masked"
    assert Attack.parse("fgsm").steps == 1
    assert Attack.parse("fgsm-published").published
    assert {Attack.parse(kind).kind for kind in KINDS} == set(KINDS)


def test_prediction_of_a_path_has_the_weights() -> None:
    with torch.no_grad():
        found = forward_through(trained_mixture(), "weights")(IMAGES)
    assert isinstance(found, Prediction)
    assert isinstance(trained_mixture(), Mixture)
    assert found.weights is not None
