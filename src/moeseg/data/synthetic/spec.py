"""What a synthetic data set consists of: its spec, its drives, their seeds, names and lists.

Not here: how a frame is drawn (`drive`), how files are written (`write`).
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, Final, get_args

from moeseg.errors import UsageError, unknown_name
from moeseg.types import Size, Split

from .drive import SUBSETS

RENDERER: Final = 1
"""Version of the drawing; it rises whenever the same spec gives other pixels."""
SPLITS: Final[tuple[Split, ...]] = get_args(Split)
FRAME_STEP: Final = 15
"""Steps of the frame number between neighbours: half a second at 30 pictures a second."""
SMALLEST: Final = 32
"""Least height and width in pixels."""
MOST_DRIVES: Final = 1000
"""Most drives of one subset and split; their names are days and minutes."""
FOLDER: Final = "camera_lidar_semantic"
"""Folder of the drives, as in A2D2."""


def _default_drives() -> dict[str, dict[str, int]]:
    road = {"train": 10, "val": 2, "test": 8}
    return {"highway": dict(road), "urban": dict(road), "ambiguous": {"test": 10}}


@dataclass(frozen=True)
class SyntheticSpec:
    """What to draw; equal specs give equal bytes.

    Attributes:
        seed: of everything random, 0 or more.
        size: (H, W) of the frames in pixels.
        drives: subset -> split -> number of drives.
        frames_per_drive: half a second apart.

    Raises:
        UsageError: a value is out of range or a name is not known.
    """

    seed: int = 0
    size: Size = (192, 320)
    drives: Mapping[str, Mapping[str, int]] = field(default_factory=_default_drives)
    frames_per_drive: int = 24

    def __post_init__(self) -> None:
        if self.seed < 0:
            raise UsageError(f"synthetic seed: expected 0 or more, got {self.seed}.")
        if len(self.size) != 2 or min(self.size) < SMALLEST:
            raise UsageError(
                f"synthetic size: expected height and width of {SMALLEST} or more, "
                f"got {tuple(self.size)}."
            )
        if self.frames_per_drive < 1:
            raise UsageError(
                f"synthetic frames_per_drive: expected 1 or more, got {self.frames_per_drive}."
            )
        for subset, splits in self.drives.items():
            if subset not in SUBSETS:
                raise UsageError(unknown_name("synthetic subset", subset, SUBSETS))
            for split, count in splits.items():
                if split not in SPLITS:
                    raise UsageError(unknown_name("split", split, SPLITS))
                if not 0 <= count <= MOST_DRIVES:
                    raise UsageError(
                        f"synthetic drives.{subset}.{split}: expected 0 to {MOST_DRIVES}, "
                        f"got {count}."
                    )

    def as_json(self) -> dict[str, Any]:
        """Return the spec and the renderer's version as JSON values."""
        return {
            "renderer": RENDERER,
            "seed": self.seed,
            "size": list(self.size),
            "drives": {name: dict(splits) for name, splits in self.drives.items()},
            "frames_per_drive": self.frames_per_drive,
        }


@dataclass(frozen=True, slots=True)
class PlannedDrive:
    """A drive that a spec asks for.

    Attributes:
        subset: road type.
        split: the only split its frames are in.
        seed: of the drive.
        name: ``YYYYMMDDHHMMSS``, unique in the data set.
        numbers: the frame numbers.
    """

    subset: str
    split: Split
    seed: int
    name: str
    numbers: tuple[int, ...]

    def photo(self, root: Path, number: int) -> Path:
        """Return where a frame's photo lies."""
        return self._path(root, "camera", number)

    def label(self, root: Path, number: int) -> Path:
        """Return where a frame's label lies."""
        return self._path(root, "label", number)

    def missing(self, root: Path) -> list[int]:
        """Return the positions of frames of which a file is not there."""
        return [
            index
            for index, number in enumerate(self.numbers)
            if not (self.photo(root, number).is_file() and self.label(root, number).is_file())
        ]

    def _path(self, root: Path, kind: str, number: int) -> Path:
        folder = root / FOLDER / f"{self.name[:8]}_{self.name[8:]}" / kind / "cam_front_center"
        return folder / f"{self.name}_{kind}_frontcenter_{number:09d}.png"


def plan_drives(spec: SyntheticSpec) -> list[PlannedDrive]:
    """Return all drives of a spec; a drive's seed and name hang on no other drive."""
    return [
        _plan(spec, subset, split, index)
        for subset in SUBSETS
        for split in SPLITS
        for index in range(spec.drives.get(subset, {}).get(split, 0))
    ]


def _plan(spec: SyntheticSpec, subset: str, split: Split, index: int) -> PlannedDrive:
    text = f"{spec.seed}/{subset}/{split}/{index}"
    seed = int.from_bytes(hashlib.sha256(text.encode()).digest()[:6], "big")
    # years ahead of A2D2's own, so that both can lie in one folder
    first = datetime(2031 + SUBSETS.index(subset), 1 + 4 * SPLITS.index(split), 1, 8)
    when = first + timedelta(days=index % 100, minutes=7 * (index // 100))
    start = 1000 + seed % 60000
    numbers = tuple(start + FRAME_STEP * k for k in range(spec.frames_per_drive))
    return PlannedDrive(subset, split, seed, when.strftime("%Y%m%d%H%M%S"), numbers)


def frame_lists(drives: Sequence[PlannedDrive]) -> dict[str, list[str]]:
    """Return file name -> lines; the `all_*` joins hold highway, then urban."""
    lists: dict[str, list[str]] = {}
    for drive in drives:
        folder = "test" if drive.split == "test" else "train_val"
        names = [f"{drive.subset}_{drive.split}_gt.txt"]
        if drive.subset != "ambiguous":
            names.append(f"all_{drive.split}_gt.txt")
        for number in drive.numbers:
            file = drive.label(Path(), number).name
            for name in names:
                lists.setdefault(name, []).append(f"{drive.subset}/{folder}/GT/{file}")
    return lists
