from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from contracts_data import random_ids, random_photo
from moeseg.data.pictures import (
    MissingFile,
    picture_size,
    read_rgb,
    read_single,
    write_png,
)
from moeseg.errors import DataError, MoesegError


def test_what_is_written_is_read(tmp_path: Path) -> None:
    photo, ids = random_photo(0), random_ids(0, 200)
    write_png(tmp_path / "a" / "photo.png", photo)
    write_png(tmp_path / "a" / "ids.png", ids)
    assert np.array_equal(read_rgb(tmp_path / "a" / "photo.png"), photo)
    assert np.array_equal(read_single(tmp_path / "a" / "ids.png"), ids)
    assert picture_size(tmp_path / "a" / "photo.png") == (12, 20)
    assert [path.name for path in (tmp_path / "a").iterdir() if path.name.startswith(".")] == []


@pytest.mark.parametrize("mode", ["RGBA", "P", "L"])
def test_other_modes_become_rgb(tmp_path: Path, mode: str) -> None:
    picture = Image.fromarray(random_photo(0)).convert(mode)
    picture.save(tmp_path / "x.png")
    assert np.array_equal(read_rgb(tmp_path / "x.png"), np.array(picture.convert("RGB")))


def test_palette_with_transparency_is_read_without_a_warning(tmp_path: Path) -> None:
    picture = Image.fromarray(random_photo(0)).convert("P")
    picture.save(tmp_path / "x.png", transparency=bytes(range(256)))
    assert np.array_equal(read_rgb(tmp_path / "x.png"), np.array(picture.convert("RGB")))


def test_a_palette_label_gives_its_indices(tmp_path: Path) -> None:
    picture = Image.fromarray(random_ids(0, 5))
    picture.putpalette(bytes(range(255, 240, -1)))
    picture.save(tmp_path / "x.png")
    assert np.array_equal(read_single(tmp_path / "x.png"), random_ids(0, 5))


def test_deep_and_coloured_pictures_are_refused(tmp_path: Path) -> None:
    Image.fromarray(np.full((2, 2), 1000, np.uint16)).save(tmp_path / "deep.png")
    write_png(tmp_path / "rgb.png", random_photo(0))
    with pytest.raises(DataError, match=r"deep\.png: expected an 8-bit RGB picture, got mode 'I"):
        read_rgb(tmp_path / "deep.png")
    with pytest.raises(DataError, match=r"rgb\.png: expected a label picture .* labels: colours"):
        read_single(tmp_path / "rgb.png")


def test_missing_and_broken_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(MissingFile, match=r"gone\.png: no such file"):
        read_rgb(tmp_path / "gone.png")
    (tmp_path / "text.png").write_text("no picture")
    with pytest.raises(DataError, match=r"text\.png: unreadable picture"):
        picture_size(tmp_path / "text.png")
    with pytest.raises(DataError, match="unreadable picture"):
        read_rgb(tmp_path)
    write_png(tmp_path / "cut.png", random_photo(0, (64, 64)))
    content = (tmp_path / "cut.png").read_bytes()
    for end in (20, 40, len(content) // 2, len(content) - 30):
        (tmp_path / "cut.png").write_bytes(content[:end])
        with pytest.raises(DataError, match=r"cut\.png: unreadable picture"):
            read_rgb(tmp_path / "cut.png")
    damaged = bytearray(content)
    damaged[len(content) // 2] ^= 0xFF
    (tmp_path / "cut.png").write_bytes(damaged)
    with pytest.raises(DataError, match=r"cut\.png: unreadable picture"):
        read_rgb(tmp_path / "cut.png")


def test_a_full_disk_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    resource = pytest.importorskip("resource")
    path = tmp_path / "x.png"
    write_png(path, random_photo(0, (4, 4)))
    old = path.read_bytes()
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (1000, before[1]))
        with pytest.raises(MoesegError, match=r"write .*x\.png: File too large"):
            write_png(path, random_photo(1, (64, 64)))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert path.read_bytes() == old
    assert list(tmp_path.iterdir()) == [path]
