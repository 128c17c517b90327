"""Rendering the synthetic scenes: seconds a frame, and 1,200 frames with two workers.

The 1,200 frames of 192x320 are projected from a fifth of them; `--full` really renders them, once.
Takes about 3 minutes on two cores either way.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from measure import figure, interleaved, parse, parser, report, scaled
from moeseg.data.synthetic import SUBSETS, SyntheticSpec, draw_drive, write_dataset
from moeseg.types import Size

WANTED, SECONDS = 1200, 120


@dataclass(frozen=True)
class Settings:
    """What is measured."""

    size: Size = (192, 320)
    drives: tuple[int, int, int] = (4, 4, 2)  # of each subset, in the proportion of the full set
    frames_per_drive: int = 24
    single: int = 6  # frames of each subset in one process
    workers: int = 2
    repeats: int = 3


FULL = Settings(drives=(20, 20, 10), repeats=1)
SMOKE = Settings((32, 48), (1, 1, 1), 1, 1, 1, 2)


def main(argv: Sequence[str] | None = None) -> None:
    line = parser("scenes", __doc__)
    line.add_argument("--full", action="store_true", help=f"render all {WANTED} frames, once")
    options = parse(line, argv)
    at = SMOKE if options.smoke else FULL if options.full else Settings()
    single = interleaved(
        {subset: lambda subset=subset: draw(subset, at) for subset in SUBSETS},  # type: ignore[misc]
        at.repeats,
    )
    whole = interleaved({"whole set": lambda: write(at)}, at.repeats, warmups=0)["whole set"]
    count = sum(at.drives) * at.frames_per_drive
    made = "rendered" if count == WANTED else f"projected from {count}"
    report(
        "scenes",
        f"Rendering synthetic scenes of {at.size[0]}x{at.size[1]}",
        options,
        {**asdict(at), "frames": count},
        [
            *(
                figure(f"{subset}, one process, a frame", scaled(several, 1e3 / at.single), "ms")
                for subset, several in single.items()
            ),
            figure(
                f"whole set, {at.workers} workers, files written, a frame",
                scaled(whole, 1e3 / count),
                "ms",
            ),
            figure(
                f"{WANTED:,} frames with {at.workers} workers ({made})",
                scaled(whole, WANTED / count),
                "s",
                at_most=SECONDS,
            ),
        ],
        [
            "A single process draws and does not write. The whole set holds drawing, compressing, "
            "writing and the start of the workers, which a projection counts as often as it is "
            "scaled.",
        ],
    )


def draw(subset: str, at: Settings) -> None:
    """Draw a drive and its first frames."""
    drive = draw_drive(subset, 1)
    for index in range(at.single):
        drive.frame(index, at.size)


def write(at: Settings) -> None:
    """Write a data set of training drives to a new folder."""
    drives: dict[str, dict[str, int]] = {
        name: {"train": n} for name, n in zip(SUBSETS, at.drives, strict=True)
    }
    with tempfile.TemporaryDirectory() as scratch:
        write_dataset(
            Path(scratch) / "scenes",
            SyntheticSpec(0, at.size, drives, at.frames_per_drive),
            workers=at.workers,
        )


if __name__ == "__main__":
    main()
