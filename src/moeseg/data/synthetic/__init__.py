"""Synthetic driving scenes: embedded data with exact labels, in A2D2's layout and colours.

A procedural renderer draws drives over three kinds of road (highway, urban, ambiguous) through a
pinhole camera over a ground plane; `write_dataset` writes them so that an A2D2 reader reads them.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from moeseg.types import Size

from .drive import SUBSETS, Drive, draw_drive
from .spec import PlannedDrive, SyntheticSpec, plan_drives
from .write import write_dataset

__all__ = [
    "SUBSETS",
    "Drive",
    "PlannedDrive",
    "SyntheticSpec",
    "draw_drive",
    "plan_drives",
    "render_frame",
    "write_dataset",
]


def render_frame(
    subset: str, drive_seed: int, index: int, size: Size
) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.uint8]]:
    """Render one frame of a drive; for several of one drive, `draw_drive` once is faster.

    Args:
        subset: one of `SUBSETS`.
        drive_seed: 0 or more; the drive.
        index: 0 or more; half a second lies between frames.
        size: (H, W) in pixels.

    Returns:
        photo and label, (H, W, 3) uint8 RGB each, the label in A2D2 colours.

    Raises:
        UsageError: the subset is not known.
    """
    return draw_drive(subset, drive_seed).frame(index, size)
