"""Corruptions: the contract of all and cases by hand; the published code has a file of its own."""

from __future__ import annotations

import colorsys
from io import BytesIO
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from scipy import ndimage
from torch import Tensor

from moeseg.data.synthetic import render_frame
from moeseg.errors import UsageError
from moeseg.robustness import corruptions
from moeseg.robustness.corruptions import (
    CORRUPTIONS,
    SEVERITIES,
    condition_of,
    corrupt,
    parse_condition,
)
from moeseg.robustness.corruptions.blur import disk_kernel, moved_from
from moeseg.robustness.corruptions.draws import generators_of, integers
from moeseg.robustness.corruptions.filters import (
    Border,
    correlate,
    enlarge,
    gaussian_kernel,
    line_kernels,
    zoom_source,
)
from moeseg.robustness.corruptions.weather import plasma

Pixels = NDArray[np.uint8]

DETERMINISTIC = {
    "defocus-blur",
    "zoom-blur",
    "brightness",
    "contrast",
    "pixelate",
    "jpeg-compression",
}
# by the published numbers the next severity is no farther from the image in these
DIPS = {("glass-blur", 3), ("snow", 2), ("frost", 3), ("fog", 3)}
SIZE = (72, 104)  # neither square nor a multiple of anything
ALL = [(name, severity) for name in CORRUPTIONS for severity in SEVERITIES]
SEED = 11


@pytest.fixture(scope="module")
def photo() -> Pixels:
    """Return a rendered street scene (H, W, 3)."""
    return render_frame("urban", 1, 0, SIZE)[0]


@pytest.fixture(scope="module")
def scene(photo: Pixels) -> Tensor:
    """Return the same scene (1, 3, H, W) in 0..1."""
    return torch.from_numpy(photo).permute(2, 0, 1)[None].float() / 255


def conditions(*names: str) -> pytest.MarkDecorator:
    chosen = [(name, severity) for name, severity in ALL if not names or name in names]
    return pytest.mark.parametrize(("name", "severity"), chosen)


# contract


@conditions()
def test_contract(name: str, severity: int, scene: Tensor) -> None:
    images = torch.cat([scene, scene.flip(-1), scene[:, [2, 0, 1]] * 0.5])
    before = images.clone()
    seeds = [SEED, 5, 2**31]
    changed = corrupt(images, name, severity, seeds)
    assert torch.equal(images, before)
    assert changed.shape == images.shape
    assert changed.dtype == torch.float32
    assert changed.isfinite().all()
    assert 0 <= changed.min() <= changed.max() <= 1
    assert all((a - b).abs().mean() > 1e-3 for a, b in zip(changed, images, strict=True))
    assert torch.equal(corrupt(images, name, severity, seeds), changed)
    for image, seed, one in zip(images, seeds, changed, strict=True):
        alone = corrupt(image[None], name, severity, [seed])[0]
        torch.testing.assert_close(alone, one, rtol=0, atol=1e-5)
    others = corrupt(images, name, severity, [SEED, 6, 7])
    torch.testing.assert_close(others[0], changed[0], rtol=0, atol=1e-5)
    if name in DETERMINISTIC:
        assert torch.equal(others, changed)
    else:
        assert all((others[k] - changed[k]).abs().max() > 0.01 for k in (1, 2))


@pytest.mark.parametrize("name", CORRUPTIONS)
@pytest.mark.parametrize("size", [(1, 1), (2, 3), (24, 32), (7, 130), (33, 19)])
def test_any_size(name: str, size: tuple[int, int]) -> None:
    images = torch.rand(2, 3, *size, generator=torch.Generator().manual_seed(0))
    for severity in (1, 5):
        changed = corrupt(images, name, severity, [0, 1])
        assert changed.shape == images.shape
        assert changed.isfinite().all()
        assert 0 <= changed.min() <= changed.max() <= 1


@pytest.mark.parametrize("name", CORRUPTIONS)
def test_memory_layout_does_not_matter(name: str, scene: Tensor) -> None:
    rows = scene.contiguous()
    last = scene.to(memory_format=torch.channels_last)
    assert torch.equal(corrupt(rows, name, 3, [1]), corrupt(last, name, 3, [1]))


@pytest.mark.parametrize("name", CORRUPTIONS)
def test_uniform_images_stay_within_reason(name: str) -> None:
    """Black and white, where a division or a logarithm may fail."""
    images = torch.stack([torch.zeros(3, 24, 32), torch.ones(3, 24, 32)])
    for severity in SEVERITIES:
        assert corrupt(images, name, severity, [0, 1]).isfinite().all()


@pytest.mark.parametrize("name", CORRUPTIONS)
def test_distance_grows_with_severity(name: str, scene: Tensor) -> None:
    images = scene.expand(4, -1, -1, -1)
    distance = [
        float((corrupt(images, name, severity, range(4)) - scene).abs().mean())
        for severity in SEVERITIES
    ]
    for severity, (milder, stronger) in enumerate(pairwise(distance), start=1):
        assert stronger > (0.94 if (name, severity) in DIPS else 1.0) * milder
    assert distance[4] > 1.2 * distance[0]


@pytest.mark.parametrize("name", CORRUPTIONS)
def test_threads_change_nothing(name: str) -> None:
    images = torch.rand(3, 3, 24, 32, generator=torch.Generator().manual_seed(0))
    alone = corrupt(images, name, 3, [1, 2, 3])
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        with torch.inference_mode():  # as models are scored; a thread does not take it over
            together = corrupt(images, name, 3, [1, 2, 3])
    finally:
        torch.set_num_threads(threads)
    torch.testing.assert_close(together, alone, rtol=0, atol=1e-5)


def test_global_generators_are_left_alone(scene: Tensor) -> None:
    torch.manual_seed(0)
    state, numpys = torch.get_rng_state(), np.random.get_state()[1].copy()  # type: ignore[index]
    for name in CORRUPTIONS:
        corrupt(scene, name, 2, [1])
    assert torch.equal(torch.get_rng_state(), state)
    assert np.array_equal(np.random.get_state()[1], numpys)  # type: ignore[index]


def test_no_images_give_none() -> None:
    assert corrupt(torch.empty(0, 3, 8, 8), "fog", 1, []).shape == (0, 3, 8, 8)


def test_bad_requests() -> None:
    images = torch.rand(2, 3, 8, 8)
    with pytest.raises(UsageError, match=r"unknown corruption 'fogg'\. Did you mean 'fog'"):
        corrupt(images, "fogg", 1, [0, 1])
    for severity in (0, 6):
        with pytest.raises(UsageError, match=f"expected 1 .mild. to 5 .strong., got {severity}"):
            corrupt(images, "fog", severity, [0, 1])
    with pytest.raises(ValueError, match="one seed per image, got 1 for 2"):
        corrupt(images, "fog", 1, [0])
    for wrong in (images[0], images[:, :1], images.double(), (images * 255).byte()):
        with pytest.raises(ValueError, match="expected images"):
            corrupt(wrong, "fog", 1, [0, 1])


def test_conditions() -> None:
    assert len(CORRUPTIONS) == 15
    assert condition_of("gaussian-noise", 5) == "gaussian-noise-5"
    for name, severity in ALL:
        assert parse_condition(condition_of(name, severity)) == (name, severity)
    for other in ("clean", "fog", "fog-0", "fog-6", "fog-33", "fogg-3", "fog-", "-3", "pgd@4/255"):
        assert parse_condition(other) is None


# by hand


def test_gaussian_noise_has_its_spread() -> None:
    grey = torch.full((1, 3, 64, 64), 0.5)
    noise = corrupt(grey, "gaussian-noise", 1, [0]) - grey
    assert float(noise.std()) == pytest.approx(0.08, rel=0.03)  # 12288 draws: 0.6 % per sigma
    assert float(noise.mean()) == pytest.approx(0, abs=0.003)
    assert abs(float(torch.corrcoef(noise.reshape(3, -1))[0, 1])) < 0.06  # channels differ


def test_shot_noise_counts_photons() -> None:
    grey = torch.full((1, 3, 64, 64), 0.4)
    counts = corrupt(grey, "shot-noise", 3, [0]) * 12
    torch.testing.assert_close(counts, counts.round(), rtol=0, atol=1e-4)
    # Poisson of 4.8: mean and variance are one, P(0) = exp(-4.8); what exceeds 12 is cut off
    assert float(counts.mean()) == pytest.approx(4.8, rel=0.02)
    assert float(counts.var()) == pytest.approx(4.8, rel=0.06)
    assert float((counts < 0.5).float().mean()) == pytest.approx(np.exp(-4.8), abs=0.003)
    assert corrupt(torch.zeros(1, 3, 8, 8), "shot-noise", 3, [0]).max() == 0


@pytest.mark.parametrize(
    ("severity", "share"), [(1, 0.03), (2, 0.06), (3, 0.09), (4, 0.17), (5, 0.27)]
)
def test_impulse_noise_hits_its_share(severity: int, share: float) -> None:
    grey = torch.full((2, 3, 80, 80), 0.5)
    changed = corrupt(grey, "impulse-noise", severity, [0, 1])
    pepper, salt = (float((changed == end).float().mean()) for end in (0, 1))
    assert [pepper, salt] == pytest.approx([share / 2] * 2, rel=0.12)
    assert float((changed == 0.5).float().mean()) == pytest.approx(1 - pepper - salt)
    assert not torch.equal(changed[:, 0] == 1, changed[:, 1] == 1)  # channels differ


def test_disk_by_hand() -> None:
    kernel = disk_kernel(3, 0.1)  # so small a Gaussian changes nothing
    x = torch.arange(-8, 9)
    assert kernel.shape == (17, 17)
    assert torch.equal(kernel > 1e-6, x[:, None] ** 2 + x**2 <= 9)
    assert float(kernel[8, 8]) == pytest.approx(1 / 29)  # lattice points within a circle of 3
    for radius, total in ((3, 1), (4, 1), (6, 1), (8, 1.013), (10, 1.011)):  # as published
        kernel = disk_kernel(radius, 0.1 if radius == 3 else 0.5)
        assert kernel.shape == ((21, 21) if radius == 10 else (17, 17))
        assert float(kernel.sum()) == pytest.approx(total, abs=1e-5 if total == 1 else 5e-4)


def test_defocus_of_a_point_is_the_disk() -> None:
    point = torch.zeros(1, 3, 41, 41)
    point[..., 20, 20] = 1
    blurred = corrupt(point, "defocus-blur", 5, [0])
    torch.testing.assert_close(blurred[0, 1, 10:31, 10:31], disk_kernel(10, 0.5), rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    ("border", "mode"), [("edge", "nearest"), ("mirror", "mirror"), ("symmetric", "reflect")]
)
@pytest.mark.parametrize("size", [(9, 14), (3, 5), (1, 2)])
def test_correlate_is_scipys(border: Border, mode: str, size: tuple[int, int]) -> None:
    generator = torch.Generator().manual_seed(0)
    images = torch.rand(2, 2, *size, generator=generator)
    kernels = torch.rand(2, 5, 9, generator=generator)
    both = correlate(images, kernels, border)
    first = correlate(images, kernels[0], border)
    for b in range(2):
        for n in range(2):
            slow = ndimage.correlate(images[b, n].numpy(), kernels[b].numpy(), mode=mode)
            np.testing.assert_allclose(both[b, n].numpy(), slow, atol=1e-5)
    torch.testing.assert_close(first[0], both[0], rtol=0, atol=1e-5)


def test_gaussian_kernel_is_scipys() -> None:
    point = np.zeros((31, 41))
    point[15, 20] = 1
    slow = ndimage.gaussian_filter(point, (2.0, 3.0), truncate=3, mode="reflect")
    kernel = gaussian_kernel((2.0, 3.0), truncate=3)
    assert kernel.shape == (13, 19)
    np.testing.assert_allclose(kernel.numpy(), slow[9:22, 11:30], atol=1e-7)


def test_line_by_hand() -> None:
    level, falling = line_kernels(1, 2.0, torch.tensor([0.0, 45.0]))
    half = np.exp(-(np.array([0, 1, 2]) ** 2) / 8)
    half /= half.sum()
    wanted = np.zeros((5, 5))
    wanted[2, 2:] = half
    np.testing.assert_allclose(level.numpy(), wanted, atol=1e-7)
    # steps of 0.71 and 1.41 to the right and down are both nearest to one pixel
    wanted = np.zeros((5, 5))
    wanted[2, 2], wanted[3, 3] = half[0], half[1] + half[2]
    np.testing.assert_allclose(falling.numpy(), wanted, atol=1e-7)


def test_motion_stays_within_its_sector() -> None:
    point = torch.zeros(64, 1, 81, 81)
    point[..., 40, 40] = 1
    blurred = corrupt(point.expand(-1, 3, -1, -1), "motion-blur", 5, range(64))[:, 0]
    y, x = torch.meshgrid(torch.arange(81.0) - 40, torch.arange(81.0) - 40, indexing="ij")
    mass = blurred.sum((1, 2))
    torch.testing.assert_close(mass, torch.ones(64), rtol=0, atol=1e-4)
    # a pixel takes from the right, so the point is smeared to the left
    degrees = torch.rad2deg(torch.atan2(-(blurred * y).sum((1, 2)), -(blurred * x).sum((1, 2))))
    assert -47 < degrees.min() < -35
    assert 35 < degrees.max() < 47
    assert float(degrees.mean()) == pytest.approx(0, abs=10)  # 26 / sqrt(64) per sigma


def slow_glass(pixels: NDArray[Any], moves: NDArray[Any], reach: int) -> NDArray[Any]:
    """Do moves (R, 2, H, W) one after the other, as the published loop does."""
    height, width = pixels.shape[:2]
    pixels = pixels.copy()
    for dy, dx in moves:
        for h in range(height - reach, reach, -1):
            for w in range(width - reach, reach, -1):
                pixels[h, w] = pixels[h + dy[h, w], w + dx[h, w]]
    return pixels


@pytest.mark.parametrize(("reach", "rounds"), [(1, 2), (2, 1), (2, 3), (3, 2), (4, 2)])
@pytest.mark.parametrize("size", [(23, 31), (6, 40)])
def test_glass_moves_are_those_of_the_loop(reach: int, rounds: int, size: tuple[int, int]) -> None:
    moves = integers(-reach, reach, (rounds, 2, *size), generators_of([0, 1]))
    assert set(moves.flatten().tolist()) == set(range(-reach, reach))
    places = np.arange(size[0] * size[1]).reshape(size)
    fast = moved_from(moves, reach)
    for number in range(2):
        slow = slow_glass(places, moves[number].numpy(), reach)
        assert fast[number].tolist() == slow.flatten().tolist()


def test_longest_chain_of_moves() -> None:
    """Each pixel takes from below right, so that the last one's value runs through the image."""
    moves = torch.ones(1, 1, 2, 30, 30, dtype=torch.int64)
    slow = slow_glass(np.arange(900).reshape(30, 30), moves[0].numpy(), 2)
    assert moved_from(moves, 2)[0].tolist() == slow.flatten().tolist()
    assert len(set(slow[3:28, 3:28].flatten().tolist())) < 60  # all from the rim


def test_brightness_is_that_of_hsv() -> None:
    images = torch.rand(1, 3, 6, 7, generator=torch.Generator().manual_seed(0))
    images[..., 0, 0] = 0
    changed = corrupt(images, "brightness", 2, [0])[0]
    for y in range(6):
        for x in range(7):
            h, s, v = colorsys.rgb_to_hsv(*images[0, :, y, x].tolist())
            rgb = colorsys.hsv_to_rgb(h, s, min(1, v + 0.2))
            assert changed[:, y, x].tolist() == pytest.approx(rgb, abs=1e-6)
    assert changed[:, 0, 0].tolist() == pytest.approx([0.2] * 3)


def test_contrast_by_hand() -> None:
    images = torch.tensor([[[[0.0, 1.0]], [[0.2, 0.4]], [[0.5, 0.5]]]])  # (1, 3, 1, 2)
    changed = corrupt(images, "contrast", 3, [0])
    wanted = torch.tensor([[[[0.4, 0.6]], [[0.28, 0.32]], [[0.5, 0.5]]]])
    torch.testing.assert_close(changed, wanted)


def test_pixelate_gives_means_of_blocks() -> None:
    images = torch.rand(1, 3, 8, 12, generator=torch.Generator().manual_seed(0))
    for severity, block in ((2, 2), (5, 4)):
        means = torch.nn.functional.avg_pool2d(images, block)
        wanted = means.repeat_interleave(block, 2).repeat_interleave(block, 3)
        torch.testing.assert_close(corrupt(images, "pixelate", severity, [0]), wanted)


def test_pixelate_by_hand_where_blocks_are_uneven() -> None:
    row = torch.tensor([0.0, 0.3, 0.6, 0.8, 1.0]).expand(1, 3, 5, 5)
    # 2 blocks of 2.5 pixels: the middle one's centre lies between, counts in the first and shows
    # the second
    changed = corrupt(row, "pixelate", 2, [0])
    torch.testing.assert_close(changed[0, 0, 0], torch.tensor([0.3, 0.3, 0.9, 0.9, 0.9]))


def test_jpeg_is_pillows(photo: Pixels, scene: Tensor) -> None:
    for severity, quality in ((1, 25), (5, 7)):
        file = BytesIO()
        Image.fromarray(photo).save(file, "JPEG", quality=quality)
        with Image.open(file) as read:
            wanted = np.array(read)
        changed = corrupt(scene, "jpeg-compression", severity, [0])[0].permute(1, 2, 0)
        assert np.array_equal((changed * 255).round().byte().numpy(), wanted)


def test_enlarging_keeps_the_ends() -> None:
    line = torch.tensor([[[[0.0, 1.0, 4.0]]]])
    assert zoom_source((9, 10), 1.25) == (8, 8)
    torch.testing.assert_close(enlarge(line, 2.0)[0, 0, 0, [0, -1]], torch.tensor([0.0, 4.0]))
    by_hand = torch.tensor([0.0, 0.5, 1.0, 2.5, 4.0])  # round(3 * 1.67) = 5 points
    torch.testing.assert_close(enlarge(line, 1.67)[0, 0, 0], by_hand)


def test_zoom_blur_leaves_the_centre_and_a_plane() -> None:
    flat = torch.full((1, 3, 31, 45), 0.3)
    torch.testing.assert_close(corrupt(flat, "zoom-blur", 5, [0]), flat)


def test_fog_keeps_the_brightest_value() -> None:
    images = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(0)) * 0.5
    foggy = corrupt(images, "fog", 5, [0])
    assert 0.35 < foggy.max() <= images.max() + 1e-6
    clouds = plasma(64, 2.0, generators_of([0, 1]))
    assert clouds.shape == (2, 64, 64)
    assert clouds.amin((1, 2)).tolist() == [0, 0]
    assert clouds.amax((1, 2)).tolist() == [1, 1]
    # a torus: over the border it is as smooth as inside
    inside = (clouds[:, :, 1:] - clouds[:, :, :-1]).abs().mean()
    assert (clouds[:, :, 0] - clouds[:, :, -1]).abs().mean() < 2 * inside


def test_snow_whitens_and_falls() -> None:
    dark = torch.full((1, 3, 96, 96), 0.2)
    changed = corrupt(dark, "snow", 4, [0])
    # all that is no flake: 0.65 of 0.2 and 0.35 of 1.5 * 0.2 + 0.5
    assert float(changed.min()) == pytest.approx(0.65 * 0.2 + 0.35 * 0.8, abs=1e-3)
    grey = changed[0, 0]
    along, across = ((grey.diff(dim=dim)).abs().mean() for dim in (0, 1))
    assert along < across  # streaks run downwards


def test_every_name_has_its_corruption() -> None:
    assert tuple(corruptions._TABLE) == CORRUPTIONS
