from __future__ import annotations

from collections import Counter
from pathlib import Path
from statistics import median

import pytest
import torch

from contracts_data import SHARED, DatasetContract, fake_a2d2, needs_shared
from moeseg.data import (
    Catalogue,
    SegmentationDataset,
    Taxonomy,
    UnknownLabels,
    check,
    near_neighbours,
    prepare,
    read_a2d2,
    read_rgb,
    write_png,
)
from moeseg.errors import DataError
from moeseg.types import Frame

ONE, TWO, THREE = "20180807_145028", "20181204_135952", "20181016_125231"
LISTS = {
    "highway_train": [(ONE, 30), (ONE, 20)],
    "urban_train": [(TWO, 5), (TWO, 2)],
    "urban_test": [(THREE, 1)],
    "all_train": [(ONE, 30), (ONE, 20), (TWO, 5), (TWO, 2)],
}


class TestA2D2(DatasetContract):
    def catalogue(self, root: Path) -> Catalogue:
        return read_a2d2(fake_a2d2(root, LISTS))

    def read_missing(self, root: Path) -> object:
        return read_a2d2(root)

    def test_frames_lie_where_audi_puts_them(self, found: Catalogue, tmp_path: Path) -> None:
        frame = found.select("highway", "train")[0]
        base = tmp_path / "data" / "camera_lidar_semantic" / ONE
        name = "20180807145028_{}_frontcenter_000000030.png"
        assert frame.key == f"{ONE}/000000030"
        assert frame.image == base / "camera" / "cam_front_center" / name.format("camera")
        assert frame.label == base / "label" / "cam_front_center" / name.format("label")

    def test_joined_lists_are_no_subsets(self, found: Catalogue) -> None:
        assert found.subsets() == ("highway", "urban")
        assert len(found.select("highway+urban", "train")) == 4

    def test_the_folder_itself_and_lists_elsewhere(self, tmp_path: Path) -> None:
        root = fake_a2d2(tmp_path / "data", LISTS)
        (root / "lists").rename(tmp_path / "elsewhere")
        found = read_a2d2(root / "camera_lidar_semantic", tmp_path / "elsewhere")
        assert len(found.frames) == 5
        with pytest.raises(DataError, match=r"lists: expected a folder at .*data\.lists=FOLDER"):
            read_a2d2(root)

    def test_11_classes(self, tmp_path: Path) -> None:
        root = fake_a2d2(tmp_path, LISTS)
        fine = read_a2d2(root)
        coarse = fine.in_taxonomy(Taxonomy.load("a2d2-11"))
        car, lines = (fine.taxonomy.classes.index(name) for name in ("Car", "Solid line"))
        for frame in fine.frames:
            ids, mapped = fine.read_label(frame), coarse.read_label(frame)
            assert (mapped[ids == car] == 1).all()  # by hand from the published table
            assert (mapped[ids == lines] == 10).all()
            assert mapped[mapped != 255].max(initial=0) <= 10

    def test_unknown_colour_is_named(self, found: Catalogue) -> None:
        frame = found.frames[0]
        assert frame.label is not None
        colours = read_rgb(frame.label)
        colours[0, :4] = (0x12, 0x34, 0x56)
        write_png(frame.label, colours)
        with pytest.raises(UnknownLabels, match=r"000000030\.png.*#123456 \(4 pixels\)"):
            SegmentationDataset([frame], found.read_label, (8, 16))[0]


def test_malformed_lines_are_named_all_at_once(tmp_path: Path) -> None:
    root = fake_a2d2(tmp_path, LISTS)
    path = root / "lists" / "urban_train_gt.txt"
    path.write_text("\n\nhighway/nonsense.png\n" + path.read_text() + "20181204135952.png\n")
    (root / "lists" / "urban_dev_gt.txt").write_text("")
    (root / "lists" / "village_test_gt.txt").write_text("\n")
    with pytest.raises(DataError) as caught:
        read_a2d2(root)
    message = str(caught.value)
    assert f"{path}:3: expected" in message
    assert "'highway/nonsense.png'" in message
    assert f"{path}:6: expected" in message
    assert "urban_dev_gt.txt: expected a name like" in message
    assert "village_test_gt.txt: the list is empty" in message


def test_no_lists(tmp_path: Path) -> None:
    root = fake_a2d2(tmp_path, {})
    (root / "camera_lidar_semantic").mkdir()
    with pytest.raises(DataError, match=r"got none.*KASTEL-MobilityLab"):
        read_a2d2(root)


def test_lists_that_overlap(tmp_path: Path) -> None:
    root = fake_a2d2(tmp_path, LISTS | {"urban_val": [(ONE, 20)]})
    with pytest.raises(DataError, match=f"highway/train and urban/val share 1 frame: {ONE}/0000"):
        read_a2d2(root)


@needs_shared
def test_published_lists() -> None:
    found = read_a2d2(SHARED / "a2d2_sample", SHARED / "a2d2_splits")
    assert Counter((f.subset, f.split) for f in found.frames) == {
        ("highway", "train"): 6132,
        ("highway", "val"): 876,
        ("highway", "test"): 1421,
        ("urban", "train"): 6132,
        ("urban", "val"): 876,
        ("urban", "test"): 1421,
        ("ambiguous", "test"): 1421,
    }
    assert len({frame.key for frame in found.frames}) == 18279
    assert len(found.sequences()) == 23
    joined = (SHARED / "a2d2_splits" / "all_train_gt.txt").read_text().split()
    names = [f.label.name for f in found.select("highway+urban", "train") if f.label is not None]
    assert names == [line.rpartition("/")[2] for line in joined]
    findings = {(f.subset, f.split): f.message for f in near_neighbours(found.frames, 100)}
    assert set(findings) == {("highway", "val"), ("urban", "val"), ("ambiguous", "test")}
    assert "655 of 1,421 frames come from training sequences" in findings["ambiguous", "test"]
    for subset in ("highway", "urban"):
        expected = _slow_median(found.select(subset, "val"), found.select("highway+urban", "train"))
        assert expected == {"highway": 15, "urban": 30}[subset]
        assert f"(median distance {expected:g})" in findings[subset, "val"]


def _slow_median(held: tuple[Frame, ...], trained: tuple[Frame, ...]) -> float:
    drives: dict[str, list[int]] = {}
    for frame in trained:
        drives.setdefault(frame.sequence, []).append(int(frame.frame))
    return median(min(abs(int(f.frame) - t) for t in drives[f.sequence]) for f in held)


@needs_shared
def test_six_real_frames(tmp_path: Path) -> None:
    root = SHARED / "a2d2_sample"
    names = {path.name for path in root.rglob("*_label_*.png")}
    for path in (SHARED / "a2d2_splits").glob("*_gt.txt"):
        lines = [line for line in path.read_text().split() if line.rpartition("/")[2] in names]
        if lines:
            (tmp_path / "lists").mkdir(exist_ok=True)
            (tmp_path / "lists" / path.name).write_text("\n".join(lines) + "\n")
    found = read_a2d2(root, tmp_path / "lists")
    assert Counter((f.subset, f.split) for f in found.frames) == {
        ("highway", "train"): 1,
        ("highway", "val"): 1,
        ("urban", "train"): 4,
    }
    report = check(found, workers=2)
    assert report.findings == ()
    assert sum(int(c.pixels.sum()) for c in report.counts.values()) == 6 * 1208 * 1920
    copy = prepare(found, tmp_path / "copy", (96, 160), workers=2)
    raw = SegmentationDataset(found.frames, found.read_label, (96, 160))
    ready = SegmentationDataset(copy.frames, copy.read_label, (96, 160))
    for i in range(6):
        image, label, key = raw[i]
        assert key == ready[i][2]
        assert torch.equal(image, ready[i][0])
        assert torch.equal(label, ready[i][1])
        road = label[60:, 40:120] == found.taxonomy.classes.index("RD normal street")
        assert road.float().mean() > 0.2  # the street lies before the car


def test_published_parts_of_a_subset_are_skipped(tmp_path: Path) -> None:
    root, lists = tmp_path / "data", tmp_path / "lists"
    (root / "camera_lidar_semantic").mkdir(parents=True)
    lists.mkdir()
    name = "20181204135952_label_frontcenter_000094929.png"
    (lists / "highway_train_gt.txt").write_text(f"highway/train_val/GT/{name}\n")
    photo = name.replace("_label_", "_camera_")
    (lists / "highway-motorway_train_gt.txt").write_text(f"highway/train_val/img/{photo}\n")
    (lists / "all_train_gt.txt").write_text(f"highway/train_val/GT/{name}\n")
    catalogue = read_a2d2(root, lists)
    assert catalogue.subsets() == ("highway",)
    assert len(catalogue.frames) == 1
