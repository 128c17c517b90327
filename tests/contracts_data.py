"""What holds for every data set reader; a new reader inherits `DatasetContract`.

Also writers of tiny random data sets in the layouts that the readers know.
"""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from moeseg.data import (
    Catalogue,
    MissingFile,
    SegmentationDataset,
    Taxonomy,
    WrongSize,
    check,
    prepare,
    write_png,
)
from moeseg.errors import MoesegError
from moeseg.types import IGNORE, Frame

SHARED = Path(__file__).resolve().parents[1].parent / "shared" / "data"
"""Real data beside the repository, for tests that skip where it is absent."""

needs_shared = pytest.mark.skipif(not SHARED.is_dir(), reason="real frames are not on this machine")

FAKE_SIZE = (12, 20)


def random_photo(seed: int, size: tuple[int, int] = FAKE_SIZE) -> NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(0, 256, (*size, 3), dtype=np.uint8)


def random_ids(seed: int, classes: int, size: tuple[int, int] = FAKE_SIZE) -> NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(0, classes, size, dtype=np.uint8)


def fake_a2d2(root: Path, lists: dict[str, list[tuple[str, int]]]) -> Path:
    """Write A2D2's layout and lists; `lists` maps a list's stem to (drive, frame number)."""
    taxonomy = Taxonomy.load("a2d2-38")
    folder = root / "lists"
    folder.mkdir(parents=True)
    for name, frames in lists.items():
        lines = []
        for drive, number in frames:
            stem = f"{drive.replace('_', '')}_label_frontcenter_{number:09d}.png"
            base = root / "camera_lidar_semantic" / drive
            photo = base / "camera" / "cam_front_center" / stem.replace("_label_", "_camera_")
            label = base / "label" / "cam_front_center" / stem
            write_png(photo, random_photo(number))
            write_png(label, taxonomy.decode(random_ids(number, 38)))
            lines.append(f"anything/{name}/GT/{stem}")
        (folder / f"{name}_gt.txt").write_text("\n".join(lines) + "\n")
    return root


def fake_camvid(root: Path, lists: dict[str, list[str]]) -> Path:
    """Write CamVid's layout; `lists` maps a split to frame names like ``0001TP_006690``."""
    for split, stems in lists.items():
        for i, stem in enumerate(stems):
            write_png(root / split / f"{stem}.png", random_photo(i))
            write_png(root / f"{split}annot" / f"{stem}.png", random_ids(i, 12))
        lines = (f"/SegNet/{split}/{s}.png /SegNet/{split}annot/{s}.png" for s in stems)
        (root / f"{split}.txt").write_text("\n".join(lines) + "\n")
    return root


def fake_manifest(root: Path, rows: list[tuple[str, str, str, str]]) -> Path:
    """Write a CSV of (sequence, frame, subset, split) with ids as labels (3 classes and ignore)."""
    lines = ["image,label,subset,split"]
    for i, (sequence, frame, subset, split) in enumerate(rows):
        image, label = (f"{kind}/{sequence}/{frame}.png" for kind in ("photos", "labels"))
        ids = random_ids(i, 4)
        write_png(root / image, random_photo(i))
        write_png(root / label, np.where(ids == 3, np.uint8(IGNORE), ids))
        lines.append(f"{image},{label},{subset},{split}")
    (root / "frames.csv").write_text("\n".join(lines) + "\n")
    return root / "frames.csv"


class DatasetContract:
    """Override `catalogue` and `read_missing`; the data needs two subsets with training frames."""

    def catalogue(self, root: Path) -> Catalogue:
        """Write a small data set under `root` and read it."""
        raise NotImplementedError

    def read_missing(self, root: Path) -> object:
        """Call the reader on a place where there is nothing."""
        raise NotImplementedError

    @pytest.fixture
    def found(self, tmp_path: Path) -> Catalogue:
        return self.catalogue(tmp_path / "data")

    def train(self, found: Catalogue) -> tuple[Frame, ...]:
        return found.select("+".join(found.subsets("train")), "train")

    def test_keys_are_sequence_and_frame_and_unique(self, found: Catalogue) -> None:
        keys = [frame.key for frame in found.frames]
        assert len(set(keys)) == len(keys) > 0
        assert all(key.count("/") == 1 and all(key.split("/")) for key in keys)

    def test_subsets_of_a_split_are_disjoint(self, found: Catalogue) -> None:
        for split in ("train", "val", "test"):
            sets = [{f.key for f in found.select(s, split)} for s in found.subsets(split)]
            assert sum(map(len, sets)) == len(set().union(*sets))

    def test_items_have_the_promised_types_and_ranges(self, found: Catalogue) -> None:
        frames = self.train(found)
        data = SegmentationDataset(frames, found.read_label, (8, 16))
        assert len(data) == len(frames)
        for i, frame in enumerate(frames):
            image, label, key = data[i]
            assert image.shape == (3, 8, 16)
            assert image.dtype == torch.float32
            assert image.min() >= 0
            assert image.max() <= 1
            assert image.std() > 0.05
            assert label.shape == (8, 16)
            assert label.dtype == torch.uint8
            assert key == frame.key
            values = set(label.flatten().tolist())
            assert values <= {*range(len(found.taxonomy)), IGNORE}
            assert len(values) > 1

    def test_data_set_reads_the_same_in_another_process(self, found: Catalogue) -> None:
        data = SegmentationDataset(self.train(found), found.read_label, (8, 16))
        there: SegmentationDataset = pickle.loads(pickle.dumps(data))
        assert torch.equal(there[0][0], data[0][0])
        assert torch.equal(there[0][1], data[0][1])

    @pytest.mark.parametrize("which", ["image", "label"])
    def test_missing_file_is_named(self, found: Catalogue, which: str) -> None:
        frame = self.train(found)[0]
        path: Path = getattr(frame, which)
        path.unlink()
        with pytest.raises(MissingFile) as caught:
            SegmentationDataset([frame], found.read_label, (8, 16))[0]
        assert str(path) in str(caught.value)

    def test_label_of_another_size_is_named(self, found: Catalogue) -> None:
        frame = self.train(found)[0]
        write_png(frame.image, random_photo(0, (9, 7)))
        with pytest.raises(WrongSize, match=r"expected .*9x7 .*got 12x20") as caught:
            SegmentationDataset([frame], found.read_label, (8, 16))[0]
        assert str(frame.label) in str(caught.value)
        assert str(frame.image) in str(caught.value)

    @pytest.mark.parametrize("which", ["image", "label"])
    def test_truncated_file_is_named(self, found: Catalogue, which: str) -> None:
        frame = self.train(found)[0]
        path: Path = getattr(frame, which)
        content = path.read_bytes()
        path.write_bytes(content[: len(content) // 2])
        with pytest.raises(MoesegError, match=r"unreadable picture") as caught:
            SegmentationDataset([frame], found.read_label, (8, 16))[0]
        assert str(path) in str(caught.value)

    def test_check_finds_no_error(self, found: Catalogue) -> None:
        report = check(found)
        assert report.ok, report.findings
        assert sum(report.frames.values()) == len(found.frames)

    def test_prepared_copy_gives_the_same_tensors(self, found: Catalogue, tmp_path: Path) -> None:
        copy = prepare(found, tmp_path / "copy", (8, 16))
        assert copy.dataset == found.dataset
        assert copy.taxonomy == found.taxonomy
        raw = SegmentationDataset(found.frames, found.read_label, (8, 16))
        ready = SegmentationDataset(copy.frames, copy.read_label, (8, 16))
        for i, (a, b) in enumerate(zip(found.frames, copy.frames, strict=True)):
            assert (a.key, a.subset, a.split) == (b.key, b.subset, b.split)
            assert torch.equal(raw[i][0], ready[i][0])
            assert torch.equal(raw[i][1], ready[i][1])

    def test_missing_data_says_what_to_do(self, tmp_path: Path) -> None:
        with pytest.raises(MoesegError, match=r"expected|Expected") as caught:
            self.read_missing(tmp_path / "nowhere")
        message = str(caught.value)
        assert "nowhere" in message
        assert "MOESEG_DATA" in message
        assert "data.root" in message
