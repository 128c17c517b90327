"""The 15 corruptions of a batch against the package of the published code, image by image.

Two rendered scenes at 912x912, severity 3. Takes about 2 minutes on two cores.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import partial

import cv2
import imagecorruptions
import numpy as np
import torch
from numpy.typing import NDArray

from measure import figure, interleaved, parse, parser, ratios, report, scaled
from moeseg.data.synthetic import render_frame
from moeseg.robustness.corruptions import CORRUPTIONS, corrupt
from moeseg.types import Size

APART = ("glass-blur", "jpeg-compression")
"""Stated apart: the package compiles the one with numba, and both call Pillow for the other."""


@dataclass(frozen=True)
class Settings:
    """What is measured."""

    size: Size = (912, 912)
    batch: int = 2
    severity: int = 3
    repeats: int = 5


SMOKE = Settings(size=(32, 48), repeats=2)


def main(argv: Sequence[str] | None = None) -> None:
    options = parse(parser("corruptions", __doc__), argv)
    at = SMOKE if options.smoke else Settings()
    cv2.setNumThreads(torch.get_num_threads())
    photos = [render_frame("urban", 1, number, at.size)[0] for number in range(at.batch)]
    images = torch.from_numpy(np.stack(photos)).permute(0, 3, 1, 2).float().div(255)
    variants: dict[str, Callable[[], object]] = {}
    for name in CORRUPTIONS:
        variants[name] = partial(corrupt, images, name, at.severity, range(at.batch))
        variants[f"{name}, package"] = partial(by_package, photos, name, at.severity)
    seconds = interleaved(variants, at.repeats)

    most = [name for name in CORRUPTIONS if name not in APART]
    ours = total([seconds[name] for name in most])
    theirs = total([seconds[f"{name}, package"] for name in most])
    figures = [
        figure(f"{len(most)} corruptions together", ours, "s"),
        figure("the same, package", theirs, "s"),
        figure("package over ours, together", ratios(theirs, ours), "x faster", at_least=5),
    ]
    for name in (*most, *APART):
        package = seconds[f"{name}, package"]
        figures += [
            figure(name, scaled(seconds[name], 1e3), "ms"),
            figure(f"{name}, package over ours", ratios(package, seconds[name]), "x faster"),
        ]
    report(
        "corruptions",
        f"Corrupting {at.batch} images of {at.size[0]}x{at.size[1]} at severity {at.severity}",
        options,
        asdict(at),
        figures,
        [
            "The package is imagecorruptions-imaug; it takes one 8-bit image at a time, and OpenCV "
            "within it may use as many threads as torch. Ours takes the batch as float32.",
            f"{' and '.join(APART)} stand apart, not in the sum: the one is compiled with numba in "
            "the package, the other is libjpeg in both.",
            "The package lays photos of frost over an image; ours draws the ice.",
        ],
    )


def by_package(photos: Sequence[NDArray[np.uint8]], name: str, severity: int) -> None:
    """Corrupt images one after the other with the package."""
    for photo in photos:
        imagecorruptions.corrupt(photo, severity, name.replace("-", "_"))


def total(several: Sequence[Sequence[float]]) -> list[float]:
    """Add the seconds of several variants up, round by round."""
    return [sum(turn) for turn in zip(*several, strict=True)]


if __name__ == "__main__":
    main()
