from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

import numpy as np
import pytest

from contracts_data import fake_a2d2, random_ids, random_photo
from moeseg.data import Catalogue, Finding, check, near_neighbours, read_a2d2, render, write_png
from moeseg.types import Frame

T = TypeVar("T")
ONE, TWO = "20180807_145028", "20181204_135952"
LISTS = {
    "a_train": [(ONE, 10), (ONE, 20), (TWO, 30)],
    "b_train": [(TWO, 40)],
    "b_test": [(TWO, 65), (TWO, 300)],
}


@pytest.fixture
def found(tmp_path: Path) -> Catalogue:
    return read_a2d2(fake_a2d2(tmp_path, LISTS))


def errors(findings: Iterable[Finding]) -> list[tuple[str, str, str, str, tuple[str, ...]]]:
    return [
        (f.kind, f.subset, f.split, f.message, tuple(Path(file).name for file in f.files))
        for f in findings
        if f.level == "error"
    ]


def name(drive: str, number: int, kind: str) -> str:
    return f"{drive.replace('_', '')}_{kind}_frontcenter_{number:09d}.png"


@pytest.mark.parametrize("workers", [0, 2])
def test_everything_wrong_is_found(found: Catalogue, workers: int) -> None:
    first, second, third, fourth, fifth, _ = found.frames
    assert first.label is not None
    assert fourth.label is not None
    first.image.unlink()
    colours = found.labels.files.decode(random_ids(0, 38))
    colours[0, :3] = (0x12, 0x34, 0x56)
    colours[1, :2] = (1, 1, 1)
    write_png(first.label, colours)
    write_png(second.image, random_photo(0, (9, 7)))
    third.image.write_text("no picture")
    fourth.label.unlink()
    colours[1, :2] = (0x12, 0x34, 0x56)
    assert fifth.label is not None
    write_png(fifth.label, colours)
    report = check(found, workers=workers)
    got = errors(report.findings)
    assert got[0] == (
        "missing-photo",
        "a",
        "train",
        "the photo is not there",
        (name(ONE, 10, "camera"),),
    )
    assert got[1] == (
        "size-mismatch",
        "a",
        "train",
        "photo 9x7, label 12x20 (H x W)",
        (name(ONE, 20, "label"),),
    )
    assert got[2][:3] == ("unreadable", "a", "train")
    assert got[2][4] == (name(TWO, 30, "camera"),)
    assert got[3][0] == "missing-label"
    assert got[3][4] == (name(TWO, 40, "label"),)
    assert got[4:] == [
        (
            "unknown-label",
            "a",
            "train",
            "#123456 is unknown to a2d2-38: 3 pixels",
            (name(ONE, 10, "label"),),
        ),
        (
            "unknown-label",
            "a",
            "train",
            "#010101 is unknown to a2d2-38: 2 pixels",
            (name(ONE, 10, "label"),),
        ),
        (
            "unknown-label",
            "b",
            "test",
            "#123456 is unknown to a2d2-38: 5 pixels",
            (name(TWO, 65, "label"),),
        ),
    ]
    assert not report.ok
    text = render(report)
    for part in ("error: missing-photo in a/train (1)", "#123456 is unknown", str(first.image)):
        assert part in text


def test_a_frame_without_label(found: Catalogue) -> None:
    bare = replace(found, frames=(replace(found.frames[0], label=None), *found.frames[1:]))
    assert [e[0] for e in errors(check(bare).findings)] == ["missing-label"]


def test_histogram_counts_every_pixel(found: Catalogue) -> None:
    report = check(found)
    assert report.ok
    counts = report.counts["a", "train"]
    every = np.concatenate([random_ids(n, 38).ravel() for n in (10, 20, 30)])
    assert counts.pixels.tolist() == [(every == c).sum() for c in range(38)]
    assert report.frames == {("a", "train"): 3, ("b", "train"): 1, ("b", "test"): 2}
    text = render(report)
    share = 100 * (every == 0).mean()
    row = next(line for line in text.splitlines() if line.startswith("Car "))
    assert row.split()[1] == f"{share:.3f}"
    assert json.loads(json.dumps(report.to_json()))["classes"][0]["pixels"]["Car"] == int(
        (every == 0).sum()
    )


def test_without_pixels_only_headers_are_read(found: Catalogue) -> None:
    content = found.frames[0].image.read_bytes()
    found.frames[0].image.write_bytes(content[:-30])
    write_png(found.frames[1].image, random_photo(0, (9, 7)))
    report = check(found, pixels=False)
    assert [e[0] for e in errors(report.findings)] == ["size-mismatch"]
    assert report.counts == {}
    assert [e[0] for e in errors(check(found).findings)] == ["unreadable", "size-mismatch"]


def test_frames_in_two_places(found: Catalogue) -> None:
    doubled = (
        *found.frames,
        replace(found.frames[0], subset="b"),
        replace(found.frames[1], split="val"),
        found.frames[2],
    )
    report = check(replace(found, frames=doubled, strict=False))
    assert errors(report.findings) == [
        (
            "two-subsets",
            "b",
            "train",
            f"a/train and b/train share 1 frame: {ONE}/000000010",
            (name(ONE, 10, "camera"),),
        ),
        (
            "two-splits",
            "a",
            "val",
            f"a/train and a/val share 1 frame: {ONE}/000000020",
            (name(ONE, 20, "camera"),),
        ),
        (
            "listed-twice",
            "a",
            "train",
            f"a/train lists 1 frame twice: {TWO}/000000030",
            (name(TWO, 30, "camera"),),
        ),
    ]


def test_near_neighbours_by_hand(found: Catalogue) -> None:
    # frames 65 and 300 of a drive that trains on 30 and 40: distances 25 and 260
    (only,) = near_neighbours(found.frames, 25)
    assert only.level == "warning"
    assert (only.subset, only.split) == ("b", "test")
    assert [Path(file).name for file in only.files] == [name(TWO, 65, "camera")]
    assert only.message.startswith(
        "2 of 2 frames come from training sequences, 1 lie within 25 frame numbers of a training "
        "frame (median distance 142.5)"
    )
    (none_near,) = near_neighbours(found.frames, 24)
    assert none_near.files == ()


def test_other_drives_and_names_without_numbers_have_no_neighbours() -> None:
    frames = [
        Frame("s", "1", Path("a"), None, "x", "train"),
        Frame("t", "1", Path("b"), None, "x", "test"),
        Frame("s", "name", Path("c"), None, "x", "val"),
    ]
    assert list(near_neighbours(frames, 100)) == []


def test_progress_is_shown_once_a_frame(found: Catalogue) -> None:
    told: list[tuple[str, int]] = []

    def track(items: Iterable[T], title: str, total: int) -> Iterator[T]:
        for item in items:
            told.append((title, total))
            yield item

    check(found, track=track)
    assert told == [("check", 6)] * 6


def test_long_lists_are_shortened(found: Catalogue) -> None:
    for frame in found.frames:
        frame.image.unlink()
    text = render(check(found), files=2)
    assert "error: missing-photo in a/train (3)" in text
    assert "... and 1 more" in text


def test_nothing_wrong_is_said(found: Catalogue) -> None:
    assert "Nothing wrong was found." in render(check(replace(found, frames=found.frames[:3])))
