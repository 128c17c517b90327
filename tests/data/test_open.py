from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from moeseg.config import DataConfig
from moeseg.data import prepare, read_a2d2
from moeseg.data.open import open_catalogue, render_scenes
from moeseg.errors import DataError, UsageError
from tiny import SIZE, write_data

SCENES = {
    "reader": "synthetic",
    "size": [32, 48],
    "synthetic": {
        "size": [32, 48],
        "drives": {"highway": {"train": 2, "test": 1}, "urban": {"test": 1}},
        "frames_per_drive": 3,
    },
}


def config(**settings: object) -> DataConfig:
    return DataConfig.model_validate({"size": list(SIZE)} | settings)


def test_scenes_can_be_read_in_11_classes_also_from_a_prepared_copy(tmp_path: Path) -> None:
    render_scenes(config(**SCENES), tmp_path)
    fine = open_catalogue(config(**SCENES), tmp_path)
    coarse = open_catalogue(config(**SCENES, taxonomy="a2d2-11"), tmp_path)
    assert (len(fine.taxonomy), len(coarse.taxonomy)) == (38, 11)
    prepare(fine, tmp_path / "copy", (16, 24))
    copied = config(reader="prepared", root=str(tmp_path / "copy"), taxonomy="a2d2-11")
    again = open_catalogue(copied, tmp_path)
    assert again.taxonomy.classes == coarse.taxonomy.classes
    sky = fine.taxonomy.classes.index("Sky")
    for frame, small in zip(fine.frames, again.frames, strict=True):
        ids = fine.read_label(frame)
        assert (coarse.read_label(frame)[ids == sky] == 7).all()
        assert set(np.unique(again.read_label(small))) <= set(range(11)) | {255}


def test_scenes_are_planned_before_they_are_rendered(tmp_path: Path) -> None:
    planned = open_catalogue(config(**SCENES), tmp_path)
    assert not (tmp_path / "scenes").exists()
    render_scenes(config(**SCENES), tmp_path)
    assert open_catalogue(config(**SCENES), tmp_path).frames == planned.frames
    assert set(read_a2d2(tmp_path / "scenes").frames) == set(planned.frames)


def test_a_taxonomy_without_a_mapping_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="camvid-11"):
        open_catalogue(config(**SCENES, taxonomy="camvid-11"), tmp_path)


def test_a_manifest_needs_a_taxonomy(tmp_path: Path) -> None:
    csv = write_data(tmp_path)
    with pytest.raises(UsageError, match=r"data\.taxonomy is not set"):
        open_catalogue(config(reader="manifest", root=str(csv)), tmp_path)


def test_own_subsets_and_limits_are_cut_from_what_is_found(tmp_path: Path) -> None:
    csv = write_data(tmp_path, frames=6)
    place = {"root": str(csv), "taxonomy": str(tmp_path / "taxonomy.yaml"), "reader": "manifest"}
    select = {
        "first": {"train": {"source": "day", "sequences": ["day-train-0"], "frames": [1, 5]}},
        "rest": {
            "train": {"exclude": ["day-train-0"]},
            "test": {"source": "dusk", "split": "val"},
        },
    }
    found = open_catalogue(config(**place, select=select), tmp_path)
    assert [frame.frame for frame in found.select("first", "train")] == [
        f"day-train-0-{i:02d}" for i in range(1, 5)
    ]
    assert len(found.select("rest", "train")) == 18
    assert {frame.sequence for frame in found.select("rest", "test")} == {
        "dusk-val-0",
        "dusk-val-1",
    }
    few = open_catalogue(config(**place, limit={"train": 3}), tmp_path)
    assert len(few.select("day", "train")) == 3
    assert len(few.select("day", "test")) == 4


def test_a_folder_of_something_else_is_no_place_for_scenes(tmp_path: Path) -> None:
    Image.fromarray(np.zeros((4, 4, 3), np.uint8)).save(tmp_path / "holiday.png")
    with pytest.raises(DataError, match=r"not rendered scenes.*new folder"):
        render_scenes(config(**SCENES, root=str(tmp_path)), tmp_path)
    assert [one.name for one in tmp_path.iterdir()] == ["holiday.png"]
