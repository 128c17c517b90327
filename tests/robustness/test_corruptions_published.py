"""Corruptions against the published code, fed with the same random numbers where it draws some.

The reference is the PyPI package `imagecorruptions-imaug`. Frost is drawn here and a photo
there, so that only its statistics are held against those of the photos. Differences are in levels
of 0..255.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import ArrayLike, NDArray
from PIL import Image
from torch import Tensor

from moeseg.data.synthetic import render_frame
from moeseg.robustness.corruptions import SEVERITIES, corrupt
from moeseg.robustness.corruptions.blur import moved_from
from moeseg.robustness.corruptions.draws import generators_of, integers, normal, uniform
from moeseg.robustness.corruptions.filters import zoom_source
from moeseg.robustness.corruptions.ice import ice

Pixels = NDArray[np.uint8]
Floats = NDArray[np.floating[Any]]

SIZE = (72, 104)
SEED = 11


@pytest.fixture(scope="module")
def photo() -> Pixels:
    """Return a rendered street scene (H, W, 3)."""
    return render_frame("urban", 1, 0, SIZE)[0]


@pytest.fixture(scope="module")
def scene(photo: Pixels) -> Tensor:
    """Return the same scene (1, 3, H, W) in 0..1."""
    return torch.from_numpy(photo).permute(2, 0, 1)[None].float() / 255


@pytest.fixture(scope="module")
def published() -> ModuleType:
    """Return the package of the published code."""
    package: ModuleType = pytest.importorskip(
        "imagecorruptions.corruptions", reason="imagecorruptions-imaug is not installed"
    )
    return package


def conditions(*names: str) -> pytest.MarkDecorator:
    chosen = [(name, severity) for name in names for severity in SEVERITIES]
    return pytest.mark.parametrize(("name", "severity"), chosen)


def octaves(plane: Floats) -> Floats:
    """Return the mean power of a square plane in five octaves of spatial frequency."""
    side = plane.shape[0]
    power = np.abs(np.fft.fft2(plane - plane.mean())) ** 2
    frequency = np.hypot(np.fft.fftfreq(side)[:, None], np.fft.fftfreq(side))
    edges = [2.0**-k for k in range(6, 0, -1)]
    return np.array([power[(frequency >= a) & (frequency < 2 * a)].mean() for a in edges[:-1]])


def levels(images: Tensor) -> Floats:
    """Return one image (1, 3, H, W) as (H, W, 3) in levels of 0..255, not rounded."""
    return (images[0].permute(1, 2, 0).double() * 255).numpy()


class Numbers:
    """What stands in for `numpy.random` in the published code: given arrays in turn."""

    def __init__(self, *arrays: ArrayLike) -> None:
        self.arrays: Iterator[ArrayLike] = iter(arrays)

    def uniform(self, low: float, high: float, size: tuple[int, ...] = ()) -> Floats:
        drawn = np.asarray(next(self.arrays), np.float64)
        assert drawn.size == np.prod(size)
        return low + (high - low) * drawn.reshape(size)

    def normal(self, size: tuple[int, ...], loc: float, scale: float) -> Floats:
        return loc + scale * np.asarray(next(self.arrays), np.float64).reshape(size)


@pytest.fixture
def fed(published: ModuleType, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Floats]:
    """Return a function that runs the published code on given random numbers."""

    def run(name: str, pixels: Pixels, severity: int, *arrays: ArrayLike) -> Floats:
        numbers = Numbers(*arrays)
        with monkeypatch.context() as patch:
            for kind in ("uniform", "normal"):
                patch.setattr(np.random, kind, getattr(numbers, kind))
            given = Image.fromarray(pixels)
            corrupted = getattr(published, name.replace("-", "_"))(given, severity)
        assert next(numbers.arrays, None) is None  # all were used
        return np.asarray(corrupted, np.float64)

    return run


# greatest difference in levels of 255; Pillow's pixelation rounds twice, its JPEG is the same
TOLERANCE = {
    "defocus-blur": 0.05,
    "zoom-blur": 0.05,
    "brightness": 0.01,
    "contrast": 0.01,
    "pixelate": 1.01,
    "jpeg-compression": 0.01,
}


@conditions(*TOLERANCE)
def test_deterministic_ones_are_the_published(
    name: str, severity: int, photo: Pixels, scene: Tensor, fed: Callable[..., Floats]
) -> None:
    ours = levels(corrupt(scene, name, severity, [0]))
    theirs = fed(name, photo, severity)
    assert float(np.abs(ours - theirs).max()) <= TOLERANCE[name]


@conditions("motion-blur")
def test_motion_blur_along_the_same_line(
    name: str, severity: int, photo: Pixels, scene: Tensor, fed: Callable[..., Floats]
) -> None:
    angle = uniform((), generators_of([SEED]))
    ours = levels(corrupt(scene, name, severity, [SEED]))
    assert np.abs(ours - fed(name, photo, severity, angle)).max() < 0.05


@conditions("fog")
def test_fog_of_the_same_clouds(
    name: str, severity: int, photo: Pixels, scene: Tensor, fed: Callable[..., Floats]
) -> None:
    side = 128  # the next power of two
    draws = uniform((side**2 - 1,), generators_of([SEED]))[0].numpy()
    counts = [count for k in range(7) for count in [4**k] * 3]
    parts = np.split(draws, np.cumsum(counts)[:-1])
    ours = levels(corrupt(scene, name, severity, [SEED]))
    assert np.abs(ours - fed(name, photo, severity, *parts)).max() < 0.05


@conditions("elastic-transform")
def test_elastic_transform_by_the_same_field(
    name: str, severity: int, photo: Pixels, scene: Tensor, fed: Callable[..., Floats]
) -> None:
    moves = uniform((2, *SIZE), generators_of([SEED]))[0].numpy()
    ours = levels(corrupt(scene, name, severity, [SEED]))
    assert np.abs(ours - fed(name, photo, severity, *moves)).max() < 0.1


@conditions("snow")
def test_snow_of_the_same_flakes(
    name: str, severity: int, photo: Pixels, scene: Tensor, fed: Callable[..., Floats]
) -> None:
    size = (3.0, 2.0, 4.0, 4.5, 2.5)[severity - 1]
    generators = generators_of([SEED])
    angle = uniform((), generators)
    height, width = zoom_source(SIZE, size)
    specks = np.zeros(SIZE)  # only the centre is enlarged
    top, left = (SIZE[0] - height) // 2, (SIZE[1] - width) // 2
    specks[top : top + height, left : left + width] = normal((height, width), generators)[0]
    ours = levels(corrupt(scene, name, severity, [SEED]))
    theirs = fed(name, photo, severity, specks, angle)
    # a flake at half a level may round either way, in each of two layers
    difference = np.abs(ours - theirs)
    assert difference.max() < 2.1
    assert difference.mean() < 0.1


@conditions("glass-blur")
def test_glass_moves_are_the_published(
    name: str,
    severity: int,
    photo: Pixels,
    published: ModuleType,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The published loop, not compiled, on the same moves; it gives them out as it goes."""
    constants = ((0.7, 1, 2), (0.9, 2, 1), (1.0, 2, 3), (1.1, 3, 2), (1.5, 4, 2))[severity - 1]
    _, reach, rounds = constants
    pixels = photo[20:50, 30:70].copy()
    height, width = pixels.shape[:2]
    moves = integers(-reach, reach, (rounds, 2, height, width), generators_of([SEED]))
    visits = iter(
        (int(one[1, h, w]), int(one[0, h, w]))
        for one in moves[0]
        for h in range(height - reach, reach, -1)
        for w in range(width - reach, reach, -1)
    )
    source = moved_from(moves, reach)[0].numpy()
    ours = pixels.reshape(-1, 3)[source].reshape(pixels.shape)
    with monkeypatch.context() as patch:
        patch.setattr(np.random, "seed", lambda seed: None)
        patch.setattr(np.random, "randint", lambda low, high, size: next(visits))
        loop = published._shuffle_pixels_njit_glass_blur.py_func
        theirs = loop(height, width, pixels.copy(), constants)
    assert next(visits, None) is None
    assert np.array_equal(ours, theirs)
    assert (ours != pixels).mean() > 0.3


@conditions("gaussian-noise", "shot-noise", "impulse-noise", "glass-blur", "motion-blur", "snow")
def test_random_ones_have_the_published_distribution(
    name: str, severity: int, photo: Pixels, scene: Tensor, published: ModuleType
) -> None:
    """Of what changed: mean, spread, histogram and power spectrum, over several seeds.

    Glass blur is cut off to 8 bits on its way in the published code, half a level each time. Motion
    blur and snow draw one direction an image, so that their means over seeds vary more.
    """
    np.random.seed(0)  # the published code draws from the global generator
    call = getattr(published, name.replace("-", "_"))
    differences: tuple[list[Floats], list[Floats]] = [], []
    for seed in range(4 if name == "glass-blur" else 16):
        options = {"seed": seed} if name in ("glass-blur", "impulse-noise") else {}
        theirs = np.asarray(call(Image.fromarray(photo), severity, **options))
        differences[0].append(levels(corrupt(scene, name, severity, [seed])) - photo)
        differences[1].append(theirs - photo)
    a, b = (np.stack(several) for several in differences)
    loose = name in ("motion-blur", "snow")
    assert a.mean() == pytest.approx(b.mean(), abs=1.0 + 0.03 * np.abs(b).mean())
    assert a.std() == pytest.approx(b.std(), rel=0.08 if loose else 0.03)
    edges = np.linspace(-256, 256, 65)
    counts = [np.histogram(one, edges)[0] / one.size for one in (a, b)]
    assert 0.5 * np.abs(counts[0] - counts[1]).sum() < 0.05
    ours, published_ones = (
        np.mean([octaves(one[:72, :72, c]) for one in several for c in range(3)], axis=0)
        for several in (a, b)
    )
    np.testing.assert_allclose(ours, published_ones, rtol=0.35 if loose else 0.2)


def test_ice_is_like_the_photos_of_it() -> None:
    """Their means are 0.35 to 0.81, spreads 0.07 to 0.17, and each octave falls by 2 to 6."""
    pictures = ice(224, 224, generators_of(range(4)))
    grey = pictures.mean(1)
    assert 0.35 < float(grey.mean()) < 0.81
    assert 0.07 < float(grey.std((1, 2)).mean()) < 0.2
    red, green, blue = pictures.mean((0, 2, 3)).tolist()
    assert red < green < blue
    power = np.mean([octaves(one.numpy()) for one in grey], axis=0)
    assert all(1.5 < ratio < 10 for ratio in power[:-1] / power[1:])
