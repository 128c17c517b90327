"""Frames a second of the training loader: raw PNG pairs of A2D2's size against a prepared copy.

Twelve scenes rendered at 1208x1920, loaded at 456x456 with random flips, by the training process
itself and by two workers. Takes about 3 minutes on two cores, most of it rendering.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from torch.utils.data import DataLoader, Subset

from measure import figure, interleaved, parse, parser, ratios, report, scaled
from moeseg.data import Augment, Catalogue, SegmentationDataset, prepare, read_a2d2
from moeseg.data.dataset import Item
from moeseg.data.synthetic import SyntheticSpec, write_dataset
from moeseg.types import Size


@dataclass(frozen=True)
class Settings:
    """What is measured."""

    raw_size: Size = (1208, 1920)
    size: Size = (456, 456)
    frames_per_drive: int = 6
    times: int = 4  # over the frames in one pass of the loader
    batch: int = 4
    workers: tuple[int, ...] = (0, 2)
    repeats: int = 3
    renderers: int = 2


SMOKE = Settings((48, 64), (32, 32), 1, 2, 2, (0,), 2, 1)


def main(argv: Sequence[str] | None = None) -> None:
    options = parse(parser("loader", __doc__), argv)
    at = SMOKE if options.smoke else Settings()
    with tempfile.TemporaryDirectory() as scratch:
        root, copy = Path(scratch) / "raw", Path(scratch) / "prepared"
        drives = {"highway": {"train": 1}, "urban": {"train": 1}}
        print("  rendering", flush=True)
        write_dataset(
            root,
            SyntheticSpec(0, at.raw_size, drives, at.frames_per_drive),
            workers=at.renderers,
        )
        raw = read_a2d2(root, root / "lists")
        catalogues = {"raw": raw, "prepared": prepare(raw, copy, at.size)}
        works = {
            f"{name}, {workers} workers": one_pass(catalogue, workers, at)
            for workers in at.workers
            for name, catalogue in catalogues.items()
        }
        seconds = interleaved(works, at.repeats)
        raw_bytes = picture_bytes(raw)
        copy_bytes = picture_bytes(catalogues["prepared"])
    count = len(raw.frames) * at.times
    figures = [
        figure(name, [count / one for one in several], "frames/s")
        for name, several in seconds.items()
    ]
    figures += [
        figure(
            f"prepared over raw, {workers} workers",
            ratios(seconds[f"raw, {workers} workers"], seconds[f"prepared, {workers} workers"]),
            "x faster",
        )
        for workers in at.workers
    ]
    per_frame = 1e-6 / len(raw.frames)
    figures += [
        figure("raw, photo and label on disk, a frame", scaled([raw_bytes], per_frame), "MB"),
        figure("prepared, photo and label on disk, a frame", scaled([copy_bytes], per_frame), "MB"),
    ]
    report(
        "loader",
        f"Loading {at.raw_size[0]}x{at.raw_size[1]} PNG pairs at {at.size[0]}x{at.size[1]}",
        options,
        {**asdict(at), "frames": len(raw.frames)},
        figures,
        [
            "0 workers: the training process loads. Workers are started before the clock.",
            "The files lie in the page cache: this is decoding, encoding and resizing, not disk.",
        ],
    )


def one_pass(catalogue: Catalogue, workers: int, at: Settings) -> Callable[[], None]:
    """Return a function that loads every frame `times` times through one loader."""
    frames = catalogue.frames
    data = SegmentationDataset(frames, catalogue.read_label, at.size, Augment(flip=True))
    loader: DataLoader[Item] = DataLoader(
        Subset(data, list(range(len(frames))) * at.times),
        batch_size=at.batch,
        num_workers=workers,
        persistent_workers=workers > 0,
    )

    def load() -> None:
        for _ in loader:
            pass

    return load


def picture_bytes(catalogue: Catalogue) -> int:
    """Return what the photos and labels of a catalogue take on disk."""
    files = [path for frame in catalogue.frames for path in (frame.image, frame.label) if path]
    return sum(path.stat().st_size for path in files)


if __name__ == "__main__":
    main()
