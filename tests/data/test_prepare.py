from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch
from torch import Tensor

from contracts_data import fake_a2d2, random_photo
from moeseg.data import (
    Catalogue,
    MissingFile,
    SegmentationDataset,
    Taxonomy,
    load,
    prepare,
    read_a2d2,
    read_manifest,
    read_prepared,
    read_rgb,
    write_png,
)
from moeseg.errors import DataError, MoesegError

DRIVE = "20180807_145028"
LISTS = {"a_train": [(DRIVE, 1), (DRIVE, 2)], "b_test": [(DRIVE, 3)]}
SIZE = (8, 16)


@pytest.fixture
def found(tmp_path: Path) -> Catalogue:
    return read_a2d2(fake_a2d2(tmp_path / "raw", LISTS))


def tensors(found: Catalogue) -> list[tuple[Tensor, Tensor, str]]:
    data = SegmentationDataset(found.frames, found.read_label, SIZE)
    return [data[i] for i in range(len(data))]


def test_layout_and_readers(found: Catalogue, tmp_path: Path) -> None:
    out = tmp_path / "out"
    copy = prepare(found, out, SIZE, workers=2)
    files = {path.relative_to(out).as_posix() for path in out.rglob("*") if path.is_file()}
    frames = {f"{DRIVE}/{n:09d}.png" for n in (1, 2, 3)}
    assert files == {
        "manifest.csv",
        "taxonomy.json",
        "prepared.json",
        *(f"{kind}/{frame}" for kind in ("images", "labels") for frame in frames),
    }
    taxonomy = Taxonomy.load(out / "taxonomy.json")
    assert taxonomy == found.taxonomy
    plain = read_manifest(out / "manifest.csv", taxonomy, "ids")
    assert plain.frames == copy.frames
    assert (plain.dataset, copy.dataset) == ("out", "a2d2")
    assert read_prepared(out) == copy


def test_pictures_are_those_of_the_raw_path_bit_for_bit(found: Catalogue, tmp_path: Path) -> None:
    copy = prepare(found, tmp_path / "out", SIZE)
    for raw, ready in zip(found.frames, copy.frames, strict=True):
        image, label = load(raw, found.read_label, SIZE, "pad")
        stored = torch.from_numpy(read_rgb(ready.image)).permute(2, 0, 1)
        assert image.dtype == stored.dtype == torch.uint8
        assert torch.equal(image, stored)
        assert torch.equal(label, torch.from_numpy(copy.read_label(ready)))


def test_mapped_labels_are_stored_mapped(found: Catalogue, tmp_path: Path) -> None:
    coarse = found.in_taxonomy(Taxonomy.load("a2d2-11"))
    copy = prepare(coarse, tmp_path / "out", SIZE)
    assert copy.taxonomy == coarse.taxonomy
    for a, b in zip(tensors(coarse), tensors(copy), strict=True):
        assert torch.equal(a[1], b[1])


def test_a_broken_run_goes_on_where_it_stopped(found: Catalogue, tmp_path: Path) -> None:
    out = tmp_path / "out"
    bad = found.frames[1].image
    content = bad.read_bytes()
    bad.write_bytes(content[:50])
    with pytest.raises(DataError, match="unreadable picture"):
        prepare(found, out, SIZE)
    with pytest.raises(DataError, match="did not come to its end"):
        read_prepared(out)
    bad.write_bytes(content)
    done = out / "images" / DRIVE / "000000001.png"
    written = done.stat().st_mtime_ns
    copy = prepare(found, out, SIZE)
    assert done.stat().st_mtime_ns == written
    for a, b in zip(tensors(found), tensors(copy), strict=True):
        assert torch.equal(a[0], b[0])
        assert torch.equal(a[1], b[1])


def test_a_newer_source_is_copied_again(found: Catalogue, tmp_path: Path) -> None:
    prepare(found, tmp_path / "out", SIZE)
    frame = found.frames[0]
    write_png(frame.image, random_photo(77))
    later = frame.image.stat().st_mtime_ns + 10_000_000_000
    os.utime(frame.image, ns=(later, later))
    copy = prepare(found, tmp_path / "out", SIZE)
    assert torch.equal(tensors(copy)[0][0], tensors(found)[0][0])
    frame.image.unlink()
    with pytest.raises(MissingFile, match="camera_frontcenter_000000001"):
        prepare(found, tmp_path / "out", SIZE)


def test_another_size_or_foreign_files_are_refused(found: Catalogue, tmp_path: Path) -> None:
    prepare(found, tmp_path / "out", SIZE)
    with pytest.raises(DataError, match="got another data set, size, fit or taxonomy"):
        prepare(found, tmp_path / "out", (8, 12))
    with pytest.raises(DataError, match="got another data set, size, fit or taxonomy"):
        prepare(found.in_taxonomy(Taxonomy.load("a2d2-11")), tmp_path / "out", SIZE)
    with pytest.raises(DataError, match="got files of another kind"):
        prepare(found, tmp_path / "raw", SIZE)
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match="got a file"):
        prepare(found, tmp_path / "file", SIZE)
    with pytest.raises(DataError, match=r"got no prepared\.json"):
        read_prepared(tmp_path / "raw")


def test_a_full_disk_is_said_and_leaves_no_half_picture(found: Catalogue, tmp_path: Path) -> None:
    resource = pytest.importorskip("resource")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (5000, before[1]))
        with pytest.raises(MoesegError, match="File too large"):
            prepare(found, tmp_path / "out", (200, 200))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert [path for path in (tmp_path / "out").rglob("*.p*") if path.suffix != ".json"] == []
    assert len(prepare(found, tmp_path / "out", (200, 200)).frames) == 3
