"""A reader for frames in folders; explained in docs/add_a_data_set.md.

ROOT/<split>/<subset>/<sequence>/ holds <frame>.png and, with class ids, <frame>_ids.png.
"""

from __future__ import annotations

from pathlib import Path

from moeseg.data import Catalogue, LabelFormat, Taxonomy
from moeseg.errors import DataError
from moeseg.types import Frame, Split

SPLITS: tuple[Split, ...] = ("train", "val", "test")


def read_folders(root: Path, taxonomy: Taxonomy, *, strict: bool = True) -> Catalogue:
    """Read the frames that lie in folders by split, subset and sequence.

    Args:
        root: the folder that holds `train`, `val` and `test`, as far as they exist.
        taxonomy: what the ids in the label pictures mean.
        strict: refuse frames that stand in two places; only `check` looks at such data.

    Raises:
        DataError: no frame is there.
    """
    frames = []
    for split in SPLITS:
        for label in sorted(root.glob(f"{split}/*/*/*_ids.png")):
            subset, sequence = label.parts[-3:-1]
            name = label.name.removesuffix("_ids.png")
            photo = label.with_name(f"{name}.png")
            frames.append(Frame(sequence, name, photo, label, subset, split))
    if not frames:
        raise DataError(
            f"{root}: expected pictures <split>/<subset>/<sequence>/<frame>_ids.png, got none. Say "
            "where the data lies by the environment variable MOESEG_DATA or by "
            "--set data.root=FOLDER."
        )
    labels = LabelFormat("ids", files=taxonomy, taxonomy=taxonomy)
    return Catalogue("folders", tuple(frames), labels, str(root), strict)
