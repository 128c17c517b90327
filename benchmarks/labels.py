"""Encoding a label picture of A2D2's size by look-up table against one comparison per colour.

Two comparisons: of all three channels at once, reduced per pixel, and channel by channel. The
picture is a rendered scene at 1208x1920. Takes about a minute on two cores.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace

import numpy as np
from numpy.typing import NDArray

from measure import figure, interleaved, parse, parser, ratios, report, scaled
from moeseg.data import Taxonomy
from moeseg.data.synthetic import render_frame
from moeseg.types import Size

Pixels = NDArray[np.uint8]


@dataclass(frozen=True)
class Settings:
    """What is measured."""

    taxonomy: str = "a2d2-38"
    size: Size = (1208, 1920)
    repeats: int = 9


SMOKE = Settings(size=(48, 64), repeats=2)


def main(argv: Sequence[str] | None = None) -> None:
    options = parse(parser("labels", __doc__), argv)
    at = SMOKE if options.smoke else Settings()
    taxonomy = Taxonomy.load(at.taxonomy)
    colours = sum(len(several) for several in taxonomy.colours)
    _, scene = render_frame("urban", 1, 0, at.size)
    # real labels hold more colours than a scene has: a strip of each one
    picture = scene.copy()
    strips = [np.array(c, np.uint8) for several in taxonomy.colours for c in several]
    picture[: max(1, at.size[0] // 20)] = np.resize(np.stack(strips), (at.size[1], 3))
    expected = taxonomy.encode(picture, "picture")
    for slow in (by_pixel, by_channel):
        np.testing.assert_array_equal(slow(taxonomy, picture), expected)

    seconds = interleaved(
        {
            "look-up": lambda: taxonomy.encode(picture, "picture"),
            "channel by channel": lambda: by_channel(taxonomy, picture),
            "whole pixels": lambda: by_pixel(taxonomy, picture),
        },
        at.repeats,
    )
    names = iter(range(at.repeats))
    first = interleaved(  # each under a name of its own, so that no table is there yet
        {
            "first call": lambda: replace(taxonomy, name=f"new {next(names)}").encode(
                picture, "picture"
            )
        },
        at.repeats,
        warmups=0,
    )
    table = seconds["look-up"]
    report(
        "labels",
        f"Encoding a {at.size[0]}x{at.size[1]} label with {colours} colours",
        options,
        {**asdict(at), "colours": colours},
        [
            figure("Taxonomy.encode", scaled(table, 1e3), "ms"),
            figure("its first call, table included", scaled(first["first call"], 1e3), "ms"),
            figure(
                "one comparison per colour, by channel",
                scaled(seconds["channel by channel"], 1e3),
                "ms",
            ),
            figure(
                "one comparison per colour, (rgb == colour).all(-1)",
                scaled(seconds["whole pixels"], 1e3),
                "ms",
            ),
            figure(
                "by channel over encode",
                ratios(seconds["channel by channel"], table),
                "x faster",
            ),
            figure(
                "(rgb == colour).all(-1) over encode",
                ratios(seconds["whole pixels"], table),
                "x faster",
                at_least=20,
            ),
        ],
        [
            "`encode` also finds unknown colours; the comparisons leave them at 255.",
            "The goal is against the way such code is written, one comparison of the frame with "
            "each colour; on separate contiguous planes the comparisons vectorise far better.",
        ],
    )


def by_pixel(taxonomy: Taxonomy, rgb: Pixels) -> Pixels:
    """Encode with one whole-pixel comparison of the full frame per colour."""
    ids = np.full(rgb.shape[:2], 255, np.uint8)
    for class_id, colours in enumerate(taxonomy.colours):
        for colour in colours:
            ids[(rgb == np.array(colour, np.uint8)).all(-1)] = class_id
    return ids


def by_channel(taxonomy: Taxonomy, rgb: Pixels) -> Pixels:
    """Encode with three one-channel comparisons of the full frame per colour."""
    ids = np.full(rgb.shape[:2], 255, np.uint8)
    red, green, blue = (np.ascontiguousarray(rgb[..., channel]) for channel in range(3))
    for class_id, colours in enumerate(taxonomy.colours):
        for r, g, b in colours:
            ids[(red == r) & (green == g) & (blue == b)] = class_id
    return ids


if __name__ == "__main__":
    main()
