"""A2D2 in Audi's own layout (`camera_lidar_semantic`) with published subset lists.

Reads lists, not pictures: whether each file is there is seen by `check.py` or on loading.
"""

from __future__ import annotations

import re
from pathlib import Path

from moeseg.data.catalogue import SPLITS, Catalogue
from moeseg.data.labels import LabelFormat
from moeseg.data.taxonomy import Taxonomy
from moeseg.errors import DataError
from moeseg.types import Frame, Split

_FOLDER = "camera_lidar_semantic"
_LIST = re.compile(r"(?P<subset>.+)_(?P<split>[^_]+)_gt\.txt")
_NAME = re.compile(r"(?P<day>\d{8})(?P<time>\d{6})_label_frontcenter_(?P<frame>\d+)\.png")
_REPEATS = ("all", "highway-motorway", "highway-secondary")  # published joins and parts of others
_SHOWN = 10  # malformed lines named in a message


def read_a2d2(root: Path, lists: Path | None = None, *, strict: bool = True) -> Catalogue:
    """Read the frames of A2D2's front-centre camera that subset lists name, in 38 classes.

    Args:
        root: the folder that holds ``camera_lidar_semantic``, or that folder itself.
        lists: folder of ``<subset>_<split>_gt.txt``; None looks for ``lists`` or ``splits`` beside
            the data. The published ``all_*`` (a join of others), ``highway-motorway_*`` and
            ``highway-secondary_*`` (parts of one) are skipped.
        strict: refuse frames that stand in two places; only `check` looks at such data.

    Raises:
        DataError: the data or its lists are not there, a list is empty, a line is malformed (all
            named with file and line), or lists overlap.
    """
    data = _data_folder(root)
    folder = _list_folder(root, data, lists)
    frames: list[Frame] = []
    problems: list[str] = []
    for path in sorted(folder.glob("*_gt.txt"), key=_reading_order):
        match = _LIST.fullmatch(path.name)
        if match is None or match["split"] not in SPLITS:
            problems.append(f"{path}: expected a name like <subset>_<train|val|test>_gt.txt")
        elif match["subset"] not in _REPEATS:
            split: Split = next(s for s in SPLITS if s == match["split"])
            frames += _read_list(path, data, match["subset"], split, problems)
    if problems:
        more = f" and {len(problems) - _SHOWN} more" if len(problems) > _SHOWN else ""
        raise DataError("A2D2 lists: " + "; ".join(problems[:_SHOWN]) + more + ".")
    if not frames:
        raise DataError(f"{folder}: expected lists <subset>_<split>_gt.txt, got none. {_GET_LISTS}")
    files = Taxonomy.load("a2d2-38")
    return Catalogue(
        "a2d2", tuple(frames), LabelFormat("colours", files, files), str(folder), strict
    )


_GET_LISTS = (
    "The published lists are in the repository KASTEL-MobilityLab/mixtures-of-experts; name their "
    "folder with --set data.lists=FOLDER."
)


def _data_folder(root: Path) -> Path:
    for folder in (root / _FOLDER, root):
        if folder.name == _FOLDER and folder.is_dir():
            return folder
    raise DataError(
        f"{root}: expected A2D2's folder {_FOLDER!r} in it, got "
        f"{'none' if root.is_dir() else 'no such folder'}. Get 'Semantic Segmentation' at "
        "https://www.a2d2.audi, unpack it, and say where it lies by the environment variable "
        "MOESEG_DATA or by --set data.root=FOLDER."
    )


def _list_folder(root: Path, data: Path, lists: Path | None) -> Path:
    beside = [base / name for base in (root, data.parent) for name in ("lists", "splits")]
    choices = beside if lists is None else [lists]
    for folder in choices:
        if folder.is_dir():
            return folder
    looked = ", ".join(str(folder) for folder in dict.fromkeys(choices))
    raise DataError(f"A2D2 lists: expected a folder at {looked}, got none. {_GET_LISTS}")


def _reading_order(path: Path) -> tuple[str, int]:
    match = _LIST.fullmatch(path.name)
    if match is None or match["split"] not in SPLITS:
        return path.name, 0
    return match["subset"], [str(split) for split in SPLITS].index(match["split"])


def _read_list(
    path: Path, data: Path, subset: str, split: Split, problems: list[str]
) -> list[Frame]:
    frames = []
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        problems.append(f"{path}: unreadable ({error})")
        return []
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        name = line.strip().replace("\\", "/").rpartition("/")[2]
        match = _NAME.fullmatch(name)
        if match is None:
            problems.append(
                f"{path}:{number}: expected .../<14 digits>_label_frontcenter_<digits>.png, "
                f"got {line.strip()[:120]!r}"
            )
            continue
        sequence = f"{match['day']}_{match['time']}"
        photo = name.replace("_label_", "_camera_")
        frames.append(
            Frame(
                sequence=sequence,
                frame=match["frame"],
                image=data / sequence / "camera" / "cam_front_center" / photo,
                label=data / sequence / "label" / "cam_front_center" / name,
                subset=subset,
                split=split,
            )
        )
    if not any(line.strip() for line in lines):
        problems.append(f"{path}: the list is empty; fill or delete it")
    return frames
