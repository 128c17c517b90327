from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from contracts_data import random_ids
from moeseg.data import ClassCounts, LabelFormat, Taxonomy, class_weights, count_classes, write_png
from moeseg.data.labels import WEIGHTINGS, Weighting
from moeseg.data.taxonomy import UnknownLabels
from moeseg.errors import DataError, UsageError
from moeseg.types import Frame

FINE, COARSE = Taxonomy.load("a2d2-38"), Taxonomy.load("a2d2-11")


def frame(label: Path | None) -> Frame:
    return Frame("s", "1", Path("photo.png"), label, "a", "train")


def counts(*labels: list[int], classes: int) -> ClassCounts:
    total = ClassCounts.empty(classes)
    for label in labels:
        total = total.add(np.array([label], np.uint8))
    return total


def test_colours_and_ids_read_the_same(tmp_path: Path) -> None:
    ids = random_ids(3, 38)
    write_png(tmp_path / "colours.png", FINE.decode(ids))
    write_png(tmp_path / "ids.png", ids)
    by_colour = LabelFormat("colours", FINE, FINE).read(frame(tmp_path / "colours.png"))
    by_id = LabelFormat("ids", FINE, FINE).read(frame(tmp_path / "ids.png"))
    assert np.array_equal(by_colour, ids)
    assert np.array_equal(by_id, ids)
    mapped = LabelFormat("ids", FINE, FINE).in_taxonomy(COARSE)
    assert mapped.taxonomy == COARSE
    direct = COARSE.encode(FINE.decode(ids), "x")
    assert np.array_equal(mapped.read(frame(tmp_path / "ids.png")), direct)


def test_renamed_ids(tmp_path: Path) -> None:
    write_png(tmp_path / "x.png", np.array([[10, 11, 0, 255]], np.uint8))
    camvid = Taxonomy.load("camvid-11")
    with pytest.raises(UnknownLabels, match=r"id 11 \(1 pixels\)"):
        LabelFormat("ids", camvid, camvid).read(frame(tmp_path / "x.png"))
    void = LabelFormat("ids", camvid, camvid, renamed=((11, 255),))
    assert void.read(frame(tmp_path / "x.png")).tolist() == [[10, 255, 0, 255]]


def test_frame_without_label() -> None:
    with pytest.raises(DataError, match=r"photo\.png: the frame has no label"):
        LabelFormat("ids", FINE, FINE).read(frame(None))


def test_counts_by_hand() -> None:
    got = counts([0, 0, 1, 255], [2, 2, 2, 0], classes=4)
    assert got.pixels.tolist() == [3, 1, 3, 0]
    assert got.present.tolist() == [3 + 4, 3, 4, 0]
    assert (got.ignored, got.frames) == (1, 2)


@pytest.mark.parametrize("workers", [0, 2])
def test_counts_over_files(tmp_path: Path, workers: int) -> None:
    frames = []
    for i in range(5):
        write_png(tmp_path / f"{i}.png", random_ids(i, 38))
        frames.append(frame(tmp_path / f"{i}.png"))
    got = count_classes(frames, LabelFormat("ids", FINE, FINE).read, 38, workers=workers)
    every = np.concatenate([random_ids(i, 38).ravel() for i in range(5)])
    assert got.pixels.tolist() == [(every == c).sum() for c in range(38)]
    assert got.frames == 5


def test_weights_by_hand() -> None:
    # shares 1/2, 1/4, 1/4; frequencies in frames that show the class: 4/8, 2/4, 2/4 -> all 1
    got = counts([0, 0, 1, 1], [0, 0, 2, 2], classes=3)
    assert class_weights(got, "none").tolist() == [1, 1, 1]
    assert class_weights(got, "median-frequency").tolist() == [1, 1, 1]
    a, b = 1 / np.log(1.52), 1 / np.log(1.27)
    mean = 0.5 * a + 0.5 * b
    expected = [a / mean, b / mean, b / mean]
    assert class_weights(got, "inverse-log") == pytest.approx(expected, rel=1e-6)


def test_median_frequency_by_hand() -> None:
    # frequencies 3/4, 1/8, 4/8 -> median 1/2; shares 3/8, 1/8, 4/8
    got = counts([0, 0, 0, 1], [2, 2, 2, 2], classes=3)
    frequency = np.array([3 / 4, 1 / 4, 4 / 4])
    weights = 3 / 4 / frequency
    weights /= (np.array([3, 1, 4]) / 8 * weights).sum()
    assert class_weights(got, "median-frequency") == pytest.approx(weights, rel=1e-6)


@pytest.mark.parametrize("method", WEIGHTINGS)
def test_the_mean_pixel_weighs_one_and_absent_classes_stay_finite(method: Weighting) -> None:
    rng = np.random.default_rng(1)
    labels = [rng.integers(0, 6, 50).tolist() for _ in range(4)]
    got = counts(*labels, [0, 7], classes=8)
    weights = class_weights(got, method)
    pixels = np.array([*(c for label in labels for c in label), 0, 7])
    assert weights[pixels].mean() == pytest.approx(1, rel=1e-5)
    assert weights.dtype == np.float32
    assert weights[6] == weights[[0, 1, 2, 3, 4, 5, 7]].max()


def test_weights_need_a_known_method_and_pixels() -> None:
    with pytest.raises(UsageError, match="Did you mean 'inverse-log'"):
        class_weights(counts([0], classes=1), "inverse-lg")  # type: ignore[arg-type]
    with pytest.raises(DataError, match="labelled pixels"):
        class_weights(counts([255], classes=2), "none")


def test_first_colours_only_by_hand(tmp_path: Path) -> None:
    # Truck 1, Truck 2, Bicycle 1, Bicycle 4, Car 2, Sky: the second ones become class 0, Car
    names = {"Truck": 2, "Bicycle": 4, "Car": 2}
    colours = {name: FINE.colours[FINE.classes.index(name)] for name in (*names, "Sky")}
    shown = [
        colours["Truck"][0],
        colours["Truck"][1],
        colours["Bicycle"][0],
        colours["Bicycle"][3],
        colours["Car"][1],
        colours["Sky"][0],
    ]
    write_png(tmp_path / "x.png", np.array([shown], np.uint8))
    truck, bicycle, sky = (FINE.classes.index(name) for name in ("Truck", "Bicycle", "Sky"))
    whole = LabelFormat("colours", FINE, FINE)
    wrong = whole.first_colours_only()
    assert whole.read(frame(tmp_path / "x.png")).tolist() == [
        [truck, truck, bicycle, bicycle, 0, sky]
    ]
    assert wrong.read(frame(tmp_path / "x.png")).tolist() == [[truck, 0, bicycle, 0, 0, sky]]
    mapped = whole.in_taxonomy(COARSE).first_colours_only().read(frame(tmp_path / "x.png"))
    car, coarse_truck, coarse_sky = (COARSE.classes.index(n) for n in ("Car", "Truck", "Sky"))
    assert mapped[0, [0, 1, 3, 5]].tolist() == [coarse_truck, car, car, coarse_sky]


def test_first_colours_only_counts_the_colours_of_the_original() -> None:
    wrong = LabelFormat("colours", FINE, FINE).first_colours_only().files
    known = {colours[0] for colours in FINE.colours}
    assert len({c for colours in FINE.colours for c in colours} - known) == 17
    assert len(wrong.colours[0]) == len(FINE.colours[0]) + 14  # those of other classes


@pytest.mark.parametrize("coding", ["ids", "colours"])
def test_first_colours_only_needs_several_colours(coding: str) -> None:
    camvid = Taxonomy.load("camvid-11")
    one = (
        LabelFormat("ids", FINE, FINE)
        if coding == "ids"
        else LabelFormat("colours", camvid, camvid)
    )
    if coding == "colours" and any(len(colours) > 1 for colours in camvid.colours):
        one = LabelFormat("colours", COARSE_ONE, COARSE_ONE)
    with pytest.raises(UsageError, match=r"data\.label_colours: first-only needs label files"):
        one.first_colours_only()


COARSE_ONE = Taxonomy("two", ("a", "b"), (((1, 2, 3),), ((4, 5, 6),)))
