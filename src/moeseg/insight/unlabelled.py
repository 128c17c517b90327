"""Which photos of a folder to label next: ranked by what a mixture's experts disagree about."""

from __future__ import annotations

import csv
from pathlib import Path

import torch
from torch import Tensor

from moeseg.data import SegmentationDataset, fit_image, read_rgb
from moeseg.data.pictures import Pixels, picture_size
from moeseg.data.transforms import unit_range
from moeseg.errors import DataError
from moeseg.evaluation.runner import run_models
from moeseg.files import replacing
from moeseg.insight.frames import FrameCollector, read_frames
from moeseg.insight.measures import FRAMES
from moeseg.insight.overlay import Scheme
from moeseg.insight.saved import SHEETS, draw, open_joined, ranked_keys, refuse_runs
from moeseg.types import Frame, Size

SUFFIXES = (".png", ".jpg", ".jpeg")


class Photos(SegmentationDataset):
    """Photos without labels, upright, brought to a size as the model's training frames were.

    Items are image (3, H, W) in [0, 1], a label (H, W) of zeros that means nothing, and the key.
    """

    def photo_size(self, place: int) -> Size:
        """Return (H, W) of a photo as it is turned upright."""
        return picture_size(self.frames[place].image, upright=True)

    def __getitem__(self, index: int | tuple[int, int]) -> tuple[Tensor, Tensor, str]:
        """Load a photo; raise DataError if that cannot be done."""
        frame = self.frames[index if isinstance(index, int) else index[0]]
        image = torch.from_numpy(read_rgb(frame.image, upright=True)).permute(2, 0, 1)
        if self.size is not None:
            image = fit_image(image, self.size, self.fit)
        return unit_range(image), torch.zeros(image.shape[1:], dtype=torch.uint8), frame.key


def rank_photos(
    model: Path,
    photos: Path,
    out: Path,
    *,
    size: Size | None = None,
    top: int = 20,
    scheme: Scheme = "safe",
) -> list[str]:
    """Predict every photo of a folder, rank them, and draw the first ones.

    Writes `frames.csv`, most disagreed-on first, and `overlays/<rank>_<name>.png`.

    Args:
        model: folder of a saved mixture or ensemble.
        photos: folder, searched with all its subfolders for PNG and JPEG files.
        out: folder for the files, made if missing; may lie inside `photos`.
        size: (H, W) at which the model sees a photo; None is its training size.
        top: sheets to draw.
        scheme: of their colours.

    Returns:
        Keys (paths from the folder's own name on) of the drawn photos, to be labelled first.

    Raises:
        CheckpointError: no model there.
        UsageError: a single expert, or a gate that is fixed to another size.
        DataError: no photos, or one that cannot be read; nothing is written then.
    """
    joined = open_joined(model)
    refuse_runs(out)
    frames = find_photos(photos, out)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    data = Photos(frames, _no_label, size or joined.size, fit=joined.fit)
    collector = FrameCollector(
        joined.name,
        joined.experts,
        joined.taxonomy.classes,
        frames,
        out / FRAMES,
        labelled=False,
    )
    try:
        run_models(
            {joined.name: joined.model},
            data,
            {joined.name: [collector]},
            batch_size=1,
            device=device,
        )
    finally:
        collector.discard()
    _sort(out / FRAMES)
    by_key = {frame.key: frame for frame in frames}
    first = ranked_keys(out / FRAMES, top)
    if first:
        best = Photos([by_key[key] for key in first], _no_label, data.size, fit=data.fit)
        draw(
            joined,
            best,
            out / SHEETS,
            photos.name,
            scheme=scheme,
            device=device,
            labelled=False,
        )
    return first


def find_photos(folder: Path, but: Path | None = None) -> list[Frame]:
    """Return the photos of a folder as frames of one "sequence" per subfolder, sorted by path.

    Args:
        folder: searched with all subfolders; hidden files are left out.
        but: a folder inside it that is left out.

    Raises:
        DataError: no such folder, no photo in it, or a file that is no picture.
    """
    if not folder.is_dir():
        raise DataError(f"{folder}: expected a folder of photos, got no such folder.")
    left_out = None if but is None else but.resolve()
    found = [
        path
        for path in sorted(folder.rglob("*"))
        if path.suffix.lower() in SUFFIXES
        and path.is_file()
        and not path.name.startswith(".")
        and left_out not in path.resolve().parents
    ]
    if not found:
        raise DataError(
            f"{folder}: expected photos ({', '.join(SUFFIXES)}), got none; name the folder that "
            "holds them, also in subfolders."
        )
    for path in found:
        picture_size(path)  # only the header: a wrong file is told before hours of prediction
    name = Path(folder.resolve().name)
    return [
        Frame(
            sequence=(name / path.parent.relative_to(folder)).as_posix(),
            frame=path.name,
            image=path,
            label=None,
            subset="",
            split="test",
        )
        for path in found
    ]


def _sort(path: Path) -> None:
    """Put the lines of a `frames.csv` in the order of disagreement."""
    lines = sorted(read_frames(path), key=lambda line: int(line["rank_disagreement"]))
    with replacing(path) as whole, whole.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, fieldnames=list(lines[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(lines)


def _no_label(frame: Frame) -> Pixels:
    raise DataError(f"{frame.key}: a photo without label has none to read")
