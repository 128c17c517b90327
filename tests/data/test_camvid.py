from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from contracts_data import SHARED, DatasetContract, fake_camvid, needs_shared, random_ids
from moeseg.data import Catalogue, Pick, check, read_camvid, reselect
from moeseg.errors import DataError
from moeseg.types import Split

LISTS = {
    "train": ["0001TP_006690", "0001TP_006720", "0006R0_f00930"],
    "val": ["0016E5_07959", "0016E5_07961"],
}
DAY_AND_DUSK: dict[str, dict[Split, Pick]] = {
    "day": {"train": Pick("train", "train", exclude=("0001TP",))},
    "dusk": {"train": Pick("train", "train", sequences=("0001TP",))},
    "near": {"test": Pick(None, "val")},
}


class TestCamVid(DatasetContract):
    def catalogue(self, root: Path) -> Catalogue:
        return reselect(read_camvid(fake_camvid(root, LISTS)), DAY_AND_DUSK)

    def read_missing(self, root: Path) -> object:
        return read_camvid(root)


def test_lists_are_the_subsets_as_read(tmp_path: Path) -> None:
    found = read_camvid(fake_camvid(tmp_path, LISTS))
    assert found.dataset == "camvid"
    assert found.subsets("train") == ("train",)
    assert found.subsets("val") == ("val",)
    frame = found.select("train", "train")[2]
    assert (frame.sequence, frame.frame) == ("0006R0", "f00930")
    assert frame.image == tmp_path / "train" / "0006R0_f00930.png"
    assert frame.label == tmp_path / "trainannot" / "0006R0_f00930.png"


def test_11_is_void(tmp_path: Path) -> None:
    found = read_camvid(fake_camvid(tmp_path, LISTS))
    stored = random_ids(0, 12)
    assert (stored == 11).any()
    assert np.array_equal(
        found.read_label(found.frames[0]), np.where(stored == 11, np.uint8(255), stored)
    )


def test_malformed_lines_are_named(tmp_path: Path) -> None:
    root = fake_camvid(tmp_path, LISTS)
    with (root / "train.txt").open("a") as stream:
        stream.write("/x/0001TP_1.png\n/x/one.png /y/one.png\n")
    (root / "val.txt").write_text("\n")
    with pytest.raises(DataError) as caught:
        read_camvid(root)
    for part in ("train.txt:4: expected", "train.txt:5: expected", "val.txt: the list is empty"):
        assert part in str(caught.value)


@needs_shared
def test_real_lists_and_a_few_labels() -> None:
    found = read_camvid(SHARED / "camvid")
    assert Counter((f.split, f.sequence) for f in found.frames) == {
        ("train", "0001TP"): 62,
        ("train", "0006R0"): 101,
        ("train", "0016E5"): 204,
        ("val", "0016E5"): 101,
    }
    few = Catalogue("camvid", found.frames[::60], found.labels, found.source)
    report = check(few)
    assert report.ok
    assert all((c.pixels[[0, 3]] > 0).all() for c in report.counts.values())


@needs_shared
def test_the_drives_of_the_shipped_study() -> None:
    found = reselect(
        read_camvid(SHARED / "camvid"),
        {
            "day": {
                "train": Pick("train", "train", sequences=("0016E5",)),
                "test": Pick("train", "train", sequences=("0006R0",)),
            },
            "dusk": {
                "train": Pick("train", "train", sequences=("0001TP",), frames=(0, 40)),
                "test": Pick("train", "train", sequences=("0001TP",), frames=(42, 62)),
            },
            "day-near": {"test": Pick("val", "val")},
        },
    )
    assert Counter((f.subset, f.split) for f in found.frames) == {
        ("day", "train"): 204,
        ("day", "test"): 101,
        ("dusk", "train"): 40,
        ("dusk", "test"): 20,
        ("day-near", "test"): 101,
    }
    last = max(int(f.frame) for f in found.select("dusk", "train"))
    assert last + 3 * 30 == min(int(f.frame) for f in found.select("dusk", "test"))
