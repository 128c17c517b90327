from __future__ import annotations

import json
import pickle
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from contracts_data import SHARED, needs_shared
from moeseg.data.taxonomy import Taxonomy, UnknownLabels
from moeseg.errors import DataError, UsageError

BUILT_IN = ["a2d2-38", "a2d2-11", "camvid-11", "cityscapes-19"]


def small() -> Taxonomy:
    return Taxonomy("t", ("a", "b"), (((1, 2, 3), (9, 9, 9)), ((3, 2, 1),)), ((7, 7, 7),))


def by_comparison(taxonomy: Taxonomy, rgb: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Slow oracle: one comparison of the whole frame for each colour."""
    ids = np.full(rgb.shape[:2], 255, np.uint8)
    for class_id, colours in enumerate(taxonomy.colours):
        for colour in colours:
            ids[(rgb == np.array(colour)).all(-1)] = class_id
    return ids


def test_encode_by_hand() -> None:
    rgb = np.array([[[1, 2, 3], [3, 2, 1], [9, 9, 9], [7, 7, 7]]], np.uint8)
    assert small().encode(rgb, "x").tolist() == [[0, 1, 0, 255]]


def test_decode_by_hand() -> None:
    ids = np.array([[0, 1, 255]], np.uint8)
    assert small().decode(ids).tolist() == [[[1, 2, 3], [3, 2, 1], [7, 7, 7]]]


def test_decode_shows_ignored_pixels_black_without_an_ignore_colour() -> None:
    assert Taxonomy.load("a2d2-38").decode(np.array([[255]], np.uint8)).tolist() == [[[0, 0, 0]]]


@pytest.mark.parametrize("name", BUILT_IN)
@pytest.mark.parametrize("rows", [1, 31, 32, 33, 70])
def test_encode_equals_comparison_with_each_colour(name: str, rows: int) -> None:
    taxonomy = Taxonomy.load(name)
    colours = [c for group in (*taxonomy.colours, taxonomy.ignore) for c in group]
    rgb = np.array(colours, np.uint8)[
        np.random.default_rng(rows).integers(0, len(colours), (rows, 41))
    ]
    assert np.array_equal(taxonomy.encode(rgb, "x"), by_comparison(taxonomy, rgb))
    assert np.array_equal(taxonomy.encode(rgb[:, ::-2], "x"), by_comparison(taxonomy, rgb[:, ::-2]))


@pytest.mark.parametrize("name", BUILT_IN)
def test_decode_then_encode_is_the_identity(name: str) -> None:
    taxonomy = Taxonomy.load(name)
    ids = np.arange(len(taxonomy), dtype=np.uint8)[None]
    assert np.array_equal(taxonomy.encode(taxonomy.decode(ids), "x"), ids)


def test_unknown_colours_are_named_with_count_and_file() -> None:
    rgb = np.full((40, 5, 3), 9, np.uint8)
    rgb[0, 0] = (1, 2, 4)
    rgb[39, 1:4] = (0x12, 0x34, 0x56)
    with pytest.raises(UnknownLabels, match=r"drive/7\.png") as caught:
        small().encode(rgb, "drive/7.png")
    assert caught.value.counts == {"#123456": 3, "#010204": 1}
    assert "#123456 (3 pixels), #010204 (1 pixels)" in str(caught.value)
    again = pickle.loads(pickle.dumps(caught.value))
    assert str(again) == str(caught.value)
    assert again.counts == caught.value.counts


def test_a_picture_full_of_unknown_colours_gives_a_short_message() -> None:
    rgb = np.random.default_rng(0).integers(0, 256, (60, 60, 3), dtype=np.uint8)
    with pytest.raises(UnknownLabels, match=r"and \d+ more\.") as caught:
        small().encode(rgb, "x")
    assert len(str(caught.value)) < 1000
    assert sum(caught.value.counts.values()) == 3600


def test_unknown_ids_are_named() -> None:
    small().check_ids(np.array([[0, 1, 255]], np.uint8), "x")
    with pytest.raises(UnknownLabels, match=r"f\.png: .*id 2 \(2 pixels\)"):
        small().check_ids(np.array([[0, 2, 2]], np.uint8), "f.png")
    with pytest.raises(UnknownLabels):
        small().decode(np.array([[254]], np.uint8))


def test_class_numbers_and_order() -> None:
    a2d2 = Taxonomy.load("a2d2-38")
    assert len(a2d2) == 38
    assert sum(map(len, a2d2.colours)) == 55
    assert a2d2.classes[0] == "Car"
    assert a2d2.classes.index("RD normal street") == 33
    assert a2d2.classes[-1] == "Rain dirt"
    assert Taxonomy.load("a2d2-11").classes[::5] == ("Person", "Blocker", "Lanes")
    assert Taxonomy.load("camvid-11").classes[3] == "Road"
    assert sum(map(len, Taxonomy.load("camvid-11").colours)) == 31 + 1
    cityscapes = Taxonomy.load("cityscapes-19")
    assert (len(cityscapes), cityscapes.classes[13]) == (19, "car")
    assert cityscapes.colours[13] == ((0, 0, 142),)


@needs_shared
def test_a2d2_is_audis_class_list() -> None:
    listed = json.loads((SHARED / "a2d2_sample/camera_lidar_semantic/class_list.json").read_text())
    taxonomy = Taxonomy.load("a2d2-38")
    ours = {
        "#{:02x}{:02x}{:02x}".format(*colour): name
        for name, colours in zip(taxonomy.classes, taxonomy.colours, strict=True)
        for colour in colours
    }
    assert ours == {colour: name.rstrip(" 1234") for colour, name in listed.items()}


def test_38_to_11_by_table_and_by_colour_agree() -> None:
    fine, coarse = Taxonomy.load("a2d2-38"), Taxonomy.load("a2d2-11")
    table = fine.mapping_to(coarse)
    names = dict(zip(fine.classes, table[:38].tolist(), strict=True))
    assert names["Car"] == names["Small vehicles"] == coarse.classes.index("Car")
    assert names["Dashed line"] == coarse.classes.index("Lanes")
    assert names["Blurred area"] == names["Rain dirt"] == 255
    assert table[255] == 255
    rgb = np.array([[c for group in fine.colours for c in group]], np.uint8)
    assert np.array_equal(coarse.encode(rgb, "x"), table[fine.encode(rgb, "x")])


def test_mapping_to_itself_and_to_a_stranger() -> None:
    fine = Taxonomy.load("a2d2-38")
    assert fine.mapping_to(fine)[:38].tolist() == list(range(38))
    assert fine.mapping_to(fine)[38] == 255
    with pytest.raises(UsageError, match="no mapping from taxonomy 'a2d2-38' to 't'"):
        fine.mapping_to(small())


@pytest.mark.parametrize("name", BUILT_IN)
def test_json_round_trip(name: str) -> None:
    taxonomy = Taxonomy.load(name)
    assert Taxonomy.from_json(json.loads(json.dumps(taxonomy.to_json()))) == taxonomy


def test_load_yaml_by_hand(tmp_path: Path) -> None:
    path = tmp_path / "own.yaml"
    path.write_text(
        'name: own\nclasses:\n  - {name: road, colours: ["#804080", "#010203"]}\n'
        '  - {name: car, colours: ["#00008E"]}\nignore: ["#000000"]\n'
    )
    expected = Taxonomy(
        "own", ("road", "car"), (((128, 64, 128), (1, 2, 3)), ((0, 0, 142),)), ((0, 0, 0),)
    )
    assert Taxonomy.load(path) == expected
    assert Taxonomy.load(str(path)) == expected


def test_unknown_name_offers_the_nearest() -> None:
    with pytest.raises(UsageError, match="Did you mean 'a2d2-38'"):
        Taxonomy.load("a2d2-83")


@pytest.mark.parametrize(
    ("text", "messages"),
    [
        ("[1, 2]", ["expected the keys classes, name"]),
        ("name: x", ["'classes' is missing"]),
        (
            "name: x\nclases: []\nclasses:\n  - {name: a, colours: [red]}\n  - {colours: 3}",
            [
                "Did you mean 'classes'",
                "classes[0].colours",
                "'red'",
                "classes[1]: key 'name'",
                "got 3",
            ],
        ),
        (
            'name: x\nclasses: [{name: a, colours: ["#000000"]}, {name: a, colours: ["#000000"]}]',
            ["class 'a' stands twice", "colour #000000 stands twice"],
        ),
        ("name: x\nclasses: [{name: a, colours: []}]", ["class 'a' has no colour"]),
        ("name: x\nclasses: []", ["expected 1 to 253 classes, got 0"]),
        ("name: [x", ["can't read the taxonomy"]),
    ],
)
def test_malformed_files_name_all_problems(tmp_path: Path, text: str, messages: list[str]) -> None:
    path = tmp_path / "own.yaml"
    path.write_text(text)
    with pytest.raises(DataError) as caught:
        Taxonomy.load(path)
    for message in (str(path), *messages):
        assert message in str(caught.value)


def test_missing_file() -> None:
    with pytest.raises(DataError, match="no such taxonomy file"):
        Taxonomy.load("nowhere/own.yaml")


def test_colour_channels_are_bytes() -> None:
    with pytest.raises(DataError, match=r"256 is not in 0\.\.255"):
        Taxonomy("t", ("a",), (((0, 256, 0),),))
